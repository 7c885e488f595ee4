"""Files of tensors to resident nets: safe reading, family detection, catalogue, hashes, residency."""
