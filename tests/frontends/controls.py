"""A1111's controls as people's fingers, userscripts and ui-config.json know them: one row each.

Source: AUTOMATIC1111/stable-diffusion-webui 1.10.1, its page and `shared_options.py`. T_ stands for `txt2img_` and
`img2img_`. Where Easel differs on purpose, the table of that test says so with the reason.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Control(NamedTuple):
    """`low`, `high`, `step` of sliders; `default` None: it begins empty. `many` of a list: its first choices."""

    id: str
    kind: str
    label: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()


def _slider(id: str, label: str, low: float, high: float, step: float, default: float) -> Control:
    return Control(id, "slider", label, default, low, high, step)


def _list(id: str, label: str, default: Any, *choices: str) -> Control:
    return Control(id, "dropdown", label, default, choices=choices)


def _radio(id: str, label: str, default: str, *choices: str) -> Control:
    return Control(id, "radio", label, default, choices=choices)


def _check(id: str, label: str, default: bool = False) -> Control:
    return Control(id, "checkbox", label, default)


SAMPLERS = (
    "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler",
    "LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++", "PLMS", "UniPC",
    "LCM",
)  # fmt: skip
SCHEDULES = (
    "Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal",
    "Align Your Steps", "Simple", "Normal", "DDIM", "Beta",
)  # fmt: skip
LATENT_MODES = (
    "Latent", "Latent (antialiased)", "Latent (bicubic)", "Latent (bicubic antialiased)", "Latent (nearest)",
    "Latent (nearest-exact)",
)  # fmt: skip
BOTH = (
    Control("T_prompt", "textbox", "Prompt", ""),
    Control("T_neg_prompt", "textbox", "Negative prompt", ""),
    _list("T_styles", "Styles", []),
    _list("T_sampling", "Sampling method", "DPM++ 2M", *SAMPLERS),
    _list("T_scheduler", "Schedule type", "Automatic", *SCHEDULES),
    _slider("T_steps", "Sampling steps", 1, 150, 1, 20),
    _slider("T_width", "Width", 64, 2048, 8, 512),
    _slider("T_height", "Height", 64, 2048, 8, 512),
    _slider("T_batch_count", "Batch count", 1, 100, 1, 1),
    _slider("T_batch_size", "Batch size", 1, 8, 1, 1),
    _slider("T_cfg_scale", "CFG Scale", 1, 30, 0.5, 7),
    Control("T_seed", "textbox", "Seed", "-1"),
    _check("T_subseed_show", "Extra"),
    Control("T_subseed", "textbox", "Variation seed", "-1"),
    _slider("T_subseed_strength", "Variation strength", 0, 1, 0.01, 0),
    _slider("T_seed_resize_from_w", "Resize seed from width", 0, 2048, 8, 0),
    _slider("T_seed_resize_from_h", "Resize seed from height", 0, 2048, 8, 0),
    _check("T_enable-checkbox", "Refiner"),
    _list("T_checkpoint", "Checkpoint", None),
    _slider("T_switch_at", "Switch at", 0.01, 1, 0.01, 0.8),
    _list("T_override_settings", "Override settings", []),
)
TXT2IMG = (
    _check("txt2img_hr-checkbox", "Hires. fix"),
    _list("txt2img_hr_upscaler", "Upscaler", "Latent", *LATENT_MODES),
    _slider("txt2img_hires_steps", "Hires steps", 0, 150, 1, 0),
    _slider("txt2img_denoising_strength", "Denoising strength", 0, 1, 0.01, 0.7),
    _slider("txt2img_hr_scale", "Upscale by", 1, 4, 0.05, 2),
    _slider("txt2img_hr_resize_x", "Resize width to", 0, 2048, 8, 0),
    _slider("txt2img_hr_resize_y", "Resize height to", 0, 2048, 8, 0),
    _list("hr_checkpoint", "Checkpoint", "Use same checkpoint", "Use same checkpoint"),
    _list("hr_sampler", "Hires sampling method", "Use same sampler", "Use same sampler", *SAMPLERS),
    _list("hr_scheduler", "Hires schedule type", "Use same scheduler", "Use same scheduler", *SCHEDULES),
    Control("hires_prompt", "textbox", "Hires prompt", ""),
    Control("hires_neg_prompt", "textbox", "Hires negative prompt", ""),
)
IMG2IMG = (
    _radio("resize_mode", "Resize mode", "Just resize", "Just resize", "Crop and resize", "Resize and fill",
           "Just resize (latent upscale)"),
    _slider("img2img_mask_blur", "Mask blur", 0, 64, 1, 4),
    _slider("img2img_mask_alpha", "Mask transparency", 0, 100, 1, 0),
    _radio("img2img_mask_mode", "Mask mode", "Inpaint masked", "Inpaint masked", "Inpaint not masked"),
    _radio("img2img_inpainting_fill", "Masked content", "original", "fill", "original", "latent noise",
           "latent nothing"),
    _radio("img2img_inpaint_full_res", "Inpaint area", "Whole picture", "Whole picture", "Only masked"),
    _slider("img2img_inpaint_full_res_padding", "Only masked padding, pixels", 0, 256, 4, 32),
    _slider("img2img_scale", "Scale", 0.05, 4, 0.05, 1),
    _slider("img2img_denoising_strength", "Denoising strength", 0, 1, 0.01, 0.75),
    _slider("img2img_image_cfg_scale", "Image CFG Scale", 0, 3, 0.05, 1.5),
    _check("soft_inpainting_enabled", "Soft inpainting"),
    _slider("soft_inpainting_schedule_bias", "Schedule bias", 0, 8, 0.1, 1),
    _slider("soft_inpainting_preservation_strength", "Preservation strength", 0, 8, 0.05, 0.5),
    _slider("soft_inpainting_transition_contrast_boost", "Transition contrast boost", 1, 32, 0.5, 4),
    _slider("soft_inpainting_mask_influence", "Mask influence", 0, 1, 0.05, 0),
    _slider("soft_inpainting_difference_threshold", "Difference threshold", 0, 8, 0.25, 0.5),
    _slider("soft_inpainting_difference_contrast", "Difference contrast", 0, 8, 0.25, 2),
)  # fmt: skip
TABS = ("txt2img", "img2img", "extras", "pnginfo", "modelmerger", "settings")
"""In this order."""
BUTTONS = (
    "T_generate", "T_interrupt", "T_skip", "T_clear_prompt", "T_style_apply", "T_styles_edit_button",
    "T_res_switch_btn", "T_random_seed", "T_reuse_seed", "T_random_subseed", "T_reuse_subseed", "paste",
    "interrogate", "deepbooru", "img2img_detect_image_size_btn", "refresh_sd_model_checkpoint",
)  # fmt: skip
IN_PAGE = (
    "T_gallery", "image_buttons_T", "save_T", "save_zip_T", "T_open_folder", "T_send_to_img2img",
    "T_send_to_inpaint", "T_send_to_extras", "txt2img_upscale",
)  # fmt: skip
"""Parts of the results panel, which HTML holds."""

EXTRAS = (
    _list("extras_upscaler_1", "Upscaler 1", "None"),
    _list("extras_upscaler_2", "Upscaler 2", "None"),
    _slider("extras_upscaler_2_visibility", "Upscaler 2 visibility", 0, 1, 0.001, 0),
    _slider("extras_upscaling_resize", "Resize", 1, 8, 0.05, 4),
    _slider("extras_upscaling_resize_w", "Width", 64, 8192, 8, 512),
    _slider("extras_upscaling_resize_h", "Height", 64, 8192, 8, 512),
    _check("extras_upscaling_crop", "Crop to fit", True),
    _slider("extras_max_side_length", "Max side length", 0, 8192, 8, 0),
    _slider("extras_gfpgan_visibility", "GFPGAN visibility", 0, 1, 0.001, 0),
    _slider("extras_codeformer_visibility", "CodeFormer visibility", 0, 1, 0.001, 0),
    _slider("extras_codeformer_weight", "CodeFormer weight", 0, 1, 0.001, 0),
    _slider("extras_split_oversized_split_threshold", "Threshold", 0, 1, 0.05, 0.5),
    _slider("extras_split_oversized_overlap_ratio", "Overlap ratio", 0, 0.9, 0.05, 0.2),
    _slider("extras_focal_crop_face_weight", "Focal point face weight", 0, 1, 0.05, 0.9),
    _slider("extras_focal_crop_entropy_weight", "Focal point entropy weight", 0, 1, 0.05, 0.15),
    _slider("extras_focal_crop_edges_weight", "Focal point edges weight", 0, 1, 0.05, 0.5),
    _check("extras_focal_crop_debug", "Create debug image"),
    _slider("extras_auto_crop_mindim", "Dimension lower bound", 64, 2048, 8, 384),
    _slider("extras_auto_crop_maxdim", "Dimension upper bound", 64, 2048, 8, 768),
    _slider("extras_auto_crop_minarea", "Area lower bound", 4096, 4194304, 1, 4096),
    _slider("extras_auto_crop_maxarea", "Area upper bound", 4096, 4194304, 1, 409600),
    _list("extras_auto_crop_objective", "Resizing objective", "Maximize area", "Maximize area", "Minimize error"),
    _slider("extras_auto_crop_threshold", "Error threshold", 0, 1, 0.01, 0.1),
)
MERGER = (
    _list("modelmerger_primary_model_name", "Primary model (A)", ""),
    _list("modelmerger_secondary_model_name", "Secondary model (B)", None),
    _list("modelmerger_tertiary_model_name", "Tertiary model (C)", None),
    Control("modelmerger_custom_name", "textbox", "Custom Name", ""),
    _list("modelmerger_interp_method", "Interpolation Method", "Weighted sum", "Weighted sum", "Add difference",
          "No interpolation"),
    _slider("modelmerger_interp_amount", "Multiplier (M)", 0, 1, 0.05, 0.3),
    _check("modelmerger_save_as_half", "Save as float16"),
    _list("modelmerger_config_method", "Copy config from", 0),
    _list("modelmerger_bake_in_vae", "Bake in VAE", "None"),
    Control("modelmerger_discard_weights", "textbox", "Discard weights with matching name", ""),
    _check("modelmerger_save_metadata", "Save metadata", True),
    _check("modelmerger_add_merge_recipe", "Add merge recipe metadata", True),
    _check("modelmerger_copy_metadata_fields", "Copy metadata from merged models", True),
)  # fmt: skip

SCRIPTS = {
    "Prompt matrix": {
        "put_at_start": False, "different_seeds": False, "prompt_type": "positive", "variations_delimiter": "comma",
        "margin_size": 0,
    },
    "Prompts from file or textbox": {
        "checkbox_iterate": False, "checkbox_iterate_batch": False, "prompt_position": "start", "prompt_txt": "",
    },
    "X/Y/Z plot": {
        "draw_legend": True, "include_lone_images": False, "include_sub_grids": False, "no_fixed_seeds": False,
        "vary_seeds_x": False, "vary_seeds_y": False, "vary_seeds_z": False, "margin_size": 0, "csv_mode": False,
    },
    "SD upscale": {"overlap": 64, "scale_factor": 2.0},
    "Loopback": {"loops": 4, "final_denoising_strength": 0.5, "denoising_curve": "Linear"},
    "Outpainting mk2": {"pixels": 128, "mask_blur": 8, "noise_q": 1.0, "color_variation": 0.05},
    "Poor man's outpainting": {"pixels": 128, "mask_blur": 4, "inpainting_fill": 0},
    "img2img alternative test": {"override_sampler": True, "st": 50, "cfg": 1.0, "randomness": 0.0},
}  # fmt: skip
"""Title → arguments and what they begin with."""
AXES = (
    "Nothing", "Seed", "Var. seed", "Var. strength", "Steps", "Hires steps", "CFG Scale", "Image CFG Scale",
    "Prompt S/R", "Prompt order", "Sampler", "Hires sampler", "Checkpoint name", "Negative Guidance minimum sigma",
    "Sigma Churn", "Sigma min", "Sigma max", "Sigma noise", "Schedule type", "Schedule min sigma",
    "Schedule max sigma", "Schedule rho", "Beta schedule alpha", "Beta schedule beta", "Eta", "Clip skip",
    "Denoising", "Initial noise multiplier", "Extra noise", "Hires upscaler", "Cond. Image Mask Weight", "VAE",
    "Styles", "UniPC Order", "Face restore", "Token merging ratio", "Token merging ratio high-res",
    "Always discard next-to-last sigma", "SGM noise multiplier", "Refiner checkpoint", "Refiner switch at",
    "RNG source", "FP8 mode", "Size",
)  # fmt: skip
