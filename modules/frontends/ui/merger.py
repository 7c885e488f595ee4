"""The Checkpoint Merger tab: checkpoints mixed into a new file, and any written once more as safetensors.

The page's script builds the form (static/merger.js) and follows the tasks of `service.model_tasks`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from modules.frontends.desk import FrontDesk
from modules.frontends.ui.own_forms import Option, Part, parts_of, with_looks
from modules.frontends.ui.panel import plain
from modules.schema.errors import NotFound
from modules.schema.model_tasks import MergeTask

FRAME = '<div id="modelmerger" class="easel-merger"></div>'
MODELS = ("primary_model_name", "secondary_model_name", "tertiary_model_name")
# A1111's elements where they are not called as the field; its order of the form.
IDS = {"multiplier": "interp_amount", "config_source": "config_method"}
A1111_LABELS = {
    "multiplier": "Multiplier (M) - set to 0 to get model A", "custom_name": "Custom Name (Optional)",
}  # fmt: skip
SHARED = "Model files are not written over the network; merge on the machine Easel runs on."


class MergerPage(BaseModel):
    """`models` and `pickles` by name; `pickles` are files and folders that could be written as safetensors. `refused`:
    why nothing can be written from here."""

    parts: list[Part]
    ids: dict[str, str] = IDS
    pickles: list[str]
    refused: str = ""


def page(service: FrontDesk, shared: bool, refresh: bool = False) -> MergerPage:
    """All that the tab shows."""
    views = [view for view in service.checkpoints(refresh) if not view.problem]
    names = ("", *dict.fromkeys(view.name for view in views))
    vaes = ("None", *dict.fromkeys(file.name for file in service.model_files.vaes()))
    shown = {name: {"choices": names} for name in MODELS} | {
        "bake_in_vae": {"choices": vaes},
        "config_source": {"names": ("A, B or C", "B", "C", "Don't"), "hint": ""},
    }
    parts = parts_of(MergeTask, shown, hidden=("kind", "metadata"))
    parts = with_looks(parts, service.ui_config.known, config_keys)
    made = {Path(view.path).with_suffix("") for view in views if view.path.endswith(".safetensors")}
    pickles = [
        view.name
        for view in views
        if not view.path.endswith(".safetensors")
        and Path(view.path).with_suffix("" if Path(view.path).is_file() else Path(view.path).suffix) not in made
    ]
    return MergerPage(parts=parts, pickles=pickles, refused=SHARED if shared else "")


def config_keys(option: Option) -> list[str]:
    """Where ui-config.json may tell of an option, by A1111's label and by ours."""
    return [f"modelmerger/{label}" for label in (A1111_LABELS.get(option.key, option.label), option.label)]


def metadata_of(service: FrontDesk, names: list[str]) -> dict[str, str]:
    """What the files of these checkpoints say of themselves; of equal keys the last one's."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found |= service.library.get(service.checkpoint(name).path).metadata
        except NotFound:
            continue
    return found


def build() -> None:
    """Place the tab's frame (inside an open gr.Tab)."""
    plain(FRAME, "modelmerger_panel")
