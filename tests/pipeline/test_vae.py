"""The autoencoder: tiles without seams, numbers that overflow; NaN of every stage named before it is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.nets.autoencoder import Autoencoder, encode_tiled
from modules.pipeline.run import Engine
from modules.pipeline.upscalers import in_tiles
from modules.schema.errors import NotANumber
from modules.schema.events import ImageReady, Warned
from modules.schema.folders import Folders
from modules.schema.request import Hires, Source
from modules.schema.settings import Settings
from tests.pipeline.conftest import Studio
from tests.pipeline.test_img2img import array, from_picture
from tests.weights.tiny import PREFIXES, VAE, randomise, write_tiny_sd15

Pixels = Callable[[Studio, ImageReady], bytes]
HALF = {"vae_precision": "float16"}


@pytest.mark.parametrize("size", [(8, 8), (16, 40), (37, 21)])
def test_a_picture_is_encoded_in_tiles_without_seams(test_seed: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(test_seed)
    vae: Any = randomise(Autoencoder(VAE), generator)
    f = VAE.downscale
    rows = torch.linspace(-1, 1, size[0] * f)[:, None] * torch.linspace(1, -1, size[1] * f)
    picture = rows.expand(1, 3, -1, -1) + 0.05 * torch.randn(1, 3, size[0] * f, size[1] * f, generator=generator)
    with torch.inference_mode():
        whole, tiled = vae.encode_moments(picture), encode_tiled(vae, picture, tile=16, overlap=8)
    for one, other in zip(tiled, whole):
        assert one.shape == other.shape
        if max(size) <= 16:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
            continue
        error = one - other
        # 0.45 at these sizes, 0.1 at that of real tiles: group norms and attention see one tile only.
        assert error.abs().mean() < 0.6 * other.std()
        inside = other.diff(dim=3).abs().amax()
        assert error.diff(dim=3).abs().amax() < 0.8 * inside, "no edge that stands out"


def studio_with(tmp_path: Path, seed: int, change: Callable[[dict[str, torch.Tensor]], None]) -> Studio:
    folders = Folders.under(tmp_path)
    path = write_tiny_sd15(folders.checkpoint_dirs[0] / "odd.safetensors", seed)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return Studio(Engine(folders), folders)


def hot(half: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """Goes beyond float16 inside that half, and comes back."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{PREFIXES['vae']}{half}.conv_in.weight"] *= 1e4 if half == "decoder" else 1.2e5

    return change


def count(studio: Studio) -> dict[str, int]:
    """How often each net of the loaded model is called from now on."""
    model = next(iter(studio.engine.residency._kept.values()))
    calls = {"unet": 0, "encoder": 0, "decoder": 0}
    for name, net in (("unet", model.unet), ("encoder", model.vae.encoder), ("decoder", model.vae.decoder)):

        def seen(*_: Any, name: str = name) -> None:
            calls[name] += 1

        net.register_forward_pre_hook(seen)
    return calls


def test_only_the_decode_is_done_again_and_what_held_is_remembered(tmp_path: Path, test_seed: int) -> None:
    studio = studio_with(tmp_path, test_seed, hot("decoder"))
    half = Settings().with_options({**HALF, "live_previews_enable": False})
    with pytest.raises(NotANumber, match="decoder"):
        studio.draw(settings=half.with_options({"auto_vae_precision": False}))
    calls = count(studio)
    studio.draw(settings=half, steps=3)
    assert calls["decoder"] == 2
    steps = calls["unet"]
    studio.draw(settings=half, steps=3)
    assert calls == {"unet": 2 * steps, "encoder": 0, "decoder": 3}, "the latents were kept, the type is known"
    studio.engine.unload()
    studio.engine.warm(half)
    calls = count(studio)
    studio.draw(settings=half, steps=3)
    assert calls["decoder"] == 1, "also for the next time this VAE is loaded"


def test_bfloat16_comes_before_float32_where_it_is_wanted(tmp_path: Path, test_seed: int) -> None:
    studio = studio_with(tmp_path, test_seed, hot("decoder"))
    wide = Settings().with_options({**HALF, "auto_vae_precision_bfloat16": True})
    (picture,) = studio.draw(settings=wide)
    learned = next(iter(studio.engine.residency._learned.values()))
    expected = torch.bfloat16 if studio.engine.facts.bf16 else torch.float32
    assert learned == {"vae": expected}
    assert array(studio, picture).std() > 1


def test_a_source_is_encoded_again_as_well(tmp_path: Path, test_seed: int) -> None:
    studio = studio_with(tmp_path, test_seed, hot("encoder"))
    source = from_picture(studio, test_seed, denoising_strength=0.3)
    (again,) = studio.draw(settings=Settings().with_options(HALF), source=source)
    (wide,) = studio.draw(source=source)
    assert abs(array(studio, again) - array(studio, wide)).max() <= 4  # the weights were rounded to float16 before
    with pytest.raises(NotANumber, match="encoder"):
        studio.draw(settings=Settings().with_options({**HALF, "auto_vae_precision": False}), source=source)


def test_in_tiles_a_source_gives_nearly_the_same_picture(studio: Studio, test_seed: int) -> None:
    source = from_picture(studio, test_seed, denoising_strength=0.3)
    settings = Settings().with_options({"memory_saving": "VAE in tiles"})
    (whole,) = studio.draw(source=source)
    (tiled,) = studio.draw(settings=settings, source=source)
    assert abs(array(studio, whole) - array(studio, tiled)).max() <= 1, "one tile holds all of it"


STAGES = {
    "text encoder": "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    "denoiser": "model.diffusion_model.out.2.weight",
    "autoencoder's encoder": PREFIXES["vae"] + "encoder.conv_out.weight",
    "autoencoder's decoder": PREFIXES["vae"] + "decoder.conv_out.bias",
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named_by_their_stage(
    stage: str, value: float, tmp_path: Path, test_seed: int
) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[STAGES[stage]].view(-1)[0] = value

    studio = studio_with(tmp_path, test_seed, change)
    source: Source | None = from_picture(studio, test_seed) if "encoder" in stage else None
    if stage == "text encoder":
        source = None
    with pytest.raises(NotANumber, match=stage):
        studio.draw(source=source, prompt="a cat")
    assert not studio.pictures
    assert not list((studio.folders.data / "outputs").rglob("*.png"))


def test_who_does_not_want_to_stop_is_told_all_the_same(tmp_path: Path, test_seed: int) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[STAGES["autoencoder's decoder"]].view(-1)[0] = float("nan")

    studio = studio_with(tmp_path, test_seed, change)
    (made,) = studio.draw(override_settings={"disable_nan_check": True})
    assert array(studio, made).shape == (64, 64, 3)
    assert any(isinstance(event, Warned) and "may be black" in event.message for event in studio.events)


def test_an_upscaler_and_a_second_pass_are_named_too(studio: Studio, test_seed: int) -> None:
    class Broken:
        scale = 2
        model = torch.nn.Conv2d(3, 3, 1)

        def __call__(self, image: torch.Tensor) -> torch.Tensor:
            return image.repeat_interleave(2, 2).repeat_interleave(2, 3) * float("nan")

    with pytest.raises(NotANumber, match="upscaler"):
        in_tiles(torch.rand(1, 3, 8, 8), Broken(), torch.device("cpu"), 0, 0)
    assert len(studio.draw(hires=Hires(hr_upscaler="Lanczos", hr_scale=1.5))) == 1
