"""Merging and converting model files, in a process of its own: drawing goes on meanwhile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from modules.imaging import inputs
from modules.imaging.naming import resolve_under
from modules.imaging.save import safe_write
from modules.pipeline.context import Control
from modules.pipeline.interrogate import Interrogator
from modules.pipeline.tagging import Tagger
from modules.schema.errors import BadRequest, Cancelled, DiskTrouble
from modules.schema.events import Event, Progress
from modules.schema.folders import Folders
from modules.schema.model_tasks import MODEL_TASK, ConvertTask, InterrogateTask, MergeTask, ModelTask
from modules.schema.record import CheckpointView
from modules.schema.settings import Settings
from modules.weights import hashing, merge, vaes
from modules.weights.assembly import vae_tensors
from modules.weights.catalogue import Catalogue
from modules.weights.headers import Header
from modules.weights.merge import Merge, Recipe
from modules.weights.reading import ModelFile, open_model
from modules.weights.sidecar import sidecar_path

GIB = 2**30
SPARE = GIB // 4
"""Bytes of the disk that stay free."""
MAX_NAME = 200


class Workshop:
    """What `Engine` is for pictures, for files: runs one task after another (service.worker)."""

    read_request = staticmethod(MODEL_TASK.validate_python)

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.catalogue = Catalogue(folders, folders.database)
        self.interrogator = Interrogator(folders)
        self.tagger = Tagger(folders)

    def run(
        self, job: str, request: ModelTask, settings: Settings, emit: Callable[[Event], None], control: Control
    ) -> None:
        """Do one task. The last progress says what was made. Raises EaselError."""
        if isinstance(request, InterrogateTask):
            image = inputs.load(self.folders.inputs, request.image)
            asked = self.tagger if request.model == "deepdanbooru" else self.interrogator
            words = asked.describe(image, settings)
            return emit(Progress(step=1, steps=1, text=words))
        say = _Speaker(emit, control)
        path = self.merge(request, say) if isinstance(request, MergeTask) else self.convert(request, say)
        made = path.relative_to(self.folders.checkpoint_dirs[0]) if _below(path, self.folders) else Path(path.name)
        emit(Progress(step=1, steps=1, text=made.as_posix()))

    def stats(self) -> dict[str, object]:
        return {}

    def merge(self, task: MergeTask, say: _Speaker) -> Path:
        """A new checkpoint in the first checkpoint folder; no file that is there already is touched."""
        wanted = {"Weighted sum": 2, "Add difference": 3, "No interpolation": 1}[task.interp_method]
        names = (task.primary_model_name, task.secondary_model_name, task.tertiary_model_name)
        views = [self._find(name, field) for name, field in zip(names[:wanted], ("primary", "secondary", "tertiary"))]
        recipe = Recipe(task.interp_method, task.multiplier, task.save_as_half, task.discard_weights)
        with ExitStack() as stack:
            files = [stack.enter_context(open_model(Path(view.path))) for view in views]
            vae = self._vae(task.bake_in_vae)
            baked = stack.enter_context(open_model(vae)) if vae else None
            headers: list[Header | None] = [file.header for file in files] + [None] * (3 - len(files))
            assert headers[0] is not None
            made = merge.plan(recipe, headers[0], *headers[1:], vae=baked.header if baked else None)
            target = self._target(task.custom_name or merge.name_of(recipe, *(v.name for v in views)), made.kind)
            _check_space(target, made.size)
            metadata = self._metadata(task, made, views, [file.header for file in files], say)
            safe_write(target, say.pieces(made, files, vae=_canonical(baked), metadata=metadata))
        self._copy_config(task.config_source, views, target)
        return target

    def convert(self, task: ConvertTask, say: _Speaker) -> Path:
        """One safetensors file beside the original, which stays as it is."""
        view = self._find(task.checkpoint, "checkpoint", "checkpoint")
        source = Path(view.path)
        target = source.with_name(f"{source.stem if source.is_file() else source.name}.safetensors")
        if target == source or target.exists():
            raise BadRequest(f"{target.name} is there already; there is nothing to convert.", field="checkpoint")
        with open_model(source) as file:
            made = merge.plan(Recipe(half=task.save_as_half), file.header)
            _check_space(target, made.size)
            return safe_write(target, say.pieces(made, [file], metadata={"format": "pt", **_kept(file.header)}))

    def _find(self, name: str | None, field: str, whole: str = "") -> CheckpointView:
        field = whole or f"{field}_model_name"
        if not name:
            raise BadRequest(f"A model is missing ({field}); choose one.", field=field)
        view = self.catalogue.find(name)
        if view.problem:
            raise BadRequest(view.problem, field=field)
        return view

    def _vae(self, name: str) -> Path | None:
        if name in ("", "None"):
            return None
        found = vaes.list_vaes(self.folders).get(name)
        if found is None:
            raise BadRequest(f"No VAE is called {name!r}; choose one of the list, or None.", field="bake_in_vae")
        return found

    def _target(self, name: str, kind: str) -> Path:
        name = name.removesuffix(".safetensors").removesuffix(".ckpt")
        kind = f".{kind}" if kind and not name.endswith(f".{kind}") else ""
        target = resolve_under(self.folders.checkpoint_dirs[0], f"{name[:MAX_NAME]}{kind}.safetensors")
        if target.exists():
            raise BadRequest(f"{target.name} is there already; choose another name.", field="custom_name")
        return target

    def _metadata(
        self, task: MergeTask, made: Merge, views: list[CheckpointView], headers: list[Header], say: _Speaker
    ) -> dict[str, str]:
        kept = _kept(headers[0])
        if not task.save_metadata:
            return kept
        texts: dict[str, Any] = {}
        if task.copy_metadata_fields:
            for header in headers:
                texts |= header.metadata
        texts |= task.metadata
        texts["format"] = "pt"
        if task.add_merge_recipe:
            say.text = "Hashing the models"
            say.step(0, 1)
            hashes = [self.catalogue.hash_of(view, say.step, lambda: say.control.cancelled) for view in views]
            short = [*map(hashing.short, hashes), None, None]
            recipe = {
                "type": "webui", "primary_model_hash": short[0], "secondary_model_hash": short[1],
                "tertiary_model_hash": short[2], "interp_method": task.interp_method, "multiplier": task.multiplier,
                "save_as_half": task.save_as_half, "custom_name": task.custom_name, "config_source": task.config_source,
                "bake_in_vae": task.bake_in_vae, "discard_weights": task.discard_weights,
                "is_inpainting": made.kind == "inpainting", "is_instruct_pix2pix": made.kind == "instruct-pix2pix",
            }  # fmt: skip
            parents: dict[str, Any] = {}
            for view, sha, header in zip(views, hashes, headers):
                parents[sha] = {
                    "name": view.title.removesuffix(f" [{view.short_hash}]"),
                    "legacy_hash": _old_hash(Path(view.path)),
                    "sd_merge_recipe": _object(header.metadata.get("sd_merge_recipe")) or None,
                }
                parents |= _object(header.metadata.get("sd_merge_models"))
            texts |= {"sd_merge_recipe": recipe, "sd_merge_models": parents}
        return {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in texts.items()} | kept

    def _copy_config(self, source: int, views: list[CheckpointView], target: Path) -> None:
        wanted = {0: views, 1: views[1:2], 2: views[2:3]}.get(source, [])
        for config in (sidecar_path(Path(view.path)) for view in wanted):
            if config.is_file():
                safe_write(sidecar_path(target), config.read_bytes())
                return


class _Speaker:
    """Tells how far a task is and hears whether it shall end."""

    def __init__(self, emit: Callable[[Event], None], control: Control) -> None:
        self.emit, self.control, self.text = emit, control, ""
        self._told = -1

    def step(self, done: int, whole: int) -> None:
        if self.control.cancelled:
            raise Cancelled("The task was interrupted.")
        percent = 100 * done // max(1, whole)
        if percent != self._told:
            self._told = percent
            self.emit(Progress(step=percent, steps=100, text=self.text))

    def pieces(
        self,
        made: Merge,
        files: list[ModelFile],
        vae: ModelFile | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Iterator[bytes | memoryview]:
        self.text, done = "Writing the model", 0
        for piece in made.chunks(files, vae, metadata):
            yield piece
            done += len(piece)
            self.step(done, made.size)


def _canonical(vae: ModelFile | None) -> ModelFile | None:
    """A VAE file whose keys are those of a checkpoint."""
    if vae is None:
        return None
    return ModelFile(replace(vae.header, tensors=vae_tensors(vae.header)))


def _kept(header: Header) -> dict[str, str]:
    """Without these a file could no longer be read as what it is."""
    return {key: text for key, text in header.metadata.items() if key.startswith("easel.")
            or key == "modelspec.prediction_type"}  # fmt: skip


def _check_space(target: Path, size: int) -> None:
    folder = next(parent for parent in target.parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < size + SPARE:
        raise DiskTrouble(
            f"{target.name} needs {size / GIB:.1f} GiB and {free / GIB:.1f} are free on that disk; free some space."
        )


def _old_hash(path: Path) -> str:
    return hashing.old_hash(path) if path.is_file() else ""


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _below(path: Path, folders: Folders) -> bool:
    return path.is_relative_to(folders.checkpoint_dirs[0])
