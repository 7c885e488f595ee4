"""Settings: one frozen object with sections; a job keeps the copy it was submitted with.

Each field is named by A1111's option key, so its config.json can be read; the section only groups them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError, field_validator

from modules.schema.errors import BadRequest
from modules.schema.fields import Frozen, fact


class Saving(Frozen):
    """Where pictures go and how they are named (patterns: imaging.naming)."""

    samples_save: bool = fact(True, label="Save images")
    samples_format: Literal["png", "jpg", "jpeg", "webp", "avif"] = fact(
        "png", label="File format for images", choices=("png", "jpg", "webp", "avif")
    )
    jpeg_quality: int = fact(
        80, label="Quality for saved jpeg and avif images", ge=1, le=100, step=1,
        hint="And for webp that loses a little.",
    )  # fmt: skip
    webp_lossless: bool = fact(False, label="Use lossless compression for webp images")
    save_txt: bool = fact(False, label="Create a text file with infotext next to every generated image")
    enable_pnginfo: bool = fact(True, label="Write infotext to metadata of the generated image")
    outdir_samples: str = fact("", label="Output directory for images", hint="Empty: the three below.")
    outdir_txt2img_samples: str = fact("outputs/txt2img-images", label="Output directory for txt2img images")
    outdir_img2img_samples: str = fact("outputs/img2img-images", label="Output directory for img2img images")
    outdir_extras_samples: str = fact("outputs/extras-images", label="Output directory for images from extras tab")
    return_grid: bool = fact(
        False, label="Show grid in results for web", hint="The pictures of a job side by side, before the single ones."
    )
    n_rows: int = fact(
        -1, label="Grid row count", ge=-1, le=16, step=1,
        hint="-1 is a square grid, 0 as many rows as a batch has pictures.",
    )  # fmt: skip
    grid_prevent_empty_spots: bool = fact(False, label="Prevent empty spots in grid (when set to autodetect)")
    grid_save: bool = fact(True, label="Save all generated image grids")
    grid_only_if_multiple: bool = fact(
        True, label="Do not save grids consisting of one picture", hint="Off: each job has a grid."
    )
    grid_extended_filename: bool = fact(
        False, label="Add extended info (seed, prompt) to filename when saving grid",
        hint="As pictures are named: grid-0012-7-a red house.png instead of grid-0012-7.png.",
    )  # fmt: skip
    grid_save_to_dirs: bool = fact(True, label="Save grids to a subdirectory", hint="As pictures: see below.")
    grid_format: Literal["png", "jpg", "jpeg", "webp", "avif"] = fact(
        "png", label="File format for grids", choices=("png", "jpg", "webp", "avif")
    )
    outdir_grids: str = fact("", label="Output directory for grids", hint="Empty: the two below.")
    outdir_txt2img_grids: str = fact("outputs/txt2img-grids", label="Output directory for txt2img grids")
    outdir_img2img_grids: str = fact("outputs/img2img-grids", label="Output directory for img2img grids")
    font: str = fact("", label="Font for image grids that have text", hint="A font file; empty is a fitting one.")
    grid_text_active_color: str = fact("#000000", label="Text color for image grids")
    grid_text_inactive_color: str = fact("#999999", label="Inactive text color for image grids")
    grid_background_color: str = fact("#ffffff", label="Background color for image grids")
    save_to_dirs: bool = fact(True, label="Save images to a subdirectory")
    directories_filename_pattern: str = fact("[date]", label="Directory name pattern")
    directories_max_prompt_words: int = fact(
        8, label="Max prompt words for [prompt_words] pattern", ge=1, le=20, step=1
    )
    samples_filename_pattern: str = fact("", label="Images filename pattern")
    filenames_max_length: int = fact(
        128, label="Longest text in a file name", ge=1, le=255, step=1, hint="in letters, of each part of a pattern"
    )
    unix_filenames_sanitization: bool = fact(
        False,
        label="Keep characters in file names that only Windows forbids",
        hint="of the file itself, not of folders",
    )
    use_original_name_batch: bool = fact(
        True, label="Use original name for output filename during batch process in extras tab",
        hint="Off: a number, as single pictures have.",
    )  # fmt: skip
    use_upscaler_name_as_suffix: bool = fact(
        False, label="Use upscaler name as filename suffix in the extras tab", hint="00012-large-Lanczos.png"
    )
    save_images_add_number: bool = fact(True, label="Add number to filename when saving")
    save_images_before_highres_fix: bool = fact(
        False, label="Save a copy of image before applying highres fix", hint="00012-7-before-highres-fix.png"
    )
    save_images_before_face_restoration: bool = fact(
        False, label="Save a copy of image before doing face restoration", hint="00012-7-before-face-restoration.png"
    )
    save_images_before_color_correction: bool = fact(
        False, label="Save a copy of image before applying color correction to img2img results",
        hint="00012-7-before-color-correction.png",
    )  # fmt: skip
    save_mask: bool = fact(False, label="For inpainting, save a copy of the greyscale mask", hint="00012-7-mask.png")
    save_mask_composite: bool = fact(
        False, label="For inpainting, save a masked composite",
        hint="00012-7-mask-composite.png: the new part alone, the rest transparent.",
    )  # fmt: skip
    return_mask: bool = fact(
        False,
        label="For inpainting, include the greyscale mask in results for web",
        hint="After the pictures; not saved.",
    )
    return_mask_composite: bool = fact(
        False, label="For inpainting, include masked composite in results for web",
        hint="The new part alone, the rest transparent; not saved.",
    )  # fmt: skip
    save_incomplete_images: bool = fact(
        False, label="Save incomplete images",
        hint="Those that were interrupted or skipped; they are shown in any case, as far as they came.",
    )  # fmt: skip
    save_init_img: bool = fact(
        False, label="Save init images when using img2img",
        hint="Under the MD5 of their pixels, which the infotext then names: Init image hash.",
    )  # fmt: skip
    outdir_init_images: str = fact(
        "outputs/init-images",
        label="Directory for saving init images when using img2img",
        hint="Below the data folder.",
    )
    outdir_save: str = fact("log/images", label="Directory for saving images using the Save button")
    use_save_to_dirs_for_ui: bool = fact(False, label="When using Save button, save images to a subdirectory")
    save_selected_only: bool = fact(True, label="When using Save button, only save a single selected image")
    save_write_log_csv: bool = fact(True, label="Write log.csv when saving images using Save button")
    grid_zip_filename_pattern: str = fact("", label="Archive filename pattern")


class Infotext(Frozen):
    """What a picture tells of itself, and what is taken from what another one tells."""

    add_model_name_to_info: bool = fact(True, label="Add model name to infotext")
    add_model_hash_to_info: bool = fact(True, label="Add model hash to infotext")
    add_vae_name_to_info: bool = fact(True, label="Add VAE name to infotext")
    add_vae_hash_to_info: bool = fact(True, label="Add VAE hash to infotext")
    add_version_to_infotext: bool = fact(True, label="Add program version to infotext")
    disable_weights_auto_swap: bool = fact(
        False, label="Disregard checkpoint information from pasted infotext",
        hint="Off: another model is put among Override settings.",
    )  # fmt: skip
    infotext_skip_pasting: tuple[str, ...] = fact(
        (), label="Disregard fields from pasted infotext", hint="By their names: Seed, Size, Sampler and so on."
    )
    infotext_styles: Literal["Ignore", "Apply", "Discard", "Apply if any"] = fact(
        "Apply", label="Infer styles from prompts of pasted infotext",
        choices=("Ignore", "Apply", "Discard", "Apply if any"),
        hint="Ignore: the prompt stays as written. Discard: a style's words are taken out and the list stays. Apply if "
        "any: the list stays where none was found.",
    )  # fmt: skip


class Model(Frozen):
    """What is loaded."""

    sd_model_checkpoint: str | None = fact(None, label="Stable Diffusion checkpoint")
    sd_vae: str = fact(
        "Automatic", label="SD VAE", hint="Automatic: the one beside the checkpoint, else its own. None: its own."
    )
    sd_vae_overrides_per_model_preferences: bool = fact(True, label="Selected VAE overrides per-model preferences")
    sd_vae_decode_method: Literal["Full", "TAESD"] = fact(
        "Full", label="VAE type for decode", choices=("Full", "TAESD"), infotext="VAE Decoder"
    )
    sd_checkpoints_limit: int = fact(
        1, label="Maximum number of checkpoints loaded at the same time", ge=1, le=10, step=1
    )
    sd_checkpoints_keep_in_cpu: bool = fact(True, label="Only keep one model on device", hint="The others wait in RAM.")
    hash_models: bool = fact(
        True,
        label="Compute hashes of checkpoints and VAEs",
        hint="For infotexts: of a large file it takes seconds, once.",
    )
    unload_after_minutes: int = fact(
        0, label="Unload models after minutes without use", ge=0, le=1440, step=1, hint="0 is never"
    )
    CLIP_stop_at_last_layers: int = fact(1, label="Clip skip", ge=1, le=12, step=1, infotext="Clip skip")
    sdxl_clip_l_skip: bool = fact(
        False, label="Clip skip SDXL", hint="Clip skip for SDXL's first text encoder too, which ignores it otherwise."
    )
    sdxl_crop_top: int = fact(0, label="SDXL crop top coordinate", ge=0, le=16384, hint="in pixels")
    sdxl_crop_left: int = fact(0, label="SDXL crop left coordinate", ge=0, le=16384, hint="in pixels")
    sdxl_refiner_low_aesthetic_score: int | float = fact(
        2.5, label="SDXL low aesthetic score", ge=0, le=10, step=0.1, hint="of the refiner's negative prompt"
    )
    sdxl_refiner_high_aesthetic_score: int | float = fact(
        6.0, label="SDXL high aesthetic score", ge=0, le=10, step=0.1, hint="of the refiner's prompt"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = fact(
        "auto", label="Precision", choices=("auto", "float32", "bfloat16", "float16")
    )


ATTENTION_NAMES = ("xformers", "sdp-no-mem", "sdp", "sub-quadratic", "V1", "InvokeAI", "Doggettx", "None")
SAVINGS = ("nothing", "VAE in tiles", "one prompt at a time", "weights streamed", "the processor")
"""What is done against too little memory; each step includes those before it."""


class Performance(Frozen):
    """Speed against memory against exactness."""

    cross_attention_optimization: Literal[
        "Automatic", "xformers", "sdp-no-mem", "sdp", "sub-quadratic", "V1", "InvokeAI", "Doggettx", "None"
    ] = fact(
        "Automatic", label="Cross attention optimization", choices=("Automatic", *ATTENTION_NAMES),
        hint="Automatic: what the command line asks for, else the fastest measured on this machine.",
    )  # fmt: skip
    automatic_attention: Literal[
        "measured", "xformers", "sdp-no-mem", "sdp", "sub-quadratic", "V1", "InvokeAI", "Doggettx", "None"
    ] = fact("measured", label="Attention that Automatic takes", choices=("measured", *ATTENTION_NAMES))
    sub_quad_q_chunk_size: int = fact(1024, label="Sub-quadratic: queries per chunk", ge=1, le=2**20)
    sub_quad_kv_chunk_size: int = fact(
        0, label="Sub-quadratic: keys per chunk", ge=0, le=2**20, hint="0 is the square root of their number."
    )
    sub_quad_chunk_threshold: int = fact(
        0, label="Sub-quadratic: share of memory up to which nothing is chunked", ge=0, le=100, hint="in percent"
    )
    batch_cond_uncond: bool = fact(
        True, label="Batch cond/uncond", hint="Prompt and negative prompt in one call: faster, and takes more memory."
    )
    upcast_attn: bool = fact(
        False, label="Upcast cross attention layer to float32", hint="For models that turn black in half precision."
    )
    memory_use: Literal["auto", "normal", "medvram", "lowvram"] = fact(
        "auto", label="Weights on the card", choices=("auto", "normal", "medvram", "lowvram"),
        hint="normal: all. medvram: those of the denoiser or the VAE. lowvram: a few at a time.",
    )  # fmt: skip
    memory_use_sdxl: Literal["auto", "normal", "medvram", "lowvram"] = fact(
        "auto", label="Weights on the card for SDXL", choices=("auto", "normal", "medvram", "lowvram"),
        hint="auto is as above.",
    )  # fmt: skip
    memory_saving: Literal["nothing", "VAE in tiles", "one prompt at a time", "weights streamed", "the processor"] = (
        fact(
            "nothing", label="Save memory by", choices=SAVINGS, infotext="Memory saving",
            hint="Each includes those before it. A job that runs out of memory goes on with the next by itself.",
        )
    )  # fmt: skip
    vae_precision: Literal["auto", "float32", "bfloat16", "float16"] = fact(
        "auto", label="Precision of the VAE", choices=("auto", "float32", "bfloat16", "float16")
    )
    text_precision: Literal["auto", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"] = fact(
        "auto", label="Precision of the text encoder",
        choices=("auto", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"),
        hint="float8: only its weights, at a quarter of the memory.",
    )  # fmt: skip
    auto_vae_precision: bool = fact(
        True, label="Automatically revert VAE to 32-bit floats", hint="Where a picture's numbers overflow."
    )
    auto_vae_precision_bfloat16: bool = fact(
        False, label="Automatically convert VAE to bfloat16", hint="Where a picture's numbers overflow; before 32 bits."
    )
    fp8_storage: Literal["Disable", "Enable for SDXL", "Enable"] = fact(
        "Disable", label="FP8 weight", choices=("Disable", "Enable for SDXL", "Enable"),
        hint="The denoiser's weights take half the memory; pictures differ a little.",
    )  # fmt: skip
    fp8_format: Literal["float8_e4m3fn", "float8_e5m2"] = fact(
        "float8_e4m3fn", label="Format of FP8 weights", choices=("float8_e4m3fn", "float8_e5m2"),
        hint="e4m3fn is finer, e5m2 reaches farther.",
    )  # fmt: skip
    fp8_matmul: bool = fact(
        False, label="FP8 matrix products",
        hint="Beside FP8 weight, in e4m3fn: linear layers multiply in 8 bits as well. NVIDIA cards of compute "
        "capability 8.9 and later (RTX 40, H100). Pictures differ more; layers that a LoRA changes are as before.",
    )  # fmt: skip
    use_cpu: str = fact(
        "", label="Parts that the processor computes",
        hint="As --use-cpu: all, sd, vae, esrgan, …, with commas between.",
    )  # fmt: skip
    lowram: bool = fact(
        False, label="Keep no weights in RAM beside a card", hint="Streamed ones are read from their file each time."
    )
    offload_after_job: bool = fact(
        False, label="Clear the card after each job", hint="The model waits in RAM; the next job begins a little later."
    )
    deterministic: bool = fact(
        False, label="Only repeatable operations", hint="On a card: slower, and the same picture to the last bit."
    )
    disable_xformers: bool = fact(False, label="Do not use xformers", hint="Even where it is installed and fastest.")
    upcast_sampling: bool = fact(
        False, label="Upcast sampling",
        hint="Where a card needs float32: its weights lie in float16 all the same, at half the memory.",
    )  # fmt: skip
    denoiser_calls: Literal["Plain", "CUDA graphs", "torch.compile"] = fact(
        "Plain", label="How the denoiser is called", choices=("Plain", "CUDA graphs", "torch.compile"),
        hint="On a card. CUDA graphs: recorded at the second step. torch.compile: in the background, taken when it is "
        "ready; its pictures differ in the last bits.",
    )  # fmt: skip
    opt_channelslast: bool = fact(
        False, label="Channels last", hint="Always, not only where it is faster and as exact."
    )
    disable_nan_check: bool = fact(
        False, label="Do not stop at numbers that are not finite", hint="The picture may be black."
    )

    @field_validator("cross_attention_optimization", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """A1111 writes "sdp - scaled dot product"."""
        return value.split(" - ")[0] if isinstance(value, str) else value


class Prompting(Frozen):
    """How prompts are read."""

    emphasis: Literal["None", "Ignore", "Original", "No norm"] = fact(
        "Original", label="Emphasis mode", infotext="Emphasis", choices=("None", "Ignore", "Original", "No norm")
    )
    comma_padding_backtrack: int = fact(
        20, label="Prompt word wrap length limit", ge=0, le=74, step=1, hint="in tokens, before a chunk's end"
    )
    enable_prompt_comments: bool = fact(True, label="Enable comments")
    pad_cond_uncond: bool = fact(
        False,
        label="Pad prompt/negative prompt",
        infotext="Pad conds",
        hint="With empty text, so that both have the same number of chunks.",
    )
    pad_cond_uncond_v0: bool = fact(
        False,
        label="Pad prompt/negative prompt (v0)",
        infotext="Pad conds v0",
        hint="As before 1.6: the negative prompt is stretched or cut to the prompt's length. Wins over the other.",
    )
    use_old_scheduling: bool = fact(
        False, label="Old prompt editing timelines", infotext="Old prompt editing timelines"
    )
    use_old_emphasis_implementation: bool = fact(
        False,
        label="Use old emphasis implementation",
        hint="As before 2023: one chunk, brackets read token by token, weights in numbers are words. SD1 only.",
    )
    prompt_wildcards: Literal["Off", "Files", "Files and choices"] = fact(
        "Files",
        label="Wildcards in prompts",
        choices=("Off", "Files", "Files and choices"),
        hint="Files: __name__ draws a line of wildcards/name.txt, where there is one. Files and choices: {a|b} draws "
        "one of its parts too, which A1111 takes literally.",
    )
    disable_token_counters: bool = fact(False, label="Disable prompt token counters")
    include_styles_into_token_counters: bool = fact(True, label="Count tokens of enabled styles")


class Sampling(Frozen):
    """Options of samplers and noise; each sampler's row says which of them it reads."""

    randn_source: Literal["GPU", "CPU", "NV"] = fact(
        "GPU", label="Random number generator source", infotext="RNG", choices=("GPU", "CPU", "NV")
    )
    sd_noise_schedule: Literal["Default", "Zero Terminal SNR"] = fact(
        "Default",
        label="Noise schedule for sampling",
        infotext="Noise Schedule",
        choices=("Default", "Zero Terminal SNR"),
    )
    use_downcasted_alpha_bar: bool = fact(
        False,
        label="Downcast model alphas_cumprod to fp16 before sampling",
        infotext="Downcast alphas_cumprod",
        hint="For pictures made before 1.7.",
    )
    enable_quantization: bool = fact(
        False, label="Use whole timesteps in samplers", hint="The nearest noise level the model was trained on."
    )
    eta_noise_seed_delta: int = fact(0, label="Eta noise seed delta", infotext="ENSD")
    eta_ddim: int | float = fact(0.0, label="Eta for DDIM", ge=0, le=1, step=0.01, infotext="Eta DDIM")
    eta_ancestral: int | float = fact(1.0, label="Eta for k-diffusion samplers", ge=0, le=1, step=0.01, infotext="Eta")
    s_churn: int | float = fact(0.0, label="sigma churn", ge=0, le=100, step=0.01, infotext="Sigma churn")
    s_tmin: int | float = fact(0.0, label="sigma tmin", ge=0, le=10, step=0.01, infotext="Sigma tmin")
    s_tmax: int | float = fact(0.0, label="sigma tmax", ge=0, le=999, step=0.01, infotext="Sigma tmax", hint="0 = inf")
    s_noise: int | float = fact(1.0, label="sigma noise", ge=0, le=1.1, step=0.001, infotext="Sigma noise")
    sigma_min: int | float = fact(
        0.0, label="sigma min", ge=0, le=1000, infotext="Schedule min sigma", hint="0 = default"
    )
    sigma_max: int | float = fact(
        0.0, label="sigma max", ge=0, le=10000, infotext="Schedule max sigma", hint="0 = default"
    )
    rho: int | float = fact(0.0, label="rho", ge=0, le=100, infotext="Schedule rho", hint="0 = default (7 for karras)")
    always_discard_next_to_last_sigma: bool = fact(
        False, label="Always discard next-to-last sigma", infotext="Discard penultimate sigma"
    )
    sgm_noise_multiplier: bool = fact(False, label="SGM noise multiplier", infotext="SGM noise multiplier")
    s_min_uncond: int | float = fact(
        0.0, label="Negative Guidance minimum sigma", ge=0, le=15, step=0.01, infotext="NGMS"
    )
    s_min_uncond_all: bool = fact(False, label="NGMS: skip every step", infotext="NGMS all steps")
    skip_early_cond: int | float = fact(
        0.0, label="Ignore negative prompt during early sampling", ge=0, le=1, step=0.01, infotext="Skip Early CFG"
    )
    uni_pc_variant: Literal["bh1", "bh2", "vary_coeff"] = fact(
        "bh1", label="UniPC variant", choices=("bh1", "bh2", "vary_coeff"), infotext="UniPC variant"
    )
    uni_pc_skip_type: Literal["time_uniform", "time_quadratic", "logSNR"] = fact(
        "time_uniform", label="UniPC skip type", choices=("time_uniform", "time_quadratic", "logSNR"),
        infotext="UniPC skip type",
    )  # fmt: skip
    uni_pc_order: int = fact(3, label="UniPC order", ge=1, le=50, step=1, infotext="UniPC order")
    uni_pc_lower_order_final: bool = fact(True, label="UniPC lower order final", infotext="UniPC lower order final")
    beta_dist_alpha: int | float = fact(
        0.6, label="Beta scheduler - alpha", ge=0.01, le=5, infotext="Beta schedule alpha"
    )
    beta_dist_beta: int | float = fact(0.6, label="Beta scheduler - beta", ge=0.01, le=5, infotext="Beta schedule beta")
    use_old_karras_scheduler_sigmas: bool = fact(False, label="Use old karras scheduler sigmas (0.1 to 10)")
    tcd_gamma: int | float = fact(0.3, label="TCD gamma", ge=0, le=1, step=0.01, infotext="TCD gamma")
    no_dpmpp_sde_batch_determinism: bool = fact(
        False,
        label="Do not make DPM++ SDE deterministic across different batch sizes",
        hint="One path of noise for the whole batch; pictures then depend on their batch",
    )
    dpm_adaptive_joint: bool = fact(
        False,
        label="DPM adaptive judges the batch as one",
        hint="as A1111 does; pictures then depend on their batch",
        infotext="DPM adaptive joint",
    )


class Drawing(Frozen):
    """What is done to a picture besides denoising it: sources, masks, tiling, second passes."""

    img2img_fix_steps: bool = fact(False, label="With img2img, do exactly the amount of steps the slider specifies")
    initial_noise_multiplier: float = fact(
        1.0, label="Noise multiplier for img2img", ge=0, le=2, step=0.001, infotext="Noise multiplier"
    )
    img2img_extra_noise: float = fact(
        0.0, label="Extra noise multiplier for img2img and hires fix", ge=0, le=1, step=0.01, infotext="Extra noise"
    )
    img2img_color_correction: bool = fact(False, label="Apply color correction to img2img results to match colors")
    img2img_background_color: str = fact("#ffffff", label="Color behind transparent parts of the input image")
    inpainting_mask_weight: float = fact(
        1.0, label="Inpainting conditioning mask strength", ge=0, le=1, step=0.01, infotext="Conditional mask weight"
    )
    overlay_inpaint: bool = fact(True, label="Overlay original for inpaint")
    upscaler_for_img2img: str | None = fact(None, label="Upscaler for img2img")
    ESRGAN_tile: int = fact(
        192, label="Tile size for upscalers", ge=0, le=4096, soft_le=512, step=16, hint="in pixels; 0 is no tiling"
    )
    ESRGAN_tile_overlap: int = fact(
        8, label="Tile overlap for upscalers", ge=0, le=512, soft_le=48, step=1, hint="Low values make a visible seam."
    )
    tiling: bool = fact(False, label="Tiling", infotext="Tiling", hint="Pictures that can be laid side by side.")
    tiling_axes: Literal["both", "x", "y"] = fact(
        "both", label="Tiling direction", choices=("both", "x", "y"), infotext="Tiling direction"
    )
    token_merging_ratio: float = fact(
        0.0, label="Token merging ratio", ge=0, le=0.9, step=0.1, infotext="Token merging ratio",
        hint="Faster at large sizes; changes the picture a little.",
    )  # fmt: skip
    token_merging_ratio_img2img: float = fact(
        0.0, label="Token merging ratio for img2img", ge=0, le=0.9, step=0.1, hint="0 is as above."
    )
    token_merging_ratio_hr: float = fact(
        0.0, label="Token merging ratio for high-res pass", ge=0, le=0.9, step=0.1,
        infotext="Token merging ratio hr", hint="0 is as above.",
    )  # fmt: skip
    deep_cache_interval: int = fact(
        1, label="Deep cache interval", ge=1, le=10, step=1, infotext="Deep cache interval",
        hint="Only each so many steps the whole denoiser is asked, else its outer layers; 1 is off. Much faster; "
        "changes the picture.",
    )  # fmt: skip
    first_block_cache_threshold: float = fact(
        0.0, label="First block cache threshold", ge=0, le=1, soft_le=0.5, step=0.01,
        infotext="First block cache threshold",
        hint="Where the denoiser's first blocks have changed by less than this share since the whole was last asked, "
        "the rest of its answer is taken again; 0 is off. Faster; changes the picture. Wins over the deep cache. "
        "Pictures of a batch are drawn one by one, and a card is waited for at every step.",
    )  # fmt: skip
    hypertile_enable_unet: bool = fact(
        False, label="Enable Hypertile U-Net", infotext="Hypertile U-Net",
        hint="Self-attention within tiles: faster at large sizes; changes details.",
    )  # fmt: skip
    hypertile_enable_unet_secondpass: bool = fact(
        False, label="Enable Hypertile U-Net for hires fix second pass", infotext="Hypertile U-Net second pass",
        hint="Also where the first pass goes without.",
    )  # fmt: skip
    hypertile_max_depth_unet: int = fact(
        3, label="Hypertile U-Net max depth", ge=0, le=3, step=1, infotext="Hypertile U-Net max depth",
        hint="How many times halved the picture may be where there are still tiles.",
    )  # fmt: skip
    hypertile_max_tile_unet: int = fact(
        256, label="Hypertile U-Net max tile size", ge=0, le=512, step=16, infotext="Hypertile U-Net max tile size",
        hint="in pixels: no tile is smaller",
    )  # fmt: skip
    hypertile_swap_size_unet: int = fact(
        3, label="Hypertile U-Net swap size", ge=1, le=64, soft_le=6, step=1, infotext="Hypertile U-Net swap size",
        hint="so many ways of dividing a side take turns",
    )  # fmt: skip
    hypertile_enable_vae: bool = fact(
        False, label="Enable Hypertile VAE", infotext="Hypertile VAE",
        hint="The same in the VAE, when it encodes and decodes.",
    )  # fmt: skip
    hypertile_max_tile_vae: int = fact(
        128, label="Hypertile VAE max tile size", ge=0, le=512, step=16, infotext="Hypertile VAE max tile size",
        hint="in pixels: no tile is smaller",
    )  # fmt: skip
    refiner_switch_by_sample_steps: bool = fact(
        False, label="Switch to refiner by sampling steps", infotext="Refiner switch by sampling steps"
    )
    hires_fix_refiner_pass: Literal["first pass", "second pass", "both passes"] = fact(
        "second pass", label="Hires fix: which pass to enable refiner for",
        choices=("first pass", "second pass", "both passes"), infotext="Hires refiner",
    )  # fmt: skip


class Faces(Frozen):
    """Faces made clear again in finished pictures; which files that takes: docs/pictures.md."""

    face_restoration: bool = fact(False, label="Restore faces", hint="In every picture, after it is drawn.")
    face_restoration_model: str = fact(
        "CodeFormer", label="Face restoration model", infotext="Face restoration", hint="CodeFormer, GFPGAN or a file."
    )
    code_former_weight: float = fact(
        0.5, label="CodeFormer weight", ge=0, le=1, step=0.01, hint="0 changes a face most, 1 keeps it most."
    )
    face_restoration_unload: bool = fact(
        False, label="Move face restoration model from VRAM into RAM after processing", hint="Here: let go of it."
    )


class Interrogating(Frozen):
    """How pictures are described (Interrogate CLIP and DeepBooru)."""

    interrogate_return_ranks: bool = fact(
        False,
        label="Include ranks of model tags matches in results",
        hint="(a cat:0.873): how sure it is, as a weight.",
    )

    interrogate_clip_dict_limit: int = fact(
        1500, label="Maximum number of lines in text file", ge=0, le=1_000_000, soft_le=5000, step=1,
        hint="0 is no limit.",
    )  # fmt: skip
    interrogate_clip_skip_categories: tuple[str, ...] = fact(
        (), label="Skip inquire categories", hint="Names of files in the folder interrogate."
    )
    interrogate_deepbooru_score_threshold: float = fact(
        0.5, label="DeepBooru: score threshold", hint="Tags it is less sure of are left out.", ge=0, le=1, step=0.01
    )
    deepbooru_sort_alpha: bool = fact(True, label="DeepBooru: sort tags alphabetically", hint="Off: the surest first.")
    deepbooru_use_spaces: bool = fact(True, label="DeepBooru: use spaces in tags", hint="Off: underscores.")
    deepbooru_escape: bool = fact(True, label="DeepBooru: escape (\\) brackets", hint="So that they are no emphasis.")
    deepbooru_filter_tags: str = fact("", label="DeepBooru: filter out those tags", hint="With commas between.")


class Networks(Frozen):
    """Extra networks: LoRA and kin, hypernetworks, embeddings."""

    sd_lora: str = fact("None", label="Add network to prompt", hint="A LoRA that every prompt gets; None is none.")
    sd_hypernetwork: str = fact("None", label="Add hypernetwork to prompt", hint="As above.")
    extra_networks_default_multiplier: float = fact(
        1.0, label="Default multiplier for extra networks", ge=0, le=2, step=0.01
    )
    extra_networks_add_text_separator: str = fact(" ", label="Extra networks separator")
    extra_networks_card_order_field: Literal["Path", "Name", "Date Created", "Date Modified"] = fact(
        "Path", label="Default order field for extra networks cards",
        choices=("Path", "Name", "Date Created", "Date Modified"),
    )  # fmt: skip
    extra_networks_card_order: Literal["Ascending", "Descending"] = fact(
        "Ascending", label="Default order for extra networks cards", choices=("Ascending", "Descending")
    )
    extra_networks_card_width: int = fact(
        0, label="Card width for extra networks", ge=0, le=1000, step=1, hint="in pixels; 0 is as many as fit well"
    )
    extra_networks_card_height: int = fact(
        0, label="Card height for extra networks", ge=0, le=1000, step=1, hint="in pixels; 0 follows the width"
    )
    extra_networks_card_text_scale: float = fact(1.0, label="Card text scale", ge=0, le=2, step=0.01)
    extra_networks_card_show_desc: bool = fact(True, label="Show description on card")
    lora_preferred_name: Literal["Alias from file", "Filename"] = fact(
        "Alias from file", label="When adding to prompt, refer to Lora by", choices=("Alias from file", "Filename")
    )
    lora_add_hashes_to_infotext: bool = fact(True, label="Add Lora hashes to infotext")
    textual_inversion_add_hashes_to_infotext: bool = fact(True, label="Add Textual Inversion hashes to infotext")


class Preview(Frozen):
    """Pictures shown while a job draws."""

    live_previews_enable: bool = fact(True, label="Show live previews of the created image")
    show_progress_every_n_steps: int = fact(
        1, label="Live preview display period", ge=-1, le=32, step=1, hint="in steps; -1 shows only finished pictures"
    )
    show_progress_grid: bool = fact(
        True, label="Show previews of all images generated in a batch as a grid", hint="Off: of the first alone."
    )
    live_preview_refresh_period: int = fact(
        300, label="Progressbar and preview update period", ge=0, le=60000, soft_le=5000, step=50,
        hint="in milliseconds; a preview costs time, so fewer draw faster",
    )  # fmt: skip
    live_preview_content: Literal["Combined", "Prompt", "Negative prompt"] = fact(
        "Prompt", label="Live preview subject", choices=("Combined", "Prompt", "Negative prompt"),
        hint="Combined is what the picture will be; the others are what one of the two alone asks for.",
    )  # fmt: skip
    prevent_screen_sleep_during_generation: bool = fact(True, label="Prevent screen sleep during generation")
    show_progress_type: Literal["Full", "Approx NN", "Approx cheap", "TAESD"] = fact(
        "Approx NN", label="Live preview method", choices=("Full", "Approx NN", "Approx cheap", "TAESD"),
        hint="Full costs a decode each time. Approx NN and TAESD need their files in models/VAE-approx and "
        "models/VAE-taesd; else Approx cheap.",
    )  # fmt: skip


class Page(Frozen):
    """The page itself: its language, what it shows and tells, and what keys do to a prompt."""

    localization: str = fact(
        "None", label="Localization", hint="Of this program or localizations/*.json; acts when the page is loaded anew."
    )
    quicksettings_list: tuple[str, ...] = fact(
        ("sd_model_checkpoint",), label="Quicksettings list",
        hint="Settings shown above the tabs, in this order; acts when the page is loaded anew.",
    )  # fmt: skip
    ui_tab_order: tuple[str, ...] = fact(
        (), label="UI tab order", hint="These first, by name; acts when Easel is started anew."
    )
    hidden_tabs: tuple[str, ...] = fact((), label="Hidden UI tabs", hint="Acts when the page is loaded anew.")
    hide_samplers: tuple[str, ...] = fact(
        (), label="Hide samplers in user interface", hint="Acts when the page is loaded anew."
    )
    sd_checkpoint_dropdown_use_short: bool = fact(
        False, label="Checkpoint dropdown: use filenames without paths", hint="Acts when the page is loaded anew."
    )
    interrupt_after_current: bool = fact(
        True, label="Don't Interrupt in the middle",
        hint="Interrupt lets the picture at hand be finished; pressed once more it stops at once.",
    )  # fmt: skip
    do_not_show_images: bool = fact(False, label="Do not show any images in gallery")
    gallery_height: str = fact("", label="Gallery height", hint="As in CSS: 600px, 60vh; empty is as high as it fits.")
    js_modal_lightbox: bool = fact(True, label="Full page image viewer: enable")
    js_modal_lightbox_initially_zoomed: bool = fact(
        True, label="Full page image viewer: show images zoomed in by default", hint="As large as the window allows."
    )
    img2img_editor_height: int = fact(
        720, label="Height of the image editor", ge=80, le=1600, step=1, hint="in pixels, at most"
    )
    img2img_sketch_default_brush_color: str = fact("#ffffff", label="Sketch initial brush color")
    img2img_inpaint_mask_brush_color: str = fact("#ffffff", label="Inpaint mask brush color")
    img2img_inpaint_sketch_default_brush_color: str = fact("#ffffff", label="Inpaint sketch initial brush color")
    send_size: bool = fact(True, label="Send size when sending prompt or image to another interface")
    send_seed: bool = fact(True, label="Send seed when sending prompt or image to other interface")
    show_progress_in_title: bool = fact(True, label="Show generation progress in window title")
    notification_audio: bool = fact(
        True, label="Play notification sound after image generation",
        hint="notification.mp3 in the data folder, where there is one.",
    )  # fmt: skip
    notification_own: bool = fact(
        False, label="Play Easel's own sound where there is no notification.mp3", hint="Needs the option above."
    )
    notification_volume: int = fact(100, label="Notification sound volume", ge=0, le=100, step=1, hint="in percent")
    keyedit_precision_attention: float = fact(
        0.1, label="Precision for (attention:1.1) when editing the prompt with Ctrl+up/down", ge=0.01, le=2, step=0.001
    )
    keyedit_precision_extra: float = fact(
        0.05, label="Precision for <extra networks:0.9> when editing the prompt with Ctrl+up/down", ge=0.01, le=2,
        step=0.001,
    )  # fmt: skip
    keyedit_delimiters: str = fact(
        r".,\/!?%^*;:{}=`~() ", label="Word delimiters when editing the prompt with Ctrl+up/down"
    )
    keyedit_delimiters_whitespace: tuple[Literal["Tab", "Carriage Return", "Line Feed"], ...] = fact(
        ("Tab", "Carriage Return", "Line Feed"), label="Ctrl+up/down whitespace delimiters",
        choices=("Tab", "Carriage Return", "Line Feed"),
    )  # fmt: skip
    keyedit_move: bool = fact(True, label="Alt+left/right moves prompt elements")


class Api(Frozen):
    """What the REST API may do. Not to be changed through it."""

    api_enable_requests: bool = fact(
        False, label="Allow http:// and https:// URLs for input images in API", hint="This machine then fetches them."
    )
    api_forbid_local_requests: bool = fact(True, label="Forbid URLs to local resources")
    api_useragent: str = fact("", label="User agent for requests")


class Extensions(Frozen):
    """Which extensions take part, and what each was set to. The Extensions tab switches them."""

    enabled_extensions: dict[str, tuple[str, ...]] = fact(
        {}, label="Extensions switched on", hint="By folder, each with what it then said that it needs."
    )
    disabled_extensions: tuple[str, ...] = fact((), label="Disable these extensions")
    disable_all_extensions: Literal["none", "extra", "all"] = fact(
        "none", label="Disable all extensions", choices=("none", "extra", "all"),
        hint="None is shipped, so extra and all mean the same.",
    )  # fmt: skip
    extension_settings: dict[str, dict[str, Any]] = fact({}, label="Settings of extensions", hint="By folder and name.")

    def disables(self, key: str) -> bool:
        """Whether nothing of the folder `key` is read, not even wildcards, tags and translations."""
        return self.disable_all_extensions != "none" or key in self.disabled_extensions

    def on(self, key: str, needs: tuple[str, ...]) -> bool:
        """Whether the extension in the folder `key` takes part: it was switched on, and needs no more than then."""
        if self.disables(key):
            return False
        return key in self.enabled_extensions and set(needs) <= set(self.enabled_extensions[key])


class Settings(Frozen):
    """All settings. `option(key)` and `with_options({...})` speak A1111's flat names."""

    saving: Saving = Saving()
    infotext: Infotext = Infotext()
    model: Model = Model()
    performance: Performance = Performance()
    prompting: Prompting = Prompting()
    sampling: Sampling = Sampling()
    drawing: Drawing = Drawing()
    faces: Faces = Faces()
    interrogating: Interrogating = Interrogating()
    networks: Networks = Networks()
    preview: Preview = Preview()
    page: Page = Page()
    api: Api = Api()
    extensions: Extensions = Extensions()

    def option(self, key: str) -> Any:
        """The value of one option by its flat key; KeyError where there is none."""
        return getattr(getattr(self, SECTION_OF[key]), key)

    def with_options(self, changes: dict[str, Any]) -> Settings:
        """A copy with options changed by flat key; BadRequest names an unknown key or a refused value."""
        sections: dict[str, dict[str, Any]] = {}
        for key, value in changes.items():
            if key not in SECTION_OF:
                raise BadRequest(f"No setting is called {key!r}.", field=key)
            sections.setdefault(SECTION_OF[key], {})[key] = value
        update = {}
        for name, values in sections.items():
            section = getattr(self, name)
            try:
                update[name] = type(section).model_validate({**section.model_dump(), **values})
            except ValidationError as error:
                first = error.errors()[0]
                key = str(first["loc"][0]) if first["loc"] else name
                raise BadRequest(f"Setting {key!r} cannot be {values.get(key)!r}: {first['msg']}.", field=key) from None
        return self.model_copy(update=update)


SECTION_OF: dict[str, str] = {
    key: section
    for section, field in Settings.model_fields.items()
    for key in field.annotation.model_fields  # type: ignore[union-attr]
}


def is_place(key: str) -> bool:
    """Whether an option names a file or folder of this machine: the owner's to choose, not a request's."""
    return key.startswith("outdir_") or key == "font"
