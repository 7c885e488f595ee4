"""Which model is in memory. It alone loads, moves and frees weights.

    with residency.lease(checkpoint, policy) as model:
        latents = model.vae.encode_moments(picture)

The same checkpoint with the same policy is reused for nothing; another one frees the old before it is filled, since
two may not fit (unless the policy keeps several). All that can be wrong with a file's header is found before the old
model goes; should filling fail half-way, the old model is brought back.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import traceback
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.memory.devices import DeviceFacts, empty_cache, is_memory
from modules.memory.fastest import Fastest
from modules.memory.pages import small_pages
from modules.memory.policy import Policy
from modules.memory.streaming import CardLink, Link, Stream
from modules.nets.attention import ATTENTIONS, Attention, attention_of, upcast
from modules.nets.autoencoder import Autoencoder
from modules.nets.float8 import FLOAT8, FLOAT8_STREAMED
from modules.nets.layers import PLAIN, Ops
from modules.nets.packed import PACKED, Packed
from modules.nets.recorded import calling, forget
from modules.nets.streamed import STORED, STREAMED, connect
from modules.nets.unet import UNet
from modules.schema.errors import BadFile, NotFound, OutOfMemory
from modules.schema.record import CheckpointView
from modules.weights import assembly, decoders
from modules.weights.adapters.apply import Network, Networks
from modules.weights.build import Nets, Tower, blueprint, fill
from modules.weights.catalogue import Catalogue
from modules.weights.control_nets import Controls
from modules.weights.decoders import Small
from modules.weights.facts import Component, LatentFormat, ModelFacts
from modules.weights.notes import notes_path
from modules.weights.pristine import Pristine
from modules.weights.reading import ModelFile, open_header
from modules.weights.recognise import recognise
from modules.weights.sidecar import sidecar_path


@dataclass(frozen=True)
class _Identity:
    """Two leases with equal identities want the very same tensors."""

    path: str
    stamp: tuple[int, int]
    beside: tuple[tuple[int, int] | None, ...]
    vae: tuple[str, int, int] | None
    policy: Policy


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run: nets in eval mode without gradients, on `policy.device`.

    `towers` are its text encoders in the order their outputs are joined. `extra_keys` counts tensors of the file that
    no net asked for. `warnings` are sentences for the user. `identity` is equal for equal weights under equal policies,
    so results may be kept under it. `controls`: the ControlNets beside the denoiser.
    """

    checkpoint: CheckpointView
    facts: ModelFacts
    policy: Policy
    unet: UNet
    vae: Autoencoder
    towers: tuple[Tower, ...]
    extra_keys: int
    identity: _Identity
    networks: Networks
    controls: Controls
    catalogue: Catalogue | None = None
    stream: Stream | None = None
    call: Callable[..., Tensor] = field(default=None, compare=False, repr=False)  # type: ignore[assignment]
    """The denoiser as it is called: `unet`, or what calls it faster."""
    small: dict[object, nn.Module | None] = field(default_factory=dict, compare=False, repr=False)
    learned: dict[str, torch.dtype] = field(default_factory=dict, compare=False, repr=False)
    """"vae": the number type that pictures of this VAE had to be decoded in; it outlives the model."""

    @contextlib.contextmanager
    def vae_in(self, dtype: torch.dtype) -> Iterator[Autoencoder]:
        """The autoencoder computing in another number type for a while."""
        before = self.policy.vae_dtype
        if dtype == before:
            yield self.vae
            return
        self.vae.to(dtype)
        try:
            yield self.vae
        finally:
            self.vae.to(before)

    @property
    def path(self) -> Path:
        return Path(self.checkpoint.path)

    @property
    def device(self) -> torch.device:
        return self.policy.device

    @property
    def family(self) -> str:
        return self.facts.family

    def small_decoder(self, kind: Small) -> nn.Module | None:
        """A small decoder for this model's latents (weights.decoders); None where there is no sound file of it."""
        if self.catalogue is None:
            return None
        path = decoders.find(self.catalogue.folders, kind, self.family.startswith("sdxl"), self.path.stem)
        if path is None:
            return None
        key = (kind, _stamp(path))
        if key not in self.small:
            try:
                self.small[key] = decoders.load(path, kind, self.vae.config.embed_dim, self.device)
            except BadFile:
                self.small[key] = None
        return self.small[key]

    def to_latents(self, z: Tensor) -> Tensor:
        """What the autoencoder makes of pictures, [..., C, h, w], as the denoiser knows it."""
        mean, std = _per_channel(self.facts.latent, z)
        return (z - mean) / std * self.facts.latent.scale

    def from_latents(self, latents: Tensor) -> Tensor:
        """The inverse of `to_latents`: what the autoencoder decodes."""
        mean, std = _per_channel(self.facts.latent, latents)
        return latents / self.facts.latent.scale * std + mean

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
    """Keeps models in memory: the one in use, and as many more as the policy allows.

    One thread at a time: a second one waits, the same thread may lease again, also another model. What is leased is
    never freed.
    """

    def __init__(
        self,
        catalogue: Catalogue | None,
        facts: DeviceFacts,
        fastest: Attention = ATTENTIONS["sdp"],
        link: Callable[[torch.device], Link] = CardLink,
    ) -> None:
        """`fastest`: the attention where the policy asks for the one that measures best. `link`: makes the way that
        streamed weights take to a device."""
        self._link = link
        self.catalogue = catalogue
        self.facts = facts
        self._fastest = fastest
        self._lock = threading.RLock()
        self._kept: OrderedDict[_Identity, LoadedModel] = OrderedDict()  # the last one was used last
        self._learned: dict[str, dict[str, torch.dtype]] = {}  # by the file of the VAE
        self._leases: Counter[_Identity] = Counter()
        self._used = time.monotonic()
        self._timer: threading.Timer | None = None

    @property
    def loaded(self) -> CheckpointView | None:
        """The checkpoint used last, if it is in memory."""
        kept = list(self._kept.values())
        return kept[-1].checkpoint if kept else None

    @property
    def kept(self) -> list[CheckpointView]:
        """Every checkpoint in memory, the one used last at the end."""
        return [model.checkpoint for model in self._kept.values()]

    @contextlib.contextmanager
    def lease(
        self, checkpoint: CheckpointView, policy: Policy, networks: Sequence[Network] = ()
    ) -> Iterator[LoadedModel]:
        """The model for the time of a `with`, changed by exactly these networks (LoRA and kin, hypernetworks).

        What could not be applied is told in `model.networks.outcome`. Weights go back when a lease asks for others, so
        that jobs with the same networks, one after the other, cost nothing; an inner lease puts back the outer one's.

        Raises:
            NotFound: its file is gone.
            BadFile: its file is damaged or of a family this version does not draw with.
            OutOfMemory: it does not fit.
            After any of them the model that was in memory before is there again.
        """
        with self._lock:
            identity = _identity(checkpoint, policy)
            if identity not in self._kept:
                self._switch(checkpoint, policy, identity)
            self._kept.move_to_end(identity)
            self._place(identity)
            self._leases[identity] += 1
            model = self._kept[identity]
            if vars(model.policy) != vars(policy):  # equal policies load alike, but may be drawn with differently
                model = self._kept[identity] = replace(model, policy=policy)
            before = model.networks.wanted
            try:
                model.networks.apply(networks)
                yield model
            finally:
                self._leases[identity] -= 1
                if self._leases[identity]:
                    model.networks.apply(before)
                del model
                self._used = time.monotonic()

    def close(self) -> None:
        """Free all models; the next lease loads again."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            self._free_down_to(0)

    def step_aside(self) -> None:
        """Leave nothing on a card; the next lease brings back what it needs."""
        if not self.facts.is_card:
            return
        with self._lock:
            for identity, model in list(self._kept.items()):
                if self._leases[identity]:
                    continue
                if model.policy.lean:
                    del self._kept[identity]
                    continue
                model.small.clear()
                model.controls.clear()
                if model.stream is not None:
                    model.stream.clear()
                elif model.policy.device.type != "cpu":
                    _move(model, torch.device("cpu"))
            empty_cache(self.facts.kind)

    def forget_calls(self) -> None:
        """Let go of what is kept to call denoisers faster: recorded calls hold as much memory as drawing takes."""
        with self._lock:
            for model in self._kept.values():
                forget(model.call)

    def held(self) -> dict[str, int]:
        """Bytes of weights: of the models that stay, on the device that draws (`weights`), and in RAM beside a card."""
        on_device = in_ram = 0
        for model in list(self._kept.values()):
            towers = (tower.net for tower in model.towers)
            for net in (model.unet, model.vae, *towers, *model.small.values(), *model.controls):
                if net is None:
                    continue
                packed = sum(layer.held for layer in net.modules() if isinstance(layer, Packed))
                for parameter in net.parameters():
                    here = parameter.device.type == self.facts.kind
                    shape_only = parameter.is_meta
                    on_device += parameter.nbytes * (here and not shape_only)
                    in_ram += parameter.nbytes * (not here and not shape_only)
                on_device += packed * (self.facts.kind == "cpu")
                in_ram += packed * (self.facts.kind != "cpu")
            on_device += model.stream.on_device if model.stream else 0
        return {"weights": on_device, "weights_in_ram": in_ram}

    def free_when_idle(self, seconds: float, then: Callable[[], None] = lambda: None) -> None:
        """Free all models once none has been used for so long, and call `then`; 0 is never. The last call counts."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            self._timer = None
            if seconds > 0:
                self._timer = threading.Timer(seconds, self._idle, (seconds, then))
                self._timer.daemon = True
                self._timer.start()

    def _idle(self, seconds: float, then: Callable[[], None]) -> None:
        with self._lock:  # waits for a lease to end
            left = self._used + seconds - time.monotonic()
            if left > 0:
                self.free_when_idle(left, then)
            else:
                self._free_down_to(0)
                then()

    def _switch(self, checkpoint: CheckpointView, policy: Policy, identity: _Identity) -> None:
        opened = self._open(checkpoint, policy)
        freed = self._free_down_to(policy.models_kept - 1)
        try:
            self._kept[identity] = self._load(checkpoint, policy, opened, identity)
        except BaseException as error:
            del opened
            traceback.clear_frames(error.__traceback__)  # they hold the half-filled nets
            if is_memory(error):
                if more := self._free_down_to(0):  # those kept for later are what it may have lacked
                    with contextlib.suppress(Exception):
                        self._kept[identity] = self._load(checkpoint, policy, self._open(checkpoint, policy), identity)
                        return
                freed += more
            if not self._kept and freed:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    old = freed[-1]
                    self._kept[old[2]] = self._load(old[0], old[1], self._open(old[0], old[1]), old[2])
            if is_memory(error):
                raise OutOfMemory(
                    f"{checkpoint.name} does not fit into the memory of {self.facts.name}; close other programs, "
                    "choose a smaller model, or set Precision to float16."
                ) from error
            raise

    def _open(self, checkpoint: CheckpointView, policy: Policy) -> _Opened:
        folders = self.catalogue.folders if self.catalogue else None
        header, facts = recognise(Path(checkpoint.path), folders, Path(checkpoint.vae) if checkpoint.vae else None)
        nets = blueprint(facts, header, self._attention(policy), _ops(policy), _vae_ops(policy), _text_ops(policy))
        return _Opened(open_header(header), facts, nets)

    def attention_name(self, policy: Policy) -> str:
        """What a model under that policy attends by; of what is measured, what has been taken so far."""
        if policy.attention == "measured" and isinstance(self._fastest, Fastest):
            return self._fastest.taken(policy.denoiser)
        return policy.attention

    def _attention(self, policy: Policy) -> Attention:
        chosen = self._fastest if policy.attention == "measured" else attention_of(policy.attention, policy.chunks)
        return upcast(chosen) if policy.upcast else chosen

    def _load(self, checkpoint: CheckpointView, policy: Policy, opened: _Opened, identity: _Identity) -> LoadedModel:
        facts, nets, device = opened.facts, opened.nets, policy.device
        with opened.file as file:
            file.will_need()
            fillings = [
                (facts.unet, partial(
                    fill, nets.unet, file, facts.unet, device, policy.denoiser_dtype, policy.channels_last,
                    policy.storage_dtype, pinned=not policy.lean,
                )),
                (facts.vae, partial(
                    fill, nets.vae, file, facts.vae, policy.vae_device, policy.vae_dtype, _vae_ops(policy) is PACKED,
                )),
                *(
                    (tower.facts.component, partial(
                        fill, tower.net, file, tower.facts.component, policy.text_device, policy.text_dtype,
                        storage=policy.text_storage_dtype,
                    ))
                    for tower in nets.towers
                ),
            ]  # fmt: skip
            with small_pages():
                for _, filling in sorted(fillings, key=lambda pair: _last_place(file, pair[0])):
                    filling()
        if device.type == "cuda":  # on a processor three products take as long as one (docs/benchmarks.md)
            nets.unet.fuse()
        stream = None
        if policy.weights_budget is not None:
            stream = Stream(self._link(device), policy.weights_budget)
            connect(nets.unet, stream.add, stream.take)
            if not policy.vae_apart:
                connect(nets.vae, partial(stream.add, budget=policy.vae_budget), stream.take)
        towers = [tower.net for tower in nets.towers]
        networks = Networks(
            nets.unet,
            towers,
            Pristine(opened.file.header, facts),
            facts.family,
            facts.label,
            policy.device,
            beside=not {policy.weights_budget, policy.storage, policy.text_storage} <= {None},
        )
        return LoadedModel(
            checkpoint, facts, policy, nets.unet, nets.vae, nets.towers, nets.extra, identity, networks,
            Controls(checkpoint.name, nets.unet.config, policy, _ops(policy), self._attention(policy), stream),
            self.catalogue, stream, calling(nets.unet, policy.calls if policy.weights_budget is None else "Plain"),
            learned=self._learned.setdefault(checkpoint.vae or checkpoint.path, {}),
        )  # fmt: skip

    def _place(self, identity: _Identity) -> None:
        """Bring a model to its device; the others step aside into RAM where only one may stay there."""
        wanted = self._kept[identity]
        if wanted.policy.device.type == "cpu" or wanted.policy.placement != "resident":
            return
        if not wanted.policy.one_on_device:
            return _move(wanted, wanted.policy.device)
        for other, model in self._kept.items():
            if model.policy.placement == "resident" and other != identity and not self._leases[other]:
                _move(model, torch.device("cpu"))
        _move(wanted, wanted.policy.device)

    def _free_down_to(self, count: int) -> list[tuple[CheckpointView, Policy, _Identity]]:
        """Free models that nobody has leased, the longest unused first, until `count` are left; which they were."""
        freed, probes = [], []
        for identity in list(self._kept):
            if len(self._kept) <= count:
                break
            if self._leases[identity]:
                continue
            model = self._kept.pop(identity)
            freed.append((model.checkpoint, model.policy, identity))
            probes.append(weakref.ref(model.unet))
            del model, self._leases[identity]
        if any(probe() is not None for probe in probes):  # somebody's cycle holds it
            gc.collect()
        if freed:
            empty_cache(self.facts.kind)
        return freed


def _ops(policy: Policy) -> Ops:
    """The layers a policy asks for."""
    if policy.weights_budget is not None:
        return FLOAT8_STREAMED if policy.float8_products else STREAMED
    if policy.storage is not None:
        return FLOAT8 if policy.float8_products else STORED
    return PACKED if policy.packed else PLAIN


def _vae_ops(policy: Policy) -> Ops:
    """Those of the autoencoder, which may be on the processor alone."""
    return PACKED if policy.vae_apart else _ops(policy)


def _text_ops(policy: Policy) -> Ops:
    """Those of the text encoders."""
    if policy.text_storage is not None:
        return STORED
    return PACKED if _ops(policy) is PACKED else PLAIN


def _last_place(file: ModelFile, component: Component) -> tuple[str, int]:
    """Where the last of a net's tensors is in its file; those of one net usually lie together, odd ones before them."""
    return max(file.place(key) for key in file.header.tensors if key.startswith(component.prefix))


def _move(model: LoadedModel, device: torch.device) -> None:
    """All nets but a VAE that is on the processor anyway."""
    vae = () if model.policy.vae_apart else (model.vae,)
    for net in (model.unet, *vae, *(tower.net for tower in model.towers)):
        # One that is there stays as it is: recorded calls know its weights by their address.
        if any(parameter.device != device for parameter in net.parameters()):
            if net is model.unet:
                forget(model.call)
            net.to(device)
    model.controls.to(device)


def _identity(checkpoint: CheckpointView, policy: Policy) -> _Identity:
    path = Path(checkpoint.path)
    try:
        stamp = assembly.stamp_of(path)
        vae = (checkpoint.vae, *assembly.stamp_of(Path(checkpoint.vae))) if checkpoint.vae else None
    except FileNotFoundError as error:
        gone = Path(str(error.filename or path))
        raise NotFound(f"{gone.name} is gone from {gone.parent.name}; put it back or choose another.") from None
    except OSError as error:
        raise BadFile(f"{path.name} cannot be read: {error.strerror or error}.") from None
    beside = tuple(_stamp(file) for file in (sidecar_path(path), notes_path(path)))
    return _Identity(checkpoint.path, stamp, beside, vae, policy)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _per_channel(latent: LatentFormat, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Mean and standard deviation as [C, 1, 1]; 0 and 1 where the family has none."""
    if latent.mean is None or latent.std is None:
        return 0.0, 1.0
    mean, std = (like.new_tensor(values).view(-1, 1, 1) for values in (latent.mean, latent.std))
    return mean, std
