"""The words everybody speaks: requests, plans, records, events, settings, errors."""
