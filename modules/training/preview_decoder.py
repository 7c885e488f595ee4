"""A small decoder for live previews of Postcards: `python -m modules.training.preview_decoder`.

In TAESD's layout (`modules.nets.taesd`), but narrow: at the published 64 channels it would cost as much as Postcards'
own decoder. It learns to draw what that decoder draws of the same latents, from pictures of `drawing`, their latents
with some noise in them: previews look at latents that are not yet clean. Loss: L1 + 2 MSE, towards the end edges too
(as the autoencoder itself was trained). The file bears the checkpoint's name, so no other model is shown by it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from modules.nets.autoencoder import Autoencoder
from modules.nets.taesd import TaesdDecoder
from modules.training import evaluate
from modules.training.autoencoder_loop import edge_loss, encode_pictures, psnr, to_pictures, to_tensor
from modules.training.drawing import draw_scene, random_scene
from modules.training.optim import Average, Optimizers, warm_constant_cosine
from modules.training.progress import Progress, always
from modules.training.refine_loop import MIXTURE_OF_PAIRS

CHECKPOINT = Path("models/Stable-diffusion/postcards.safetensors")
FOLDER = Path("models/VAE-taesd")


@dataclass(frozen=True)
class PreviewRecipe:
    """All that decides the decoder, beside the model whose latents it reads."""

    width: int = 32
    steps: int = 1200
    batch: int = 8
    crop: int = 8
    """Side of the latent crops; the pictures' are eight times as long."""
    learning_rate: float = 2e-3
    warm_up: int = 50
    hold: float = 0.4
    edges_from: float = 0.5
    edge: float = 0.25
    average: float = 0.99
    noise: float = 0.1
    """Largest standard deviation of the noise in latents (which have unit variance)."""
    pictures: int = 800
    bfloat16: bool = True
    seed: int = 1


def preview_batch(latents: Tensor, pictures: np.ndarray, recipe: PreviewRecipe, step: int) -> tuple[Tensor, Tensor]:
    """This step's latents [B, 4, c, c] and what they show, [B, 3, 8c, 8c] in -1…1."""
    rng = np.random.default_rng((recipe.seed, step))
    room = latents.shape[-1] - recipe.crop
    xs, ys = [], []
    for _ in range(recipe.batch):
        i, x, y = rng.integers(len(latents)), rng.integers(room + 1), rng.integers(room + 1)
        crop = latents[i, :, y : y + recipe.crop, x : x + recipe.crop].float()
        level = rng.uniform(0, recipe.noise)
        xs.append(crop + level * torch.from_numpy(rng.standard_normal(crop.shape, np.float32)))
        ys.append(pictures[i, 8 * y : 8 * (y + recipe.crop), 8 * x : 8 * (x + recipe.crop)])
    return torch.stack(xs).contiguous(memory_format=torch.channels_last), to_tensor(np.stack(ys))


def build(recipe: PreviewRecipe) -> TaesdDecoder:
    """A fresh decoder whose blocks begin as nearly nothing and whose first picture is grey."""
    torch.manual_seed(recipe.seed)
    net = TaesdDecoder(4, recipe.width)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith(".conv.4.weight"):
                p.mul_(0.3)
            if name == "19.bias":
                p.fill_(0.5)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def unclamped(net: TaesdDecoder, x: Tensor) -> Tensor:
    """As `forward`, without the clamp, behind which nothing is learned."""
    for layer in net:
        x = layer(x)
    return x * 2 - 1


def train_preview(
    latents: Tensor, pictures: np.ndarray, recipe: PreviewRecipe, checkpoint: Path,
    keep_going: Callable[[int], bool] = always, save_every: float = 120.0, log: Callable[[str], None] = print,
) -> TaesdDecoder:  # fmt: skip
    """Train (or go on) on latents [N, 4, h, w] of unit variance and their pictures [N, 8h, 8w, 3]; averaged weights."""
    net = build(recipe)
    optimizers = Optimizers(net.named_parameters(), recipe.learning_rate, (0.9, 0.99))
    average = Average(net, recipe.average)
    progress = Progress(net, optimizers, average, checkpoint, save_every)
    squared, window = 0.0, 0
    while progress.step < recipe.steps and keep_going(progress.step):
        step = progress.step
        x, y = preview_batch(latents, pictures, recipe, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            found = unclamped(net, x).float()
        mse = F.mse_loss(found, y)
        loss = F.l1_loss(found, y) + 2 * mse
        if step >= recipe.edges_from * recipe.steps:
            loss = loss + recipe.edge * edge_loss(found, y)
        loss.backward()
        optimizers.step(warm_constant_cosine(step, recipe.steps, recipe.warm_up, recipe.hold))
        average.update(net)
        progress.step = step = step + 1
        squared, window = squared + float(mse.detach()), window + 1
        if step % 50 == 0:
            db = 10 * math.log10(4 * window / squared)
            log(f"preview {step}/{recipe.steps} psnr {db:.2f} {progress.pace:.3f} s/step")
            progress.curve.append((step, round(db, 2)))
            squared, window = 0.0, 0
        progress.save_if_due()
    progress.finish()
    return net


def fingerprint(vae: Autoencoder) -> str:
    """SHA-256 over an autoencoder's weights in half precision: whose latents a decoder reads."""
    digest = hashlib.sha256()
    for _, value in sorted(vae.state_dict().items()):
        digest.update(value.half().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def decode(net: TaesdDecoder, latents: Tensor) -> np.ndarray:
    """[N, 4, h, w] -> [N, 8h, 8w, 3] uint8."""
    return np.concatenate([to_pictures(net(part.float())) for part in latents.split(16)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--folder", type=Path, default=Path("outputs/training/postcards"), help="where its state lies")
    parser.add_argument("--output", type=Path, help="default: models/VAE-taesd/<checkpoint>_decoder.safetensors")
    parser.add_argument("--minutes", type=float, default=math.inf)
    options = parser.parse_args(arguments)
    output = options.output or FOLDER / f"{options.checkpoint.stem}_decoder.safetensors"
    log = functools.partial(print, flush=True)
    recipe = PreviewRecipe()
    vae = evaluate.load(options.checkpoint).autoencoder

    def shown(first: int, count: int) -> tuple[Tensor, np.ndarray]:
        pictures = np.stack([draw_scene(random_scene(recipe.seed, first + i, MIXTURE_OF_PAIRS)) for i in range(count)])
        return encode_pictures(vae, pictures, batch=8), pictures

    deadline = time.monotonic() + 60 * options.minutes
    latents, pictures = shown(0, recipe.pictures)
    net = train_preview(
        latents, pictures, recipe, options.folder / "preview.pt", lambda step: time.monotonic() < deadline, log=log
    )
    state = {key: value.detach().half().contiguous() for key, value in net.state_dict().items()}
    latents, pictures = shown(evaluate.HELD_OUT, 100)
    net.load_state_dict({key: value.float() for key, value in state.items()})
    db = psnr(pictures, decode(net.eval(), latents))
    log(f"held-out pictures: mean {db.mean():.1f}, p5 {np.percentile(db, 5):.1f}, min {db.min():.1f} dB")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_suffix(".writing")
    save_file(state, str(temporary), metadata={
        "format": "pt", "modelspec.title": "Preview decoder of Postcards", "modelspec.license": "CC0-1.0",
        "easel.autoencoder_sha256": fingerprint(vae),
        "easel.recipe": json.dumps(asdict(recipe)), "easel.psnr": f"{db.mean():.2f}",
    })  # fmt: skip
    temporary.replace(output)
    log(f"{output}: {output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
