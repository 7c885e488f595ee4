"""One request from plan to pictures: text, latents, sampling, decoding; the hook points."""
