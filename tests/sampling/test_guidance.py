"""Guidance: combinations by their formulas, rules of skipping."""

from __future__ import annotations

import pytest
import torch

from modules.sampling import guidance
from modules.schema.errors import BadRequest
from modules.schema.settings import Sampling


@pytest.fixture
def three(test_seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(test_seed)
    a, b, c = torch.randn(3, 4, 8, 8, generator=generator, dtype=torch.float64).unbind(0)
    return a, b, c


def test_scale_one_is_the_prompt_and_zero_the_negative(three) -> None:
    cond, uncond, _ = three
    torch.testing.assert_close(guidance.cfg(cond, uncond, 1.0), cond)
    assert torch.equal(guidance.cfg(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(guidance.cfg(cond, uncond, 7.0), uncond + 7 * (cond - uncond))


def test_one_part_is_plain_guidance(three) -> None:
    cond, uncond, _ = three
    assert torch.equal(guidance.combine([cond], [1.0], uncond, 7.0), guidance.cfg(cond, uncond, 7.0))


def test_parts_of_a_prompt_add_up_by_weight(three) -> None:
    a, b, uncond = three
    got = guidance.combine([a, b], [1.5, -0.5], uncond, 4.0)
    torch.testing.assert_close(got, uncond + 6.0 * (a - uncond) - 2.0 * (b - uncond))
    with pytest.raises(BadRequest):
        guidance.combine([a, b], [1.0], uncond, 4.0)


def test_guidance_by_a_picture(three) -> None:
    cond, image, uncond = three
    got = guidance.three_way(cond, image, uncond, 7.5, 1.5)
    torch.testing.assert_close(got, uncond + 7.5 * (cond - image) + 1.5 * (image - uncond))
    torch.testing.assert_close(guidance.three_way(cond, uncond, uncond, 7.5, 1.5), guidance.cfg(cond, uncond, 7.5))


def test_rescaled_guidance_has_the_contrast_of_the_prompt(three) -> None:
    cond, uncond, noise = three
    x, s = cond + 3.0 * noise, 3.0
    guided = guidance.cfg(cond, uncond, 9.0)

    def velocity(denoised: torch.Tensor) -> torch.Tensor:
        return (x / (s * s + 1) - denoised) * (s * s + 1) ** 0.5 / s

    full = guidance.rescale(guided, cond, x, s, 1.0)
    assert float(velocity(full).std()) == pytest.approx(float(velocity(cond).std()))
    half = guidance.rescale(guided, cond, x, s, 0.5)
    torch.testing.assert_close(half, (full + guided) / 2)
    assert guidance.rescale(guided, cond, x, s, 0.0) is guided
    in_eps = guidance.rescale(guided, cond, x, s, 1.0, velocity=False)
    assert float((x - in_eps).std()) == pytest.approx(float((x - cond).std()))


def test_rescaling_a_batch_is_rescaling_its_pictures(three) -> None:
    cond, uncond, noise = (t.float() for t in three)
    guided, x = uncond * 5, cond + noise
    batch = [torch.stack([t, t * 0.5, t + 0.1]) for t in (guided, cond, x)]
    got = guidance.rescale_batch(batch[0], batch[1], batch[2], [1.0, 2.0, 0.5], 0.7)
    for k, sigma in enumerate((1.0, 2.0, 0.5)):
        assert torch.equal(got[k], guidance.rescale(batch[0][k], batch[1][k], batch[2][k], sigma, 0.7))


def skipped(total: int, sigmas: list[float], **options: object) -> list[int]:
    chosen = Sampling.model_validate(options)
    return [i for i, sigma in enumerate(sigmas) if guidance.skips_negative(i, total, sigma, chosen)]


def test_the_negative_prompt_can_wait() -> None:
    sigmas = [10.0, 5.0, 2.0, 1.0, 0.5, 0.1]
    assert skipped(6, sigmas) == []
    assert skipped(6, sigmas, skip_early_cond=0.2) == [0, 1]
    assert skipped(6, sigmas, skip_early_cond=0.5) == [0, 1, 2, 3]


def test_the_negative_prompt_can_stop_at_low_noise() -> None:
    sigmas = [10.0, 5.0, 2.0, 1.0, 0.5, 0.1]
    assert skipped(6, sigmas, s_min_uncond=1.5) == [3, 5]
    assert skipped(6, sigmas, s_min_uncond=1.5, s_min_uncond_all=True) == [3, 4, 5]
    assert skipped(6, sigmas, s_min_uncond=1.5, skip_early_cond=0.1) == [0, 3, 5]
