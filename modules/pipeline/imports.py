"""Code of extensions as modules. Free of torch: the server loads tabs with it, the drawing process hooks."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
import threading
from pathlib import Path
from types import ModuleType

from modules.schema.errors import BadFile, EaselError

log = logging.getLogger("easel.extensions")


def imported(key: str, path: Path, seconds: float) -> ModuleType:
    """The module of an extension, by the name of its folder, whose neighbours it may import (`from . import other`).
    BadFile, also where that takes longer than so many seconds."""
    package = f"easel_extension_{re.sub(r'[^A-Za-z0-9]', lambda found: f'_{ord(found[0]):x}_', key)}"
    name = package if path.stem == "extension" else f"{package}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None
    assert spec.loader is not None
    loader, module, failed = spec.loader, importlib.util.module_from_spec(spec), list[BaseException]()
    sys.modules[name] = module

    def run() -> None:
        try:
            loader.exec_module(module)
        except BaseException as error:  # SystemExit too
            log.exception("extension %s", key)
            failed.append(error)

    # An import has no end that can be forced; one that never ends keeps its thread, and we go on.
    thread = threading.Thread(target=run, name=f"import {key}", daemon=True)
    thread.start()
    thread.join(seconds)
    if not thread.is_alive() and not failed:
        return module
    sys.modules.pop(name, None)
    if not failed:
        raise BadFile(f"{path.name} was not imported within {seconds:g} seconds.")
    raise BadFile(f"{path.name} cannot be imported ({in_words(failed[0], path)}).")


def in_words(error: BaseException, path: Path | None = None) -> str:
    """An error in a few words; with the last line of that file that it passed."""
    text = error.message if isinstance(error, EaselError) else " ".join(str(error).split())[:200]
    trace, line = error.__traceback__, None
    while trace is not None:
        line = trace.tb_lineno if path and trace.tb_frame.f_code.co_filename == str(path) else line
        trace = trace.tb_next
    line = error.lineno if isinstance(error, SyntaxError) else line
    return f"{type(error).__name__}{f': {text}' if text else ''}{f', line {line}' if path and line else ''}"
