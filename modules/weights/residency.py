"""Which model is in memory. It alone loads, moves and frees weights.

    with residency.lease(checkpoint, policy) as model:
        latents = model.vae.encode_moments(picture)

The same checkpoint with the same policy is reused for nothing; another one frees the old before it is filled, since
two may not fit. All that can be wrong with a file's header is found before the old model goes; should filling fail
half-way, the old model is brought back.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import traceback
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modules.memory.devices import DeviceFacts
from modules.memory.policy import Policy
from modules.nets.autoencoder import Autoencoder
from modules.nets.unet import UNet
from modules.schema.errors import BadFile, NotFound, OutOfMemory
from modules.schema.record import CheckpointView
from modules.weights.build import ATTENTIONS, Nets, Tower, blueprint, fill
from modules.weights.catalogue import Catalogue
from modules.weights.detect import detect
from modules.weights.facts import LatentFormat, ModelFacts
from modules.weights.reading import ModelFile, open_model
from modules.weights.sidecar import read_sidecar, sidecar_path


@dataclass(frozen=True)
class _Identity:
    """Two leases with equal identities want the very same tensors."""

    path: str
    stamp: tuple[int, int]
    sidecar: tuple[int, int] | None
    policy: Policy


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run: nets in eval mode without gradients, on `policy.device`.

    `towers` are its text encoders in the order their outputs are joined. `extra_keys` counts tensors of the file that
    no net asked for. `warnings` are sentences for the user. `identity` is equal for equal weights under equal policies,
    so results may be kept under it.
    """

    checkpoint: CheckpointView
    facts: ModelFacts
    policy: Policy
    unet: UNet
    vae: Autoencoder
    towers: tuple[Tower, ...]
    extra_keys: int
    identity: _Identity
    catalogue: Catalogue | None = None

    @property
    def path(self) -> Path:
        return Path(self.checkpoint.path)

    @property
    def device(self) -> torch.device:
        return self.policy.device

    @property
    def family(self) -> str:
        return self.facts.family

    def to_latents(self, z: Tensor) -> Tensor:
        """What the autoencoder makes of pictures, [..., C, h, w], as the denoiser knows it."""
        mean, std = _per_channel(self.facts.latent, z)
        return (z - mean) / std * self.facts.latent.scale

    def from_latents(self, latents: Tensor) -> Tensor:
        """The inverse of `to_latents`: what the autoencoder decodes."""
        mean, std = _per_channel(self.facts.latent, latents)
        return latents / self.facts.latent.scale * std + mean

    @property
    def scale_factor(self) -> float:
        return self.facts.latent.scale

    @property
    def prediction(self) -> str:
        """What the denoiser answers: "eps", "v" or "edm"."""
        return self.facts.prediction

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.facts.warnings

    @property
    def sha256(self) -> str | None:
        """Of the file, computed at the first asking; None where there is no catalogue to ask."""
        return self.catalogue.hash_of(self.checkpoint) if self.catalogue else self.checkpoint.sha256


@dataclass(frozen=True)
class _Opened:
    """A file that has passed every check, and its nets without weights."""

    file: ModelFile
    facts: ModelFacts
    nets: Nets


class Residency:
    """Keeps one model in memory. One lease at a time; a second thread waits, the same thread may lease again."""

    def __init__(self, catalogue: Catalogue | None, facts: DeviceFacts) -> None:
        self.catalogue = catalogue
        self.facts = facts
        self._lock = threading.RLock()
        self._model: LoadedModel | None = None
        self._identity: _Identity | None = None

    @property
    def loaded(self) -> CheckpointView | None:
        """The checkpoint in memory."""
        return self._model.checkpoint if self._model else None

    @contextlib.contextmanager
    def lease(self, checkpoint: CheckpointView, policy: Policy) -> Iterator[LoadedModel]:
        """The model for the time of a `with`.

        Raises:
            NotFound: its file is gone.
            BadFile: its file is damaged or of a family this version does not draw with.
            OutOfMemory: it does not fit.
            After any of them the model that was in memory before is there again.
        """
        with self._lock:
            identity = _identity(checkpoint, policy)
            if self._model is None or identity != self._identity:
                self._switch(checkpoint, policy, identity)
            model = self._model
            assert model is not None
            yield model

    def close(self) -> None:
        """Free the model; the next lease loads again."""
        with self._lock:
            self._free()

    def _switch(self, checkpoint: CheckpointView, policy: Policy, identity: _Identity) -> None:
        opened = _open(Path(checkpoint.path), policy)
        model = self._model
        before = (model.checkpoint, model.policy, model.identity) if model else None
        del model  # it must be free before the new one is filled
        self._free()
        try:
            self._model = self._load(checkpoint, policy, opened, identity)
            self._identity = identity
        except BaseException as error:
            del opened
            traceback.clear_frames(error.__traceback__)  # they hold the half-filled nets
            if before:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    old, old_policy, old_identity = before
                    self._model = self._load(old, old_policy, _open(Path(old.path), old_policy), old_identity)
                    self._identity = old_identity
            if _is_memory(error):
                raise OutOfMemory(
                    f"{checkpoint.name} does not fit into the memory of {self.facts.name}; close other programs, "
                    "choose a smaller model, or set Precision to float16."
                ) from error
            raise

    def _load(self, checkpoint: CheckpointView, policy: Policy, opened: _Opened, identity: _Identity) -> LoadedModel:
        facts, nets = opened.facts, opened.nets
        with opened.file as file:
            fill(nets.unet, file, facts.unet, policy.device, policy.denoiser_dtype, policy.channels_last)
            fill(nets.vae, file, facts.vae, policy.device, policy.vae_dtype)
            for tower in nets.towers:
                fill(tower.net, file, tower.facts.component, policy.device, policy.text_dtype)
        return LoadedModel(
            checkpoint, facts, policy, nets.unet, nets.vae, nets.towers, nets.extra, identity, self.catalogue
        )

    def _free(self) -> None:
        if self._model is None:
            return
        probe = weakref.ref(self._model.unet)
        self._model = self._identity = None
        if probe() is not None:  # somebody's cycle holds it
            gc.collect()
        if self.facts.kind == "cuda":
            torch.cuda.empty_cache()
        elif self.facts.kind == "mps":
            torch.mps.empty_cache()


def _open(path: Path, policy: Policy) -> _Opened:
    file = open_model(path)
    facts = detect(file.header, read_sidecar(path))
    return _Opened(file, facts, blueprint(facts, file.header, ATTENTIONS[policy.attention]))


def _identity(checkpoint: CheckpointView, policy: Policy) -> _Identity:
    path = Path(checkpoint.path)
    stamp = _stamp(path)
    if stamp is None:
        raise NotFound(f"{path.name} is gone from {path.parent.name}; put it back or choose another checkpoint.")
    return _Identity(checkpoint.path, stamp, _stamp(sidecar_path(path)), policy)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadFile(f"{path.name} cannot be read: {error.strerror or error}.") from None
    return status.st_size, status.st_mtime_ns


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _per_channel(latent: LatentFormat, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Mean and standard deviation as [C, 1, 1]; 0 and 1 where the family has none."""
    if latent.mean is None or latent.std is None:
        return 0.0, 1.0
    mean, std = (like.new_tensor(values).view(-1, 1, 1) for values in (latent.mean, latent.std))
    return mean, std
