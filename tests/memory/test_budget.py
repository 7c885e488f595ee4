"""Predictions of memory against what the nets' operations hold, counted; and what measured jobs teach."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modules.memory.budget import History, Need, Shape, Sizes, decode_peak, denoising
from modules.memory.gauge import Gauge
from modules.memory.machine import DeviceFacts
from modules.nets.autoencoder import Autoencoder, AutoencoderConfig
from modules.nets.unet import UNet
from tests.memory.live import Live
from tests.weights.full_size import LAYOUTS

CLOSE = 0.07
PC = DeviceFacts("cpu", "a CPU", 2**34, 2**34)


def held_by(call: Any) -> int:
    with torch.inference_mode(), Live() as live:
        call()
    return live.peak


@pytest.mark.parametrize("label", ["SD 1.x", "SD 2.x (v)", "SDXL", "SSD-1B", "SDXL refiner"])
def test_denoising_takes_what_is_predicted(label):
    config = LAYOUTS[label].unet
    sizes = Sizes(denoiser_width=config.model_channels, attends_first=config.input_depths[0] > 0)
    with torch.device("meta"):
        net: Any = UNet(config).half()
        for width, height, rows in ((512, 512, 1), (512, 768, 2), (1024, 1024, 4)):
            x = torch.empty(rows, config.in_channels, height // 8, width // 8, dtype=torch.float16)
            context = torch.empty(rows, 77, config.context_dim, dtype=torch.float16)
            y = torch.empty(rows, config.adm_channels, dtype=torch.float16) if config.adm_channels else None
            held = held_by(lambda: net(x, torch.empty(rows), context, y))  # noqa: B023
            assert denoising(sizes, Shape(width, height), rows, 2, "sdp") == pytest.approx(held, rel=CLOSE)


@pytest.mark.parametrize("size", [(512, 512), (1024, 768)])
def test_decoding_takes_what_is_predicted(size):
    with torch.device("meta"):
        vae = Autoencoder(AutoencoderConfig())
        held = held_by(lambda: vae.decode(torch.empty(1, 4, size[1] // 8, size[0] // 8)))
    assert decode_peak(128, *size, 4) == pytest.approx(held, rel=CLOSE)


def test_measured_jobs_correct_each_part():
    history = History({})
    need = Need(1000, 400, 200)
    assert history.corrected("card", need) == need
    for _ in range(6):
        history = history.seen("card", need, {"weights": 1100, "denoising": 600})
    assert history.corrected("card", Need(2000, 800, 200)) == Need(2200, 1200, 200)
    assert history.corrected("another", need) == need
    once = history.seen("card", need, {"denoising": 1000})
    assert 600 < once.corrected("card", need).denoising < 1000


def test_what_was_learnt_outlives_the_program(tmp_path):
    path = tmp_path / "memory.json"
    assert not History.read(path).shares
    history = History({}).seen("card", Need(1000, 400, 200), {"weights": 1234, "decoding": 100})
    path.write_text(history.as_json())
    assert History.read(path) == history
    for damaged in ("", "[]", '{"card": 3}', '{"card": {"weights": "much"}}'):
        path.write_text(damaged)
        assert not History.read(path).shares


def test_a_gauge_sees_what_a_phase_takes_and_what_stays():
    gauge = Gauge(PC)
    gauge.begin()
    with gauge.phase("denoising"):
        kept = torch.ones(64 * 2**20, dtype=torch.uint8)
        passing = torch.ones(160 * 2**20, dtype=torch.uint8)
        del passing
    measured = gauge.measured()
    if not measured:
        pytest.skip("this system tells of no peaks")
    assert measured["denoising"] == pytest.approx(160 * 2**20, rel=CLOSE)
    assert measured["weights"] >= 0.9 * kept.nbytes
    gauge.begin()
    assert gauge.measured() == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gauge_sees_what_a_phase_takes_on_a_card():
    from modules.memory.devices import detect

    gauge = Gauge(detect())
    with gauge.phase("denoising"):
        kept = torch.ones(64 * 2**20, dtype=torch.uint8, device="cuda")
        torch.ones(160 * 2**20, dtype=torch.uint8, device="cuda")
    assert gauge.measured()["denoising"] == 160 * 2**20
    assert gauge.measured()["weights"] >= kept.nbytes
    assert gauge.card()["allocated"]["current"] >= kept.nbytes
