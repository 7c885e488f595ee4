"""What the page's script asks for besides the API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Body, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError

from modules.frontends.api.controlnet import detected
from modules.frontends.api.native import Mine
from modules.frontends.api.sdapi import NO_CLIP
from modules.frontends.desk import FrontDesk
from modules.frontends.ui import control, extensions, forms, scripts
from modules.frontends.ui.language import Languages
from modules.frontends.ui.own_forms import Part
from modules.frontends.ui.results import no_folders
from modules.frontends.ui.sections import parts
from modules.frontends.ui.settings import SECTIONS_ELSEWHERE, Section, lists, sections
from modules.imaging.metadata import open_bounded, read_infotext
from modules.sampling.table import SAMPLER_NAMES, find_sampler
from modules.schema.control import ControlUnit
from modules.schema.errors import BadRequest, EaselError
from modules.schema.memory import MemoryEstimate
from modules.schema.settings import SECTION_OF
from modules.weights.library import clip_pair_file, tagger_file

LONGEST_TOLD = 20_000  # characters of one text of a picture that are shown


class PictureTold(BaseModel):
    """What a picture says about itself: size in pixels, infotext, and its other texts by name."""

    width: int
    height: int
    infotext: str
    texts: dict[str, str]


# Options that the page's scripts act by.
PAGE_OPTIONS = (
    "extra_networks_default_multiplier", "extra_networks_add_text_separator", "extra_networks_card_order_field",
    "extra_networks_card_order", "extra_networks_card_width", "extra_networks_card_height",
    "extra_networks_card_text_scale", "extra_networks_card_show_desc",
    "keyedit_precision_attention", "keyedit_precision_extra", "keyedit_delimiters", "keyedit_delimiters_whitespace",
    "keyedit_move", "emphasis", "enable_prompt_comments", "prompt_wildcards",
    "quicksettings_list", "hidden_tabs", "send_size", "send_seed", "show_progress_in_title",
    "notification_audio", "notification_volume", "interrupt_after_current", "do_not_show_images", "gallery_height",
    "js_modal_lightbox", "js_modal_lightbox_initially_zoomed", "prevent_screen_sleep_during_generation",
    "save_selected_only", "img2img_editor_height", "img2img_sketch_default_brush_color",
    "img2img_inpaint_mask_brush_color", "img2img_inpaint_sketch_default_brush_color",
)  # fmt: skip


def make_router(flags: Mapping[str, Any], shared: bool = False) -> APIRouter:
    """`flags`: of the command line, by their names; `shared`: others than the owner reach the page."""
    router = APIRouter()
    languages = Languages.of(flags)

    def _sections(mine: FrontDesk) -> list[Section]:
        known = languages.allowed(mine.settings.extensions.disables)
        return [*sections(mine.settings, known, lists(mine), mine.freeze), *extensions.settings_of(mine)]

    @router.get("/easel/page", include_in_schema=False)
    def page(mine: Mine, accept_language: Annotated[str, Header()] = "") -> Response:
        """What the page must know before its scripts begin, as a script."""
        language = languages.allowed(mine.settings.extensions.disables).find(
            mine.settings.page.localization, accept_language
        )
        told = {
            "language": {"tag": language.tag, "rtl": language.right_to_left},
            "words": dict(language.words),
            "schedules": {name: find_sampler(name)[0].uses_schedule for name in SAMPLER_NAMES},
            "noFolders": no_folders(shared),
            "shared": shared,
            "edits": [view.name for view in mine.checkpoints() if view.concat == "edit"],
            "noWords": "" if clip_pair_file(mine.folders) else NO_CLIP,
            "tagger": tagger_file(mine.folders) is not None,
            "options": {key: mine.settings.option(key) for key in PAGE_OPTIONS},
        }
        script = f"window.easelPage = {json.dumps(told, ensure_ascii=True)};"
        return Response(script, media_type="text/javascript", headers={"Cache-Control": "no-store"})

    @router.post("/easel/read", include_in_schema=False)
    async def read(request: Request) -> PictureTold:
        """Reads a picture (the body is its file) and keeps nothing of it."""
        return await to_thread.run_sync(_told, await request.body())

    @router.get("/easel/settings", include_in_schema=False)
    def settings(mine: Mine) -> list[Section]:
        """Every option that the page shows."""
        return _sections(mine)

    @router.post("/easel/settings", include_in_schema=False)
    def change(mine: Mine, changes: Annotated[dict[str, Any], Body()]) -> list[Section]:
        """Change options by key; all of them, or none where one is refused."""
        for key in changes:
            if SECTION_OF.get(key) in SECTIONS_ELSEWHERE:
                raise BadRequest(f"{key} is not changed here.", field=key)
        mine.change_settings(extensions.with_own_settings(mine, changes))
        return _sections(mine)

    @router.get("/easel/scripts/{tab}", include_in_schema=False)
    def scripts_of_tab(tab: Literal["txt2img", "img2img"], mine: Mine) -> scripts.ScriptPage:
        """What the list of scripts of a tab shows."""
        return scripts.page(mine, tab)

    @router.get("/easel/control", include_in_schema=False)
    def units(mine: Mine) -> control.UnitsPage:
        """What the units of ControlNet show."""
        return control.page(mine)

    @router.post("/easel/control/map", include_in_schema=False)
    async def map_of(request: Request, unit: str, width: int, height: int) -> Response:
        """What a unit's preprocessor makes of a picture (the body is its file) for that size; `unit`: JSON."""
        made = await to_thread.run_sync(_map, await request.body(), unit, (width, height))
        return Response(made, media_type="image/png")

    @router.get("/easel/sections/{tab}", include_in_schema=False)
    def sections_of_tab(tab: Literal["txt2img", "img2img"], mine: Mine) -> list[Part]:
        """The sections that extensions have in a tab."""
        return parts(mine.extensions, tab)

    @router.get("/easel/extensions", include_in_schema=False)
    def all_extensions(mine: Mine) -> extensions.Listing:
        return extensions.listing(mine)

    @router.post("/easel/extensions", include_in_schema=False)
    def switch_extensions(mine: Mine, wanted: extensions.Switches) -> extensions.Listing:
        extensions.switch(mine, wanted)
        return extensions.listing(mine)

    @router.post("/easel/memory", include_in_schema=False)
    def memory(
        mine: Mine,
        tab: Annotated[str, Body()],
        form: Annotated[dict[str, Any], Body()],
        checkpoint: Annotated[str | None, Body()] = None,
    ) -> MemoryEstimate | None:
        """What the picture of a tab's form would take; null for a form that cannot be drawn."""
        if tab not in forms.FORMS:
            raise BadRequest(f"No tab is called {tab[:40]!r}.", field="tab")
        values = forms.untouched(tab) | form
        # The picture itself does not matter, and its size is the form's unless that enlarges it.
        picture = {"image": "0" * 64, "width": values["width"], "height": values["height"]}
        try:
            return mine.estimate(forms.request_from_form(values, checkpoint, tab, json.dumps(picture)))
        except EaselError:  # what is wrong with a form, Generate says; this is asked while it is filled in
            return None

    return router


def _map(data: bytes, unit: str, size: tuple[int, int]) -> bytes:
    try:
        asked = ControlUnit.model_validate_json(unit)
    except ValidationError:
        raise BadRequest("The unit of ControlNet cannot be read; set it again.", field="unit") from None
    return detected(data, asked, size)


def _told(data: bytes) -> PictureTold:
    image = open_bounded(data)
    text = read_infotext(image) or ""
    others = {str(key): value[:LONGEST_TOLD] for key, value in image.info.items() if isinstance(value, str)}
    others.pop("parameters", None)
    return PictureTold(width=image.width, height=image.height, infotext=text, texts=others)
