"""The Extras tab: finished pictures made larger, one, several, or a folder of this machine; a job as any other.

The page's script builds the form (static/extras.js) from `parts`, the facts of `schema.request.Extras`.
"""

from __future__ import annotations

import gradio as gr

from modules.frontends.api.extras import models as upscaler_models
from modules.frontends.api.extras import restorers
from modules.frontends.desk import FrontDesk
from modules.frontends.ui.own_forms import Option, Part, parts_of, with_looks
from modules.frontends.ui.panel import plain
from modules.frontends.ui.progress import results_panel
from modules.imaging.upscale import UPSCALERS
from modules.schema.request import Extras
from modules.weights.library import clip_pair_file

TAB = "extras"
# What the tab shows otherwise than the API: A1111's own defaults and ends.
SHOWN = {
    "upscaling_resize": {"default": 4.0, "ge": 1},
    "upscaling_resize_w": {"ge": 64, "soft_le": 8192},
    "upscaling_resize_h": {"ge": 64, "soft_le": 8192},
    "max_side_length": {"soft_le": 8192},
    "resize_mode": {"names": ("Scale by", "Scale to"), "hint": ""},
}


# A1111's script (postprocessing_<name>.py) of options that begin so; all others are those of upscaling.
A1111_SCRIPTS = {
    "gfpgan": "gfpgan", "codeformer": "codeformer", "split_oversized": "split_oversized", "focal_crop": "focal_crop",
    "auto_crop": "autosized_crop", "flip": "create_flipped_copies", "caption": "caption",
}  # fmt: skip
# What needs which face restorer.
FACES = {
    "gfpgan_visibility": "GFPGAN", "codeformer_visibility": "CodeFormer", "codeformer_weight": "CodeFormer",
}  # fmt: skip


def parts(service: FrontDesk) -> list[Part]:
    """The form, with the upscalers and face restorers that are there now."""
    upscalers = (*UPSCALERS, *upscaler_models(service.library))
    there = restorers(service.library)
    hidden = {name for name, needs in FACES.items() if needs not in there}
    hidden |= set() if clip_pair_file(service.folders) else {"caption"}
    hidden |= set() if there else {"upscale_first"}
    parts = parts_of(Extras, SHOWN | {name: {"choices": upscalers} for name in ("upscaler_1", "upscaler_2")}, hidden)
    return with_looks(parts, service.ui_config.known, config_keys)


def config_keys(option: Option) -> list[str]:
    """Where ui-config.json may tell of an option: under the tab, and under A1111's script of it."""
    script = next((name for start, name in A1111_SCRIPTS.items() if option.key.startswith(start)), "upscale")
    return [f"customscript/postprocessing_{script}.py/extras/{option.label}", f"extras/{option.label}"]


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
