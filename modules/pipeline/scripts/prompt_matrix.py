"""Prompt matrix: `a cat|red house|at night` is drawn with every choice of the parts behind the first."""

from __future__ import annotations

from modules.imaging.legend import Look, Words
from modules.pipeline.scripts.expansion import Cells, Expansion, Made, laid_out, one_of
from modules.schema.errors import BadRequest
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.schema.scripts import PromptMatrix

MOST_PARTS = 12


def expand(request: GenerationRequest, asked: PromptMatrix, folders: Folders) -> Expansion:
    """One picture for each choice, in binary order: bit n is part n + 1."""
    negative = asked.prompt_type == "negative"
    field = "negative_prompt" if negative else "prompt"
    first, *parts = getattr(request, field).split("|")
    if len(parts) > MOST_PARTS:
        raise BadRequest(
            f"The prompt has {len(parts)} variable parts, {2 ** len(parts):,} pictures; {MOST_PARTS} are the most.",
            field=field,
        )
    between = ", " if asked.variations_delimiter == "comma" else " "
    parts = [part.strip().strip(",").strip() for part in parts]
    requests = []
    for choice in range(2 ** len(parts)):
        chosen = [part for k, part in enumerate(parts) if choice >> k & 1]
        words = [*chosen, first] if asked.put_at_start else [first, *chosen]
        seed = request.seed + (choice if asked.different_seeds else 0)
        changes = {field: between.join(words), "seed": seed, "subseed": request.subseed + choice}
        requests.append(request.model_copy(update={**changes, "script": None, "n_iter": 1, "batch_size": 1}))
    down = len(parts) // 2

    def compose(cells: Cells, look: Look) -> list[Made]:
        images = [one_of(cell, look) for cell in cells]
        across, beside = parts[: len(parts) - down], parts[len(parts) - down :]
        return [Made(laid_out(images, _choices(across), _choices(beside), asked.margin_size, look))]

    return Expansion("Prompt matrix", tuple(requests), grids=1, compose=compose)


def _choices(parts: list[str]) -> list[list[Words]]:
    """What stands at each column or row: all parts, those left out struck through."""
    return [[Words(part, bool(choice >> k & 1)) for k, part in enumerate(parts)] for choice in range(2 ** len(parts))]
