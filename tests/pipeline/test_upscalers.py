"""Upscaler models: a small random ESRGAN in the layouts it is published in, found, opened, tiled and used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from modules.nets.torchvision_fit import fit_torchvision
from modules.pipeline.run import Engine
from modules.pipeline.upscalers import in_tiles, names
from modules.schema.errors import BadFile, NotFound
from modules.schema.folders import Folders
from modules.schema.request import Extras, Hires, Source, Tiles
from modules.schema.settings import Drawing
from modules.weights.upscalers import load_upscaler
from tests.pipeline.conftest import Studio
from tests.pipeline.test_img2img import array, from_picture, keep, picture

CPU = torch.device("cpu")


def weights(seed: int, scale: int = 2) -> dict[str, torch.Tensor]:
    """ESRGAN's keys and shapes (Wang et al. 2018, arXiv:1809.00219), its first published layout, very narrow."""
    pytest.importorskip("spandrel")
    random = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}

    def conv(name: str, inside: int, out: int) -> None:
        spread = 0.3 / (inside * 9) ** 0.5
        found[f"{name}.weight"] = torch.randn(out, inside, 3, 3, generator=random) * spread
        found[f"{name}.bias"] = torch.randn(out, generator=random) * 0.01

    conv("model.0", 3, 16)
    for part in range(1, 4):
        for layer in range(1, 6):
            conv(f"model.1.sub.0.RDB{part}.conv{layer}.0", 16 + 32 * (layer - 1), 16 if layer == 5 else 32)
    conv("model.1.sub.1", 16, 16)
    conv("model.3", 16, 16)
    last = 3
    if scale == 4:
        conv("model.6", 16, 16)
        last = 6
    conv(f"model.{last + 2}", 16, 16)
    conv(f"model.{last + 4}", 16, 3)
    found[f"model.{last + 4}.bias"] += 0.5
    return found


@pytest.fixture(scope="module")
def shelf(studio: Studio, test_seed: int) -> Path:
    folder = studio.folders.models / "ESRGAN"
    folder.mkdir(parents=True)
    save_file(weights(test_seed), folder / "stub_x2.safetensors")
    torch.save({"params_ema": weights(test_seed, 4)}, folder / "Stub_x4.pth")
    (folder / "broken.pth").write_bytes(b"nothing")
    save_file({"conv_first.weight": torch.zeros(3)}, folder / "odd.safetensors")
    return folder


def test_files_of_the_folders_are_listed_and_opened(shelf: Path, studio: Studio, test_seed: int) -> None:
    assert names(studio.folders) == ["None", "Lanczos", "Nearest", "broken", "odd", "stub_x2", "Stub_x4"]
    assert load_upscaler(shelf / "stub_x2.safetensors", CPU).scale == 2
    assert load_upscaler(shelf / "Stub_x4.pth", CPU).scale == 4
    for name in ("broken.pth", "odd.safetensors"):
        with pytest.raises(BadFile):
            load_upscaler(shelf / name, CPU)


@pytest.mark.parametrize("size", [(100, 70), (64, 64), (33, 129)])
def test_in_tiles_as_at_once(size: tuple[int, int], shelf: Path, test_seed: int) -> None:
    net = load_upscaler(shelf / "stub_x2.safetensors", CPU)
    image = torch.rand(1, 3, size[1], size[0], generator=torch.Generator().manual_seed(test_seed))
    with torch.inference_mode():
        whole, tiled = in_tiles(image, net, CPU, 0, 0), in_tiles(image, net, CPU, 48, 16)
        assert whole.shape == tiled.shape == (1, 3, 2 * size[1], 2 * size[0])
        assert float((whole - net(image)).abs().max()) < 1e-5
    assert float((whole - tiled).abs().max()) < 1e-3
    assert float(whole.std()) > 1e-3


def test_a_picture_gets_the_asked_size_whatever_the_models_own(shelf: Path, studio: Studio, test_seed: int) -> None:
    image = picture(test_seed, (40, 48))
    for name, factor, size in (("stub_x2", 3, (120, 144)), ("stub_x4", 2.5, (96, 120)), ("stub_x2", 1, (40, 48))):
        upscale = studio.engine.upscalers.find(name, Drawing(ESRGAN_tile=32))
        assert upscale is not None
        assert upscale(image, factor).size == size
    assert upscale(image.convert("RGBA"), 2).mode == "RGBA"


def test_hires_img2img_and_sd_upscale_use_them(shelf: Path, studio: Studio, test_seed: int) -> None:
    hires = Hires(hr_upscaler="stub_x2", denoising_strength=0.3, hr_second_pass_steps=2)
    (ready,) = studio.draw(hires=hires)
    (other,) = studio.draw(hires=hires.model_copy(update={"hr_upscaler": "Nearest"}))
    assert ready.record.width == 128
    assert not np.array_equal(array(studio, ready), array(studio, other))
    assert "Hires upscaler: stub_x2" in ready.record.infotext
    source = from_picture(studio, test_seed, size=(40, 40), denoising_strength=0.1)
    drawn = [
        array(studio, studio.draw(source=source, override_settings={"upscaler_for_img2img": name})[0])
        for name in ("None", "stub_x2")
    ]
    assert not np.array_equal(drawn[0], drawn[1])
    tiles = Tiles(upscaler="stub_x2", scale_factor=2, overlap=16)
    (ready,) = studio.draw(source=source.model_copy(update={"tiles": tiles}))
    assert (ready.record.width, ready.record.height) == (80, 80)


def test_unknown_names_are_refused_before_anything_is_loaded(shelf: Path, studio: Studio, test_seed: int) -> None:
    with pytest.raises(NotFound, match="nearest: stub_x2"):
        studio.draw(hires=Hires(hr_upscaler="stub_x3"))


def test_a_torchvision_of_another_build_does_not_stop_us() -> None:
    fit_torchvision()
    import transformers

    assert transformers.CLIPTextModel


def test_pictures_keep_their_transparency(shelf: Path, studio: Studio, test_seed: int) -> None:
    image = picture(test_seed, (32, 32)).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((32, 32)))
    upscale = studio.engine.upscalers.find("stub_x2", Drawing())
    assert upscale is not None
    alpha = np.asarray(upscale(image, 2).getchannel("A")).astype(int)
    assert alpha.shape == (64, 64)
    assert alpha[-1].mean() - alpha[0].mean() > 200


def test_extras_is_a_job_of_its_own_that_needs_no_checkpoint(shelf: Path, tmp_path: Path, test_seed: int) -> None:
    folders = Folders.under(tmp_path)
    shutil.copytree(shelf, folders.models / "ESRGAN")
    alone = Studio(Engine(folders), folders)
    images = tuple(keep(alone, picture(test_seed + k, (40, 24))) for k in range(2))
    made = alone.draw(
        source=Source(images=images, extras=Extras(upscaler_1="stub_x2", upscaling_resize=3)), width=512, height=512
    )
    assert [(one.record.width, one.record.height) for one in made] == [(120, 72)] * 2
    assert str(made[0].record.path).startswith("outputs/extras-images/")
    assert "Postprocess upscale by: 3.0, Postprocess upscaler: stub_x2" in made[0].record.infotext

    def pixels(**asked: object) -> np.ndarray:
        (one,) = alone.draw(source=Source(images=images[:1], extras=Extras(**asked)))  # type: ignore[arg-type]
        return array(alone, one)

    one, two = pixels(upscaler_1="stub_x2"), pixels(upscaler_1="Nearest")
    mixed = pixels(upscaler_1="stub_x2", upscaler_2="Nearest", extras_upscaler_2_visibility=0.25)
    assert np.abs(mixed - (0.75 * one + 0.25 * two)).max() <= 1
    size = {"resize_mode": 1, "upscaling_resize_w": 64, "upscaling_resize_h": 64}
    assert pixels(upscaler_1="stub_x2", **size).shape == (64, 64, 3)
    assert pixels(upscaler_1="stub_x2", upscaling_crop=False, **size).shape == (64, 104, 3)
    assert np.array_equal(pixels(), np.asarray(picture(test_seed, (40, 24))))
    with pytest.raises(NotFound, match="No upscaler is called 'nope'"):
        pixels(upscaler_2="nope")
    alone.engine.close()
