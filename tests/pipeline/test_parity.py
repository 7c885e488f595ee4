"""img2img and inpainting against diffusers' pipelines: the same random weights, text, noise and steps, float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.memory import policy
from modules.pipeline import control, decode, latents, passes, text
from modules.pipeline.context import RunContext
from modules.pipeline.generate import Job, draw, met
from modules.pipeline.models import Models
from modules.pipeline.plan import make_plan
from modules.pipeline.progress import Meter
from modules.pipeline.run import Engine
from modules.pipeline.source import prepare
from modules.sampling import noise
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest, Mask, Source
from modules.schema.settings import Settings
from tests.nets.diffusers_keys import translated, unet_key, vae_arguments, vae_key
from tests.pipeline.conftest import Hand, Studio
from tests.pipeline.test_img2img import disc, keep, picture
from tests.weights.tiny import PREFIXES, write_tiny, write_tiny_sd15

SEED = 1234
# 10 steps are every 111th of the 1000 noise levels, so that neither side has to guess between two.
STEPS = 10
BOX = (16, 16, 48, 40)  # on the latent grid


@pytest.fixture(scope="module")
def drawers(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[Studio]:
    folders = Folders.under(tmp_path_factory.mktemp("parity"))
    write_tiny_sd15(folders.checkpoint_dirs[0] / "plain.safetensors", test_seed)
    write_tiny(folders.checkpoint_dirs[0] / "inpainting.safetensors", "SD 1.x inpainting", test_seed)
    engine = Engine(folders)
    yield Studio(engine, folders)
    engine.close()


def pipeline(kind: Any, model: Any) -> Any:
    """diffusers' pipeline over the weights of a loaded model's file."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    unet: Any = UNet2DConditionModel(
        in_channels=model.unet.config.in_channels, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32, sample_size=64, attention_head_dim=(1, 2),  # type: ignore[arg-type]
    ).eval()  # fmt: skip
    file = load_file(model.checkpoint.path)

    def state(part: str) -> Callable[[str], Tensor]:
        return lambda key: file[PREFIXES[part] + key]

    unet.load_state_dict(translated(unet.state_dict(), lambda key: unet_key(key, 1, (1,)), state("unet")))
    vae: Any = AutoencoderKL(**{**vae_arguments((32,) * 4), "layers_per_block": 1}, scaling_factor=0.18215).eval()
    vae.load_state_dict(translated(vae.state_dict(), lambda key: vae_key(key, 4), state("vae")))
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace", steps_offset=1
    )
    made = kind(
        vae=vae, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def both(
    drawers: Studio, checkpoint: str, source: Source, kind: Any, monkeypatch: pytest.MonkeyPatch, **theirs: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents and pixels of ours, then of theirs."""
    engine = drawers.engine
    request = GenerationRequest(
        checkpoint=checkpoint, prompt="a (red:1.2) house", negative_prompt="fog", width=64, height=64, seed=SEED,
        steps=STEPS, sampler="Euler", scheduler="Uniform", cfg_scale=5.0, source=source,
    )  # fmt: skip
    settings = Settings()
    ctx = RunContext(
        "parity", lambda event: None, Hand(), engine.folders, settings, engine.catalogue, engine.residency,
        engine.facts, engine.conditionings, engine.upscalers, engine.faces, engine.gauge,
    )  # fmt: skip
    plan, prepared = prepare(make_plan(request, settings, engine.catalogue, {}), engine.folders)
    assert prepared is not None
    with Models(engine.residency, policy.choose(engine.facts, settings)) as models, torch.inference_mode():
        plan = met(plan, models.use(plan.checkpoint), ctx)
        model = models.current
        run, meter = passes.first_pass(plan), Meter(ctx, plan, 1)
        if model.facts.concat:
            # diffusers lets a model that sees the mask draw everything: here without laying the source over the rest.
            start = replace(latents.start(model, prepared, plan, range(1)), new=None)
            extra = latents.net_input(model, prepared, plan, range(1), run.size)
            ours = passes.sample(plan, run, range(1), models, ctx, meter, start, extra)
        else:
            maps = control.Maps(engine.folders.inputs, ctx.warn, ctx.check)
            ours = draw(plan, range(1), prepared, Job(models, ctx, meter, maps)).latents
        told = text.condition(
            model, plan.prompts[0], plan.negative_prompts[0], run.steps, settings, run.size, engine.conditionings
        ).at(0)
        shape = latents.shape(model, 64, 64)
        first = noise.BatchNoise(noise.picture_noises([SEED]), shape).initial
        posterior = noise.make_generator("CPU", SEED + latents.POSTERIOR_STREAM).randn(shape)[None]
        module = kind.__module__
        monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: first.clone())
        monkeypatch.setattr("diffusers.models.autoencoders.vae.randn_tensor", lambda *_, **__: posterior.clone())
        their = pipeline(kind, model)
        common: dict[str, Any] = {
            "image": (latents.pixels([prepared.images[0]], model) + 1) / 2, "num_inference_steps": STEPS,
            "guidance_scale": 5.0, "prompt_embeds": told[0][0].tokens[None].float(),
            "negative_prompt_embeds": told[1].tokens[None].float(), "output_type": "latent", **theirs,
        }  # fmt: skip
        found = their(**common).images
        pixels = decode.pixels(model, ours[0])
        decoded = their.vae.decode(found / 0.18215).sample[0]
    return ours, pixels, found, decoded


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.8])
def test_img2img_equals_diffusers(
    strength: float, drawers: Studio, test_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    source = Source(images=(keep(drawers, picture(test_seed)),), denoising_strength=strength)
    # Of 10 steps A1111 draws the share asked for and one more, diffusers the share alone.
    ours, pixels, theirs, decoded = both(
        drawers, "plain", source, StableDiffusionImg2ImgPipeline, monkeypatch, strength=strength + 0.1
    )
    assert theirs.std() > 0.1
    assert relative(ours, theirs) <= 1e-4
    assert relative(pixels, decoded) <= 1e-4


@pytest.mark.parametrize("checkpoint", ["plain", "inpainting"])
@pytest.mark.parametrize("strength", [0.5, 0.8])
def test_inpainting_equals_diffusers(
    checkpoint: str, strength: float, drawers: Studio, test_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionInpaintPipeline

    white = disc(box=BOX)
    mask = Mask(image=keep(drawers, white), mask_blur_x=0, mask_blur_y=0, inpainting_fill=1)
    source = Source(images=(keep(drawers, picture(test_seed)),), denoising_strength=strength, mask=mask)
    ours, pixels, theirs, decoded = both(
        drawers, checkpoint, source, StableDiffusionInpaintPipeline, monkeypatch, strength=strength + 0.1,
        mask_image=torch.from_numpy(np.asarray(white, dtype=np.float32) / 255)[None, None], width=64, height=64,
    )  # fmt: skip
    assert theirs.std() > 0.1
    assert relative(ours, theirs) <= 1e-4
    assert relative(pixels, decoded) <= 1e-4
