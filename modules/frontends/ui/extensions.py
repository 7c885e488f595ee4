"""Extensions on the page: their settings, their tabs, and the tab that switches them.

Settings and the list are data that the page's script (static/extensions.js) shows; only a tab's own file is run here,
and built by itself first, so that one that fails leaves the page as it is.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from pydantic import BaseModel

from modules.frontends.desk import FrontDesk
from modules.frontends.ui.panel import plain
from modules.frontends.ui.sections import option
from modules.frontends.ui.settings import Section
from modules.pipeline.imports import imported, in_words
from modules.schema.errors import BadFile, BadRequest
from modules.schema.extensions import CAPABILITIES, Declared
from modules.service.extensions import BROUGHT, Extension

FRAME = '<div id="extensions_page" class="easel-extensions-page"></div>'
IMPORT_SECONDS = 10.0
NOT_HERE = frozenset({"torch", "torchvision", "transformers", "diffusers", "safetensors"})
"""What the server runs without."""
log = logging.getLogger("easel.extensions")


class Need(BaseModel):
    """Something an extension says that it does; `new` where it was not agreed to yet."""

    name: str
    about: str
    new: bool


class Row(BaseModel):
    """One extension in the list. `problem`: why it cannot be switched on; `failed`: how its code failed."""

    key: str
    name: str
    version: str = ""
    author: str = ""
    description: str = ""
    needs: list[Need] = []
    brings: list[str] = []
    on: bool
    possible: bool
    problem: str = ""
    note: str = ""
    failed: str = ""
    tab: str = ""


class Listing(BaseModel):
    """`frozen` says why nothing can be switched; `disabled` is the setting disable_all_extensions; `flag` is true where
    a flag of the command line disables all."""

    rows: list[Row]
    frozen: str
    disabled: str
    flag: bool


class Switches(BaseModel):
    """Which are to be on, each with the needs that were shown."""

    on: dict[str, list[str]]
    disabled: str = "none"


# ----------------------------------------------------------------------------------------------- the list, and switches


def listing(service: FrontDesk) -> Listing:
    store = service.extensions
    return Listing(
        rows=[_row(each) for each in store.listed()],
        frozen=service.freeze.reason("enabled_extensions"),
        disabled=service.settings.extensions.disable_all_extensions,
        flag=store.folder is None,
    )


def _row(each: Extension) -> Row:
    own = each.declared or Declared(name=each.key)
    return Row(
        key=each.key, name=own.name, version=own.version, author=own.author, description=own.description,
        needs=[Need(name=need, about=CAPABILITIES[need], new=need in each.asks) for need in own.needs],
        brings=[BROUGHT[word] for word in each.brings], on=each.on,
        possible=each.declared is not None and not each.problem, problem=each.problem, note=each.note,
        failed=each.failed, tab=own.tab.title if own.tab else "",
    )  # fmt: skip


def switch(service: FrontDesk, wanted: Switches) -> None:
    """Switch exactly these on, and read the code of all anew. BadRequest where that may not be, or where one needs more
    than was shown."""
    reason = service.freeze.reason("enabled_extensions")
    if reason:
        raise BadRequest(reason, field="enabled_extensions")
    changes = service.extensions.switched(wanted.on)
    for key, needs in changes["enabled_extensions"].items():
        more = sorted(set(needs) - set(wanted.on[key]))
        if more:
            raise BadRequest(f"{key} now needs {', '.join(more)} too; look at it again.", field="extensions")
    before = service.settings.extensions
    service.change_settings({**changes, "disable_all_extensions": wanted.disabled})
    if service.settings.extensions == before:  # otherwise the change has done so
        service.renew()


# ------------------------------------------------------------------------------------------------------------ settings


def settings_of(service: FrontDesk) -> list[Section]:
    """Of all that are on and have some. A key is "folder/name"."""
    found, frozen = [], service.freeze.reason("extension_settings")
    kept = service.settings.extensions.extension_settings
    for each in service.extensions.active():
        if each.declared is None or not each.declared.settings:
            continue
        values = each.declared.kept_settings(kept.get(each.key, {}))
        options = [option(f"{each.key}/{one.name}", one, each.name, values[one.name]) for one in each.declared.settings]
        options = [one.model_copy(update={"disabled": frozen}) for one in options]
        found.append(Section(name=each.name, about=each.declared.description, options=options))
    return found


def with_own_settings(service: FrontDesk, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of settings by key, those of extensions put where they are kept. BadRequest for one that there is not, or
    a value that cannot be."""
    rest = {key: value for key, value in changes.items() if "/" not in key}
    kept = {key: dict(values) for key, values in service.settings.extensions.extension_settings.items()}
    for key in changes.keys() - rest.keys():
        folder, _, name = key.partition("/")
        extension = service.extensions.find(folder)
        if extension is None or extension.declared is None:
            raise BadRequest(f"No extension called {folder[:60]!r} is on.", field=key)
        value = extension.declared.with_settings({name: changes[key]})[name]
        kept.setdefault(extension.key, {})[name] = value
        rest["extension_settings"] = kept
    return rest


# ---------------------------------------------------------------------------------------------------------------- tabs


@dataclass(frozen=True)
class OwnTab:
    """What `build` of a tab.py is given: `settings()` are the extension's own as they are now."""

    folder: Path
    settings: Callable[[], Mapping[str, Any]]


def build() -> None:
    """Place the frame of the tab that switches them (inside an open gr.Tab)."""
    plain(FRAME, "extensions_panel")


def own_tabs(service: FrontDesk) -> list[tuple[str, str, gr.Blocks]]:
    """Id, title and content of the tabs of all that are on and have one. One that fails has the reason for content."""
    found = []
    for each in service.extensions.active():
        if each.declared is not None and each.declared.tab is not None and service.extensions.folder is not None:
            content = _built(service, each, each.declared, service.extensions.folder / each.key)
            found.append((f"ext-{each.key}", each.declared.tab.title, content))
    return found


def _built(service: FrontDesk, each: Extension, own: Declared, folder: Path) -> gr.Blocks:
    def settings() -> Mapping[str, Any]:
        return own.kept_settings(service.settings.extensions.extension_settings.get(each.key, {}))

    try:
        _check_imports(folder / "tab.py")
        place = getattr(imported(each.key, folder / "tab.py", IMPORT_SECONDS), "build", None)
        if not callable(place):
            raise BadFile("tab.py has no function build.")
        with gr.Blocks(analytics_enabled=False) as blocks:
            place(OwnTab(folder, settings))
        return blocks
    except (Exception, SystemExit) as error:
        log.error("tab of extension %s", each.key, exc_info=error)
        said = error.message if isinstance(error, BadFile) else f"tab.py cannot be built ({in_words(error)})."
    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.Markdown(f"The tab of {own.name} cannot be shown.", elem_classes="easel-extension-failed")
        gr.Textbox(said, show_label=False, interactive=False, lines=2, label="Reason")
    return blocks


def _check_imports(path: Path) -> None:
    """BadFile where a tab would bring into the server what it runs without."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except OSError as error:
        raise BadFile(f"tab.py cannot be read ({error.strerror}).") from None
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            if name.split(".")[0] in NOT_HERE:
                raise BadFile(f"tab.py imports {name}, which the server runs without; use it in extension.py.")
