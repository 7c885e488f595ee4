"""Retrain Postcards from nothing: `python -m modules.training.postcards`.

Stages, each continuing from what lies in `--folder`:
  draw         a contact sheet of true pictures, to look at
  autoencoder  pictures to latents and back
  latents      the training pictures' latents, balanced
  denoiser     denoiser and text encoder
  first        what they make so far, as a file
  refine       further: pairs, small things, emphasis
  export       models/Stable-diffusion/postcards.safetensors
  evaluate     its table by pixel rules, the model card and its contact sheet
`--start FILE` goes on from a finished file: only the last three. A killed run goes on
where its last checkpoint (one every five minutes) stands. On two cores all takes about two hours.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modules.nets.autoencoder import Autoencoder
from modules.prompt.tokens import CLIP
from modules.training import evaluate, export
from modules.training.autoencoder_loop import (
    CONFIG,
    AutoencoderRecipe,
    balance_latents,
    build_autoencoder,
    encode_pictures,
    train_autoencoder,
)
from modules.training.denoiser_loop import Denoiser, DenoiserRecipe, Vocabulary, load_averaged, train_denoiser
from modules.training.drawing import Scene, draw_scene, random_scene
from modules.training.progress import write_state
from modules.training.refine_loop import MIXTURE_OF_PAIRS, RefineRecipe, denoiser_from
from modules.training.refine_loop import refine as train_further

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
    refine: RefineRecipe
    start: Path | None
    scale: float
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

    @property
    def first(self) -> Path:
        """The file the last training goes on from."""
        return self.start or self.folder / "first.safetensors"

    @property
    def pairs(self) -> Path:
        return self.folder / "pairs.pt"

    @property
    def refine_state(self) -> Path:
        return self.folder / "refine.pt"


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


def first(run: Run) -> None:
    state = torch.load(run.latents, weights_only=True)
    vae = build_autoencoder(CONFIG, run.seed)
    vae.load_state_dict(state["autoencoder"])
    vocabulary = Vocabulary(CLIP.encode)
    nets = load_averaged(run.denoiser_state, vocabulary)
    header = export.metadata(export.recipe_hash(run.autoencoder, run.denoiser), time.strftime("%Y-%m-%d"))
    export.write_checkpoint(export.checkpoint_tensors(nets, vae, vocabulary), header, run.first)


def _opened(run: Run) -> tuple[Denoiser, Autoencoder, Vocabulary]:
    """The nets of the file the last training goes on from, ready to be trained."""
    model = evaluate.load(run.first)
    vae = build_autoencoder(CONFIG, run.seed)
    vae.load_state_dict(model.autoencoder.state_dict())
    vocabulary = Vocabulary(CLIP.encode)
    seed = run.refine.seed
    return denoiser_from(model.text.state_dict(), model.unet.state_dict(), vocabulary, seed), vae, vocabulary


def refine(run: Run) -> None:
    nets, vae, vocabulary = _opened(run)
    shown = [random_scene(run.refine.seed, i, MIXTURE_OF_PAIRS) for i in range(run.refine.pictures)]
    if not run.pairs.exists():
        write_state({"latents": encode_pictures(vae, pictures(shown), batch=8)}, run.pairs)
    encoded = torch.load(run.pairs, weights_only=True)["latents"]
    train_further(
        nets, _opened(run)[0], encoded, shown, vocabulary, run.refine, run.refine_state, keep_going=run.keep_going,
        log=run.log,
    )  # fmt: skip


def export_model(run: Run) -> None:
    nets, vae, vocabulary = _opened(run)
    nets.load_state_dict(torch.load(run.refine_state, weights_only=True)["average"]["values"], strict=False)
    header = export.metadata(
        export.recipe_hash(run.autoencoder, run.denoiser, run.refine), time.strftime("%Y-%m-%d"),
        hashlib.sha256(run.first.read_bytes()).hexdigest(),
    )  # fmt: skip
    export.write_checkpoint(export.checkpoint_tensors(nets, vae, vocabulary), header, run.output)
    run.log(f"{run.output}: {run.output.stat().st_size / 1e6:.1f} MB")


def evaluate_model(run: Run) -> None:
    curves = {
        name: torch.load(path, weights_only=True)["curve"]
        for name, path in (
            ("autoencoder", run.latents), ("denoiser", run.denoiser_state), ("refine", run.refine_state),
        )
        if path.exists()
    }  # fmt: skip
    evaluate.write_card(run.output, run.autoencoder, run.denoiser, run.refine, curves, run.scale, log=run.log)


STAGES: dict[str, Callable[[Run], None]] = {
    "draw": draw, "autoencoder": autoencoder, "latents": latents, "denoiser": denoiser, "first": first,
    "refine": refine, "export": export_model, "evaluate": evaluate_model,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=tuple(STAGES), help="only this one (default: all, in order)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop a training stage after so long, resumable"
    )
    parser.add_argument("--folder", type=Path, default=Path("outputs/training/postcards"), help="where checkpoints lie")
    parser.add_argument("--output", type=Path, default=MODEL)
    parser.add_argument("--start", type=Path, help="go on from this file instead of training anew")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the seeds the card is measured on")
    parser.add_argument("--threads", type=int, default=0, help="0: torch decides")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    deadline = time.monotonic() + 60 * options.minutes
    run = Run(
        options.folder, options.output, options.seed, lambda step: time.monotonic() < deadline,
        AutoencoderRecipe(seed=options.seed), DenoiserRecipe(seed=options.seed), RefineRecipe(seed=options.seed + 1),
        options.start, options.scale, functools.partial(print, flush=True),
    )  # fmt: skip
    all_stages = tuple(STAGES)[tuple(STAGES).index("refine") if options.start else 0 :]
    for name in [options.stage] if options.stage else all_stages:
        STAGES[name](run)


if __name__ == "__main__":
    main()
