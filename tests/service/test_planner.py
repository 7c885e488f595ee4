"""What the service says a job will take of memory, from headers alone; and what is held."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.memory.budget import GIB, History, Need, Sizes
from modules.memory.machine import DeviceFacts
from modules.nets.controlnet import ControlNet
from modules.nets.unet import UNetConfig
from modules.schema.control import ControlUnit
from modules.schema.errors import NotFound
from modules.schema.folders import Folders
from modules.schema.request import Extras, GenerationRequest, Hires, Outpaint, Refiner, Source
from modules.schema.rounds import Tiles
from modules.schema.settings import Settings
from modules.service.planner import Planner, shape_of
from modules.weights.catalogue import Catalogue
from modules.weights.headers import Header, TensorInfo
from tests.weights.full_size import LAYOUTS, header_of
from tests.weights.tiny import write_raw

CARD = DeviceFacts("cuda", "a card", 8 * GIB, 32 * GIB, fp16=True, bf16=True)
CONTEXT = 500_000_000


def write_header(path: Path, header: Any) -> None:
    """A full-size file that is all header: its tensors' bytes are a hole."""
    told, at = {}, 0
    for key, info in header.tensors.items():
        size = 2 * prod(info.shape)
        told[key] = {"dtype": "F16", "shape": list(info.shape), "data_offsets": [at, at + size]}
        at += size
    write_raw(path, told)
    os.truncate(path, path.stat().st_size + at)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folders = Folders.under(tmp_path_factory.mktemp("planner"))
    for name, label in (("sd1", "SD 1.x"), ("sdxl", "SDXL")):
        write_header(folders.checkpoint_dirs[0] / f"{name}.safetensors", header_of(LAYOUTS[label]))
    return folders


def planner(folders: Folders, facts: DeviceFacts | None = CARD, options: dict[str, Any] | None = None) -> Planner:
    worker: dict[str, Any] = {"device": "cuda", "device_name": "a card", "memory": CARD.memory}
    if facts is not None:
        worker |= {"machine": {**asdict(facts), "features": []}, "fixed": CONTEXT}
    settings = Settings().with_options(options or {})
    return Planner(folders, Catalogue(folders, folders.database), lambda: settings, lambda: worker)


def ask(**values: Any) -> GenerationRequest:
    return GenerationRequest(**{"checkpoint": "sd1", **values})


def test_parts_add_up_and_grow_with_the_picture(folders):
    plan = planner(folders)
    assert plan.sizes(plan._catalogue.find("sd1")).denoiser_spread == Sizes().denoiser_spread
    assert plan.sizes(plan._catalogue.find("sd1")).vae_spread == Sizes().vae_spread
    small, large = plan.estimate(ask()), plan.estimate(ask(width=1024, height=1024))
    assert small is not None
    assert large is not None
    assert small.peak == CONTEXT + small.weights + max(small.denoising, small.decoding)
    # float16 denoiser, float32 autoencoder and text encoder
    assert small.weights == pytest.approx(859_520_964 * 2 + (83_653_863 + 123_060_480) * 4, rel=0.01)
    assert large.denoising == 4 * small.denoising
    assert large.weights == small.weights
    assert (small.fits, small.measured, small.placement, small.total) == (True, False, "resident", CARD.memory)


def test_controlnets_are_counted_each_file_once(folders):
    with torch.device("meta"):
        net = ControlNet(UNetConfig())
    state = net.state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 361_279_120  # as published for SD 1.5
    header = Header(
        Path("canny.safetensors"), {key: TensorInfo("F16", tuple(t.shape), 0, 0) for key, t in state.items()}
    )
    (folders.models / "ControlNet").mkdir(parents=True)
    write_header(folders.models / "ControlNet/canny.safetensors", header)
    plan = planner(folders)
    plain, once, twice, unknown = (
        plan.estimate(ask(controlnet=tuple(ControlUnit(model=name) for name in names)))
        for names in ((), ("canny",), ("canny", "canny [00000000]"), ("nobody",))
    )
    assert plain is not None
    assert once is not None
    assert once.weights == plain.weights + 2 * 361_279_120
    assert once == twice
    assert plain == unknown
    small = planner(folders, replace(CARD, memory=3 * GIB))
    tight, roomy = small.estimate(ask(controlnet=(ControlUnit(model="canny"),))), small.estimate(ask())
    assert tight is not None
    assert roomy is not None
    assert tight.weights >= roomy.weights
    assert tight.placement != "resident"


def test_a_larger_checkpoint_is_found_wherever_it_takes_part(folders):
    plan = planner(folders)
    alone = plan.estimate(ask(checkpoint="sdxl"))
    for request in (
        ask(refiner=Refiner(refiner_checkpoint="sdxl")),
        ask(hires=Hires(hr_scale=1.0, hr_checkpoint_name="sdxl")),
    ):
        assert plan.estimate(request) == alone
    assert alone is not None
    assert alone.checkpoint == "sdxl"
    assert alone.placement != "resident"
    with pytest.raises(NotFound):
        plan.estimate(ask(checkpoint="nothing like it"))


def test_an_upscaler_and_checkpoints_that_stay_are_told_beside(folders):
    plan = planner(folders)
    net = folders.models / "ESRGAN" / "4x_big.pth"
    net.parent.mkdir(parents=True, exist_ok=True)
    net.write_bytes(b"")
    os.truncate(net, 67_000_000)
    latent, enlarged = (
        plan.estimate(ask(hires=Hires(hr_scale=1.5, hr_upscaler=name))) for name in ("Latent", "4x_big")
    )
    assert latent is not None
    assert enlarged is not None
    assert (latent.beside, enlarged.beside, enlarged.peak - latent.peak) == (0, 67_000_000, 67_000_000)
    tiles = Source(images=("0" * 64,), tiles=Tiles(upscaler="4x_big"))
    assert getattr(plan.estimate(ask(source=tiles)), "beside", 0) == 67_000_000

    both = ask(checkpoint="sdxl", refiner=Refiner(refiner_checkpoint="sd1"))
    small = plan.estimate(ask())
    assert small is not None
    for options, beside in (
        ({"sd_checkpoints_limit": 1, "sd_checkpoints_keep_in_cpu": False}, 0),
        ({"sd_checkpoints_limit": 2}, 0),
        ({"sd_checkpoints_limit": 2, "sd_checkpoints_keep_in_cpu": False}, small.weights),
    ):
        told = planner(folders, options=options).estimate(both)
        assert told is not None
        assert told.beside == beside, options


def test_settings_and_overrides_count(folders):
    usual = planner(folders).estimate(ask())
    saving = planner(folders, options={"memory_use": "lowvram"}).estimate(ask())
    assert usual is not None
    assert saving is not None
    assert saving.placement == "streamed"
    assert saving.peak < 0.5 * usual.peak
    over = planner(folders).estimate(ask(override_settings={"memory_use": "lowvram", "no such": 1}))
    assert over == saving


def test_what_does_not_fit_is_said(folders):
    card = DeviceFacts("cuda", "a small card", 2 * GIB, 32 * GIB, fp16=True)
    told = planner(folders, card).estimate(ask(width=2048, height=2048))
    assert told is not None
    assert not told.fits
    assert told.tiled


def test_measured_jobs_correct_it(folders):
    plan = planner(folders)
    before = plan.estimate(ask())
    assert before is not None
    kind = f"a card {plan.sizes(plan._catalogue.find('sd1')).family}-320 float16 float32 measured resident"
    history = History().seen(kind, Need(100, 100, 100), {"weights": 110, "denoising": 150, "decoding": 90})
    folders.memory_history.parent.mkdir(parents=True, exist_ok=True)
    folders.memory_history.write_text(history.as_json())
    try:
        after = plan.estimate(ask())
        assert after is not None
        assert after.measured
        assert after.weights == pytest.approx(before.weights * 1.1, rel=1e-6)
        assert after.denoising == pytest.approx(before.denoising * 1.5, rel=1e-6)
        assert after.decoding == pytest.approx(before.decoding * 0.9, rel=1e-6)
    finally:
        folders.memory_history.unlink()


def test_nothing_is_said_of_an_unknown_machine_or_of_extras(folders):
    assert planner(folders, None).estimate(ask()) is None
    assert planner(folders).estimate(ask(source=Source(images=("0" * 64,), extras=Extras()))) is None


def test_the_largest_picture_counts():
    assert shape_of(ask(width=512, height=768, batch_size=3, hires=Hires(hr_scale=1.5))).width == 768
    assert shape_of(ask(width=512, height=768, hires=Hires(hr_resize_x=1024))).height == 1536
    outpainted = shape_of(ask(source=Source(images=("0" * 64,), outpaint=Outpaint(left=128, up=64, down=64))))
    assert (outpainted.width, outpainted.height) == (640, 640)


def test_headers_are_read_once_for_each_state_of_a_file(folders, tmp_path):
    own = Folders.under(tmp_path)
    path: Path = own.checkpoint_dirs[0] / "m.safetensors"
    write_header(path, header_of(LAYOUTS["SD 1.x"]))
    plan = planner(own)
    first = plan.estimate(ask(checkpoint="m"))
    assert plan.estimate(ask(checkpoint="m")) == first
    assert plan._sizes.cache_info().hits >= 1
    write_header(path, header_of(LAYOUTS["SDXL"]))
    plan._catalogue.checkpoints(refresh=True)
    second = plan.estimate(ask(checkpoint="m"))
    assert first is not None
    assert second is not None
    assert second.weights > 2 * first.weights
