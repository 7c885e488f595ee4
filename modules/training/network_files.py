"""Files of taught networks, as A1111 and kohya's scripts write them, so that every program reads them.

| what | file |
|---|---|
| LoRA | safetensors, kohya's keys, metadata `ss_*`, `sshs_model_hash` and ModelSpec |
| embedding | `.pt`: {"string_to_token": {"*": 265}, "string_to_param": {"*": rows}, name, step, sd_checkpoint…} |
| hypernetwork | `.pt`: {width: (state of k, state of v), …, "layer_structure", "activation_func", …} |
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save
from torch import Tensor, nn

from modules.imaging.save import safe_write


class LessonLike(Protocol):
    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Facts:
    """What files say about their making. `checkpoint`: file name and SHA-256; `tags`: words and how often."""

    name: str
    checkpoint: str
    checkpoint_sha256: str
    pictures: int
    size: int
    steps: int
    batch: int
    learning_rate: float
    seed: int
    tags: Mapping[str, int]
    comment: str = ""

    @staticmethod
    def of(
        checkpoint: Path, name: str, pictures: int, size: int, lesson: LessonLike, captions: Sequence[Sequence[str]],
        comment: str = "",
    ) -> Facts:  # fmt: skip
        tags: dict[str, int] = {}
        for texts in captions:
            for tag in texts[0].split(","):
                if tag.strip():
                    tags[tag.strip()] = tags.get(tag.strip(), 0) + 1
        common = dict(sorted(tags.items(), key=lambda item: (-item[1], item[0]))[:40])
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        return Facts(
            name, checkpoint.name, digest, pictures, size, lesson.steps, lesson.batch, lesson.learning_rate,
            lesson.seed, common, comment,
        )  # fmt: skip


def write_lora(path: Path, tensors: Mapping[str, Tensor], rank: int, alpha: float, facts: Facts) -> Path:
    """A LoRA file; a file of that name is replaced."""
    convolutions = any(t.dim() == 4 and t.shape[-1] > 1 for t in tensors.values())
    metadata = {
        "ss_output_name": facts.name,
        "ss_network_module": "lycoris.kohya" if convolutions else "networks.lora",
        "ss_network_args": json.dumps({"algo": "locon", "conv_dim": rank, "conv_alpha": alpha} if convolutions else {}),
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(alpha)),
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_sd_model_name": facts.checkpoint,
        "ss_new_sd_model_hash": facts.checkpoint_sha256,
        "ss_resolution": f"({facts.size}, {facts.size})",
        "ss_clip_skip": "None",
        "ss_num_train_images": str(facts.pictures),
        "ss_num_reg_images": "0",
        "ss_tag_frequency": json.dumps({f"1_{facts.name}": facts.tags}),
        "ss_dataset_dirs": json.dumps({f"1_{facts.name}": {"n_repeats": 1, "img_count": facts.pictures}}),
        "ss_bucket_info": json.dumps(
            {"buckets": {"0": {"resolution": [facts.size, facts.size], "count": facts.pictures}}}
        ),
        "ss_steps": str(facts.steps),
        "ss_total_batch_size": str(facts.batch),
        "ss_learning_rate": str(facts.learning_rate),
        "ss_lr_scheduler": "cosine",
        "ss_optimizer": "torch.optim.adamw.AdamW",
        "ss_mixed_precision": "bf16",
        "ss_seed": str(facts.seed),
        "ss_training_comment": facts.comment,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": facts.name,
        "modelspec.license": "CC0-1.0",
        "modelspec.resolution": f"{facts.size}x{facts.size}",
        "modelspec.prediction_type": "epsilon",
    }
    plain = save(dict(tensors))
    body = plain[8 + int.from_bytes(plain[:8], "little") :]
    metadata["sshs_model_hash"] = hashlib.sha256(body).hexdigest()
    return safe_write(path, save(dict(tensors), metadata), overwrite=True)


def write_embedding(path: Path, rows: Tensor, facts: Facts) -> Path:
    """An embedding file of rows [n, width]; a file of that name is replaced."""
    return _write_pickle(path, {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows.detach().float().clone()},
        "name": facts.name,
        "step": facts.steps,
        "sd_checkpoint": facts.checkpoint_sha256[:10],
        "sd_checkpoint_name": Path(facts.checkpoint).stem,
    })  # fmt: skip


def write_hypernetwork(
    path: Path, pairs: Mapping[int, tuple[nn.Module, nn.Module]], said: Mapping[str, Any], facts: Facts
) -> Path:
    """A hypernetwork file; `said` are its structure's entries. A file of that name is replaced."""
    state: dict[int | str, Any] = {
        width: tuple({f"linear.{key}": t.detach().clone() for key, t in net.state_dict().items()} for net in pair)
        for width, pair in pairs.items()
    }
    state |= dict(said)
    state |= {
        "name": facts.name, "step": facts.steps, "sd_checkpoint": facts.checkpoint_sha256[:10],
        "sd_checkpoint_name": Path(facts.checkpoint).stem, "optional_info": facts.comment,
    }  # fmt: skip
    return _write_pickle(path, state)


def _write_pickle(path: Path, what: Any) -> Path:
    buffer = io.BytesIO()
    torch.save(what, buffer)
    return safe_write(path, buffer.getvalue(), overwrite=True)
