"""Forward diffusion and optimisation: the shipped model and the pictures it learns from."""
