"""What a user asks for: one type for every way of generating; which task it is follows from its parts.

    no `source`           a picture out of nothing (txt2img); with `hires` a second pass at a larger size
    `source`              a picture out of another (img2img)
    `source` with `mask`  only a part of it (inpainting); with `outpaint` beyond its edges, with `tiles` enlarged in
                          pieces, with `loopback` again and again, with `extras` not drawn but only enlarged
                          and made ready, with `batch` one after the other, from a folder too
    `refiner`             another checkpoint draws the last part of any of them
    `controlnet`          any of them is drawn along further pictures
    `script`              several requests made of this one, and what is made of their pictures

Pictures are named by the SHA-256 of their file (`imaging.inputs.keep` stores it and gives the name), so that a
request stays a few hundred bytes of JSON wherever it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from modules.schema.control import ControlUnit, InputName
from modules.schema.fields import Frozen, fact
from modules.schema.rounds import Loopback, Tiles
from modules.schema.scripts import Script

MAX_SEED = 2**64 - 1

SAME_SAMPLER, SAME_SCHEDULER, SAME_CHECKPOINT = "Use same sampler", "Use same scheduler", "Use same checkpoint"


class Soft(Frozen):
    """Soft inpainting: how the kept and the new part of a picture meet. Names and defaults are A1111's."""

    schedule_bias: int | float = fact(
        1, label="Schedule bias", ge=0, le=8, step=0.1, infotext="Soft inpainting schedule bias",
        hint="Above 1 the source is kept more in late steps, below 1 more in early ones.",
    )  # fmt: skip
    preservation_strength: int | float = fact(
        0.5, label="Preservation strength", ge=0, le=8, step=0.05, infotext="Soft inpainting preservation strength",
        hint="How much of the source is kept where the mask is grey.",
    )  # fmt: skip
    transition_contrast_boost: int | float = fact(
        4, label="Transition contrast boost", ge=1, le=32, step=0.5,
        infotext="Soft inpainting transition contrast boost", hint="Against fading where both are mixed.",
    )  # fmt: skip
    mask_influence: int | float = fact(
        0, label="Mask influence", ge=0, le=1, step=0.05, infotext="Soft inpainting mask influence",
        hint="How much the mask, and not only what changed, decides where the new picture is seen.",
    )  # fmt: skip
    difference_threshold: int | float = fact(
        0.5, label="Difference threshold", ge=0, le=8, step=0.25, infotext="Soft inpainting difference threshold",
        hint="How far a place must change to be seen half.",
    )  # fmt: skip
    difference_contrast: int | float = fact(
        2, label="Difference contrast", ge=0, le=8, step=0.25, infotext="Soft inpainting difference contrast"
    )


class Mask(Frozen):
    """What of the source picture is drawn anew: white is new, black stays. Names are A1111's."""

    image: InputName
    mask_blur_x: int = fact(4, label="Mask blur X", ge=0, le=64, step=1, hint="in pixels")
    mask_blur_y: int = fact(4, label="Mask blur Y", ge=0, le=64, step=1, hint="in pixels")
    mask_round: bool = fact(True, label="Hard mask edge", hint="Off: grey parts of the mask are partly new.")
    inpainting_mask_invert: bool = fact(False, label="Inpaint not masked", infotext="Mask mode")
    inpainting_fill: int = fact(
        1, label="Masked content", ge=0, le=3, choices=(0, 1, 2, 3), infotext="Masked content",
        hint="0 fill, 1 original, 2 latent noise, 3 latent nothing",
    )  # fmt: skip
    inpaint_full_res: bool = fact(False, label="Only masked", infotext="Inpaint area")
    inpaint_full_res_padding: int = fact(
        32, label="Only masked padding, pixels", ge=0, le=1024, soft_le=256, step=4, infotext="Masked area padding",
    )  # fmt: skip
    soft: Soft | None = fact(None, label="Soft inpainting")


OUTPAINT_FILLS = ("edges", "noise", "fill", "latent noise", "latent nothing")


class Outpaint(Frozen):
    """The source goes on beyond its edges; the picture becomes so much larger, whatever size is asked for."""

    left: int = fact(0, label="Left", ge=0, le=8192, soft_le=512, step=8, infotext="Outpaint left", hint="in pixels")
    right: int = fact(0, label="Right", ge=0, le=8192, soft_le=512, step=8, infotext="Outpaint right", hint="in pixels")
    up: int = fact(0, label="Up", ge=0, le=8192, soft_le=512, step=8, infotext="Outpaint up", hint="in pixels")
    down: int = fact(0, label="Down", ge=0, le=8192, soft_le=512, step=8, infotext="Outpaint down", hint="in pixels")
    mask_blur: int = fact(
        8, label="Mask blur", ge=0, le=64, step=1, infotext="Outpaint blur",
        hint="How far inside the source its edge is drawn anew, in pixels.",
    )  # fmt: skip
    fill: Literal["edges", "noise", "fill", "latent noise", "latent nothing"] = fact(
        "edges", label="What the new part begins with", choices=OUTPAINT_FILLS, infotext="Outpaint fill"
    )
    noise_q: float = fact(1.0, label="Fall-off exponent", ge=0, le=4, step=0.01, hint="of the noise; low is fine grain")
    color_variation: float = fact(0.05, label="Color variation", ge=0, le=1, step=0.01, hint="of the noise")


class Inversion(Frozen):
    """The noise to begin with is found by walking back from the source along this prompt (A1111's alternative test)."""

    prompt: str = fact("", label="Decode prompt", infotext="Decode prompt")
    negative_prompt: str = fact("", label="Decode negative prompt", infotext="Decode negative prompt")
    cfg_scale: float = fact(1.0, label="Decode CFG scale", ge=0, le=15, step=0.1, infotext="Decode CFG scale")
    steps: int = fact(50, label="Decode steps", ge=1, le=150, step=1, infotext="Decode steps")
    randomness: float = fact(
        0.0, label="Randomness", ge=0, le=1, step=0.01, infotext="Randomness", hint="the share of the seed's own noise"
    )
    sigma_adjustment: bool = fact(False, label="Sigma adjustment", infotext="Sigma Adjustment")


FLIPS = ("Horizontal", "Vertical", "Both")
OBJECTIVES = ("Maximize area", "Minimize error")


class SplitOversized(Frozen):
    """A picture much longer than the size to scale to is cut into overlapping ones of that size."""

    split_threshold: float = fact(
        0.5, label="Threshold", ge=0, le=1, step=0.05, hint="Split where the shapes' ratio is below this."
    )
    overlap_ratio: float = fact(0.2, label="Overlap ratio", ge=0, le=0.9, step=0.05)


class FocalCrop(Frozen):
    """A picture cropped to the size to scale to, around what draws the eye. Weights of what is looked for."""

    face_weight: float = fact(0.9, label="Focal point face weight", ge=0, le=1, step=0.05)
    entropy_weight: float = fact(0.15, label="Focal point entropy weight", ge=0, le=1, step=0.05)
    edges_weight: float = fact(0.5, label="Focal point edges weight", ge=0, le=1, step=0.05)
    debug: bool = fact(False, label="Create debug image", hint="One more picture that shows what was found.")


class AutoCrop(Frozen):
    """A picture cropped to that size within the bounds, in steps of 64, whose shape is nearest to its own."""

    mindim: int = fact(384, label="Dimension lower bound", ge=64, le=2048, step=8)
    maxdim: int = fact(768, label="Dimension upper bound", ge=64, le=2048, step=8)
    minarea: int = fact(64 * 64, label="Area lower bound", ge=64 * 64, le=2048 * 2048, step=1)
    maxarea: int = fact(640 * 640, label="Area upper bound", ge=64 * 64, le=2048 * 2048, step=1)
    objective: str = fact("Maximize area", label="Resizing objective", choices=OBJECTIVES)
    threshold: float = fact(0.1, label="Error threshold", ge=0, le=1, step=0.01)


class Extras(Frozen):
    """The sources made ready in turn, nothing drawn (A1111's Extras): enlarged (two upscalers' results are mixed),
    faces restored, split, cropped, flipped, captioned. One source may give several pictures."""

    upscaler_1: str = fact("None", label="Upscaler 1", infotext="Postprocess upscaler")
    upscaler_2: str = fact("None", label="Upscaler 2", infotext="Postprocess upscaler 2")
    extras_upscaler_2_visibility: float = fact(0.0, label="Upscaler 2 visibility", ge=0, le=1, step=0.001)
    resize_mode: int = fact(0, label="Scale", ge=0, le=1, choices=(0, 1), hint="0 by a factor, 1 to a size")
    upscaling_resize: float = fact(
        2.0, label="Resize", ge=0.01, le=16, soft_le=8, step=0.05, infotext="Postprocess upscale by"
    )
    upscaling_resize_w: int = fact(512, label="Width", ge=1, le=16384, soft_le=2048, step=8)
    upscaling_resize_h: int = fact(512, label="Height", ge=1, le=16384, soft_le=2048, step=8)
    upscaling_crop: bool = fact(True, label="Crop to fit", infotext="Postprocess crop to")
    max_side_length: int = fact(
        0, label="Max side length", ge=0, le=16384, step=8, infotext="Max side length",
        hint="When scaled by a factor; 0 is none.",
    )  # fmt: skip
    gfpgan_visibility: float = fact(
        0.0, label="GFPGAN visibility", ge=0, le=1, step=0.001, infotext="GFPGAN visibility"
    )
    codeformer_visibility: float = fact(
        0.0, label="CodeFormer visibility", ge=0, le=1, step=0.001, infotext="CodeFormer visibility"
    )
    codeformer_weight: float = fact(
        0.0, label="CodeFormer weight", ge=0, le=1, step=0.001, infotext="CodeFormer weight",
        hint="0 changes a face most, 1 keeps it most.",
    )  # fmt: skip
    upscale_first: bool = fact(True, label="Upscale before restoring faces")
    split_oversized: SplitOversized | None = fact(None, label="Split oversized images")
    focal_crop: FocalCrop | None = fact(None, label="Auto focal point crop")
    auto_crop: AutoCrop | None = fact(None, label="Auto-sized crop")
    flip: tuple[str, ...] = fact((), label="Create flipped copies", choices=FLIPS)
    caption: bool = fact(False, label="Caption", hint="A text file beside each picture says what is on it.")


PNG_INFO = ("Prompt", "Negative prompt", "Seed", "CFG scale", "Sampler", "Steps", "Model hash")


class Batch(Frozen):
    """The sources one after the other, each a drawing of its own (A1111's Batch tab, and Extras from a directory).

    Folders are on the machine that draws; only its own users may name some (`frontends.desk`).
    """

    input_dir: str = fact("", label="Input directory", hint="Empty: the source pictures that were sent.")
    output_dir: str = fact(
        "", label="Output directory", hint="Pictures get their sources' names there. Empty: the usual place."
    )
    inpaint_mask_dir: str = fact(
        "", label="Inpaint batch mask directory",
        hint="A mask of each picture's name, or one for all; the request's mask says how they are used.",
    )  # fmt: skip
    names: tuple[str, ...] = fact((), label="Names of the pictures that were sent, for the output directory")
    use_png_info: bool = fact(False, label="Append png info to prompts")
    png_info_props: tuple[str, ...] = fact((), label="Parameters to take from png info", choices=PNG_INFO)
    png_info_dir: str = fact(
        "", label="PNG info directory", hint="Pictures of the same names that tell it. Empty: the sources themselves."
    )

    @property
    def folders(self) -> tuple[str, ...]:
        """Those that are named."""
        return tuple(
            name for name in (self.input_dir, self.output_dir, self.inpaint_mask_dir, self.png_info_dir) if name
        )


RESIZE_MODES = ("Just resize", "Crop and resize", "Resize and fill", "Just resize (latent upscale)")


class Source(Frozen):
    """The picture to start from. Several are drawn as one batch, one each; with `batch` one after the other."""

    images: tuple[InputName, ...] = fact((), label="Source pictures")
    denoising_strength: float = fact(
        0.75, label="Denoising strength", ge=0, le=1, step=0.01, infotext="Denoising strength"
    )
    resize_mode: int = fact(
        0, label="Resize mode", ge=0, le=3, choices=(0, 1, 2, 3), infotext="Resize mode",
        hint="0 just resize, 1 crop and resize, 2 resize and fill, 3 just resize (latent upscale)",
    )  # fmt: skip
    image_cfg_scale: int | float | None = fact(
        None, label="Image CFG Scale", ge=0, le=1000, soft_le=3, step=0.05, infotext="Image CFG scale",
        hint="for models taught to edit by instruction",
    )  # fmt: skip
    initial_noise_multiplier: float | None = fact(
        None, label="Noise multiplier", ge=0, le=2, step=0.001, infotext="Noise multiplier",
        hint="None is the one in the settings.",
    )  # fmt: skip
    mask: Mask | None = fact(None, label="Mask")
    outpaint: Outpaint | None = fact(None, label="Outpainting")
    tiles: Tiles | None = fact(None, label="SD upscale")
    loopback: Loopback | None = fact(None, label="Loopback")
    inversion: Inversion | None = fact(None, label="Noise found in the source")
    extras: Extras | None = fact(None, label="Extras")
    batch: Batch | None = fact(None, label="Batch")


class Hires(Frozen):
    """A second pass over an enlarged picture. 0, "" and "Use same …" stand for the first pass's own."""

    denoising_strength: float = fact(
        0.7, label="Denoising strength", ge=0, le=1, step=0.01, infotext="Denoising strength"
    )
    hr_scale: int | float = fact(2.0, label="Upscale by", ge=1, le=16, soft_le=4, step=0.05, infotext="Hires upscale")
    hr_upscaler: str = fact("Latent", label="Upscaler", infotext="Hires upscaler")
    hr_second_pass_steps: int = fact(0, label="Hires steps", ge=0, le=150, step=1, infotext="Hires steps")
    hr_resize_x: int = fact(0, label="Resize width to", ge=0, le=16384, soft_le=2048, step=8, infotext="Hires resize-1")
    hr_resize_y: int = fact(
        0, label="Resize height to", ge=0, le=16384, soft_le=2048, step=8, infotext="Hires resize-2"
    )
    hr_checkpoint_name: str | None = fact(None, label="Hires checkpoint", infotext="Hires checkpoint")
    hr_sampler_name: str | None = fact(None, label="Hires sampling method", infotext="Hires sampler")
    hr_scheduler: str | None = fact(None, label="Hires schedule type", infotext="Hires schedule type")
    first_picture: InputName | None = fact(
        None, label="First picture", hint="A finished picture that stands for what the first pass would draw."
    )
    hr_prompt: str = fact("", label="Hires prompt", infotext="Hires prompt")
    hr_negative_prompt: str = fact("", label="Hires negative prompt", infotext="Hires negative prompt")


class Refiner(Frozen):
    """Another checkpoint takes over when this share of the noise is gone."""

    refiner_checkpoint: str = fact("", label="Refiner checkpoint", infotext="Refiner")
    refiner_switch_at: float = fact(
        0.8, label="Switch at", ge=0, le=1, soft_ge=0.01, step=0.01, infotext="Refiner switch at",
        hint="0 and 1 are off",
    )  # fmt: skip


class GenerationRequest(Frozen):
    """A request as the user wrote it: names not yet looked up, seed -1 not yet drawn.

    Names, ranges and defaults are A1111's. Sizes are in pixels; any size from 64 to 16384 is accepted and worked at the
    next multiple of 8.
    """

    prompt: str = fact("", label="Prompt")
    negative_prompt: str = fact("", label="Negative prompt", infotext="Negative prompt")
    styles: tuple[str, ...] = fact((), label="Styles", infotext="Styles array")
    checkpoint: str | None = fact(None, label="Checkpoint", infotext="Model", hint="None is the one in the settings.")

    sampler: str = fact("DPM++ 2M", label="Sampling method", infotext="Sampler", api=("sampler_name", "sampler_index"))
    scheduler: str = fact("Automatic", label="Schedule type", infotext="Schedule type")
    steps: int = fact(20, label="Sampling steps", ge=1, le=150, step=1, infotext="Steps")
    cfg_scale: int | float = fact(
        7.0, label="CFG Scale", ge=0, le=1000, soft_ge=1, soft_le=30, step=0.5, infotext="CFG scale"
    )

    width: int = fact(512, label="Width", ge=64, le=16384, soft_le=2048, step=8, infotext="Size-1")
    height: int = fact(512, label="Height", ge=64, le=16384, soft_le=2048, step=8, infotext="Size-2")
    n_iter: int = fact(1, label="Batch count", ge=1, le=10000, soft_le=100, step=1)
    batch_size: int = fact(1, label="Batch size", ge=1, le=64, soft_le=8, step=1, infotext="Batch size")

    seed: int = fact(-1, label="Seed", ge=-1, le=MAX_SEED, infotext="Seed", hint="-1 draws a new one.")
    subseed: int = fact(-1, label="Variation seed", ge=-1, le=MAX_SEED, infotext="Variation seed")
    subseed_strength: float = fact(
        0.0, label="Variation strength", ge=0, le=1, step=0.01, infotext="Variation seed strength"
    )
    seed_resize_from_w: int = fact(0, label="Resize seed from width", ge=-1, le=16384, soft_ge=0, soft_le=2048, step=8)
    seed_resize_from_h: int = fact(0, label="Resize seed from height", ge=-1, le=16384, soft_ge=0, soft_le=2048, step=8)

    source: Source | None = fact(None, label="Source")
    depth_map: InputName | None = fact(
        None, label="Depth map", hint="A grey picture, bright where things are near; for models that draw along one."
    )
    hires: Hires | None = fact(None, label="Hires. fix")
    refiner: Refiner | None = fact(None, label="Refiner")
    controlnet: tuple[ControlUnit, ...] = fact((), label="ControlNet", hint="Units, in their order.")
    cfg_rescale: float = fact(
        0.0, label="CFG rescale", ge=0, le=1, step=0.05, infotext="CFG rescale",
        hint="Keeps contrast in bounds at a high CFG scale; 0.7 is usual for zero terminal SNR models.",
    )  # fmt: skip
    filmstrip: int = fact(
        0, label="Steps filmstrip", ge=0, le=24, step=1, hint="How many steps to show as a strip; 0 is off."
    )

    override_settings: dict[str, Any] = fact({}, label="Override settings")
    script: Script | None = fact(None, label="Script", hint="Makes several requests of this one.")
    extensions: dict[str, dict[str, Any]] = fact(
        {}, label="Extensions", hint="Sections that are on, by the extension's folder, each with values by name."
    )


SEEDS = ("seed", "subseed")


def seeded(request: GenerationRequest, drawn: Mapping[str, int]) -> GenerationRequest:
    """The request with the seeds that it left open (-1) as drawn; its script knows that they were."""
    found: dict[str, Any] = {name: drawn[name] for name in SEEDS if getattr(request, name) == -1}
    if "seed" in found and request.script is not None:
        found["script"] = request.script.model_copy(update={"seed_drawn": True})
    return request.model_copy(update=found) if found else request
