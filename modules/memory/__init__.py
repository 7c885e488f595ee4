"""Which device, dtype, attention; how much fits: detection, policy, prediction."""
