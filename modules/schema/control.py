"""ControlNet as a user asks for it: one unit is one net with the picture it looks at and how much it has to say.

Names, ranges and defaults are those of sd-webui-controlnet, the extension of A1111 that everybody knows them from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from modules.schema.fields import Frozen, all_facts, fact

InputName = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]

MAX_UNITS = 10
RESIZE_MODES = ("Just Resize", "Crop and Resize", "Resize and Fill")
CONTROL_MODES = ("Balanced", "My prompt is more important", "ControlNet is more important")
BALANCED, PROMPT, CONTROL = CONTROL_MODES
HR_OPTIONS = ("Both", "Low res only", "High res only")
UNSET = -1


@dataclass(frozen=True)
class Slider:
    """A number that a preprocessor takes."""

    label: str
    default: float
    ge: float
    le: float
    step: float


@dataclass(frozen=True)
class Preprocessor:
    """`tags`: the control types it is offered for. `sized`: it works at a resolution. `a`, `b`: its thresholds."""

    name: str
    tags: tuple[str, ...]
    sized: bool = True
    a: Slider | None = None
    b: Slider | None = None
    masked: bool = False
    aliases: tuple[str, ...] = ()


# All that need no model of their own.
PREPROCESSORS: tuple[Preprocessor, ...] = (
    Preprocessor("none", (), sized=False),
    Preprocessor("invert", ("Canny", "Lineart", "Scribble", "MLSD"), sized=False,
                 aliases=("invert (from white bg & black line)",)),
    Preprocessor("canny", ("Canny",), a=Slider("Low Threshold", 100, 1, 255, 1),
                 b=Slider("High Threshold", 200, 1, 255, 1)),
    Preprocessor("scribble_xdog", ("Scribble",), a=Slider("XDoG Threshold", 32, 1, 64, 1)),
    Preprocessor("threshold", ("Scribble",), a=Slider("Binarization Threshold", 127, 0, 255, 1)),
    Preprocessor("tile_resample", ("Tile",), sized=False, a=Slider("Down Sampling Rate", 1, 1, 8, 0.01)),
    Preprocessor("blur_gaussian", ("Tile",), a=Slider("Sigma", 9, 0.01, 64, 0.01)),
    Preprocessor("shuffle", ("Shuffle",)),
    Preprocessor("inpaint_global_harmonious", ("Inpaint",), sized=False, masked=True),
)  # fmt: skip
_BY_NAME = {name.lower(): row for row in PREPROCESSORS for name in (row.name, *row.aliases)}
CONTROL_TYPES: dict[str, tuple[str, ...]] = {
    "All": (), "Canny": ("canny",), "Depth": ("depth",), "NormalMap": ("normal",), "OpenPose": ("openpose", "pose"),
    "MLSD": ("mlsd",), "Lineart": ("lineart",), "SoftEdge": ("softedge", "hed"), "Scribble": ("scribble", "sketch"),
    "Segmentation": ("seg",), "Shuffle": ("shuffle",), "Tile": ("tile", "blur"), "Inpaint": ("inpaint",),
    "InstructP2P": ("ip2p",), "Recolor": ("recolor",), "QRCode": ("qrcode", "brightness", "illumination"),
}  # fmt: skip
"""What a net is called that was taught with such pictures."""


def preprocessor(name: str) -> Preprocessor | None:
    """By its name or another program's; None for one that is not there."""
    return _BY_NAME.get(name.strip().lower())


class ControlUnit(Frozen):
    """One net, its picture and how it is used. `image` may be left out where there is a source: then that is meant.

    `processor_res`, `threshold_a`, `threshold_b` are the preprocessor's own defaults where they are -1.
    """

    module: str = fact("none", label="Preprocessor", hint="What makes the picture a map for the net; none: it is one.")
    model: str = fact("None", label="Model", hint="A file of models/ControlNet.")
    image: InputName | None = fact(None, label="Picture")
    mask: InputName | None = fact(None, label="Mask of the picture", hint="White is drawn anew; for inpainting.")
    weight: int | float = fact(1.0, label="Control Weight", ge=0, le=10, soft_le=2, step=0.05)
    resize_mode: Literal["Just Resize", "Crop and Resize", "Resize and Fill"] = fact(
        "Crop and Resize", label="Resize Mode", choices=RESIZE_MODES
    )
    processor_res: int = fact(UNSET, label="Preprocessor Resolution", ge=-1, le=4096, soft_ge=64, soft_le=2048, step=8)
    threshold_a: int | float = fact(UNSET, label="Threshold A", ge=-1, le=255)
    threshold_b: int | float = fact(UNSET, label="Threshold B", ge=-1, le=255)
    guidance_start: int | float = fact(
        0.0, label="Starting Control Step", ge=0, le=1, step=0.01, hint="As a share of the steps."
    )
    guidance_end: int | float = fact(
        1.0, label="Ending Control Step", ge=0, le=1, step=0.01, hint="As a share of the steps."
    )
    pixel_perfect: bool = fact(
        False, label="Pixel Perfect", hint="The preprocessor works at the resolution that the size drawn asks for."
    )
    control_mode: Literal["Balanced", "My prompt is more important", "ControlNet is more important"] = fact(
        BALANCED, label="Control Mode", choices=CONTROL_MODES
    )
    hr_option: Literal["Both", "Low res only", "High res only"] = fact("Both", label="Hires pass", choices=HR_OPTIONS)

    @property
    def resolution(self) -> int:
        return 512 if self.processor_res < 64 else self.processor_res

    def threshold(self, which: str) -> float:
        """ "a" or "b" as the preprocessor takes it: its own default where none, or an impossible one, is asked for."""
        row = preprocessor(self.module)
        slider = getattr(row, which, None) if row else None
        value = getattr(self, f"threshold_{which}")
        if slider is None:
            return value
        return value if slider.ge <= value <= slider.le else slider.default


# ----------------------------------------------------------------------------------------------------------- infotext

TOLD = (
    "module", "model", "weight", "resize_mode", "processor_res", "threshold_a", "threshold_b", "guidance_start",
    "guidance_end", "pixel_perfect", "control_mode", "hr_option",
)  # fmt: skip
"""What an infotext holds of a unit, in the extension's order."""
_KEYS = {name: " ".join(word.capitalize() for word in name.split("_")) for name in TOLD}
_PART = re.compile(rf"(?:^|, )({'|'.join(_KEYS.values())}): ")
INFOTEXT = re.compile(r"ControlNet (\d{1,2})")
"""The key of a unit; the number is its place."""


def told(unit: ControlUnit, model: str) -> str:
    """A unit in the extension's words. `model`: "name [hash]"."""
    row = preprocessor(unit.module)
    values: dict[str, Any] = {name: getattr(unit, name) for name in TOLD}
    values |= {"model": model, "module": row.name if row else unit.module, "processor_res": unit.resolution}
    for which in ("a", "b"):
        if row is not None and getattr(row, which) is not None:
            values[f"threshold_{which}"] = unit.threshold(which)
    if unit.hr_option == "Both":
        del values["hr_option"]
    return ", ".join(f"{_KEYS[name]}: {_written(value)}" for name, value in values.items())


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def read(text: str) -> dict[str, Any]:
    """The fields of a unit that an infotext tells, by name, values as a unit has them; what makes no sense is left
    out."""
    found: dict[str, Any] = {}
    parts = list(_PART.finditer(text))
    names = {key: name for name, key in _KEYS.items()}
    for part, after in zip(parts, [*parts[1:], None]):
        name = names[part[1]]
        value = text[part.end() : after.start() if after else len(text)].strip()
        found[name] = value if name == "model" else value.partition(", ")[0]  # what is unknown may follow
    known = all_facts(ControlUnit)
    result: dict[str, Any] = {}
    for name, value in found.items():
        usual = known[name]
        if isinstance(usual.default, bool):
            result[name] = value == "True"
        elif isinstance(usual.default, int | float):
            try:
                number = float(value)
            except ValueError:
                continue
            if (usual.ge is None or number >= usual.ge) and (usual.le is None or number <= usual.le):
                result[name] = int(number) if number.is_integer() else number
        elif not usual.choices or value in usual.choices:
            result[name] = value
    return result


def units_told(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The units that the fields of an infotext tell of, in their order; each as `read`."""
    numbered = ((INFOTEXT.fullmatch(key), value) for key, value in fields.items())
    found = sorted((int(match[1]), str(value)) for match, value in numbered if match)
    return [unit for unit in (read(text) for _, text in found[:MAX_UNITS]) if unit.get("model", "None") != "None"]
