"""What txt2img and img2img have in common: prompts, sampler, seeds, folds, and how a form becomes a job.

Generate only submits; the page's script follows the job by id.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from modules.frontends.api.extras import models as upscaler_models
from modules.frontends.desk import FrontDesk, desk_of
from modules.frontends.ui import control, forms, scripts, sections
from modules.schema.errors import EaselError

PROMPT_HINT = "Describe the picture"
NEGATIVE_HINT = "Negative prompt: what it should not show"
# Events that stay in the page, or are answered within milliseconds.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {**QUIET, "queue": False}


@dataclass
class Panel:
    """The components of one tab while it is built. `fields` by path, as in `forms.FORMS[tab]`; `looks`: what
    ui-config.json says of them."""

    tab: str
    looks: forms.Looks = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    examples: Any = None
    followed: Any = None
    """Hidden: name of the checkpoint whose defaults were filled in last."""
    buttons: dict[str, Any] = field(default_factory=dict)

    def ordered(self) -> list[Any]:
        return [self.fields[path] for path in forms.FORMS[self.tab]]

    def look(self, path: str) -> forms.Look:
        return self.looks.get(path, forms.NOTHING)

    def slider(self, path: str) -> None:
        self.fields[path] = forms.slider(path, self.tab, self.look(path))

    def dropdown(self, path: str, **more: Any) -> None:
        self.fields[path] = forms.dropdown(path, self.tab, look=self.look(path), **more)

    def radio(self, path: str) -> None:
        self.fields[path] = forms.radio(path, self.tab, self.look(path))

    def checkbox(self, path: str) -> None:
        self.fields[path] = forms.checkbox(path, self.tab, look=self.look(path))

    def text(self, path: str, placeholder: str) -> None:
        """A prompt of a part of the form."""
        self.fields[path] = gr.Textbox(
            value=forms.default_of(path), label=forms.label_of(path), lines=2, max_lines=12, placeholder=placeholder,
            elem_id=forms.element(self.tab, path), elem_classes="prompt", visible=forms.shown(self.look(path)),
        )  # fmt: skip

    def button(self, name: str, text: str, id: str, **more: Any) -> None:
        self.buttons[name] = gr.Button(text, elem_id=id, **{"min_width": 60, **more})

    def icon(self, name: str, text: str, id: str) -> None:
        self.button(name, text, id, elem_classes="easel-icon", min_width=36)

    # ---- parts of the form, from top to bottom ----

    def toprow(self, examples: bool = False) -> None:
        """Prompts, styles, Generate."""
        tab = self.tab
        with gr.Column(elem_id=f"{tab}_toprow", elem_classes="easel-toprow"):
            self._prompt("prompt", 3, PROMPT_HINT, f"{tab}_token_counter")
            if examples:
                self.examples = plain("", f"{tab}_examples")
            self._prompt("negative_prompt", 2, NEGATIVE_HINT, f"{tab}_negative_token_counter")
            with gr.Row(elem_id=f"{tab}_styles_row", elem_classes="easel-styles"):
                self.dropdown("styles", choices=(), multiselect=True, show_label=False)
                with gr.Row(elem_id=f"{tab}_tools", elem_classes="easel-tool-row"):
                    self.icon("networks", "🎴", f"{tab}_extra_networks")
                    self.icon("presets", "🗂️", f"{tab}_presets")
                    self.icon("paste", "↙️", "paste" if tab == "txt2img" else f"{tab}_paste")
                    self.icon("apply", "📋", f"{tab}_style_apply")
                    self.icon("edit", "🖌️", f"{tab}_styles_edit_button")
                    if tab == "img2img":
                        self.icon("interrogate", "📎", "interrogate")
                        self.icon("deepbooru", "📦", "deepbooru")
                    self.icon("clear", "🗑️", f"{tab}_clear_prompt")
            # "hidden" keeps them in the page for the script; False would leave them out.
            self.button("reload", "", f"{tab}_styles_reload", visible="hidden")
            with gr.Row(elem_id=f"{tab}_generate_box", elem_classes="easel-generate-box"):
                self.button("generate", "Generate", f"{tab}_generate", variant="primary", min_width=120)
                self.button("skip", "Skip", f"{tab}_skip", elem_classes="easel-while-running")
                self.button("interrupt", "Interrupt", f"{tab}_interrupt", elem_classes="easel-while-running")
            plain("", f"{tab}_queue")
            plain("", f"{tab}_memory")

    def _prompt(self, path: str, lines: int, placeholder: str, counter: str) -> None:
        """A prompt box with its token counter and the place for what is odd about it; the page's script fills both."""
        with gr.Column(elem_classes="easel-prompt", min_width=0):
            self.fields[path] = forms.prompt_box(path, self.tab, lines, placeholder, self.look(path))
            plain("", counter, elem_classes="token-counter")
            plain("", f"{counter}_notes", elem_classes="easel-notes")

    def sampling(self) -> None:
        with gr.Row(elem_id=f"sampler_selection_{self.tab}", elem_classes="easel-pair"):
            self.dropdown("sampler")
            self.dropdown("scheduler")
        self.slider("steps")

    def size(self) -> None:
        with gr.Row(elem_id=f"{self.tab}_dimensions_row", elem_classes="easel-dimensions"):
            with gr.Column(elem_id=f"{self.tab}_column_size", min_width=120):
                self.slider("width")
                self.slider("height")
            with gr.Column(elem_classes="easel-icons", min_width=34):
                self.icon("switch", "⇅", f"{self.tab}_res_switch_btn")
                if self.tab == "img2img":
                    self.icon("measure", "📐", "img2img_detect_image_size_btn")

    def guidance_and_batch(self) -> None:
        self.slider("cfg_scale")
        with gr.Row(elem_id=f"{self.tab}_column_batch", elem_classes="easel-pair"):
            self.slider("n_iter")
            self.slider("batch_size")

    def seeds(self) -> None:
        tab = self.tab
        with gr.Column(elem_classes="easel-fold easel-seeds", elem_id=f"{tab}_seeds"):
            with gr.Row(elem_id=f"{tab}_seed_row", elem_classes="easel-seed"):
                self.fields["seed"] = forms.seed_box("seed", tab, self.look("seed"))
                self.icon("draw", "🎲", f"{tab}_random_seed")
                self.icon("reuse", "♻", f"{tab}_reuse_seed")
                self.checkbox("seed_extra")
            with gr.Column(elem_classes="easel-fold-body"):
                with gr.Row(elem_classes="easel-seed"):
                    self.fields["subseed"] = forms.seed_box("subseed", tab, self.look("subseed"))
                    self.icon("draw_sub", "🎲", f"{tab}_random_subseed")
                    self.icon("reuse_sub", "♻", f"{tab}_reuse_subseed")
                self.slider("subseed_strength")
                self.slider("seed_resize_from_w")
                self.slider("seed_resize_from_h")

    @contextmanager
    def fold(self, switch: str, id: str) -> Iterator[None]:
        """A part that its switch, the first thing in it, opens. All in CSS: nothing to ask the server."""
        with gr.Column(elem_id=id, elem_classes="easel-fold easel-switched"):
            self.checkbox(switch)
            with gr.Column(elem_classes="easel-fold-body"):
                yield

    def refiner(self) -> None:
        with self.fold("refiner", f"{self.tab}_enable"):
            self.dropdown("refiner.refiner_checkpoint", choices=())
            self.slider("refiner.refiner_switch_at")

    def controlnet(self) -> None:
        self.fields["controlnet"] = control.build(self.tab)

    def more(self) -> None:
        """What few need, folded; and settings that only this form overrides."""
        with gr.Accordion("More", open=False, elem_id=f"{self.tab}_more", elem_classes="easel-more"):
            self.slider("cfg_rescale")
            self.slider("filmstrip")
            if "source.image_cfg_scale" in forms.FORMS[self.tab]:
                self.slider("source.image_cfg_scale")
            plain("", f"{self.tab}_sampler_options", elem_classes="easel-form")
        self.fields["extensions"] = sections.build(self.tab)
        self.fields["script"] = scripts.build(self.tab)
        self.dropdown(
            "override_settings", choices=(), multiselect=True, allow_custom_value=True, elem_classes="easel-overrides"
        )

    # ---- what the parts do ----

    def wire(self, service: FrontDesk, checkpoint: gr.Dropdown, pictures: gr.Textbox | None = None) -> None:
        """Connect all of it. `pictures`: hidden, what img2img draws from; the page's script uploads it first."""
        tab, fields, buttons = self.tab, self.fields, self.buttons
        submitted = gr.Textbox(elem_id=f"{tab}_submitted", visible="hidden")
        self.followed = gr.Textbox(elem_id=f"{tab}_followed", visible="hidden")
        incoming = gr.Textbox(elem_id=f"{tab}_incoming", visible="hidden")
        take = gr.Button("", elem_id=f"{tab}_take", visible="hidden")
        fill = gr.Button("", elem_id=f"{tab}_fill", visible="hidden")
        ordered = self.ordered()
        paths = list(forms.FORMS[tab])

        def submit(name: str | None, sent: str | None, request: gr.Request, *values: Any) -> str:
            mine = desk_of(service, getattr(request.state, "user", None))
            return on_generate(mine, tab, dict(zip(paths, values)), name, sent)

        # Straight to the handler (queue=False): the answer is an id, there within milliseconds. Raw values
        # (preprocess=False): what is wrong with them is said by the same sentence as in the REST API.
        script, units, own = (paths.index(path) for path in ("script", "controlnet", "extensions"))
        collect = (
            f"async (name, sent, ...values) => [name, await window.easel.collect('{tab}'),"
            f" ...await window.easel.withUnits('{tab}', window.easel.withSections('{tab}',"
            f" window.easel.withScript('{tab}', values, {script}), {own}), {units})]"
        )
        buttons["generate"].click(
            submit, [checkpoint, pictures or submitted, *ordered], submitted, preprocess=False,
            trigger_mode="multiple", js=collect, **AT_ONCE,
        ).then(
            None, submitted, None, js=f"(answer) => {{ window.easel.submitted('{tab}', answer); }}", **QUIET
        )  # fmt: skip

        def paste(text: str | None, name: str | None, request: gr.Request) -> list[Any]:
            return on_paste(desk_of(service, getattr(request.state, "user", None)), tab, text or "", name)

        buttons["paste"].click(paste, [fields["prompt"], checkpoint], ordered, preprocess=False, **AT_ONCE)
        take.click(
            paste, [incoming, checkpoint], ordered, preprocess=False,
            js="(_, name) => [window.easel.incoming(), name]", **AT_ONCE,
        )  # fmt: skip
        fill.click(
            lambda text: on_values(service, tab, text or ""), incoming, [checkpoint, *ordered], preprocess=False,
            js="() => window.easel.incoming()", **AT_ONCE,
        )  # fmt: skip
        in_browser(buttons["presets"].click, f"() => {{ window.easel.openPresets('{tab}'); }}")
        in_browser(buttons["interrupt"].click, f"() => {{ window.easel.interrupt('{tab}'); }}")
        in_browser(buttons["skip"].click, f"() => {{ window.easel.skip('{tab}'); }}")
        prompts = [fields["prompt"], fields["negative_prompt"]]
        buttons["apply"].click(
            lambda names, *texts: (
                *service.styles.apply(forms.chosen_styles(names), *(text or "" for text in texts)), [],
            ),
            [fields["styles"], *prompts], [*prompts, fields["styles"]], preprocess=False, **AT_ONCE,
        )  # fmt: skip
        buttons["reload"].click(
            lambda: gr.update(choices=forms.style_choices(service.styles.listed())), None, fields["styles"], **AT_ONCE
        )
        in_browser(buttons["edit"].click, f"() => {{ window.easel.editStyles('{tab}'); }}")
        in_browser(buttons["networks"].click, f"() => {{ window.easel.openNetworks('{tab}'); }}")
        if "interrogate" in buttons:
            in_browser(buttons["interrogate"].click, "() => { window.easel.interrogate('clip'); }")
            in_browser(buttons["deepbooru"].click, "() => { window.easel.interrogate('deepdanbooru'); }")
        in_browser(buttons["clear"].click, f"() => {{ window.easel.clearPrompts('{tab}'); }}")
        size = [fields["width"], fields["height"]]
        in_browser(buttons["switch"].click, "(width, height) => [height, width]", size, size)
        for name, path in (("", "seed"), ("_sub", "subseed")):
            in_browser(buttons[f"draw{name}"].click, "() => '-1'", None, fields[path])
            script = f"(seed) => window.easel.seedOfSelected('{tab}', '{path}', seed)"
            in_browser(buttons[f"reuse{name}"].click, script, fields[path], fields[path])
        kept = [*ordered, self.followed, checkpoint]
        names = json.dumps([*paths, "followed", "checkpoint"])
        gr.on(
            [component.change for component in kept], None, kept, None,
            js=f"(...values) => {{ window.easel?.keep('{tab}', {names}, values); }}", **QUIET,
        )  # fmt: skip


def plain(text: str, id: str, **more: Any) -> gr.HTML:
    """A place that the page's script fills."""
    return gr.HTML(text, elem_id=id, js_on_load=None, apply_default_css=False, **more)


def in_browser(listen: Any, script: str, inputs: Any = None, outputs: Any = None) -> None:
    """Wire an event that never leaves the page."""
    listen(None, inputs, outputs, js=script, **QUIET)


# ------------------------------------------------------------------------------------------------------------ handlers


def on_generate(
    service: FrontDesk, tab: str, values: dict[str, Any], checkpoint: str | None, pictures: str | None = None
) -> str:
    """Submit what the form asks for. JSON for the page's script: {"id"} or {"error": {message, field}}."""
    try:
        request = forms.request_from_form(values, checkpoint, tab, pictures, looks_of(service, tab))
        return json.dumps({"id": service.submit(request)})
    except EaselError as error:
        known = error.field in forms.FORMS[tab] and error.field not in ("script", "controlnet", "extensions")
        field = forms.element(tab, error.field) if known and error.field else None
        return json.dumps({"error": {"message": error.message, "field": field}})


def on_paste(service: FrontDesk, tab: str, text: str, checkpoint: str | None) -> list[Any]:
    """Updates of all fields from an infotext; from the newest picture's where there is no text."""
    text = text.strip() or newest_infotext(service)
    values = forms.values_from_infotext(
        text, tab, service.settings, service.checkpoints(), checkpoint, service.styles.known(), service.cards.by_hash(),
        looks_of(service, tab), service.extensions,
    )  # fmt: skip
    return updates_of(service, tab, values)


def looks_of(service: FrontDesk, tab: str) -> forms.Looks:
    """What ui-config.json says of a tab at this moment."""
    return forms.looks_of(service.ui_config.known, tab)


def hires_upscalers(service: FrontDesk) -> list[str]:
    return [*forms.CHOICES["hires.hr_upscaler"], *upscaler_models(service.library)]


def on_values(service: FrontDesk, tab: str, text: str) -> list[Any]:
    """Updates of the checkpoint and all fields from a form's values as JSON, as a preset holds them."""
    values = forms.read_draft(text, tab, looks_of(service, tab))
    chosen = forms.find_checkpoint(service.checkpoints(), values.get("checkpoint"))
    if chosen is not None and service.settings.model.sd_model_checkpoint != chosen.name:
        service.change_settings({"sd_model_checkpoint": chosen.name})
    known = {style.name for style in service.styles.listed().styles}
    if "styles" in values:
        values["styles"] = [name for name in forms.chosen_styles(values["styles"]) if name in known]
    checkpoint = gr.update(value=chosen.name) if chosen else gr.skip()
    return [checkpoint, *updates_of(service, tab, values)]


def updates_of(service: FrontDesk, tab: str, values: Mapping[str, Any]) -> list[Any]:
    """Gradio's updates of all fields of a tab; those without a value stay as they are."""
    upscaler = values.get("hires.hr_upscaler")
    if upscaler is not None and upscaler not in hires_upscalers(service):
        values = {path: value for path, value in values.items() if path != "hires.hr_upscaler"}
    updates = []
    for path in forms.FORMS[tab]:
        if path not in values:
            updates.append(gr.skip())
        elif path == "override_settings":
            updates.append(gr.update(choices=values[path], value=values[path]))
        else:
            updates.append(gr.update(value=values[path]))
    return updates


def newest_infotext(service: FrontDesk) -> str:
    """That of the picture drawn last; empty where there is none."""
    return next((view.images[-1].infotext for view in service.jobs(50) if view.images), "")


def opening(service: FrontDesk, tab: str, draft: str | None) -> tuple[str | None, list[Any]]:
    """What a tab that opens shows: the checkpoint's name, and updates of all fields."""
    views = service.checkpoints()
    setting = service.settings.model.sd_model_checkpoint
    looks = looks_of(service, tab)
    chosen, values = forms.opening_values(forms.read_draft(draft, tab, looks), views, setting, tab, looks)
    styles = service.styles.listed()
    known = {style.name for style in styles.styles}
    names = [view.name for view in views if not view.problem]
    values["styles"] = gr.update(
        choices=forms.style_choices(styles),
        value=[style for style in forms.chosen_styles(values["styles"]) if style in known],
    )
    for path in ("sampler", "hires.hr_sampler_name"):
        hidden = set(service.settings.page.hide_samplers) - {values.get(path)}
        if path in values and hidden:
            shown = [name for name in forms.CHOICES[path] if name not in hidden]
            values[path] = gr.update(choices=shown, value=values[path])
    entries = list(values["override_settings"])
    values["override_settings"] = gr.update(choices=entries, value=entries)
    if (upscaler := values.get("hires.hr_upscaler")) is not None:
        listed = hires_upscalers(service)
        chosen_one = upscaler if upscaler in listed else forms.default_of("hires.hr_upscaler")
        values["hires.hr_upscaler"] = gr.update(choices=listed, value=chosen_one)
    for path, first in (("refiner.refiner_checkpoint", []), ("hires.hr_checkpoint_name", [forms.SAME_CHECKPOINT])):
        if path in values:
            value = values[path] if values[path] in names else forms.default_of(path)
            values[path] = gr.update(choices=[*first, *names], value=value)
    return chosen.name if chosen else None, [values[path] for path in forms.FORMS[tab]]


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
    return (*(new[name] for name in forms.FOLLOWING), chosen or "")
