"""Every sampler draws one postcard, for docs/samplers.md: `python -m tests.benchmarks.sampler_sheet`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from modules.pipeline.run import Engine
from modules.sampling.table import SAMPLER_NAMES
from modules.schema.events import Event, ImageReady
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings

ROOT = Path(__file__).parent.parent.parent
PROMPT = "a red boat on the left by the sea, sunset, sun"
SIZE, COLUMNS, LABEL = 128, 7, 18


class Nobody:
    """Lets every job run to its end."""

    cancelled = False
    finished: frozenset[int] = frozenset()

    def take_skip(self) -> bool:
        return False


def main() -> None:
    rows = -(-len(SAMPLER_NAMES) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SIZE, rows * (SIZE + LABEL)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    with tempfile.TemporaryDirectory() as data:
        engine = Engine(Folders.under(Path(data), ROOT / "models"))
        for place, sampler in enumerate(SAMPLER_NAMES):
            said: list[Event] = []
            request = GenerationRequest(
                prompt=PROMPT, sampler=sampler, checkpoint="postcards", seed=7, width=SIZE, height=SIZE, cfg_scale=5
            )
            engine.run("sheet", request, Settings(), said.append, Nobody())
            (path,) = [event.record.path for event in said if isinstance(event, ImageReady)]
            x, y = place % COLUMNS * SIZE, place // COLUMNS * (SIZE + LABEL)
            with Image.open(Path(data) / str(path)) as picture:
                sheet.paste(picture, (x, y))
            pen.text((x + SIZE / 2, y + SIZE + LABEL / 2), sampler, "black", font, anchor="mm")
        engine.close()
    sheet.save(ROOT / "docs" / "images" / "samplers.jpg", quality=88)


if __name__ == "__main__":
    main()
