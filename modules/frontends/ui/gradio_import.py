"""Importing Gradio in half the time.

While it is imported, Gradio parses its own sources to write type stubs (.pyi) for editors into its package folder, at
every start again: 1.1 of 2.4 s of processor time (6.31, 2026-11), and a write below site-packages. A running server has
no use for them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

MODULE, STEP = "gradio.component_meta", "create_or_modify_pyi"


class _WithoutStubs(MetaPathFinder, Loader):
    """Loads Gradio's own module as it is, then takes the one step out until `restore()`."""

    def __init__(self) -> None:
        self.loader: Loader | None = None
        self.changed: ModuleType | None = None
        self.step: object = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == MODULE else None
        if spec is None or spec.loader is None:
            return None
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert self.loader is not None
        self.loader.exec_module(module)
        if hasattr(module, STEP):
            self.changed, self.step = module, getattr(module, STEP)
            setattr(module, STEP, lambda *_: None)

    def restore(self) -> None:
        if self.changed is not None:
            setattr(self.changed, STEP, self.step)


@contextmanager
def without_stubs() -> Iterator[None]:
    """While inside, `import gradio` writes no stubs; afterwards everything is as it was."""
    finder = _WithoutStubs()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        finder.restore()
