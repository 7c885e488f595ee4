"""The txt2img tab."""

from __future__ import annotations

import gradio as gr

from modules.frontends.desk import FrontDesk
from modules.frontends.ui import networks
from modules.frontends.ui.panel import Panel, looks_of, plain
from modules.frontends.ui.progress import results_panel
from modules.schema.request import SAME_CHECKPOINT

TAB = "txt2img"


def build(service: FrontDesk, checkpoint: gr.Dropdown) -> Panel:
    """Place the tab's components (inside an open gr.Tab) and wire them."""
    panel = Panel(TAB, looks_of(service, TAB))
    with gr.Row(elem_id=f"{TAB}_workspace", elem_classes="easel-workspace"):
        panel.toprow(examples=True)
        with gr.Column(elem_id=f"{TAB}_settings", elem_classes="easel-settings"):
            panel.sampling()
            with gr.Column(elem_id=f"{TAB}_accordions", elem_classes="easel-folds"):
                _hires(panel)
                panel.refiner()
                panel.controlnet()
            panel.size()
            panel.guidance_and_batch()
            panel.seeds()
            panel.more()
        networks.place(TAB)
        results_panel(TAB)
        panel.wire(service, checkpoint)
    return panel


def _hires(panel: Panel) -> None:
    """A second pass at a larger size."""
    with panel.fold("hires", f"{TAB}_hr"):
        plain("", "txtimg_hr_finalres")
        panel.dropdown("hires.hr_upscaler")
        panel.slider("hires.hr_second_pass_steps")
        panel.slider("hires.denoising_strength")
        panel.slider("hires.hr_scale")
        panel.slider("hires.hr_resize_x")
        panel.slider("hires.hr_resize_y")
        with gr.Accordion("Other model, sampler or prompts", open=False, elem_classes="easel-more"):
            panel.dropdown("hires.hr_checkpoint_name", choices=(SAME_CHECKPOINT,))
            panel.dropdown("hires.hr_sampler_name")
            panel.dropdown("hires.hr_scheduler")
            for path in ("hires.hr_prompt", "hires.hr_negative_prompt"):
                panel.text(path, "As in the first pass")
