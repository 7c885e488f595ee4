"""How much memory a job will take, said before it runs; and what is held now. Torch-free: the worker told its machine.

planner.estimate(request)     # MemoryEstimate, or None as long as nothing is known of the device
planner.now()
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from modules.imaging.upscale import KNOWN_AS, UPSCALERS
from modules.memory import policy
from modules.memory.budget import History, Shape, Sizes
from modules.memory.machine import DeviceFacts
from modules.schema import enlarging
from modules.schema.errors import EaselError
from modules.schema.folders import Folders
from modules.schema.memory import MemoryEstimate, MemoryHeld, MemoryNow
from modules.schema.record import CheckpointView
from modules.schema.request import SAME_CHECKPOINT, GenerationRequest
from modules.schema.settings import SECTION_OF, Settings
from modules.weights.catalogue import Catalogue
from modules.weights.controls import find_control, read_control
from modules.weights.library import find_file, upscaler_files
from modules.weights.sizes import sizes_of

FULL = 0.95
"""Of a device; what would take more is said not to fit."""


class Planner:
    def __init__(
        self,
        folders: Folders,
        catalogue: Catalogue,
        settings: Callable[[], Settings],
        worker: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`worker` tells what the worker last said of itself (`pipeline.run.Engine.stats`)."""
        self._folders, self._catalogue, self._settings, self._worker = folders, catalogue, settings, worker
        self._sizes = lru_cache(64)(self._read_sizes)

    def estimate(self, request: GenerationRequest) -> MemoryEstimate | None:
        """What such a job would take. None where nothing is drawn, or the worker has not yet said what it draws with.

        NotFound for a checkpoint that is not there; BadRequest for settings that cannot be.
        """
        worker = self._worker()
        told = worker.get("machine")
        if not told or (request.source is not None and request.source.extras is not None):
            return None
        facts = DeviceFacts(**{**told, "features": frozenset(told["features"])})
        settings = self._settings()
        known = {key: value for key, value in request.override_settings.items() if key in SECTION_OF}
        settings = settings.with_options(known)
        history = History.read(self._folders.memory_history)
        shape = shape_of(request)
        views = {view.path: view for view in self._views(request, settings)}
        control = self._control(request)
        found = [self._of(view, facts, settings, shape, history, worker, control) for view in views.values()]
        most = max(found, key=lambda estimate: estimate.peak)
        others = sorted((estimate.weights for estimate in found if estimate is not most), reverse=True)
        stay = settings.model.sd_checkpoints_limit - 1
        if most.device == facts.on and facts.is_card and settings.model.sd_checkpoints_keep_in_cpu:
            stay = 0  # they wait in RAM
        beside = sum(others[:stay]) + self._upscaler(request, settings)
        peak = most.peak + beside
        return most.model_copy(update={"beside": beside, "peak": peak, "fits": peak <= most.total * FULL})

    def _control(self, request: GenerationRequest) -> int:
        """Parameters of the ControlNets beside the denoiser; what is wrong with one is told when it draws."""
        found: dict[Path, int] = {}
        for unit in request.controlnet:
            with contextlib.suppress(EaselError):
                path = find_control(self._folders, unit.model).path
                found[path] = read_control(path).parameters
        return sum(found.values())

    def _upscaler(self, request: GenerationRequest, settings: Settings) -> int:
        """Bytes of the file of the upscaler net that the job uses: of several the largest, for one is kept."""
        source = request.source
        names: list[str | None] = [request.hires.hr_upscaler] if request.hires is not None else []
        if source is not None:
            names.append(source.tiles.upscaler if source.tiles is not None else settings.drawing.upscaler_for_img2img)
        asked = [name for name in names if name and name not in UPSCALERS]
        files = upscaler_files(self._folders) if asked else {}
        found = (find_file(KNOWN_AS.get(name, name), files) for name in asked)
        with contextlib.suppress(OSError):
            return max((path.stat().st_size for path in found if path is not None), default=0)
        return 0

    def _of(
        self,
        view: CheckpointView,
        facts: DeviceFacts,
        settings: Settings,
        shape: Shape,
        history: History,
        worker: Mapping[str, Any],
        control: int,
    ) -> MemoryEstimate:
        sizes = replace(self.sizes(view), control=control)
        chosen = policy.choose(facts, settings, sizes, shape)
        kind = policy.kind_of(facts, sizes, chosen)
        need = history.corrected(kind, policy.predict(sizes, shape, chosen))
        fixed = int(worker.get("fixed") or 0)
        on_card = chosen.on == facts.on
        total = facts.memory if on_card else facts.ram
        peak = fixed * on_card + need.peak
        return MemoryEstimate(
            device=chosen.on, device_name=facts.name if on_card else "the processor", checkpoint=view.name,
            total=total, peak=peak, fixed=fixed * on_card, weights=need.weights, denoising=need.denoising,
            decoding=need.decoding, measured=history.knows(kind), placement=chosen.placement,
            tiled=chosen.vae_tile is not None and chosen.vae_tile < max(shape.width, shape.height),
            split=chosen.split_guidance, fits=peak <= total * FULL,
        )  # fmt: skip

    def _views(self, request: GenerationRequest, settings: Settings) -> Iterator[CheckpointView]:
        """Every checkpoint that takes part; one at a time is in use."""
        names = [request.checkpoint or settings.model.sd_model_checkpoint]
        if request.refiner is not None and request.refiner.refiner_checkpoint not in ("", "None"):
            names.append(request.refiner.refiner_checkpoint)
        if request.hires is not None and request.hires.hr_checkpoint_name not in (None, "", SAME_CHECKPOINT):
            names.append(request.hires.hr_checkpoint_name)
        yield self._catalogue.find(request.checkpoint) if request.checkpoint else self._catalogue.default(names[0])
        for name in names[1:]:
            yield self._catalogue.find(str(name))

    def sizes(self, view: CheckpointView) -> Sizes:
        """Off the file's header, read once as long as the file is the same."""
        try:
            status = Path(view.path).stat()
        except OSError:
            return Sizes()
        return self._sizes(view.path, view.vae, (status.st_size, status.st_mtime_ns))

    def _read_sizes(self, path: str, vae: str | None, _stamp: tuple[int, int]) -> Sizes:
        view = next((v for v in self._catalogue.checkpoints() if v.path == path), None)
        return sizes_of(view.model_copy(update={"vae": vae}), self._folders) if view else Sizes()

    def now(self) -> MemoryNow:
        """What is held at this moment, as far as the worker told within the last second of its drawing."""
        worker = self._worker()
        held, machine = worker.get("held") or {}, psutil.virtual_memory()
        drawing = worker.get("device") in ("cuda", "xpu")
        used, working = psutil.Process().memory_info().rss, 0
        if worker.get("pid"):
            with contextlib.suppress(psutil.Error):
                working = psutil.Process(worker["pid"]).memory_info().rss
        weights, cache = held.get("weights", 0), held.get("cache", 0)
        in_ram = held.get("weights_in_ram", 0) + (0 if drawing else weights)
        fixed = 0 if drawing else worker.get("fixed") or 0
        activations = 0 if drawing else max(0, working - fixed - in_ram - cache)
        ram = MemoryHeld(
            total=machine.total, free=machine.available, used=used + working, weights=in_ram, cache=cache,
            activations=activations if worker.get("fixed") else 0,
        )  # fmt: skip
        vram = None
        if drawing:
            system = worker.get("system") or {}
            allocated = int(worker.get("now") or 0)
            vram = MemoryHeld(
                total=system.get("total") or worker.get("memory") or 0, free=system.get("free", 0),
                used=(worker.get("reserved") or {}).get("current", allocated), weights=weights,
                activations=max(0, allocated - weights),
            )  # fmt: skip
        return MemoryNow(
            device=str(worker.get("device") or ""), device_name=str(worker.get("device_name") or ""),
            checkpoint=worker.get("checkpoint"), ram=ram, vram=vram,
        )  # fmt: skip


def shape_of(request: GenerationRequest) -> Shape:
    """The largest picture that is drawn at once."""
    width, height = request.width, request.height
    if request.hires is not None:
        width, height = enlarging.target(width, height, request.hires).size
    outpaint = request.source.outpaint if request.source is not None else None
    if outpaint is not None:
        width, height = width + outpaint.left + outpaint.right, height + outpaint.up + outpaint.down
    return Shape(width, height, request.batch_size)
