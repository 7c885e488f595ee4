"""The page: quick settings above, tabs below."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gradio as gr

from modules.frontends.desk import FrontDesk
from modules.frontends.ui import forms, txt2img
from modules.schema.fields import facts
from modules.schema.settings import Model
from modules.schema.version import NAME, VERSION

STATIC = Path(__file__).parent / "static"


def static_files() -> dict[str, bytes]:
    """Everything under `static/`, by name."""
    return {path.name: path.read_bytes() for path in sorted(STATIC.iterdir()) if path.is_file()}


def head(files: dict[str, bytes]) -> str:
    """The page's own style and script, addressed by content so that browsers may keep them for ever."""

    def address(name: str) -> str:
        return f"easel/{name}?v={hashlib.sha256(files[name]).hexdigest()[:12]}"

    return (
        f'<link rel="stylesheet" href="{address("easel.css")}">'
        f'<link rel="icon" type="image/svg+xml" href="{address("easel.svg")}">'
        f'<script src="{address("easel.js")}" defer></script>'
        f'<script src="{address("prompts.js")}" defer></script>'
        '<meta name="color-scheme" content="light dark">'
    )


def build_blocks(service: FrontDesk) -> gr.Blocks:
    """All of the page. Cheap: lists that need the disk are filled in when a page opens."""
    with gr.Blocks(title=NAME, analytics_enabled=False, fill_width=True) as blocks:
        with gr.Row(elem_id="quicksettings"):
            gr.HTML(
                f'<h1 class="easel-brand" title="{NAME} {VERSION}">{NAME}</h1>',
                js_on_load=None,
                apply_default_css=False,
                min_width=60,
            )
            checkpoint = gr.Dropdown(
                choices=[],
                label=facts(Model, "sd_model_checkpoint").label,
                elem_id="setting_sd_model_checkpoint",
                elem_classes="easel-checkpoint",
                num_choices_shown=None,
                min_width=160,
            )
            refresh = gr.Button("🔄", elem_id="refresh_sd_model_checkpoint", elem_classes="easel-icon", min_width=36)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("txt2img", id="txt2img", elem_id="tab_txt2img"):
                tab = txt2img.build(service, checkpoint)

        draft = gr.Textbox(elem_id="txt2img_draft", visible="hidden")
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        blocks.load(
            lambda kept: txt2img.opening(service, kept),
            draft,
            [checkpoint, *tab.fields.values(), tab.examples, tab.followed],
            js="() => localStorage.getItem('easel.txt2img.draft') || '{}'",
            **quiet,
        )
        following = [tab.fields[name] for name in forms.FOLLOWING]
        checkpoint.input(
            lambda chosen, followed, *values: txt2img.on_checkpoint(service, chosen, followed, values),
            [checkpoint, tab.followed, *following],
            [*following, tab.examples, tab.followed],
            preprocess=False,
            **quiet,
        )

        def listed(chosen: str | None) -> Any:
            views = service.checkpoints(refresh=True)
            found = forms.find_checkpoint(views, chosen) or next((v for v in views if not v.problem), None)
            return gr.update(choices=forms.checkpoint_choices(views), value=found.name if found else None)

        refresh.click(listed, checkpoint, checkpoint, preprocess=False, **quiet)
    return blocks
