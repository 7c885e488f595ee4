"""Which file does what a script asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules.pipeline.scripts import alternative, outpainting, prompt_matrix, prompts_from_file, xyz_plot
from modules.pipeline.scripts.expansion import Expansion
from modules.schema import scripts as s
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest

EXPANDERS: dict[type, Callable[[GenerationRequest, Any, Folders], Expansion]] = {
    s.PromptMatrix: prompt_matrix.expand,
    s.PromptsFromFile: prompts_from_file.expand,
    s.XyzPlot: xyz_plot.expand,
    s.OutpaintingMk2: outpainting.expand_mk2,
    s.PoorMansOutpainting: outpainting.expand_poor_man,
    s.AlternativeTest: alternative.expand,
}


def expand(request: GenerationRequest, folders: Folders) -> Expansion:
    """What the script of a request makes of it; BadRequest where that makes no sense."""
    return EXPANDERS[type(request.script)](request, request.script, folders)
