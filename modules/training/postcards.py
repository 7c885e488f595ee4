"""Retrain Postcards from nothing: `python -m modules.training.postcards`.

Stages, each continuing from what lies in `--folder`:
  draw         a contact sheet of true pictures, to look at
  autoencoder  pictures to latents and back
  latents      the training pictures' latents, balanced
  denoiser     denoiser and text encoder
  export       models/Stable-diffusion/postcards.safetensors
  evaluate     its table by pixel rules, the model card and its contact sheet
A killed run goes on where its last checkpoint (one every five minutes) stands. On two cores all takes about two hours.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modules.prompt.tokens import CLIP
from modules.training import evaluate, export
from modules.training.autoencoder_loop import (
    CONFIG,
    AutoencoderRecipe,
    balance_latents,
    build_autoencoder,
    encode_pictures,
    train_autoencoder,
    write_state,
)
from modules.training.denoiser_loop import DenoiserRecipe, Vocabulary, load_averaged, train_denoiser
from modules.training.drawing import Scene, draw_scene, random_scene

PICTURES = 12_000
MODEL = Path("models/Stable-diffusion/postcards.safetensors")


@dataclass(frozen=True)
class Run:
    """What the stages share."""

    folder: Path
    output: Path
    seed: int
    keep_going: Callable[[int], bool]
    autoencoder: AutoencoderRecipe
    denoiser: DenoiserRecipe
    log: Callable[[str], None]

    @property
    def autoencoder_state(self) -> Path:
        return self.folder / "autoencoder.pt"

    @property
    def latents(self) -> Path:
        return self.folder / "latents.pt"

    @property
    def denoiser_state(self) -> Path:
        return self.folder / "denoiser.pt"


def scenes(seed: int, count: int = PICTURES) -> list[Scene]:
    """The training scenes of a seed."""
    return [random_scene(seed, i) for i in range(count)]


def pictures(shown: Sequence[Scene]) -> np.ndarray:
    """[N, 128, 128, 3] uint8."""
    return np.stack([draw_scene(scene) for scene in shown])


def draw(run: Run) -> None:
    sheet = evaluate.contact_sheet(pictures(scenes(run.seed, 60)), columns=10)
    run.folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(run.folder / "true.png")


def autoencoder(run: Run) -> None:
    shown = scenes(run.seed)
    train_autoencoder(
        pictures(shown), shown, run.autoencoder, run.autoencoder_state, keep_going=run.keep_going, log=run.log
    )


def latents(run: Run) -> None:
    model = build_autoencoder(CONFIG, run.seed)
    state = torch.load(run.autoencoder_state, weights_only=True)
    model.load_state_dict(state["average"]["values"])
    shown = pictures(scenes(run.seed))
    balance_latents(model, shown[:500])
    encoded = encode_pictures(model, shown)
    spread = [round(float(v), 3) for v in encoded.float().std(dim=(0, 2, 3))]
    run.log(f"latents {tuple(encoded.shape)} standard deviations {spread}")
    write_state({"latents": encoded, "autoencoder": model.state_dict(), "curve": state["curve"]}, run.latents)


def denoiser(run: Run) -> None:
    encoded = torch.load(run.latents, weights_only=True)["latents"]
    train_denoiser(
        encoded, scenes(run.seed), Vocabulary(CLIP.encode), run.denoiser, run.denoiser_state,
        keep_going=run.keep_going, log=run.log,
    )  # fmt: skip


def export_model(run: Run) -> None:
    state = torch.load(run.latents, weights_only=True)
    vae = build_autoencoder(CONFIG, run.seed)
    vae.load_state_dict(state["autoencoder"])
    vocabulary = Vocabulary(CLIP.encode)
    nets = load_averaged(run.denoiser_state, vocabulary)
    header = export.metadata(export.recipe_hash(run.autoencoder, run.denoiser), time.strftime("%Y-%m-%d"))
    export.write_checkpoint(export.checkpoint_tensors(nets, vae, vocabulary), header, run.output)
    run.log(f"{run.output}: {run.output.stat().st_size / 1e6:.1f} MB")


def evaluate_model(run: Run) -> None:
    curves = {
        "autoencoder": torch.load(run.latents, weights_only=True)["curve"],
        "denoiser": torch.load(run.denoiser_state, weights_only=True)["curve"],
    }
    evaluate.write_card(run.output, run.autoencoder, run.denoiser, curves, log=run.log)


STAGES: dict[str, Callable[[Run], None]] = {
    "draw": draw, "autoencoder": autoencoder, "latents": latents, "denoiser": denoiser, "export": export_model,
    "evaluate": evaluate_model,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=tuple(STAGES), help="only this one (default: all, in order)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop a training stage after so long, resumable"
    )
    parser.add_argument("--folder", type=Path, default=Path("outputs/training/postcards"), help="where checkpoints lie")
    parser.add_argument("--output", type=Path, default=MODEL)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="0: torch decides")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    deadline = time.monotonic() + 60 * options.minutes
    run = Run(
        options.folder, options.output, options.seed, lambda step: time.monotonic() < deadline,
        AutoencoderRecipe(seed=options.seed), DenoiserRecipe(seed=options.seed), functools.partial(print, flush=True),
    )  # fmt: skip
    for name in [options.stage] if options.stage else STAGES:
        STAGES[name](run)


if __name__ == "__main__":
    main()
