"""Ways in and out, translation only: the page, the API, the command line."""
