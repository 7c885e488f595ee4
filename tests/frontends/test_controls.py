"""The page control by control against A1111's: label, element id, kind, range, step, default."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from modules.frontends.ui.app import build_blocks
from modules.schema.settings import SECTION_OF, Settings
from tests.frontends import controls
from tests.frontends.controls import Control
from tests.frontends.stand_in import StandIn

TABS = ("txt2img", "img2img")


@pytest.fixture(scope="module")
def built(desk: StandIn) -> dict[str, dict[str, Any]]:
    """Element id → what Gradio is told of it."""
    config = build_blocks(desk).get_config_file()
    found = [{"kind": part["type"], **part["props"]} for part in config["components"]]
    held = " ".join(str(part.get("value")) for part in found if part["kind"] == "html")
    return {str(part["elem_id"]): part for part in found if part.get("elem_id")} | {"page": {"kind": "", "held": held}}


def each(rows: Iterable[Any], tabs: Iterable[str] = TABS) -> list[Any]:
    """Rows of both tabs, spelt out."""

    def put(text: str, tab: str) -> str:
        return text.replace("T_", f"{tab}_", 1) if text.startswith("T_") else text.replace("_T", f"_{tab}")

    spelt = [
        row._replace(id=put(row.id, tab)) if isinstance(row, Control) else put(row, tab) for tab in tabs for row in rows
    ]
    return list(dict.fromkeys(spelt)) if spelt and isinstance(spelt[0], str) else spelt


def differences(row: Control, part: dict[str, Any]) -> list[str]:
    """What a Gradio component has otherwise than A1111's."""
    choices = [choice[0] if isinstance(choice, list | tuple) else choice for choice in part.get("choices") or ()]
    value = part.get("value")
    if row.kind == "radio":
        value = {index: name for name, index in part["choices"]}[value]
    has = {
        "kind": part["kind"], "label": part["label"], "default": value, "low": part.get("minimum"),
        "high": part.get("maximum"), "step": part.get("step"),
    }  # fmt: skip
    wanted = {key: getattr(row, key) for key in has}
    if row.kind != "slider":
        wanted |= {"low": has["low"], "high": has["high"], "step": has["step"]}
    found = [f"{row.id}: {key} is {has[key]!r}, A1111 has {wanted[key]!r}" for key in has if has[key] != wanted[key]]
    missing = [choice for choice in row.choices if choice not in choices]
    return found + ([f"{row.id}: no choice {missing}"] if missing else [])


def test_every_control_of_the_drawing_tabs_is_as_fingers_know_it(built: dict[str, dict[str, Any]]) -> None:
    rows = [*each(controls.BOTH), *controls.TXT2IMG, *controls.IMG2IMG]
    found = [
        line
        for row in rows
        for line in (differences(row, built[row.id]) if row.id in built else [f"{row.id} is missing"])
    ]
    assert found == []


def test_buttons_and_tabs_have_their_ids(built: dict[str, dict[str, Any]]) -> None:
    held = built["page"]["held"]
    assert [id for id in each(controls.BUTTONS) if built.get(id, {}).get("kind") != "button"] == []
    assert [id for id in each(controls.IN_PAGE) if f'id="{id}"' not in held and id not in built] == []
    tabs = [id.removeprefix("tab_") for id, part in built.items() if part["kind"] == "tabitem"]
    assert [tab for tab in tabs if tab in controls.TABS] == list(controls.TABS)


@pytest.mark.parametrize(("address", "rows"), [("extras", controls.EXTRAS), ("merger", controls.MERGER)])
def test_forms_that_the_page_builds_itself_are_alike(
    client: TestClient, address: str, rows: tuple[Control, ...]
) -> None:
    page = client.get(f"/easel/{address}").json()
    options = {id_of(page, option["key"], address): option for part in page["parts"] for option in part["options"]}
    needs_files = {"extras_gfpgan_visibility", "extras_codeformer_visibility", "extras_codeformer_weight"}
    found = []
    for row in rows:
        if row.id not in options:
            found += [] if row.id in needs_files else [f"{row.id} is missing"]
            continue
        option = options[row.id]
        has = {"label": option["label"], "default": option["default"], "low": option["ge"], "high": option["le"],
               "step": option["step"]}  # fmt: skip
        for key in has if row.kind == "slider" else ("label", "default"):
            if has[key] != getattr(row, key):
                found.append(f"{row.id}: {key} is {has[key]!r}, A1111 has {getattr(row, key)!r}")
        found += [f"{row.id}: no {choice!r}" for choice in row.choices if choice not in option["choices"]]
    assert found == []


def id_of(page: dict[str, Any], key: str, address: str) -> str:
    prefix = {"extras": "extras_", "merger": "modelmerger_"}[address]
    name = page.get("ids", {}).get(key, key).replace(".", "_")
    return name if name.startswith(prefix) else prefix + name


def test_scripts_begin_as_they_do_there(client: TestClient) -> None:
    pages = [client.get(f"/easel/scripts/{tab}").json() for tab in TABS]
    scripts = {script["title"]: script for page in pages for script in page["scripts"]}
    assert [title for title in controls.SCRIPTS if title not in scripts] == []
    found = []
    for title, arguments in controls.SCRIPTS.items():
        fields = {field["name"]: field["value"] for field in scripts[title]["fields"]}
        found += [f"{title}: {name}" for name, value in arguments.items() if fields.get(name) != value]
    assert found == []
    axes = {axis["label"] for page in pages for axis in page["axes"]}
    assert [axis for axis in controls.AXES if axis not in axes] == []


# ---- settings ----

GOLDEN = Path(__file__).parent.parent / "reference" / "golden_subset" / "engine_lists.json"
# Options that begin otherwise than A1111's, each for a reason.
OTHERWISE = {
    "return_grid": "A grid by itself is no picture that anybody asked for; one button makes it.",
    "disable_weights_auto_swap": "A picture's settings come back whole; the entry says so and can be taken out.",
    "infotext_styles": "A style that stays chosen would be put on a prompt that has it already.",
    "show_progress_every_n_steps": "A preview here costs little, and each says how often it may come.",
    "live_preview_refresh_period": "As above.",
    "api_enable_requests": "Nothing is fetched from elsewhere before the owner allows it.",
}
# Options of A1111 that change nothing here: what would they be for?
NOT_HERE = {
    "of another engine": (
        "auto_backcompat", "use_old_hires_fix_width_height", "hires_fix_use_firstpass_conds", "lora_functional",
        "persistent_cond_cache", "cache_fp16_weight", "ddim_discretize", "sd_checkpoint_cache", "sd_unet",
        "enable_batch_seeds", "sd3_enable_t5", "sd_vae_checkpoint_cache", "lora_in_memory_limit",
        "disable_mmap_load_safetensors", "live_preview_allow_lowvram_full", "live_preview_fast_interrupt",
        "live_previews_image_format", "lora_bundled_ti_to_infotext", "hypertile_", "ldsr_", "SCUNET_", "SWIN_", "DAT_",
        "dat_enabled_models", "realesrgan_enabled_models", "upscaling_max_images_in_cache",
    ),
    "of another page: its controls are always there, or fold by themselves": (
        "samplers_in_dropdown", "dimensions_and_batch_together", "hires_fix_show_sampler", "hires_fix_show_prompts",
        "compact_prompt_box", "txt2img_settings_accordion", "img2img_settings_accordion", "ui_reorder_list",
        "gradio_theme", "gradio_themes_cache", "enable_reloading_ui_scripts", "show_progressbar",
        "js_live_preview_in_modal_lightbox", "js_modal_lightbox_gamepad", "sd_webui_modal_lightbox_",
        "open_dir_button_choice", "img2img_batch_show_results_limit", "set_scale_by_when_changing_upscaler",
        "extra_options_", "canvas_", "extra_networks_show_hidden", "extra_networks_dir_button",
        "extra_networks_hidden_", "extra_networks_card_description_is_html", "extra_networks_tree_view_",
        "ui_extra_networks_tab_reorder", "lora_show_all", "lora_hide_unknown_for_versions", "lora_not_found_",
        "postprocessing_",
    ),
    "of files that are written otherwise: never replaced, sources kept, one rule for grids": (
        "save_images_replace_action", "temp_dir", "clean_temp_dir_at_start",
        "export_for_4chan", "img_downscale_threshold", "target_side_length", "img_max_size_mp", "add_user_name_to_info",
    ),
    "of what is not built": (
        "sd_vae_encode_method",
        "interrogate_keep_models_in_memory", "interrogate_clip_num_beams", "interrogate_clip_min_length",
        "interrogate_clip_max_length",
    ),
    "of the program's own console, files and training": (
        "auto_launch_browser", "enable_console_prompts", "show_warnings", "show_gradio_", "memmon_poll_rate",
        "samples_log_stdout", "multiple_tqdm", "enable_upscale_progressbar", "print_hypernet_extra",
        "list_hidden_files", "hide_ldm_prints", "dump_stacks_on_signal", "profiling_", "textual_inversion_print",
        "unload_models_when_training", "pin_memory", "save_optimizer_state", "save_training_settings_to_txt",
        "dataset_", "training_", "restore_config_state_file",
        "sd_checkpoint_hash", "prioritized_callbacks_",
    ),
}  # fmt: skip


def test_settings_begin_as_they_do_there_and_what_is_left_out_is_known() -> None:
    theirs = json.loads(GOLDEN.read_text("utf-8"))["settings_defaults"]
    ours = {key: Settings().option(key) for key in SECTION_OF}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in ours.items()}
    assert {key for key in theirs if key in plain and plain[key] != theirs[key]} == set(OTHERWISE)
    known = tuple(start for starts in NOT_HERE.values() for start in starts)
    assert [key for key in theirs if key not in ours and not key.startswith(known)] == []
    # And what is here by now is no longer listed as left out.
    stale = [start for start in known if not any(key.startswith(start) and key not in ours for key in theirs)]
    assert stale == []
