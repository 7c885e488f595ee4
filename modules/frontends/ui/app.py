"""The page: quick settings above, tabs below."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from modules.frontends.desk import FrontDesk
from modules.frontends.ui import extensions, extras, forms, history, img2img, merger, png_info, queue, settings, txt2img
from modules.frontends.ui.examples import examples_html
from modules.frontends.ui.panel import AT_ONCE, on_checkpoint, opening, plain
from modules.schema.fields import facts
from modules.schema.record import CheckpointView
from modules.schema.settings import Model
from modules.schema.version import NAME, VERSION

STATIC = Path(__file__).parent / "static"
# In this order: the others use the tools of the first.
STYLES = (
    "easel.css", "editor.css", "tabs.css", "networks.css", "scripts.css", "controlnet.css", "history.css", "memory.css",
    "habits.css", "extensions.css",
)  # fmt: skip
SCRIPTS = (
    "easel.js", "language.js", "controls.js", "editor.js", "prompts.js", "pictures.js", "settings.js", "networks.js",
    "extras.js", "merger.js", "scripts.js", "controlnet.js", "queue.js", "history.js", "results.js", "presets.js",
    "notify.js", "memory.js", "habits.js", "options.js", "extensions.js",
)  # fmt: skip


# What builds each tab of `settings.TABS`.
BUILDERS: dict[str, Callable[[FrontDesk, gr.Dropdown], Any]] = {
    "txt2img": txt2img.build,
    "img2img": img2img.build,
    "extras": lambda *_: extras.build(),
    "pnginfo": lambda *_: png_info.build(),
    "history": lambda *_: history.build(),
    "queue": lambda *_: queue.build(),
    "modelmerger": lambda *_: merger.build(),
    "settings": lambda *_: settings.build(),
    "extensions": lambda *_: extensions.build(),
}


def tab_order(wanted: Sequence[str]) -> list[str]:
    """Ids of all tabs; those wanted (by id or label) come first."""
    by_name = {name.lower(): id for id, label in settings.TABS.items() for name in (id, label)}
    first = [by_name[name.lower()] for name in wanted if name.lower() in by_name]
    return list(dict.fromkeys([*first, *settings.TABS]))


def static_files() -> dict[str, bytes]:
    """Everything under `static/`, by name."""
    return {path.name: path.read_bytes() for path in sorted(STATIC.iterdir()) if path.is_file()}


def head(files: dict[str, bytes]) -> str:
    """The page's own style and script, addressed by content so that browsers may keep them for ever."""

    def address(name: str) -> str:
        return f"easel/{name}?v={hashlib.sha256(files[name]).hexdigest()[:12]}"

    return (
        "".join(f'<link rel="stylesheet" href="{address(name)}">' for name in STYLES)
        + f'<link rel="icon" type="image/svg+xml" href="{address("easel.svg")}">'
        # What the scripts and Gradio must know before they begin: language, theme, options (ui/routes.py).
        + '<script src="easel/page"></script>'
        + "".join(f'<script src="{address(name)}" defer></script>' for name in SCRIPTS)
        + '<meta name="color-scheme" content="light dark">'
    )


def build_blocks(service: FrontDesk) -> gr.Blocks:
    """All of the page. Cheap: lists that need the disk are filled in when a page opens."""
    own_tabs = extensions.own_tabs(service)
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
            plain("", "quicksettings_more")
        with gr.Tabs(elem_id="tabs"):
            built: dict[str, Any] = {}
            for id in tab_order(service.settings.page.ui_tab_order):
                for own_id, title, content in own_tabs if id == "settings" else ():
                    with gr.Tab(title, id=own_id, elem_id=f"tab_{own_id}"):
                        content.render()
                with gr.Tab(settings.TABS[id], id=id, elem_id=f"tab_{id}"):
                    built[id] = BUILDERS[id](service, checkpoint)
        panels = (first, _) = (built["txt2img"], built["img2img"])

        def choices(views: Sequence[CheckpointView]) -> list[tuple[str, str]]:
            return forms.checkpoint_choices(views, service.settings.page.sd_checkpoint_dropdown_use_short)

        def shown(*drafts: str | None) -> tuple[Any, ...]:
            """All that a page shows when it opens: lists of files, and what stood in its forms."""
            opened = [opening(service, panel.tab, draft) for panel, draft in zip(panels, drafts)]
            name = opened[0][0]
            listed = gr.update(choices=choices(service.checkpoints()), value=name)
            values = [value for _, updates in opened for value in (*updates, name or "")]
            return (listed, examples_html(name), *values)

        drafts = [gr.Textbox(elem_id=f"{panel.tab}_draft", visible="hidden") for panel in panels]
        blocks.load(
            shown,
            drafts,
            [checkpoint, first.examples, *(part for panel in panels for part in (*panel.ordered(), panel.followed))],
            js="() => ['txt2img', 'img2img'].map((tab) => localStorage.getItem(`easel.${tab}.draft`) || '{}')",
            **AT_ONCE,
        )
        following = [[panel.fields[name] for name in forms.FOLLOWING] for panel in panels]

        def chose(chosen: str | None, *values: Any) -> tuple[Any, ...]:
            """Another checkpoint was chosen: what each panel follows, and the examples."""
            each = len(values) // len(panels)
            groups = [values[k : k + each] for k in range(0, len(values), each)]
            changed = [on_checkpoint(service, chosen, followed, tuple(rest)) for followed, *rest in groups]
            return (examples_html(chosen), *(value for values in changed for value in values))

        following_parts = [part for panel, own in zip(panels, following) for part in (panel.followed, *own)]
        followed_parts = [part for panel, own in zip(panels, following) for part in (*own, panel.followed)]
        checkpoint.input(
            chose,
            [checkpoint, *following_parts],
            [first.examples, *followed_parts],
            preprocess=False,
            **AT_ONCE,
        )

        def listed(chosen: str | None) -> Any:
            views = service.checkpoints(refresh=True)
            found = forms.find_checkpoint(views, chosen) or next((v for v in views if not v.problem), None)
            return gr.update(choices=choices(views), value=found.name if found else None)

        refresh.click(listed, checkpoint, checkpoint, preprocess=False, **AT_ONCE)
        # A card of a checkpoint (static/networks.js) presses this.
        card = gr.Button("", elem_id="choose_checkpoint", visible="hidden")
        card.click(
            lambda chosen, *values: (listed(chosen), *chose(chosen, *values)),
            [checkpoint, *following_parts],
            [checkpoint, first.examples, *followed_parts],
            js="(_, ...values) => [window.easel.chosenCheckpoint, ...values]",
            preprocess=False,
            **AT_ONCE,
        )
    return blocks
