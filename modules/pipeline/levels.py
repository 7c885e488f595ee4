"""The noise levels a loaded model was taught at."""

from __future__ import annotations

from modules.sampling.prediction import EDMSchedule, NoiseLevels, NoiseSchedule, scaled_linear_betas
from modules.schema.settings import Sampling
from modules.weights.residency import LoadedModel


def noise_levels(model: LoadedModel, options: Sampling) -> NoiseLevels:
    """The model's levels as the settings want them read, on its device."""
    facts = model.facts
    if facts.sigma_range is not None:
        return EDMSchedule.of(*facts.sigma_range).to(model.device)
    return NoiseSchedule.stable_diffusion(
        zero_snr=facts.zero_snr or options.sd_noise_schedule == "Zero Terminal SNR",
        downcast=options.use_downcasted_alpha_bar,
        quantize=options.enable_quantization,
        betas=scaled_linear_betas(*facts.betas),
    ).to(model.device)
