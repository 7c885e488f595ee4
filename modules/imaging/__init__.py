"""Pixels and picture files: resize, mask, grid, names, metadata, saving."""
