"""The img2img tab: a picture drawn over, as a whole or where a mask is painted.

The picture and its mask live in the browser (static/pictures.js) and are uploaded when Generate is pressed, so nothing
that happens on the server, or after a job, can lose a mask.
"""

from __future__ import annotations

import gradio as gr

from modules.frontends.desk import FrontDesk
from modules.frontends.ui import networks
from modules.frontends.ui.panel import Panel, in_browser, looks_of, plain
from modules.frontends.ui.progress import results_panel
from modules.schema.request import Soft

TAB = "img2img"


def build(service: FrontDesk, checkpoint: gr.Dropdown) -> Panel:
    """Place the tab's components (inside an open gr.Tab) and wire them."""
    panel = Panel(TAB, looks_of(service, TAB))
    with gr.Row(elem_id=f"{TAB}_workspace", elem_classes="easel-workspace"):
        panel.toprow()
        with gr.Column(elem_id=f"{TAB}_settings", elem_classes="easel-settings"):
            plain("", f"mode_{TAB}")
            panel.radio("source.resize_mode")
            _inpainting(panel)
            panel.sampling()
            with gr.Column(elem_id=f"{TAB}_accordions", elem_classes="easel-folds"):
                panel.refiner()
                panel.controlnet()
            with gr.Column(elem_id=f"{TAB}_sizes", elem_classes="easel-sizes"):
                panel.radio("resize_by")
                with gr.Column(elem_id=f"{TAB}_tab_resize_to"):
                    panel.size()
                with gr.Column(elem_id=f"{TAB}_tab_resize_by"):
                    panel.slider("scale")
                    plain("", f"{TAB}_scale_resolution_preview")
            panel.slider("source.denoising_strength")
            panel.guidance_and_batch()
            panel.seeds()
            panel.more()
        networks.place(TAB)
        results_panel(TAB)
        pictures = gr.Textbox(elem_id=f"{TAB}_pictures", visible="hidden")
        panel.wire(service, checkpoint, pictures)
    size = [panel.fields["width"], panel.fields["height"]]
    script = "(...size) => window.easel.sizeOfSource(size)"
    in_browser(panel.buttons["measure"].click, script, size, size)
    return panel


def _inpainting(panel: Panel) -> None:
    """Shown while a mask is asked for (static/easel.css)."""
    with gr.Column(elem_id="inpaint_controls"):
        panel.slider("source.mask.mask_blur_x")
        panel.slider("mask_alpha")
        panel.radio("source.mask.inpainting_mask_invert")
        panel.radio("source.mask.inpainting_fill")
        panel.radio("source.mask.inpaint_full_res")
        panel.slider("source.mask.inpaint_full_res_padding")
        with panel.fold("source.mask.soft", "soft_inpainting"):
            for name in Soft.model_fields:
                panel.slider(f"source.mask.soft.{name}")
