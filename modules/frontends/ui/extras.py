"""The Extras tab: finished pictures made larger, one, several, or a folder of this machine; a job as any other.

The page's script builds the form (static/extras.js) from `parts`, the facts of `schema.request.Extras`.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from pydantic import BaseModel

from modules.frontends.api.extras import models as upscaler_models
from modules.frontends.desk import FrontDesk
from modules.frontends.ui.own_forms import Part, parts_of
from modules.frontends.ui.panel import plain
from modules.frontends.ui.progress import results_panel
from modules.imaging.metadata import MAX_BYTES
from modules.imaging.upscale import UPSCALERS
from modules.schema.errors import BadFile, BadRequest
from modules.schema.request import Extras

TAB = "extras"
MOST = 2000
"""Pictures of one folder in one job."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif")
# What the tab shows otherwise than the API: A1111's own defaults and ends.
SHOWN = {
    "upscaling_resize": {"default": 4.0, "ge": 1},
    "upscaling_resize_w": {"ge": 64, "soft_le": 8192},
    "upscaling_resize_h": {"ge": 64, "soft_le": 8192},
    "resize_mode": {"names": ("Scale by", "Scale to"), "hint": ""},
}


class Folder(BaseModel):
    """Pictures of a folder that are now kept as sources: their ids, and the names of those that were none."""

    images: list[str]
    skipped: list[str]


def parts(service: FrontDesk) -> list[Part]:
    """The form, with the upscalers that are there now."""
    upscalers = (*UPSCALERS, *upscaler_models(service.library))
    return parts_of(Extras, SHOWN | {name: {"choices": upscalers} for name in ("upscaler_1", "upscaler_2")})


def keep_folder(service: FrontDesk, name: str) -> Folder:
    """Keep every picture of a folder of this machine as a source, in the order of their names. BadRequest."""
    folder = Path(name.strip()).expanduser()
    if not name.strip() or not folder.is_absolute() or not folder.is_dir():
        raise BadRequest(f"{name.strip()[:200] or 'Nothing'} is no folder here; give its whole path.", field="folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
    if len(files) > MOST:
        raise BadRequest(f"{len(files)} pictures lie in that folder; at most {MOST} go into one job.", field="folder")
    found = Folder(images=[], skipped=[])
    for path in files:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise BadFile("too large")
            found.images.append(service.keep_input(path.read_bytes()))
        except (BadFile, OSError):
            found.skipped.append(path.name)
    if not found.images:
        raise BadRequest(f"{folder.name} holds no picture that can be read; choose another folder.", field="folder")
    return found


def build() -> None:
    """Place the tab's frame (inside an open gr.Tab)."""
    with gr.Row(elem_id=f"{TAB}_workspace", elem_classes="easel-workspace"):
        with gr.Column(elem_id=f"{TAB}_toprow", elem_classes="easel-toprow"):
            plain("", f"mode_{TAB}")
            with gr.Row(elem_id=f"{TAB}_generate_box", elem_classes="easel-generate-box"):
                gr.Button("Generate", elem_id=f"{TAB}_generate", variant="primary", min_width=120)
                gr.Button("Skip", elem_id=f"{TAB}_skip", elem_classes="easel-while-running", min_width=60)
                gr.Button("Interrupt", elem_id=f"{TAB}_interrupt", elem_classes="easel-while-running", min_width=60)
            plain("", f"{TAB}_queue")
        with gr.Column(elem_id=f"{TAB}_settings", elem_classes="easel-settings"):
            plain("", f"{TAB}_form")
        results_panel(TAB)
