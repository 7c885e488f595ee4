"""Adapters: files of small tensors that change a model's weights. One file per format; `table` registers them."""
