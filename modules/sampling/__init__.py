"""The maths of denoising: schedules, samplers, guidance, prediction types, noise."""
