"""Levels and predictions: maps between sigma and time, wrappers against the truth."""

from __future__ import annotations

import pytest
import torch

from modules.sampling.prediction import (
    PREDICTIONS,
    EDMSchedule,
    FlowSchedule,
    NoiseSchedule,
    Predictor,
    find_prediction,
    sigmas_of,
)
from modules.schema.errors import NotFound

LEVELS = NoiseSchedule.stable_diffusion()


def test_time_and_sigma_are_inverse(test_seed: int) -> None:
    t = torch.rand(50, generator=torch.Generator().manual_seed(test_seed), dtype=torch.float64) * 999
    for levels in (LEVELS, NoiseSchedule.stable_diffusion(zero_snr=True)):
        torch.testing.assert_close(levels.sigma_to_t(levels.t_to_sigma(t)), t, rtol=1e-5, atol=1e-3)


def test_times_outside_are_those_of_the_ends() -> None:
    sigmas = torch.tensor([0.001, 500.0])
    assert LEVELS.sigma_to_t(sigmas).tolist() == [0.0, 999.0]
    assert LEVELS.t_to_sigma(torch.tensor([-5.0, 1200.0])).tolist() == pytest.approx(
        [LEVELS.sigma_min, LEVELS.sigma_max]
    )


def test_quantized_times_are_whole() -> None:
    levels = NoiseSchedule.stable_diffusion(quantize=True)
    sigmas = torch.linspace(0.03, 14.0, 50)
    got = levels.sigma_to_t(sigmas)
    assert torch.equal(got, got.round())
    assert float((got - LEVELS.sigma_to_t(sigmas)).abs().max()) <= 0.51


def test_shapes_are_kept() -> None:
    sigmas = torch.rand(2, 3) + 0.1
    assert LEVELS.sigma_to_t(sigmas).shape == (2, 3)
    assert LEVELS.lcm().sigma_to_t(sigmas).shape == (2, 3)


def test_downcast_levels_are_half_precision() -> None:
    levels = NoiseSchedule.stable_diffusion(downcast=True)
    alphas = 1 / (1 + levels.table**2)
    torch.testing.assert_close(alphas.half().float(), alphas, rtol=1e-5, atol=0)
    assert not torch.equal(levels.table, LEVELS.table)


def test_zero_snr_ends_in_noise() -> None:
    levels = NoiseSchedule.stable_diffusion(zero_snr=True)
    assert levels.sigma_max == pytest.approx(4518.76, rel=1e-5)
    assert levels.sigma_min == pytest.approx(LEVELS.sigma_min, rel=1e-5)


def test_consistency_levels_are_every_twentieth() -> None:
    levels = LEVELS.lcm()
    assert torch.equal(levels.table, LEVELS.table[19::20])
    assert levels.sigma_to_t(levels.table).tolist() == list(range(19, 1000, 20))
    torch.testing.assert_close(levels.t_to_sigma(torch.tensor([19.0, 999.0])), levels.table[[0, -1]])
    assert levels.last_t == 999


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_perfect_net_is_seen_through(name: str, test_seed: int) -> None:
    """For the output a perfect net would give, the wrapper returns the picture."""
    generator = torch.Generator().manual_seed(test_seed)
    x0, noise = torch.randn(2, 3, 4, 4, 4, generator=generator, dtype=torch.float64).unbind(0)
    sigma = torch.tensor([0.05, 0.7, 0.95], dtype=torch.float64)
    s = sigma.view(-1, 1, 1, 1)
    levels = {"flow": FlowSchedule.of(3.0), "edm": EDMSchedule.of()}.get(name, LEVELS)
    x = (1 - s) * x0 + s * noise if name == "flow" else x0 + s * noise
    alpha, deviation = 1 / (1 + s**2) ** 0.5, s / (1 + s**2) ** 0.5
    skip, scale = 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25) ** 0.5
    output = {
        "eps": noise,
        "v": alpha * noise - deviation * x0,
        "x0": x0,
        "edm": (x0 - skip * x) / scale,
        "flow": noise - x0,
    }[name]
    seen = {}

    def net(scaled: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen["x"], seen["time"] = scaled, time
        return output

    got = Predictor(find_prediction(name), levels)(net, x, sigma)
    torch.testing.assert_close(got, x0)
    if name in ("eps", "v", "x0"):
        torch.testing.assert_close(seen["x"], alpha * x0 + deviation * noise)
        torch.testing.assert_close(seen["time"], LEVELS.sigma_to_t(sigma))
    assert seen["time"].shape == (3,)


def test_flow_time_is_the_shifted_sigma() -> None:
    flow = FlowSchedule.of(3.0)
    assert flow.sigma_max == 1
    assert float(flow.table[499]) == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    assert float(flow.sigma_to_t(torch.tensor(0.75))) == 750
    assert float(FlowSchedule.of(1.0, time_scale=1.0).sigma_to_t(torch.tensor(0.75))) == 0.75


def test_edm_time_is_a_quarter_log() -> None:
    levels = EDMSchedule.of(0.002, 80.0)
    assert (levels.sigma_min, levels.sigma_max) == (pytest.approx(0.002), pytest.approx(80.0))
    sigma = torch.tensor([0.002, 1.0, 80.0])
    torch.testing.assert_close(levels.t_to_sigma(levels.sigma_to_t(sigma)), sigma)


def test_a_consistency_model_holds_on_to_x_only_at_time_0() -> None:
    predictor = Predictor(find_prediction("eps"), LEVELS).lcm()
    x, sigma = torch.ones(1, 4, 2, 2, dtype=torch.float64), torch.tensor([float(LEVELS.table[19])], dtype=torch.float64)
    inner = x - sigma * 0.5
    got = predictor(lambda scaled, time: torch.full_like(scaled, 0.5), x, sigma)
    tau = 190.0
    expected = inner * (tau / (tau**2 + 0.25) ** 0.5) + x * (0.25 / (tau**2 + 0.25))
    torch.testing.assert_close(got, expected)


def test_unknown_types_are_refused() -> None:
    with pytest.raises(NotFound, match="eps, v, x0, edm, flow"):
        find_prediction("epsilon")


def test_sigma_of_alpha() -> None:
    torch.testing.assert_close(sigmas_of(torch.tensor([0.5, 0.2])), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(sigmas_of(LEVELS.alphas).float(), LEVELS.table, rtol=1e-5, atol=0)
