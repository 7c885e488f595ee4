"""The Settings tab: every option of `schema.settings`, by section, with its own label, range and hint.

The page's script builds it from one list (static/settings.js): eighty Gradio components would cost every start
a tenth of a second for a tab that is rarely opened.
"""

from __future__ import annotations

from pydantic import BaseModel

from modules.frontends.ui.language import AUTOMATIC, NONE, Languages
from modules.frontends.ui.own_forms import Option, option_of
from modules.frontends.ui.panel import plain
from modules.schema.fields import all_facts
from modules.schema.settings import Settings

# Not on the page: the checkpoint has its own list above, and what the API may do is for the owner of config.json.
ELSEWHERE = ("sd_model_checkpoint", "automatic_attention")
SECTIONS_ELSEWHERE = ("api",)
FRAME = '<div id="settings" class="easel-settings-page"></div>'


class Section(BaseModel):
    name: str
    about: str
    options: list[Option]


def sections(settings: Settings, languages: Languages) -> list[Section]:
    """Everything the tab shows."""
    found = []
    named = {"localization": (NONE, AUTOMATIC, *languages.names())}  # choices that files on this machine give
    for name, field in Settings.model_fields.items():
        model = field.annotation
        if name in SECTIONS_ELSEWHERE or model is None:
            continue
        options = [
            option_of(key, fact, settings.option(key), choices=named.get(key, fact.choices))
            for key, fact in all_facts(model).items()  # type: ignore[arg-type]
            if key not in ELSEWHERE
        ]
        found.append(Section(name=name, about=(model.__doc__ or "").split("\n")[0].split(" (")[0], options=options))
    return found


def build() -> None:
    """Place the tab's frame (inside an open gr.Tab)."""
    plain(FRAME, "settings_panel")
