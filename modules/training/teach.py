"""Teaching a checkpoint something small: a LoRA, an embedding or a hypernetwork, from a few pictures with captions.

    python -m modules.training.teach lora --checkpoint models/Stable-diffusion/postcards.safetensors \\
        --pictures my-pictures --name ink --rank 4 --steps 400

The folder holds pictures, each with its caption in a text file of the same name (or as its file name). What is learned
lies beside the frozen nets of any checkpoint in Stable Diffusion 1's layout: LoRA (Hu et al., arXiv:2106.09685) as
deltas in the layers' slots, textual inversion (Gal et al., arXiv:2208.01618) as rows of the text encoder's input, a
hypernetwork as the map of attention's contexts. So training computes by the code that draws, and `network_files` writes
what other programs read.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from modules.nets.attention import ContextMap
from modules.nets.autoencoder import Autoencoder
from modules.nets.clip import TextEncoder
from modules.nets.layers import Conv2d, Linear
from modules.nets.unet import CrossAttention, UNet
from modules.prompt.parse import parse_emphasis
from modules.prompt.tokens import CLIP, Embeddings, chunk, embeddings
from modules.schema.errors import BadFile, BadRequest
from modules.training import network_files
from modules.training.autoencoder_loop import to_tensor
from modules.training.denoiser_loop import BLIND_TIMESTEPS, alphas_cumprod, loss_weights
from modules.training.fused import plain_attention
from modules.training.optim import warm_constant_cosine
from modules.weights.adapters.hypernetwork import Hypernetwork, context_map, empty_net
from modules.weights.build import blueprint, fill
from modules.weights.keymaps import diffusers_names
from modules.weights.reading import open_header
from modules.weights.recognise import recognise

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, eq=False)
class Base:
    """A frozen checkpoint to teach. `scale`: what its autoencoder's latents are multiplied by."""

    path: Path
    unet: UNet
    text: TextEncoder
    autoencoder: Autoencoder
    scale: float


def open_base(path: Path) -> Base:
    """The nets of a checkpoint in float32.

    Raises:
        BadFile: it is damaged or of another family.
    """
    header, facts = recognise(path)
    if len(facts.towers) != 1 or facts.prediction != "eps" or facts.concat:
        raise BadFile(f"{path.name} is {facts.label}; networks are taught to plain Stable Diffusion 1 checkpoints.")
    nets = blueprint(facts, header, plain_attention)
    text = nets.towers[0].net
    with open_header(header) as file:
        parts = ((nets.unet, facts.unet), (nets.vae, facts.vae), (text, facts.towers[0].component))
        for net, component in parts:
            fill(net, file, component, torch.device("cpu"), torch.float32)
    return Base(path, nets.unet, text, nets.vae, facts.latent.scale)


@torch.no_grad()
def latents_of(base: Base, pictures: Sequence[np.ndarray], batch: int = 8) -> Tensor:
    """[H, W, 3] uint8 pictures of one size -> latents [N, 4, H/8, W/8] as the denoiser sees them."""
    out = [
        base.autoencoder.encode_moments(to_tensor(np.stack(pictures[i : i + batch])))[0] * base.scale
        for i in range(0, len(pictures), batch)
    ]
    return torch.cat(out)


@dataclass(frozen=True)
class Lesson:
    """All that decides what is learned, beside pictures, captions and the learner."""

    steps: int = 300
    batch: int = 8
    learning_rate: float = 2e-3
    warm_up: int = 20
    hold: float = 0.5
    empty: float = 0.1
    """Share of samples without a caption, so that guidance keeps its other side."""
    blind: float = 0.2
    """Share of samples at the noise a sampler begins with, see `denoiser_loop.make_batch`."""
    blind_weight: float = 4.0
    bfloat16: bool = True
    seed: int = 1


class Learner(Protocol):
    """What is taught. `words`: embeddings in captions; `context_map`: for the U-Net, as hypernetworks have it."""

    words: Embeddings | None

    def parameters(self) -> list[nn.Parameter]: ...

    def rows(self, name: str) -> Tensor: ...

    def context_map(self) -> ContextMap | None: ...


# --- learners ---------------------------------------------------------------------------------------------------------


class LoraLearner:
    """W + alpha / rank · up · down in linear layers, and in convolutions if asked (LoCon), of the U-Net and the text
    encoder. `close` takes it off the nets again."""

    words: Embeddings | None = None

    def __init__(
        self, base: Base, rank: int, alpha: float, seed: int, convolutions: bool = False, text: bool = True
    ) -> None:
        self.rank, self.alpha = rank, alpha
        generator = torch.Generator().manual_seed(seed)
        self.pairs: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        self._layers: list[Linear | Conv2d] = []
        for name, layer in lora_layers(base, convolutions, text):
            weight = layer.weight
            down = torch.randn(rank, *weight.shape[1:], generator=generator) / math.sqrt(weight[0].numel())
            up = torch.zeros(weight.shape[0], rank, *[1] * (weight.dim() - 2))
            self.pairs[name] = nn.Parameter(down), nn.Parameter(up)
            self._attach(layer, *self.pairs[name])

    def _attach(self, layer: Linear | Conv2d, down: Tensor, up: Tensor) -> None:
        def changed(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
            delta = (up.flatten(1) @ down.flatten(1)).view_as(weight)
            return weight + delta * (self.alpha / self.rank), bias

        layer.delta = changed
        self._layers.append(layer)

    def close(self) -> None:
        for layer in self._layers:
            layer.delta = None

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for pair in self.pairs.values() for parameter in pair]

    def rows(self, name: str) -> Tensor:
        raise KeyError(name)

    def context_map(self) -> ContextMap | None:
        return None

    def tensors(self) -> dict[str, Tensor]:
        """Under kohya's keys, float16."""
        found: dict[str, Tensor] = {}
        for name, (down, up) in self.pairs.items():
            found[f"{name}.lora_down.weight"] = down.detach().half().contiguous()
            found[f"{name}.lora_up.weight"] = up.detach().half().contiguous()
            found[f"{name}.alpha"] = torch.tensor(float(self.alpha)).half()
        return found


def lora_layers(base: Base, convolutions: bool, text: bool) -> Iterator[tuple[str, Linear | Conv2d]]:
    """Layers and their names in a LoRA file: of the transformers, with `convolutions` of everything between the first
    and the last layer of the U-Net."""
    renamed = diffusers_names(base.unet)
    for path, layer in base.unet.named_modules():
        if isinstance(layer, (Linear, Conv2d)):
            inside = "transformer_blocks" in path or path.endswith(("proj_in", "proj_out"))
            edge = path in ("input_blocks.0.0", "out.2") or path.startswith("time_embed")
            if inside or (convolutions and not edge):
                yield "lora_unet_" + renamed.get(path, path).replace(".", "_"), layer
    for path, layer in base.text.named_modules():
        if text and path.startswith("encoder.") and isinstance(layer, Linear):
            yield "lora_te_text_model_" + path.replace(".", "_"), layer


class EmbeddingLearner:
    """Rows that stand for a word, begun at another word's ("" begins at what unknown words mean)."""

    def __init__(self, base: Base, word: str, vectors: int, like: str) -> None:
        ids = list(CLIP.encode(like)) or list(CLIP.encode(word))
        rows = base.text.embed(torch.tensor(ids))
        self.word, self.vectors = word, nn.Parameter(rows[torch.arange(vectors) % len(rows)].clone())
        self.words: Embeddings | None = embeddings(CLIP, {word: vectors})

    def parameters(self) -> list[nn.Parameter]:
        return [self.vectors]

    def rows(self, name: str) -> Tensor:
        return self.vectors

    def context_map(self) -> ContextMap | None:
        return None


class HypernetworkLearner:
    """A pair of small nets for each width of a context, as A1111 makes them, beginning at nearly nothing."""

    words: Embeddings | None = None

    def __init__(
        self, widths: Sequence[int], seed: int, structure: Sequence[float] = (1, 2, 1), activation: str = "relu"
    ) -> None:
        torch.manual_seed(seed)
        self.said: dict[str, Any] = {
            "layer_structure": list(structure), "activation_func": activation, "is_layer_norm": False,
            "weight_initialization": "Normal", "use_dropout": False, "activate_output": False,
            "last_layer_dropout": False, "dropout_structure": [0.0] * len(structure),
        }  # fmt: skip
        self.pairs = {width: (empty_net(width, self.said), empty_net(width, self.said)) for width in widths}
        for pair in self.pairs.values():
            for net in pair:
                layers = [layer for layer in net if isinstance(layer, nn.Linear)]
                for layer in layers:
                    nn.init.normal_(layer.weight, std=0.5 / math.sqrt(layer.in_features))
                    nn.init.zeros_(layer.bias)
                nn.init.zeros_(layers[-1].weight)

    def parameters(self) -> list[nn.Parameter]:
        return [p for pair in self.pairs.values() for net in pair for p in net.parameters()]

    def rows(self, name: str) -> Tensor:
        raise KeyError(name)

    def context_map(self) -> ContextMap | None:
        return context_map([(Hypernetwork("learning", self.pairs), 1.0)])


def text_widths(base: Base) -> list[int]:
    """Widths of what the U-Net's attention over the text reads."""
    return sorted({m.to_k.in_features for n, m in base.unet.named_modules() if isinstance(m, CrossAttention)
                   and n.endswith("attn2") and isinstance(m.to_k, nn.Linear)})  # fmt: skip


# --- the loop ---------------------------------------------------------------------------------------------------------


def contexts(base: Base, learner: Learner, captions: Sequence[str]) -> Tensor:
    """[B, 77, D]: the first chunk of each caption, weights left out."""
    chunks = [chunk(parse_emphasis(text), CLIP, embeddings=learner.words)[0] for text in captions]
    embeds = base.text.embed(torch.tensor([each.ids for each in chunks]))
    if any(each.fixes for each in chunks):
        embeds = embeds.clone()
    for k, each in enumerate(chunks):
        for fix in each.fixes:
            embeds[k, fix.offset + 1 : fix.offset + 1 + fix.vectors] = learner.rows(fix.name)[: fix.vectors]
    return base.text.final_layer_norm(base.text.hidden_states(embeds)[-1])


def lesson_loss(
    base: Base, learner: Learner, latents: Tensor, captions: Sequence[Sequence[str]], lesson: Lesson, step: int
) -> Tensor:
    """The weighted error of one step's samples, all of whose randomness is a function of (seed, step)."""
    rng = random.Random(lesson.seed * 1_000_003 + step)
    generator = torch.Generator().manual_seed(lesson.seed * 1_000_003 + step)
    blind = round(lesson.blind * lesson.batch)
    seeing = lesson.batch - blind
    index = [rng.randrange(len(latents)) for _ in range(lesson.batch)]
    texts = ["" if rng.random() < lesson.empty else rng.choice(captions[i]) for i in index]
    strata = torch.arange(seeing) + torch.rand(seeing, generator=generator)
    timesteps = torch.cat([
        torch.randint(BLIND_TIMESTEPS[0], BLIND_TIMESTEPS[1] + 1, (blind,), generator=generator),
        (strata * (1000 / seeing)).long().clamp_(0, 999),
    ])  # fmt: skip
    noise = torch.randn(lesson.batch, *latents.shape[1:], generator=generator)
    alpha = alphas_cumprod()[timesteps].float()[:, None, None, None]
    hidden = (torch.arange(lesson.batch) < blind)[:, None, None, None]
    x0 = latents[index].float()
    x = (1 - alpha).sqrt() * noise + torch.where(hidden, 0.0, 1.0) * alpha.sqrt() * x0
    target = noise - torch.where(hidden, 1.0, 0.0) * (alpha / (1 - alpha)).sqrt() * x0
    weight = loss_weights()[timesteps] * torch.where(hidden.flatten(), lesson.blind_weight, 1.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=lesson.bfloat16):
        found = base.unet(x, timesteps, contexts(base, learner, texts), context_map=learner.context_map())
    return ((found.float() - target).square().mean(dim=(1, 2, 3)) * weight).mean()


def teach(
    base: Base,
    learner: Learner,
    latents: Tensor,
    captions: Sequence[Sequence[str]],
    lesson: Lesson,
    log: Callable[[str], None] = print,
) -> list[tuple[int, float]]:
    """Train a learner on latents [N, 4, h, w] with some captions each; returns the loss as (step, mean since then)."""
    optimizer = torch.optim.AdamW(learner.parameters(), lr=lesson.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    curve: list[tuple[int, float]] = []
    running, window, began = 0.0, 0, time.monotonic()
    for step in range(lesson.steps):
        loss = lesson_loss(base, learner, latents, captions, lesson, step)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lesson.learning_rate * warm_constant_cosine(step, lesson.steps, lesson.warm_up, lesson.hold)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running, window = running + float(loss.detach()), window + 1
        if (step + 1) % 25 == 0 or step + 1 == lesson.steps:
            pace = (time.monotonic() - began) / (step + 1)
            log(f"{step + 1}/{lesson.steps} loss {running / window:.4f} {pace:.2f} s/step")
            curve.append((step + 1, round(running / window, 5)))
            running, window = 0.0, 0
    return curve


# --- the command ------------------------------------------------------------------------------------------------------


def read_folder(folder: Path, size: int) -> tuple[list[np.ndarray], list[list[str]]]:
    """Pictures of a folder, cropped to a square in the middle and resized to `size`, and the caption of each.

    Raises:
        BadRequest: there is none.
    """
    pictures: list[np.ndarray] = []
    captions: list[list[str]] = []
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() not in PICTURE_ENDINGS:
            continue
        image = Image.open(path).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
        pictures.append(np.asarray(image))
        said = path.with_suffix(".txt")
        text = said.read_text("utf-8") if said.exists() else re.sub(r"^[-\d]+", "", path.stem).replace("_", " ")
        captions.append([" ".join(text.split())])
    if not pictures:
        raise BadRequest(f"There is no picture ({', '.join(PICTURE_ENDINGS)}) in {folder}; put some there.")
    return pictures, captions


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("lora", "embedding", "hypernetwork"))
    parser.add_argument("--checkpoint", type=Path, default=Path("models/Stable-diffusion/postcards.safetensors"))
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures with captions")
    parser.add_argument("--name", required=True, help="of the file, and of an embedding's word")
    parser.add_argument("--output", type=Path, help="file to write (default: where the program looks for it)")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rank", type=int, default=4, help="of a LoRA")
    parser.add_argument("--convolutions", action="store_true", help="a LoRA of the convolutions, too")
    parser.add_argument("--vectors", type=int, default=2, help="of an embedding")
    parser.add_argument("--like", default="", help="the word an embedding begins at")
    options = parser.parse_args(arguments)
    base = open_base(options.checkpoint)
    pictures, captions = read_folder(options.pictures, options.size)
    lesson = Lesson(
        steps=options.steps, batch=options.batch, learning_rate=options.learning_rate, seed=options.seed
    )  # fmt: skip
    latents = latents_of(base, pictures)
    facts = network_files.Facts.of(base.path, options.name, len(pictures), options.size, lesson, captions)
    if options.kind == "lora":
        learner = LoraLearner(base, options.rank, options.rank, options.seed, options.convolutions)
        teach(base, learner, latents, captions, lesson)
        path = options.output or Path("models/Lora") / f"{options.name}.safetensors"
        network_files.write_lora(path, learner.tensors(), options.rank, learner.alpha, facts)
    elif options.kind == "embedding":
        word = EmbeddingLearner(base, options.name, options.vectors, options.like)
        teach(base, word, latents, captions, lesson)
        path = options.output or Path("embeddings") / f"{options.name}.pt"
        network_files.write_embedding(path, word.vectors, facts)
    else:
        hyper = HypernetworkLearner(text_widths(base), options.seed)
        teach(base, hyper, latents, captions, lesson)
        path = options.output or Path("models/hypernetworks") / f"{options.name}.pt"
        network_files.write_hypernetwork(path, hyper.pairs, hyper.said, facts)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
