"""Extensions in the drawing process: their code is loaded, and their hooks are asked, each by itself, so that what one
of them does wrong is told by its name and costs no picture.

Nothing keeps that code from anything this process may do; what protects a user is that it runs only where it was
switched on (docs/extensions.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

import pluggy
import torch
from PIL import Image
from torch import Tensor

from modules.imaging.save import safe_write
from modules.memory import devices
from modules.pipeline import hooks as specs
from modules.pipeline.denoiser import Denoiser
from modules.pipeline.hooks import Batch, Own, Picture
from modules.pipeline.imports import imported, in_words
from modules.sampling import table
from modules.schema.errors import BadFile, BadRequest, EaselError
from modules.schema.extensions import KEY, Declared, declared
from modules.schema.plan import Plan
from modules.schema.record import SavedRecord
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings

IMPORT_SECONDS = 60.0
"""So long the code of an extension may take to be imported."""
LEVELS = ("job", "plan", "batch", "picture")
"""What an extension takes part in, the widest first."""
log = logging.getLogger("easel.extensions")
T = TypeVar("T")


class HookFailed(Exception):
    """An extension failed that has taken part already: what it changed is to be drawn anew, without it."""


@dataclass(frozen=True)
class Hook:
    """One function of an extension: `first` is -1, 0 or 1, in what order it is asked; `takes`: names of arguments."""

    function: Callable[..., Any]
    takes: tuple[str, ...]
    first: int


@dataclass(frozen=True)
class Extension:
    """One whose code is loaded. `key`: its folder's name."""

    key: str
    declared: Declared
    folder: Path
    hooks: Mapping[str, Hook]


class Library:
    """The code of extensions, loaded once in this process; what cannot be is told in `problems`, by folder."""

    def __init__(self, folder: Path | None, mark: Path) -> None:
        """`folder` is None where extensions are disabled; the file `mark` notes which one is being loaded."""
        self._folder, self._mark = folder, mark
        self._loaded: dict[str, Extension] = {}
        self.problems: dict[str, str] = {}

    def load(self, settings: Settings) -> None:
        """The code of all that are switched on."""
        for _ in self._on(settings):
            pass

    def hooks_for(
        self, settings: Settings, asked: Mapping[str, Mapping[str, Any]], warn: Callable[[str], None]
    ) -> Hooks | None:
        """Those that take part in a job, None where nobody does. `asked`: its sections that are on, and their values.

        What is asked for and cannot be is told; the job is drawn without it.
        """
        listeners, heard = [], set()
        for extension in self._on(settings, warn):
            heard.add(extension.key)
            own = extension.declared
            if own.section is not None and extension.key not in asked:
                continue
            try:
                values = own.values(asked.get(extension.key, {}))
                kept = own.kept_settings(settings.extensions.extension_settings.get(extension.key, {}))
            except BadRequest as error:
                warn(f"{error.message} It was left out.")
                continue
            listeners.append(
                Listener(extension, Own(MappingProxyType(values), MappingProxyType(kept), extension.folder, warn))
            )
        for key in sorted(asked.keys() - heard - self.problems.keys()):
            warn(f"No extension {key[:60]!r} is switched on; its section was left out.")
        return Hooks(listeners, warn) if listeners else None

    def _on(self, settings: Settings, warn: Callable[[str], None] = log.warning) -> Iterator[Extension]:
        """Those that are switched on and can be loaded, in order."""
        chosen = settings.extensions
        for key in sorted(chosen.enabled_extensions, key=lambda key: (key.lower(), key)):
            if self._folder is None or not KEY.fullmatch(key) or not (self._folder / key).is_dir():
                continue
            try:
                extension = self._loaded.get(key)
                own = extension.declared if extension else read_declared(self._folder / key)
                if not chosen.on(key, own.needs):
                    continue
                extension = extension or self._load(key, own)
            except EaselError as error:
                self.problems[key] = error.message
                warn(f"The extension {key} is left out: {error.message}")
                continue
            if extension is not None:
                yield extension

    def _load(self, key: str, own: Declared) -> Extension | None:
        """BadFile where it cannot be; None where it has no code for this process."""
        assert self._folder is not None
        if key in self.problems:
            raise BadFile(self.problems[key])
        folder = self._folder / key
        if not (folder / "extension.py").is_file():
            return None
        if self._marked() == key:
            raise BadFile("loading it ended the drawing process; Apply in the Extensions tab tries once more.")
        # What ends this process now is known by its name to the next one.
        safe_write(self._mark, key.encode(), overwrite=True)
        try:
            module = imported(key, folder / "extension.py", IMPORT_SECONDS)
            extension = Extension(key, own, folder, hooks_of(module, key))
        finally:
            self._mark.unlink(missing_ok=True)
        self._loaded[key] = extension
        return extension

    def _marked(self) -> str:
        try:
            return self._mark.read_text("utf-8")
        except (OSError, UnicodeError):
            return ""


def read_declared(folder: Path) -> Declared:
    """What an extension's folder says of it. BadFile."""
    try:
        return declared((folder / "extension.toml").read_text("utf-8"))
    except OSError as error:
        raise BadFile(f"its extension.toml cannot be read ({error.strerror}).") from None
    except UnicodeError:
        raise BadFile("its extension.toml is no UTF-8 text.") from None


def hooks_of(module: ModuleType, key: str) -> dict[str, Hook]:
    """The hooks that a module implements. BadFile for one that there is not, or with other arguments."""
    manager = pluggy.PluginManager(specs.PROJECT)
    manager.add_hookspecs(specs.Hooks)
    try:
        manager.register(module, name=key)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise BadFile(f"extension.py: {' '.join(str(error).split())[:300]}.") from None
    found = {}
    for caller in manager.get_hookcallers(module) or ():
        for each in caller.get_hookimpls():
            if each.hookwrapper or each.wrapper:
                raise BadFile(f"extension.py: {caller.name} is a wrapper of other hooks, which is not possible here.")
            found[caller.name] = Hook(each.function, tuple(each.argnames), each.trylast - each.tryfirst)
    return found


@dataclass(frozen=True)
class Listener:
    """An extension that takes part in a job."""

    extension: Extension
    own: Own

    def ask(self, hook: str, **given: Any) -> Any:
        found = self.extension.hooks[hook]
        given["own"] = self.own
        return found.function(**{name: given[name] for name in found.takes})


class Hooks:
    """The hooks of one job. Who changed something is known for as long as it lasts (`begin`, `parts`)."""

    def __init__(self, listeners: Sequence[Listener], warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._by_hook: dict[str, list[Listener]] = {}
        for listener in listeners:
            for name in listener.extension.hooks:
                self._by_hook.setdefault(name, []).append(listener)
        for name, asked in self._by_hook.items():
            asked.sort(key=lambda each: each.extension.hooks[name].first)  # stable: then by folder
        self._failed = set[str]()
        self._part: dict[str, dict[str, Listener]] = {level: {} for level in LEVELS}

    def begin(self, level: str) -> None:
        """Something of this level begins: who took part in the one before, and in its parts, does no more."""
        for narrower in LEVELS[LEVELS.index(level) :]:
            self._part[narrower].clear()

    @property
    def parts(self) -> dict[str, Listener]:
        """Who has taken part in the picture at hand, by folder."""
        return {key: each for level in LEVELS for key, each in self._part[level].items()}

    @staticmethod
    def told(parts: Mapping[str, Listener]) -> dict[str, Any]:
        """What an infotext tells of those who took part."""
        found = dict(sorted(parts.items(), key=lambda each: (each[0].lower(), each[0])))
        if not found:
            return {}
        fields: dict[str, Any] = {"Extensions": ", ".join(each.extension.declared.shown for each in found.values())}
        for each in found.values():
            fields |= each.extension.declared.told(each.own.values)
        return fields

    # ---- the hooks, in the order of the walk ----

    def amend_request(self, request: GenerationRequest) -> GenerationRequest:
        def checked(made: Any) -> GenerationRequest:
            _is(made, GenerationRequest)
            return GenerationRequest.model_validate(made.model_dump())

        return self._changed("amend_request", "job", "request", request, checked)

    def expand_prompt(self, prompt: str, negative_prompt: str, seed: int) -> tuple[str, str]:
        texts = prompt, negative_prompt
        for listener in self._listeners("expand_prompt"):

            def checked(made: Any) -> tuple[str, str]:
                prompt, negative = made
                _is(prompt, str)
                _is(negative, str)
                return prompt, negative

            made = self._asked(
                listener, "expand_prompt", "plan", checked, prompt=texts[0], negative_prompt=texts[1], seed=seed
            )
            texts = texts if made is None else made
        return texts

    def amend_plan(self, plan: Plan) -> Plan:
        def checked(made: Any) -> Plan:
            _is(made, Plan)
            made = Plan.model_validate(made.model_dump())
            table.normalise(made.sampler, made.scheduler)
            if made.checkpoint != plan.checkpoint or any(len(a) != len(b) for a, b in zip(_each(made), _each(plan))):
                raise ValueError("the checkpoint and the number of pictures stay as they are")
            return made

        return self._changed("amend_plan", "plan", "plan", plan, checked)

    def wrapped(self, denoiser: Denoiser, batch: Batch, cfg_factor: float) -> Callable[[Tensor, Tensor], Any]:
        """What the sampler calls: the denoiser itself where nobody wraps it."""
        base = _Base(denoiser, cfg_factor)
        outermost: Any = base
        for listener in self._listeners("wrap_denoiser"):

            def checked(made: Any) -> Any:
                if not callable(made):
                    raise TypeError(f"a function is expected, not {type(made).__name__}")
                return made

            made = self._asked(listener, "wrap_denoiser", "batch", checked, denoise=outermost, batch=batch)
            outermost = outermost if made is None else _Wrapped(self, listener, made, base)
        return denoiser if outermost is base else _Outermost(outermost, base)

    def on_step(self, step: int, denoised: Tensor, sigma: float, batch: Batch) -> None:
        for listener in self._listeners("on_step"):
            seen = denoised.clone()
            self._asked(listener, "on_step", None, _nothing, step=step, denoised=seen, sigma=sigma, batch=batch)

    def after_sampling(self, latents: Tensor, batch: Batch) -> Tensor:
        def checked(made: Any) -> Tensor:
            return _like(made, latents)

        return self._changed("after_sampling", "batch", "latents", latents, checked, batch=batch)

    def after_decode(self, image: Image.Image, plan: Plan, k: int) -> Image.Image:
        def checked(made: Any) -> Image.Image:
            _is(made, Image.Image)
            if (made.mode, made.size) != (image.mode, image.size):
                raise ValueError(
                    f"the picture has to stay {image.mode} of {image.size}, not {made.mode} of {made.size}"
                )
            return made

        return self._changed("after_decode", "picture", "image", image, checked, picture=Picture(plan, k))

    def before_save(self, image: Image.Image, plan: Plan, k: int) -> Image.Image:
        def checked(made: Any) -> Image.Image:
            _is(made, Image.Image)
            if made.mode not in ("RGB", "RGBA", "L"):
                raise ValueError(f"the picture is {made.mode}; RGB, RGBA and L can be saved")
            return made

        return self._changed("before_save", "picture", "image", image, checked, picture=Picture(plan, k))

    def after_job(self, request: GenerationRequest, records: Sequence[SavedRecord]) -> None:
        for listener in self._listeners("after_job"):
            self._asked(listener, "after_job", None, _nothing, request=request, records=tuple(records), last=True)

    # ---- asking one ----

    def _listeners(self, hook: str) -> list[Listener]:
        return [each for each in self._by_hook.get(hook, ()) if each.extension.key not in self._failed]

    def _changed(
        self, hook: str, level: str, name: str, value: T, checked: Callable[[Any], T], **given: Any
    ) -> T:  # fmt: skip
        """The value as all of them left it."""
        for listener in self._listeners(hook):
            given[name] = value.copy() if isinstance(value, Image.Image) else value
            given[name] = value.clone() if isinstance(value, Tensor) else given[name]
            made = self._asked(listener, hook, level, checked, **given)
            value = value if made is None else made
        return value

    def _asked(
        self, listener: Listener, hook: str, level: str | None, checked: Callable[[Any], T], last: bool = False,
        **given: Any,
    ) -> T | None:  # fmt: skip
        """What one of them answers, None for nothing; one that failed is said and asked no more."""
        try:
            made = listener.ask(hook, **given)
            made = None if made is None else checked(made)
        except Exception as error:
            self.fail(listener, hook, error, again=not last)
            return None
        except SystemExit as error:
            self.fail(listener, hook, error, again=not last)
            return None
        if made is not None and level is not None:
            self._part[level][listener.extension.key] = listener
        return made

    def fail(self, listener: Listener, hook: str, error: BaseException, again: bool = True) -> None:
        """It is left out from here on. HookFailed where it has taken part in what is at hand; not if `again` is
        False."""
        key = listener.extension.key
        log.error("extension %s, %s", key, hook, exc_info=error)
        self._failed.add(key)
        taken = key in self.parts and again
        rest = "the picture is drawn without it" if again else "the pictures are there"
        self._warn(f"The extension {listener.extension.declared.name} failed in {hook} ({in_words(error)}); {rest}.")
        if taken:
            raise HookFailed(key) from error


class _Base:
    """The denoiser as extensions call it: as often as they like, with another guidance if they wish."""

    def __init__(self, denoiser: Denoiser, cfg_factor: float) -> None:
        self.denoiser, self._factor = denoiser, cfg_factor
        self.number = 0
        self.cfg_scale: float | None = None
        self.unguided: Tensor | None = None
        self.raised: BaseException | None = None

    def __call__(self, x: Tensor, sigma: Tensor, *, cfg_scale: float | None = None) -> Tensor:
        self.denoiser.calls = self.number  # prompts that change with the steps count the sampler's calls alone
        usual = self.denoiser.guiding
        scale = self.cfg_scale if cfg_scale is None else cfg_scale
        if scale is not None:
            self.denoiser.guiding = replace(usual, cfg_scale=scale * self._factor)
        try:
            found = self.denoiser(x, sigma)
        except BaseException as error:
            self.raised = error
            raise
        finally:
            self.denoiser.guiding = usual
        guided, self.unguided = found if isinstance(found, tuple) else (found, None)
        return guided


class _Wrapped:
    """What one extension made of the denoiser; errors that are not its own pass."""

    def __init__(self, hooks: Hooks, listener: Listener, made: Callable[[Tensor, Tensor], Any], base: _Base) -> None:
        self._hooks, self._listener, self._made, self._base = hooks, listener, made, base

    def __call__(self, x: Tensor, sigma: Tensor, *, cfg_scale: float | None = None) -> Tensor:
        outer = self._base.cfg_scale
        self._base.cfg_scale = outer if cfg_scale is None else cfg_scale
        try:
            return _like(self._made(x.clone(), sigma.clone()), x)
        except (Exception, SystemExit) as error:
            # An error of the engine's own is not the extension's; one that it led the engine into is.
            engines = isinstance(error, EaselError) or devices.is_memory(error)
            if isinstance(error, HookFailed) or (engines and error is self._base.raised):
                raise
            self._hooks.fail(self._listener, "wrap_denoiser", error)
            raise
        finally:
            self._base.cfg_scale = outer


class _Outermost:
    """What the sampler calls."""

    def __init__(self, wrapped: _Wrapped, base: _Base) -> None:
        self._wrapped, self._base = wrapped, base

    def __call__(self, x: Tensor, sigma: Tensor) -> Any:
        base, number = self._base, self._base.denoiser.calls
        base.number, base.unguided, base.raised = number, None, None
        guided = self._wrapped(x, sigma)
        if base.denoiser.wants_uncond and base.unguided is None:
            base(x, sigma)
        base.denoiser.calls = number + 1
        return guided if base.unguided is None else (guided, base.unguided)


def _each(plan: Plan) -> tuple[tuple[Any, ...], ...]:
    """What a plan has for each picture."""
    return plan.prompts, plan.negative_prompts, plan.seeds, plan.subseeds, plan.draws


def _is(made: Any, kind: type) -> None:
    if not isinstance(made, kind):
        raise TypeError(f"{kind.__name__} is expected, not {type(made).__name__}")


def _like(made: Any, given: Tensor) -> Tensor:
    """Latents in the place of others. TypeError, ValueError."""
    _is(made, Tensor)
    if made.shape != given.shape or not made.is_floating_point():
        raise ValueError(f"the shape has to stay {list(given.shape)}, not {list(made.shape)} of {made.dtype}")
    if not torch.isfinite(made).all():
        raise ValueError("some numbers are not finite")
    return made.to(given)


def _nothing(made: Any) -> None:
    return None
