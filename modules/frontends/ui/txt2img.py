"""The txt2img tab. Generate only submits; the page's script follows the job by id."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gradio as gr

from modules.frontends.desk import FrontDesk, desk_of
from modules.frontends.ui import forms
from modules.frontends.ui.examples import examples_html
from modules.frontends.ui.forms import FIELDS
from modules.frontends.ui.progress import results_panel
from modules.schema.errors import EaselError

TAB = "txt2img"
PROMPT_HINT = "Describe the picture"
NEGATIVE_HINT = "Negative prompt: what it should not show"


@dataclass(frozen=True)
class Txt2Img:
    """The components other parts of the page need. `fields` in the order of `forms.FIELDS`."""

    fields: dict[str, Any]
    examples: gr.HTML
    followed: gr.Textbox
    """Hidden: name of the checkpoint whose defaults were filled in last."""


def on_generate(service: FrontDesk, values: dict[str, Any], checkpoint: str | None) -> str:
    """Submit what the form asks for. JSON for the page's script: {"id"} or {"error": {message, field}}."""
    try:
        return json.dumps({"id": service.submit(forms.request_from_form(values, checkpoint))})
    except EaselError as error:
        return json.dumps({"error": {"message": error.message, "field": _element(error.field)}})


def _element(field: str | None) -> str | None:
    return f"{TAB}_{FIELDS[field]}" if field in FIELDS else None


def build(service: FrontDesk, checkpoint: gr.Dropdown) -> Txt2Img:
    """Place the tab's components (inside an open gr.Tab) and wire what stays in the browser."""
    fields: dict[str, Any] = {}
    with gr.Row(elem_id=f"{TAB}_workspace", elem_classes="easel-workspace"):
        with gr.Column(elem_id=f"{TAB}_toprow", elem_classes="easel-toprow"):
            fields["prompt"] = counted_prompt("prompt", 3, PROMPT_HINT, f"{TAB}_token_counter")
            examples = gr.HTML("", elem_id=f"{TAB}_examples", js_on_load=None, apply_default_css=False)
            negative_counter = f"{TAB}_negative_token_counter"
            fields["negative_prompt"] = counted_prompt("negative_prompt", 2, NEGATIVE_HINT, negative_counter)
            with gr.Row(elem_id=f"{TAB}_styles_row", elem_classes="easel-styles"):
                fields["styles"] = gr.Dropdown(
                    choices=[],
                    multiselect=True,
                    label=forms.known("styles").label,
                    show_label=False,
                    elem_id=f"{TAB}_{FIELDS['styles']}",
                    min_width=120,
                )
                with gr.Row(elem_id=f"{TAB}_tools", elem_classes="easel-tool-row"):
                    apply = gr.Button("📋", elem_id=f"{TAB}_style_apply", elem_classes="easel-icon", min_width=36)
                    edit = gr.Button("🖌️", elem_id=f"{TAB}_styles_edit_button", elem_classes="easel-icon", min_width=36)
                    clear = gr.Button("🗑️", elem_id=f"{TAB}_clear_prompt", elem_classes="easel-icon", min_width=36)
            reload = gr.Button("", elem_id=f"{TAB}_styles_reload", visible="hidden")
            with gr.Row(elem_id=f"{TAB}_generate_box", elem_classes="easel-generate-box"):
                generate = gr.Button("Generate", variant="primary", elem_id=f"{TAB}_generate", min_width=120)
                skip = gr.Button("Skip", elem_id=f"{TAB}_skip", elem_classes="easel-while-running", min_width=60)
                interrupt = gr.Button(
                    "Interrupt", elem_id=f"{TAB}_interrupt", elem_classes="easel-while-running", min_width=60
                )
            gr.HTML("", elem_id=f"{TAB}_queue", js_on_load=None, apply_default_css=False)
        with gr.Column(elem_id=f"{TAB}_settings", elem_classes="easel-settings"):
            with gr.Row(elem_id=f"sampler_selection_{TAB}", elem_classes="easel-pair"):
                fields["sampler"] = forms.dropdown("sampler", TAB)
                fields["scheduler"] = forms.dropdown("scheduler", TAB)
            fields["steps"] = forms.slider("steps", TAB)
            with gr.Row(elem_id=f"{TAB}_dimensions_row", elem_classes="easel-dimensions"):
                with gr.Column(elem_id=f"{TAB}_column_size", min_width=120):
                    fields["width"] = forms.slider("width", TAB)
                    fields["height"] = forms.slider("height", TAB)
                switch = gr.Button("⇅", elem_id=f"{TAB}_res_switch_btn", elem_classes="easel-icon", min_width=36)
            fields["cfg_scale"] = forms.slider("cfg_scale", TAB)
            with gr.Row(elem_id=f"{TAB}_column_batch", elem_classes="easel-pair"):
                fields["n_iter"] = forms.slider("n_iter", TAB)
                fields["batch_size"] = forms.slider("batch_size", TAB)
            with gr.Row(elem_id=f"{TAB}_seed_row", elem_classes="easel-seed"):
                fields["seed"] = gr.Textbox(
                    value=str(forms.known("seed").default),
                    label=forms.known("seed").label,
                    lines=1,
                    max_lines=1,
                    elem_id=f"{TAB}_{FIELDS['seed']}",
                    html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
                    min_width=120,
                )
                draw = gr.Button("🎲", elem_id=f"{TAB}_random_seed", elem_classes="easel-icon", min_width=36)
                reuse = gr.Button("♻", elem_id=f"{TAB}_reuse_seed", elem_classes="easel-icon", min_width=36)
            fields["filmstrip"] = forms.slider("filmstrip", TAB)
        results_panel(TAB)
        # "hidden" keeps them in the page for the script; False would leave them out.
        submitted = gr.Textbox(elem_id=f"{TAB}_submitted", visible="hidden")
        followed = gr.Textbox(elem_id=f"{TAB}_followed", visible="hidden")

    fields = {name: fields[name] for name in FIELDS}
    inputs = [checkpoint, *fields.values()]

    def submit(checkpoint_name: str | None, request: gr.Request, *values: Any) -> str:
        mine = desk_of(service, getattr(request.state, "user", None))
        return on_generate(mine, dict(zip(FIELDS, values)), checkpoint_name)

    # Straight to the handler (queue=False): the answer is an id, there within milliseconds. Raw values
    # (preprocess=False): what is wrong with them is said by the same sentence as in the REST API.
    generate.click(
        submit, inputs, submitted, queue=False, preprocess=False, trigger_mode="multiple", show_progress="hidden",
        api_visibility="private",
    ).then(None, submitted, None, js="(answer) => { window.easel.submitted(answer); }")  # fmt: skip
    in_browser(interrupt.click, "() => { window.easel.interrupt(); }")
    in_browser(skip.click, "() => { window.easel.skip(); }")
    prompts = [fields["prompt"], fields["negative_prompt"]]
    apply.click(
        lambda names, *texts: (*service.styles.apply(forms.chosen_styles(names), *(text or "" for text in texts)), []),
        [fields["styles"], *prompts], [*prompts, fields["styles"]],
        queue=False, preprocess=False, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    reload.click(
        lambda: gr.update(choices=forms.style_choices(service.styles.listed())), None, fields["styles"],
        queue=False, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    in_browser(edit.click, "() => { window.easel.editStyles(); }")
    in_browser(clear.click, "() => { window.easel.clearPrompts(); }")
    size = [fields["width"], fields["height"]]
    in_browser(switch.click, "(width, height) => [height, width]", size, size)
    in_browser(draw.click, "() => '-1'", None, fields["seed"])
    in_browser(reuse.click, "(seed) => window.easel.seedOfSelected(seed)", fields["seed"], fields["seed"])
    keep = "(...values) => { window.easel?.keep(values); }"
    for component in (*fields.values(), followed, checkpoint):
        in_browser(component.change, keep, [*fields.values(), followed, checkpoint])
    return Txt2Img(fields, examples, followed)


def counted_prompt(name: str, lines: int, placeholder: str, counter: str) -> gr.Textbox:
    """A prompt box with its token counter and the place for what is odd about it; the page's script fills both."""
    with gr.Column(elem_classes="easel-prompt", min_width=0):
        box = forms.prompt_box(name, TAB, lines, placeholder)
        gr.HTML("", elem_id=counter, elem_classes="token-counter", js_on_load=None, apply_default_css=False)
        gr.HTML("", elem_id=f"{counter}_notes", elem_classes="easel-notes", js_on_load=None, apply_default_css=False)
    return box


def in_browser(listen: Any, script: str, inputs: Any = None, outputs: Any = None) -> None:
    """Wire an event that never leaves the page."""
    listen(None, inputs, outputs, js=script, show_progress="hidden", api_visibility="private")


def opening(service: FrontDesk, draft: str | None) -> tuple[Any, ...]:
    """What a page that opens shows: checkpoint list, values of all fields, examples, followed checkpoint."""
    views = service.checkpoints()
    chosen, values = forms.opening_values(forms.read_draft(draft), views, service.settings.model.sd_model_checkpoint)
    name = chosen.name if chosen else None
    listed = gr.update(choices=forms.checkpoint_choices(views), value=name)
    styles = service.styles.listed()
    known = {style.name for style in styles.styles}
    values["styles"] = gr.update(
        choices=forms.style_choices(styles),
        value=[style for style in forms.chosen_styles(values["styles"]) if style in known],
    )
    return (listed, *values.values(), examples_html(name), name or "")


def on_checkpoint(
    service: FrontDesk, chosen: str | None, followed: str | None, values: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Another checkpoint: remember it as the setting, and let untouched fields take its defaults."""
    views = service.checkpoints()
    now = forms.find_checkpoint(views, chosen)
    if now is not None and service.settings.model.sd_model_checkpoint != now.name:
        service.change_settings({"sd_model_checkpoint": now.name})
    before = forms.find_checkpoint(views, followed)
    new = forms.follow_checkpoint(dict(zip(forms.FOLLOWING, values)), before, now)
    return (*(new[name] for name in forms.FOLLOWING), examples_html(chosen), chosen or "")
