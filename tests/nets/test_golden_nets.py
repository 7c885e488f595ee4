"""One forward of every net against the original engine's, on its golden models."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from modules.memory.devices import detect
from modules.memory.policy import choose
from modules.schema.folders import Folders
from modules.schema.settings import Settings
from modules.weights.catalogue import Catalogue
from modules.weights.residency import Residency
from tests.reference.golden import golden_folder

UNIT = golden_folder() / "unit" / "unit.safetensors"
PICTURE = golden_folder() / "inputs" / "pic160x96.png"
IDS = {  # "a photo of a cat" and "a red house, sunset"
    0: [49406, 320, 1125, 539, 320, 2368, 49407],
    1: [49406, 320, 736, 1212, 267, 3424, 49407],
}

pytestmark = pytest.mark.skipif(not UNIT.exists(), reason="no golden runs on this machine ($GOLDEN_RUNS)")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(UNIT)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> Catalogue:
    """tiny-r unpacked, tiny-t copied, each beside its yaml."""
    folders = Folders.under(tmp_path_factory.mktemp("golden"))
    target = folders.checkpoint_dirs[0]
    target.mkdir(parents=True)
    source = golden_folder() / "models" / "Stable-diffusion"
    for name, packed in (
        ("tiny-r", source / "tiny-r.safetensors.xz"),
        ("tiny-t", golden_folder().parent / "prototype" / "tiny-sd.safetensors"),
    ):
        if packed.exists():
            raw = packed.read_bytes()
            (target / f"{name}.safetensors").write_bytes(lzma.decompress(raw) if packed.suffix == ".xz" else raw)
            shutil.copy(source / f"{name}.yaml", target)
    return Catalogue(folders, folders.database)


@pytest.fixture(scope="module", params=["tiny-r", "tiny-t"])
def model(request, catalogue):
    facts = detect(use_cpu=True)
    policy = choose(facts, Settings())
    if request.param not in {view.name for view in catalogue.checkpoints()}:
        pytest.skip(f"{request.param} is not among the golden models here")
    with Residency(catalogue, facts).lease(catalogue.find(request.param), policy) as model:
        yield model


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("t", ["0.0", "1.0", "333.5", "999.0"])
def test_unet(model, golden, t):
    name = model.checkpoint.name
    with torch.inference_mode():
        out = model.unet(golden[f"{name}.unet_x"], torch.full((2,), float(t)), golden[f"{name}.cond"])
    assert relative(out, golden[f"{name}.unet_out.{t}"]) < 1e-5


def test_vae_decode(model, golden):
    name = model.checkpoint.name
    with torch.inference_mode():
        out = model.vae.decode(golden[f"{name}.unet_x"] / model.scale_factor)
    assert relative(out, golden[f"{name}.vae_dec"]) < 1e-5


def test_vae_encode(model, golden):
    name = model.checkpoint.name
    picture = Image.open(PICTURE).convert("RGB")
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, 96, 160, 3)
    with torch.inference_mode():
        mean, logvar = model.vae.encode_moments(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert relative(mean, golden[f"{name}.vae_enc_mean"]) < 1e-5
    assert relative(logvar, golden[f"{name}.vae_enc_logvar"]) < 1e-5


def test_text(model, golden):
    name = model.checkpoint.name
    ids = torch.tensor([IDS[row] + [49407] * (77 - len(IDS[row])) for row in (0, 1)])
    with torch.inference_mode():
        text = model.towers[0].net
        out = text.final_layer_norm(text.hidden_states(text.embed(ids))[-1])
    assert relative(out, golden[f"{name}.cond"]) < 1e-5


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
