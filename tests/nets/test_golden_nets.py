"""One forward of every net against the original engine's, on its golden models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from modules.memory.devices import detect
from modules.memory.policy import choose
from modules.pipeline import text
from modules.pipeline.text import ConditioningCache
from modules.schema.settings import Settings
from modules.weights.catalogue import Catalogue
from modules.weights.residency import Residency
from tests.reference.golden import golden_folder, unpack_models

UNIT = golden_folder() / "unit" / "unit.safetensors"
PICTURE = golden_folder() / "inputs" / "pic160x96.png"

COMPLETE = (golden_folder() / "latents.safetensors").exists()  # the subset's nets are zeros

pytestmark = pytest.mark.skipif(not COMPLETE, reason="no golden runs on this machine ($GOLDEN_RUNS)")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(UNIT)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> Catalogue:
    folders = unpack_models(tmp_path_factory.mktemp("golden"))
    return Catalogue(folders, folders.database)


@pytest.fixture(scope="module", params=["tiny-r", "tiny-t", "tiny-2v", "tiny-xl"])
def model(request, catalogue):
    facts = detect(use_cpu=True)
    policy = choose(facts, Settings())
    if request.param not in {view.name for view in catalogue.checkpoints()}:
        pytest.skip(f"{request.param} is not among the golden models here")
    with Residency(catalogue, facts).lease(catalogue.find(request.param), policy) as model:
        yield model


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def texts(name: str, golden: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """What the net was given as text: tokens [2, 77, D], and for SDXL the vector."""
    if f"{name}.cond" in golden:
        return golden[f"{name}.cond"], None
    return golden[f"{name}.crossattn"], golden[f"{name}.vector"]


def test_unet(model, golden):
    name = model.checkpoint.name
    recorded = {float(key.partition(".unet_out.")[2]): key for key in golden if key.startswith(f"{name}.unet_out.")}
    assert {0.0, 999.0} < recorded.keys()
    noise = golden.get(f"{name}.unet_x", golden["tiny-r.unet_x"])
    context, y = texts(name, golden)
    for t, key in recorded.items():
        with torch.inference_mode():
            out = model.unet(noise, torch.full((2,), t), context, y)
        assert relative(out, golden[key]) < 1e-5


def test_vae_decode(model, golden):
    name = model.checkpoint.name
    if f"{name}.vae_dec" not in golden:
        pytest.skip("not recorded for this model")
    with torch.inference_mode():
        out = model.vae.decode(model.from_latents(golden[f"{name}.unet_x"]))
    assert relative(out, golden[f"{name}.vae_dec"]) < 1e-5


def test_vae_encode(model, golden):
    name = model.checkpoint.name
    if f"{name}.vae_enc_mean" not in golden:
        pytest.skip("not recorded for this model")
    picture = Image.open(PICTURE).convert("RGB")
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, 96, 160, 3)
    with torch.inference_mode():
        mean, logvar = model.vae.encode_moments(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert relative(mean, golden[f"{name}.vae_enc_mean"]) < 1e-5
    assert relative(logvar, golden[f"{name}.vae_enc_logvar"]) < 1e-5


def test_text(model, golden):
    """The same two texts for all but SDXL, whose towers were asked for another second one, and for a 160x96 picture."""
    name = model.checkpoint.name
    prompts = ("a photo of a cat", "a red house" if name == "tiny-xl" else "a red house, sunset")
    found = [
        text.condition(model, prompt, "", 1, Settings(), (160, 96), ConditioningCache()).at(0)[0][0]
        for prompt in prompts
    ]
    context, y = texts(name, golden)
    assert relative(torch.stack([encoding.tokens for encoding in found]), context) < 1e-5
    if y is not None:
        assert relative(torch.stack([e.vector for e in found if e.vector is not None]), y) < 1e-5


def test_heads_come_from_side_car_or_rule(catalogue):
    """tiny-r's yaml says 8 heads and tiny-t's heads of 32 channels; without it the small models' rule gives 32 too."""
    from modules.weights.detect import detect as detect_family
    from modules.weights.headers import read_header
    from modules.weights.sidecar import read_sidecar

    heads = {}
    for name in ("tiny-r", "tiny-t"):
        path = Path(catalogue.find(name).path)
        for car in (True, False):
            header = read_header(path)
            config = (detect_family(header, read_sidecar(path)) if car else detect_family(header)).unet.config
            heads[name, car] = (config["num_heads"], config["head_dim"])
    assert heads == {
        ("tiny-r", True): (8, None), ("tiny-r", False): (None, 32),
        ("tiny-t", True): (None, 32), ("tiny-t", False): (None, 32),
    }  # fmt: skip
