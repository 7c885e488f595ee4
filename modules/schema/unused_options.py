"""Options of A1111 1.10.1 that change nothing here, with their defaults there.

Clients of its API read them and send them back, so they are told, kept in config.json and never refused. One that
begins to act here moves to `schema.settings`.
"""

from __future__ import annotations

import json
from typing import Any

from modules.schema.errors import BadRequest
from modules.schema.settings import SECTION_OF

MAX_CHARACTERS = 10_000
_A1111: dict[str, Any] = {
    "save_images_replace_action": "Replace",
    "export_for_4chan": True, "img_downscale_threshold": 4.0, "target_side_length": 4000, "img_max_size_mp": 200,
    "temp_dir": "",
    "clean_temp_dir_at_start": False,
    "realesrgan_enabled_models": ["R-ESRGAN 4x+", "R-ESRGAN 4x+ Anime6B"],
    "dat_enabled_models": ["DAT x2", "DAT x3", "DAT x4"], "DAT_tile": 192, "DAT_tile_overlap": 8,
    "set_scale_by_when_changing_upscaler": False, "auto_launch_browser": "Local", "enable_console_prompts": False,
    "show_warnings": False, "show_gradio_deprecation_warnings": True, "memmon_poll_rate": 8,
    "samples_log_stdout": False, "multiple_tqdm": True, "enable_upscale_progressbar": True,
    "print_hypernet_extra": False, "list_hidden_files": True, "disable_mmap_load_safetensors": False,
    "hide_ldm_prints": True, "dump_stacks_on_signal": False, "profiling_enable": False,
    "profiling_activities": ["CPU"], "profiling_record_shapes": True, "profiling_profile_memory": True,
    "profiling_with_stack": True, "profiling_filename": "trace.json", "unload_models_when_training": False,
    "pin_memory": False, "save_optimizer_state": False, "save_training_settings_to_txt": True,
    "dataset_filename_word_regex": "", "dataset_filename_join_string": " ", "training_image_repeats_per_epoch": 1,
    "training_write_csv_every": 500, "training_xattention_optimizations": False, "training_enable_tensorboard": False,
    "training_tensorboard_save_images": False, "training_tensorboard_flush_every": 120, "sd_checkpoint_cache": 0,
    "sd_unet": "Automatic", "enable_batch_seeds": True, "sd3_enable_t5": False, "sd_vae_checkpoint_cache": 0,
    "sd_vae_encode_method": "Full", "img2img_batch_show_results_limit": 32, "persistent_cond_cache": True,
    "cache_fp16_weight": False, "auto_backcompat": True, "use_old_hires_fix_width_height": False,
    "hires_fix_use_firstpass_conds": False, "interrogate_keep_models_in_memory": False,
    "interrogate_clip_num_beams": 1, "interrogate_clip_min_length": 24,
    "interrogate_clip_max_length": 48,

    "extra_networks_show_hidden_directories": True, "extra_networks_dir_button_function": False,
    "extra_networks_hidden_models": "When searched", "extra_networks_card_description_is_html": False,
    "extra_networks_tree_view_style": "Dirs", "extra_networks_tree_view_default_enabled": True,
    "extra_networks_tree_view_default_width": 180, "ui_extra_networks_tab_reorder": "",
    "textual_inversion_print_at_load": False, "js_modal_lightbox_gamepad": False,
    "js_modal_lightbox_gamepad_repeat": 250, "sd_webui_modal_lightbox_icon_opacity": 1,
    "sd_webui_modal_lightbox_toolbar_opacity": 0.9, "open_dir_button_choice": "Subdirectory",
    "compact_prompt_box": False, "samplers_in_dropdown": True, "dimensions_and_batch_together": True,
    "hires_fix_show_sampler": False, "hires_fix_show_prompts": False, "txt2img_settings_accordion": False,
    "img2img_settings_accordion": False, "ui_reorder_list": [], "gradio_theme": "Default", "gradio_themes_cache": True,
    "enable_reloading_ui_scripts": False, "add_user_name_to_info": False, "show_progressbar": True,
    "live_previews_image_format": "png", "live_preview_allow_lowvram_full": False,
    "live_preview_fast_interrupt": False, "js_live_preview_in_modal_lightbox": False, "ddim_discretize": "uniform",
    "postprocessing_enable_in_main_ui": [], "postprocessing_disable_in_extras": [],
    "postprocessing_operation_order": [], "upscaling_max_images_in_cache": 5,
    "postprocessing_existing_caption_action": "Ignore",
    "restore_config_state_file": "", "lora_bundled_ti_to_infotext": True, "lora_show_all": False,
    "lora_hide_unknown_for_versions": [], "lora_in_memory_limit": 0, "lora_not_found_warning_console": False,
    "lora_not_found_gradio_warning": False, "lora_functional": False, "hypertile_max_depth_vae": 3,
    "hypertile_swap_size_vae": 3, "extra_options_txt2img": [], "extra_options_img2img": [], "extra_options_cols": 1,
    "extra_options_accordion": False, "canvas_hotkey_zoom": "Alt", "canvas_hotkey_adjust": "Ctrl",
    "canvas_hotkey_shrink_brush": "Q", "canvas_hotkey_grow_brush": "W", "canvas_hotkey_move": "F",
    "canvas_hotkey_fullscreen": "S", "canvas_hotkey_reset": "R", "canvas_hotkey_overlap": "O",
    "canvas_show_tooltip": True, "canvas_auto_expand": True, "canvas_blur_prompt": False,
    "canvas_disabled_functions": ["Overlap"],
}  # fmt: skip
UNUSED: dict[str, Any] = {key: value for key, value in _A1111.items() if key not in SECTION_OF}


def check_unused(key: str, value: Any) -> None:
    """BadRequest where a value is of another kind than the option's."""
    usual = UNUSED[key]
    number = isinstance(usual, int | float) and not isinstance(usual, bool)
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        text = ""
    fits = isinstance(value, int | float) and not isinstance(value, bool) if number else isinstance(value, type(usual))
    if not fits or not 0 < len(text) <= MAX_CHARACTERS:
        kind = "a number" if number else {bool: "true or false", str: "a text"}.get(type(usual), "a list")
        raise BadRequest(f"Setting {key!r} cannot be {str(value)[:60]!r}: it is {kind}.", field=key)
