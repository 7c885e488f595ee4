"""The one front desk: jobs, workers, events, catalogue, gallery, settings store."""
