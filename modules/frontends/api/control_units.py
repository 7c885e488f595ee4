"""Units of ControlNet out of the bodies of /sdapi/v1, under the names of sd-webui-controlnet and its older versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modules.schema.control import CONTROL_MODES, HR_OPTIONS, MAX_UNITS, RESIZE_MODES, UNSET, ControlUnit, preprocessor
from modules.schema.errors import BadRequest
from modules.schema.fields import facts

TITLE = "controlnet"
_ALIASES = {"input_image": "image", "guidance": "guidance_end", "mask_image": "mask"}
_OLD_RESIZE_MODES = {
    "Scale to Fit (Inner Fit)": RESIZE_MODES[1], "Inner Fit (Scale to Fit)": RESIZE_MODES[1],
    "Envelope (Outer Fit)": RESIZE_MODES[2], "Outer Fit (Shrink to Fit)": RESIZE_MODES[2],
}  # fmt: skip
_NUMBERED = {"resize_mode": RESIZE_MODES, "control_mode": CONTROL_MODES, "hr_option": HR_OPTIONS}
_PICTURES = ("image", "mask")
_NOT_HERE = ("advanced_weighting", "effective_region_mask", "ipadapter_input")
"""What would change the picture, and cannot be done."""


def units_of(scripts: Mapping[str, Any], keep: Callable[[str, str], str]) -> list[dict[str, Any]]:
    """The fields of every unit that is switched on; one that does not say is. `keep`: stores a picture.

    Raises BadRequest, field "alwayson_scripts" or as `keep`.
    """
    asked = next((value for name, value in scripts.items() if str(name).lower() == TITLE), None)
    args = asked.get("args", []) if isinstance(asked, Mapping) else []
    if not isinstance(args, list) or not all(isinstance(unit, Mapping) for unit in args):
        raise BadRequest(
            "The args of controlnet are a list of units, each an object such as "
            '{"module": "canny", "model": "…", "image": "…"}.',
            field="alwayson_scripts",
        )
    if len(args) > MAX_UNITS:
        raise BadRequest(f"{len(args)} units of ControlNet are too many; give at most {MAX_UNITS}.", field=TITLE)
    return [_unit(unit, keep) for unit in args if unit.get("enabled", True)]


def _unit(given: Mapping[str, Any], keep: Callable[[str, str], str]) -> dict[str, Any]:
    for name in _NOT_HERE:
        if given.get(name):
            raise BadRequest(f"{name} is not supported here; leave it out.", field=f"controlnet.{name}")
    values = {_ALIASES.get(key, key): value for key, value in given.items() if value is not None}
    values |= {key: given[key] for key in ("image", "mask") if given.get(key)}  # before their other names
    values |= _pictures(values)
    unit: dict[str, Any] = {}
    for name in ControlUnit.model_fields:
        value = values.get(name)
        if value is None or value == "":
            continue
        if name in _PICTURES:
            unit[name] = keep(str(value), f"controlnet.{name}")
        elif name in _NUMBERED and isinstance(value, int) and 0 <= value < len(_NUMBERED[name]):
            unit[name] = _NUMBERED[name][value]
        elif name == "resize_mode":
            unit[name] = _OLD_RESIZE_MODES.get(str(value), value)
        elif name in ("processor_res", "threshold_a", "threshold_b"):
            unit[name] = _within(name, value, str(values.get("module", "none")))
        else:
            unit[name] = value
    return unit


def _pictures(values: Mapping[str, Any]) -> dict[str, Any]:
    """`image` may be a picture, {"image", "mask"}, [picture, mask], or a list of one of these objects."""
    image = values.get("image")
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if isinstance(image, list) and len(image) == 2:
        image = {"image": image[0], "mask": image[1]}
    if isinstance(image, Mapping):
        return {name: image.get(name) or values.get(name) for name in _PICTURES if name in image}
    if image is not None and not isinstance(image, str):
        raise BadRequest("The image of a ControlNet unit is one picture in base64.", field="controlnet.image")
    return {"image": image}


def _within(name: str, value: Any, module: str) -> Any:
    """A number for the preprocessor; one out of its bounds stands for its default, as in the extension."""
    if not isinstance(value, int | float):
        return value
    row = preprocessor(module)
    slider = getattr(row, name[-1], None) if row and name.startswith("threshold") else None
    known = facts(ControlUnit, name)
    low, high = (slider.ge, slider.le) if slider else (known.soft_ge or 0, known.le)
    if not low <= value <= (high if high is not None else value):
        return UNSET
    return int(value) if name == "processor_res" else value


def without_pictures(scripts: Mapping[str, Any]) -> dict[str, Any]:
    """The always-on scripts of a body that was answered, without the pictures of its units."""
    names = {*_PICTURES, *(old for old, name in _ALIASES.items() if name in _PICTURES)}
    return {
        title: {**asked, "args": [{**unit, **dict.fromkeys(names & unit.keys())} for unit in asked.get("args", [])]}
        if title.lower() == TITLE
        else asked
        for title, asked in scripts.items()
    }
