"""Linear layers that multiply in 8 bits: how far off they are, and that no row hears of another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modules.nets import float8
from modules.nets.float8 import FLOAT8
from modules.nets.streamed import STORED, Stored
from modules.nets.unet import UNet
from tests.weights.tiny import UNET, randomise

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and (not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9)):
        pytest.skip("needs a CUDA device that multiplies in 8 bits")
    return request.param


def off(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right.double()).norm() / right.double().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_are_off_by_what_the_type_cannot_tell_apart(dtype: torch.dtype, device: str, test_seed: int) -> None:
    generator = torch.Generator().manual_seed(test_seed)
    x = torch.randn(2, 40, 320, generator=generator).to(device, dtype)
    weight = (torch.randn(640, 320, generator=generator) / 18).to(device, float8.TYPE)
    bias = torch.randn(640, generator=generator).to(device, dtype)
    right = x.float() @ weight.float().T + bias.float()
    assert 0 < off(float8.product(x, weight, bias), right) < 0.04  # three bits behind the point: 2.6 % on average
    assert off(float8.product(x, weight), right - bias.float()) < 0.04


def test_rows_are_scaled_each_by_itself(device: str, test_seed: int) -> None:
    generator = torch.Generator().manual_seed(test_seed)
    x = torch.randn(1, 6, 64, generator=generator) * torch.tensor([1e-6, 1e-3, 1.0, 30.0, 3000.0, 0.0])[:, None]
    x = x.to(device, torch.float16)
    weight = (torch.randn(48, 64, generator=generator) / 8).to(device, float8.TYPE)
    found, right = float8.product(x, weight), x.float() @ weight.float().T
    assert found.isfinite().all()
    for row in (1, 2, 3, 4):
        assert off(found[0, row], right[0, row]) < 0.06
    assert not found[0, 5].any()
    x[0, 4] *= 3
    assert torch.equal(float8.product(x, weight)[0, :4], found[0, :4])


def test_a_net_that_multiplies_in_float8_answers_nearly_as_one_that_only_keeps_its_weights_in_it(
    device: str, test_seed: int
) -> None:
    generator = torch.Generator().manual_seed(test_seed)
    x, context = (torch.randn(*size, generator=generator).to(device) for size in ((2, 4, 16, 16), (2, 77, 32)))
    t = torch.tensor([500.0, 500.0], device=device)
    answers, layers = [], 0
    for ops in (STORED, FLOAT8):
        net: Any = randomise(UNet(UNET, ops=ops), torch.Generator().manual_seed(test_seed)).to(device)
        for layer in net.modules():
            if isinstance(layer, Stored):
                layer.weight = torch.nn.Parameter(layer.weight.detach().to(float8.TYPE), requires_grad=False)
                layers += isinstance(layer, float8.Float8)
        with torch.inference_mode():
            answers.append(net(x, t, context))
            if ops is FLOAT8:  # a LoRA: that layer multiplies as before
                for layer in net.modules():
                    if isinstance(layer, float8.Float8):
                        layer.delta = lambda weight, bias: (weight, bias)
                answers.append(net(x, t, context))
    stored, multiplied, changed = answers
    assert layers > 20
    assert 0 < off(multiplied, stored) < 0.1
    assert off(changed, stored) < 1e-5
