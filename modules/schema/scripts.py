"""Scripts: one request that becomes several, and what they take. Names, order and defaults are A1111's.

    asked = GenerationRequest(prompt="a cat|red house", script=PromptMatrix(margin_size=8))

Here is what each takes; `SCRIPTS` is the one list that the page and the API read, `pipeline.scripts` does the work. SD
upscale and Loopback are parts of a source of their own, and only listed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from modules.schema.errors import BadRequest
from modules.schema.fields import Frozen, fact
from modules.schema.rounds import Loopback, Tiles

TXT2IMG, IMG2IMG = "txt2img", "img2img"
BOTH = (TXT2IMG, IMG2IMG)
DIRECTIONS = ("left", "right", "up", "down")
NO_AXIS = "Nothing"


class Asked(Frozen):
    """What every script knows besides its own. `seed_drawn`: the request left its seed open (-1); where it does, and
    the script keeps it so, each picture has a seed of its own."""

    seed_drawn: bool = False


class PromptMatrix(Asked):
    """Every combination of the parts of a prompt that `|` separates, as a grid."""

    name: Literal["prompt matrix"] = "prompt matrix"
    put_at_start: bool = fact(False, label="Put variable parts at start of prompt")
    different_seeds: bool = fact(False, label="Use different seed for each picture")
    prompt_type: Literal["positive", "negative"] = fact(
        "positive", label="Select prompt", choices=("positive", "negative")
    )
    variations_delimiter: Literal["comma", "space"] = fact(
        "comma", label="Select joining char", choices=("comma", "space")
    )
    margin_size: int = fact(0, label="Grid margins (px)", ge=0, le=500, step=2)


class PromptsFromFile(Asked):
    """A job for every line; a line may have options: `--prompt "a house" --steps 30`."""

    name: Literal["prompts from file or textbox"] = "prompts from file or textbox"
    checkbox_iterate: bool = fact(False, label="Iterate seed every line")
    checkbox_iterate_batch: bool = fact(False, label="Use same random seed for all lines")
    prompt_position: Literal["start", "end"] = fact(
        "start", label="Insert prompts at the", choices=("start", "end"), hint="of the prompt above"
    )
    prompt_txt: str = fact("", label="List of prompt inputs")


class XyzPlot(Asked):
    """A grid over up to three things, each with a list of values. Values are text: `1-5 (+2)`, `1-10 [5]`, `a, b`."""

    name: Literal["x/y/z plot"] = "x/y/z plot"
    x_type: str = fact("Seed", label="X type")
    x_values: str = fact("", label="X values")
    x_values_dropdown: tuple[str, ...] = fact((), label="X values")
    y_type: str = fact(NO_AXIS, label="Y type")
    y_values: str = fact("", label="Y values")
    y_values_dropdown: tuple[str, ...] = fact((), label="Y values")
    z_type: str = fact(NO_AXIS, label="Z type")
    z_values: str = fact("", label="Z values")
    z_values_dropdown: tuple[str, ...] = fact((), label="Z values")
    draw_legend: bool = fact(True, label="Draw legend")
    include_lone_images: bool = fact(False, label="Include Sub Images")
    include_sub_grids: bool = fact(False, label="Include Sub Grids")
    no_fixed_seeds: bool = fact(False, label="Keep -1 for seeds")
    vary_seeds_x: bool = fact(False, label="Vary seeds for X", hint="Use different seeds for images along X axis.")
    vary_seeds_y: bool = fact(False, label="Vary seeds for Y", hint="Use different seeds for images along Y axis.")
    vary_seeds_z: bool = fact(False, label="Vary seeds for Z", hint="Use different seeds for images along Z axis.")
    margin_size: int = fact(0, label="Grid margins (px)", ge=0, le=500, step=2)
    csv_mode: bool = fact(
        False, label="Use text inputs instead of dropdowns", hint="for axes whose values can be chosen from a list"
    )


class OutpaintingMk2(Asked):
    """Beyond the edges, the new part begun with noise that has the picture's own spectrum and colours."""

    name: Literal["outpainting mk2"] = "outpainting mk2"
    pixels: int = fact(128, label="Pixels to expand", ge=8, le=8192, soft_le=256, step=8)
    mask_blur: int = fact(8, label="Mask blur", ge=0, le=64, step=1)
    direction: tuple[Literal["left", "right", "up", "down"], ...] = fact(
        DIRECTIONS, label="Outpainting direction", choices=DIRECTIONS
    )
    noise_q: float = fact(1.0, label="Fall-off exponent", ge=0, le=4, step=0.01, hint="lower = higher detail")
    color_variation: float = fact(0.05, label="Color variation", ge=0, le=1, step=0.01)


class PoorMansOutpainting(Asked):
    """Beyond the edges, the new part begun as inpainting begins a masked one."""

    name: Literal["poor man's outpainting"] = "poor man's outpainting"
    pixels: int = fact(128, label="Pixels to expand", ge=8, le=8192, soft_le=256, step=8)
    mask_blur: int = fact(4, label="Mask blur", ge=0, le=64, step=1)
    inpainting_fill: int = fact(
        0, label="Masked content", ge=0, le=3, choices=(0, 1, 2, 3),
        hint="0 fill, 1 original, 2 latent noise, 3 latent nothing",
    )  # fmt: skip
    direction: tuple[Literal["left", "right", "up", "down"], ...] = fact(
        DIRECTIONS, label="Outpainting direction", choices=DIRECTIONS
    )


class AlternativeTest(Asked):
    """The noise that would have led to the source is found by walking back, and the picture drawn from it."""

    name: Literal["img2img alternative test"] = "img2img alternative test"
    override_sampler: bool = fact(True, label="Override Sampling method to Euler", hint="this method is built for it")
    override_prompt: bool = fact(True, label="Override prompt with Original prompt")
    original_prompt: str = fact("", label="Original prompt")
    original_negative_prompt: str = fact("", label="Original negative prompt")
    override_steps: bool = fact(True, label="Override Sampling steps with Decode steps")
    st: int = fact(50, label="Decode steps", ge=1, le=150, step=1)
    override_strength: bool = fact(True, label="Override Denoising strength to 1")
    cfg: float = fact(1.0, label="Decode CFG scale", ge=0, le=15, step=0.1)
    randomness: float = fact(0.0, label="Randomness", ge=0, le=1, step=0.01)
    sigma_adjustment: bool = fact(False, label="Sigma adjustment for finding noise for image")


Script = Annotated[
    PromptMatrix | PromptsFromFile | XyzPlot | OutpaintingMk2 | PoorMansOutpainting | AlternativeTest,
    Field(discriminator="name"),
]


@dataclass(frozen=True)
class ScriptRow:
    """A script as it is listed: `key` names it in requests and to clients, `args` in A1111's order ("": a place that
    means nothing here). `part` is where in a request its arguments go."""

    key: str
    title: str
    tabs: tuple[str, ...]
    model: type[Frozen]
    args: tuple[str, ...]
    part: str = "script"

    def by_place(self, args: Sequence[Any]) -> dict[str, Any]:
        """Arguments given by place, as A1111's clients do, by name; BadRequest where there are too many.

        None, and what is left out at the end, is the default; numbers stand for texts (axes), one text for a list.
        """
        if len(args) > len(self.args):
            raise BadRequest(
                f"{self.title} takes {len(self.args)} arguments, {len(args)} were sent; /script-info lists them.",
                field="script_args",
            )
        found = {name: value for name, value in zip(self.args, args) if name and value is not None}
        for name, value in found.items():
            default = self.model.model_fields[name].default
            if isinstance(default, str) and isinstance(value, int) and not isinstance(value, bool):
                found[name] = str(value)
            elif isinstance(default, tuple) and isinstance(value, str):
                found[name] = [value] if value else []
        return found

    def values(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments by name as that part of a request."""
        return {"name": self.key, **arguments} if self.part == "script" else dict(arguments)


def _row(title: str, tabs: tuple[str, ...], model: type[Asked], html_first: bool = False) -> ScriptRow:
    names = tuple(name for name in model.model_fields if name not in ("name", "seed_drawn"))
    return ScriptRow(title.lower(), title, tabs, model, ("", *names) if html_first else names)


SCRIPTS: tuple[ScriptRow, ...] = (
    _row("img2img alternative test", (IMG2IMG,), AlternativeTest, html_first=True),
    ScriptRow(
        "loopback", "Loopback", (IMG2IMG,), Loopback,
        ("loops", "final_denoising_strength", "denoising_curve", ""), "source.loopback",
    ),
    _row("Outpainting mk2", (IMG2IMG,), OutpaintingMk2, html_first=True),
    _row("Poor man's outpainting", (IMG2IMG,), PoorMansOutpainting),
    _row("Prompt matrix", BOTH, PromptMatrix),
    _row("Prompts from file or textbox", BOTH, PromptsFromFile),
    ScriptRow(
        "sd upscale", "SD upscale", (IMG2IMG,), Tiles, ("", "overlap", "upscaler", "scale_factor"), "source.tiles"
    ),
    _row("X/Y/Z plot", BOTH, XyzPlot),
)  # fmt: skip
SCRIPT_OF: dict[str, ScriptRow] = {row.key: row for row in SCRIPTS}


def scripts_of(tab: str) -> list[ScriptRow]:
    return [row for row in SCRIPTS if tab in row.tabs]
