"""X/Y/Z plot: a grid of pictures along up to three axes, each with a list of values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from modules.imaging.legend import Look, Words, check_size
from modules.pipeline.scripts.expansion import MOST_CELLS, Cells, Expansion, Made, changed, laid_out, one_of, own_seed
from modules.prompt import values as lists
from modules.schema.axes import AXES, Axis, find_axis, known, part_and_name
from modules.schema.errors import BadRequest
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest, Refiner
from modules.schema.scripts import IMG2IMG, TXT2IMG, XyzPlot

TITLE = "X/Y/Z plot"
NOTHING = AXES[0]
SEEDS = ("Seed", "Var. seed")
YES, NO = ("yes", "true", "1"), ("no", "false", "0")


@dataclass(frozen=True)
class Ruler:
    """An axis with its values, and the text they were given as."""

    letter: str
    axis: Axis
    values: tuple[Any, ...]
    text: str

    def words(self, index: int) -> list[Words]:
        """What the legend says of a value."""
        return [Words(self.label(self.values[index]))]

    def label(self, value: Any) -> str:
        shape = self.axis.shape
        if shape == "none":
            return ""
        if shape == "replace":
            return str(value)
        if shape == "order":
            return ", ".join(value)
        if isinstance(value, bool):
            value = "Yes" if value else "No"
        elif isinstance(value, float):
            value = f"{round(value, 8):g}"
        elif self.axis.choices in ("checkpoints", "vaes"):
            value = PurePath(str(value)).name
        return f"{self.axis.label}: {value}"

    def told(self, fixed: bool) -> dict[str, Any]:
        """Its keys in the infotext of a grid."""
        if self.axis is NOTHING:
            return {}
        found = {f"{self.letter} Type": self.axis.label, f"{self.letter} Values": self.text}
        if fixed and self.axis.label in SEEDS:
            found[f"Fixed {self.letter} Values"] = ", ".join(map(str, self.values))
        return found


def expand(request: GenerationRequest, asked: XyzPlot, folders: Folders) -> Expansion:
    """The picture at (x, y, z) is number x + y·X + z·X·Y; the axis whose change is dearest changes least often."""
    tab = IMG2IMG if request.source is not None else TXT2IMG
    x, y, z = (_ruler(letter, request, asked, tab) for letter in "xyz")
    sizes = [len(each.values) for each in (x, y, z)]
    count = sizes[0] * sizes[1] * sizes[2]
    if count > MOST_CELLS:
        raise BadRequest(f"The plot would have {count:,} pictures; {MOST_CELLS:,} are the most.", field="script")
    check_size(request.width * sizes[0], request.height * sizes[1] * sizes[2])
    requests = tuple(
        _cell(request, asked, (x, y, z), (i, j, k))
        for k, j, i in itertools.product(range(sizes[2]), range(sizes[1]), range(sizes[0]))
    )
    dearest_first = sorted(range(3), key=lambda n: (-(x, y, z)[n].axis.cost, -n))
    steps = (1, sizes[0], sizes[0] * sizes[1])
    order = tuple(
        sum(place * steps[n] for place, n in zip(places, dearest_first))
        for places in itertools.product(*(range(sizes[n]) for n in dearest_first))
    )
    several = sizes[2] > 1
    fixed = not asked.no_fixed_seeds

    def compose(cells: Cells, look: Look) -> list[Made]:
        """The whole, then where they are asked for the grids it is made of."""
        each = sizes[0] * sizes[1]
        told: dict[str, Any] = {"Script": TITLE, **x.told(fixed), **y.told(fixed)}
        above = [x.words(i) for i in range(sizes[0])] if asked.draw_legend else [[]] * sizes[0]
        beside = [y.words(j) for j in range(sizes[1])] if asked.draw_legend else [[]] * sizes[1]
        grids = []
        for k in range(sizes[2]):
            images = [one_of(cell, look) for cell in cells[k * each : (k + 1) * each]]
            there = any(image is not None for image in images)
            grids.append(laid_out(images, above, beside, asked.margin_size, look) if there else None)
        if not several:
            assert grids[0] is not None
            return [Made(grids[0], {**told, **z.told(fixed)}, "xyz_grid")]
        over = [z.words(k) for k in range(sizes[2])] if asked.draw_legend else [[]] * sizes[2]
        whole = laid_out(grids, over, [[]], asked.margin_size, look)
        made = [Made(whole, {**told, **z.told(fixed)}, "xyz_grid")]
        if asked.include_sub_grids:
            made += [Made(grid, told, "xyz_grid") for grid in grids if grid is not None]
        return made

    grids = 1 + (sizes[2] if several and asked.include_sub_grids else 0)
    return Expansion(TITLE, requests, order, grids, compose, asked.include_lone_images)


def _ruler(letter: str, request: GenerationRequest, asked: XyzPlot, tab: str) -> Ruler:
    """An axis as it was asked for; BadRequest where it or its values make no sense."""
    name, text = getattr(asked, f"{letter}_type"), getattr(asked, f"{letter}_values")
    dropdown = getattr(asked, f"{letter}_values_dropdown")
    field = f"script.{letter}_type"
    axis = find_axis(tab, name)
    if axis is None:
        raise BadRequest(f"There is no axis called {name[:60]!r} here; /script-info lists them.", field=field)
    if axis is NOTHING:
        return Ruler(letter.upper(), axis, (0,), "")
    if not known(axis):
        raise BadRequest(f"The axis {axis.label} cannot be drawn here; choose another.", field=field)
    if dropdown and not asked.csv_mode and (axis.choices or axis.own_choices):
        text = lists.joined(list(dropdown))
    try:
        found = tuple(_values(axis, text))
    except BadRequest as error:
        raise BadRequest(f"{axis.label}: {error.message}", field=f"script.{letter}_values") from None
    if not found:
        raise BadRequest(f"The axis {axis.label} has no values; write some.", field=f"script.{letter}_values")
    if axis.label in SEEDS and not asked.no_fixed_seeds:
        found = tuple(own_seed(request.seed, f"{letter}{k}") if v == -1 else v for k, v in enumerate(found))
    return Ruler(letter.upper(), axis, found, text)


def _values(axis: Axis, text: str) -> Sequence[Any]:
    if axis.kind in ("whole", "number"):
        return lists.numbers(text, axis.kind == "whole")
    found = lists.split(text)
    if axis.shape == "order":
        if len(found) > 7:
            raise BadRequest(f"{len(found)} words have too many orders; give 7 at most.")
        return list(itertools.permutations(found))
    if axis.kind == "switch":
        odd = next((value for value in found if value.lower() not in (*YES, *NO)), None)
        if odd is not None:
            raise BadRequest(f"{odd[:40]!r} is neither Yes nor No.")
        return [value.lower() in YES for value in found]
    return found


def _cell(
    request: GenerationRequest, asked: XyzPlot, rulers: tuple[Ruler, Ruler, Ruler], places: tuple[int, int, int]
) -> GenerationRequest:
    """The plain request at one place of the plot."""
    made = request.model_copy(update={"script": None})
    if asked.no_fixed_seeds and asked.seed_drawn:
        made = made.model_copy(update={"seed": own_seed(request.seed, places)})
    for ruler, place in zip(rulers, places):
        made = _put(made, ruler, ruler.values[place])
    step, more = 1, 0
    for ruler, place, vary in zip(rulers, places, (asked.vary_seeds_x, asked.vary_seeds_y, asked.vary_seeds_z)):
        if vary:
            more += place * step
            step *= len(ruler.values)
    seed = own_seed(request.seed, (places, "seed")) if made.seed == -1 else made.seed + more
    subseed = own_seed(request.seed, (places, "subseed")) if made.subseed == -1 else made.subseed
    return made.model_copy(update={"seed": seed, "subseed": subseed})


def _put(request: GenerationRequest, ruler: Ruler, value: Any) -> GenerationRequest:
    """The request with one value of an axis."""
    axis = ruler.axis
    if axis.shape == "none":
        return request
    if axis.shape == "replace":
        return _replaced(request, str(ruler.values[0]), str(value))
    if axis.shape == "order":
        return changed(request, "prompt", _ordered(request.prompt, value), axis.label)
    if axis.shape == "styles":
        more = tuple(part.strip() for part in str(value).split(",") if part.strip() not in ("", "None"))
        return changed(request, "styles", (*request.styles, *more), axis.label)
    if axis.shape == "faces":
        return _with_faces(request, str(value))
    if axis.shape == "size":
        return _sized(request, str(value))
    if axis.settings:
        override = {**request.override_settings, **dict.fromkeys(axis.settings, value)}
        return request.model_copy(update={"override_settings": override})
    for path in axis.fields:
        part, name = part_and_name(path)
        if not part:
            return changed(request, name, value, axis.label)
        section = getattr(request, part)
        if section is None and part == "refiner":
            section = Refiner()
        if section is not None:
            return request.model_copy(update={part: changed(section, name, value, axis.label)})
    needed = "hires fix; turn it on" if axis.fields[-1].startswith("hires.") else "a picture to start from"
    raise BadRequest(f"The axis {axis.label} needs {needed}.", field="script")


def _replaced(request: GenerationRequest, old: str, new: str) -> GenerationRequest:
    texts = {name: getattr(request, name) for name in ("prompt", "negative_prompt")}
    if not any(old in text for text in texts.values()):
        raise BadRequest(f"Prompt S/R did not find {old[:60]!r} in the prompts.", field="script")
    made = request.model_copy(update={name: text.replace(old, new) for name, text in texts.items()})
    if made.hires is None:
        return made
    prompts = {name: getattr(made.hires, name).replace(old, new) for name in ("hr_prompt", "hr_negative_prompt")}
    return made.model_copy(update={"hires": made.hires.model_copy(update=prompts)})


def _ordered(prompt: str, words: Sequence[str]) -> str:
    """The prompt with these words, wherever they stand, in this order."""
    places = []
    for word in words:
        at = prompt.find(word)
        if at < 0:
            raise BadRequest(f"Prompt order did not find {word[:60]!r} in the prompt.", field="script")
        places.append((at, len(word)))
    result, end = "", 0
    for (at, length), word in zip(sorted(places), words):
        result += prompt[end:at] + word if at >= end else word
        end = max(end, at + length)
    return result + prompt[end:]


def _with_faces(request: GenerationRequest, text: str) -> GenerationRequest:
    """Faces restored by the model of that name, or by the settings' ("Yes"), or not at all."""
    changes: dict[str, Any] = {"face_restoration": text.lower() not in NO}
    if text.lower() not in (*YES, *NO):
        changes["face_restoration_model"] = text
    return request.model_copy(update={"override_settings": {**request.override_settings, **changes}})


def _sized(request: GenerationRequest, text: str) -> GenerationRequest:
    width, _, height = text.lower().partition("x")
    if not (width.strip().isdigit() and height.strip().isdigit()):
        raise BadRequest(f"Size: {text[:40]!r} is none; write 512x768.", field="script")
    request = changed(request, "width", int(width), "Width")
    return changed(request, "height", int(height), "Height")
