"""One file per model family: how it is recognised, configured and built from a checkpoint."""
