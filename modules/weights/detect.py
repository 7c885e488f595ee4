"""Which family a checkpoint belongs to, and every size of its nets, read off its header (no tensor library needed).

Families are tried in turn; the first that knows the file answers with `ModelFacts`: plain numbers, which
`weights.build` turns into nets. A new family is one file in `families/` and one line in `FAMILIES`. What none of them
draws is refused by its right name (`families.others`).

    facts = detect(read_header(path), read_sidecar(path))
    facts.family, facts.unet.config["context_dim"]      # ("sd1", 768)
"""

from __future__ import annotations

from collections.abc import Callable

from modules.schema.errors import BadFile
from modules.weights.facts import ModelFacts
from modules.weights.families import others, refiner, sd2, sd15, sdxl
from modules.weights.headers import Header
from modules.weights.sidecar import NO_SIDECAR, SideCar

FAMILIES: tuple[Callable[[Header, SideCar], ModelFacts | None], ...] = (
    sdxl.recognise,
    refiner.recognise,
    sd2.recognise,
    sd15.recognise,
)


def detect(header: Header, sidecar: SideCar = NO_SIDECAR) -> ModelFacts:
    """The facts of a checkpoint this version can draw with.

    Raises:
        BadFile: the file is of another family or kind (named), or a part of it is missing or odd.
    """
    name = others.what_is(header)
    if name is not None:
        raise BadFile(f"{header.path.name} {name}")
    for recognise in FAMILIES:
        facts = recognise(header, sidecar)
        if facts is not None:
            return facts
    raise BadFile(
        f"{header.path.name} is no model known here; this version draws with SD 1.x, SD 2.x and SDXL checkpoints."
    )
