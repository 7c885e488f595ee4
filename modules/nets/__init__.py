"""Architectures as plain modules in the original LDM key layout: UNet, VAE, text encoders."""
