"""A real engine over small random checkpoints, and a hand that can interrupt it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.memory.machine import DeviceFacts
from modules.pipeline.run import Engine
from modules.schema.events import Event, ImageReady
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings
from modules.weights.residency import Residency
from tests.memory.test_streaming import CountingLink
from tests.weights.tiny import write_tiny_sd15


@dataclass
class Hand:
    """Interrupts or skips when `when(event)` says so."""

    cancel_at: Callable[[Event], bool] = lambda event: False
    skip_at: Callable[[Event], bool] = lambda event: False
    finished: frozenset[int] = frozenset()
    cancelled: bool = False
    _skip: bool = False

    def see(self, event: Event) -> None:
        self.cancelled = self.cancelled or self.cancel_at(event)
        self._skip = self._skip or self.skip_at(event)

    def take_skip(self) -> bool:
        skip, self._skip = self._skip, False
        return skip


@dataclass
class Studio:
    """An engine with its folders; `draw` runs one request and keeps its events."""

    engine: Engine
    folders: Folders
    events: list[Event] = field(default_factory=list)

    def draw(self, hand: Hand | None = None, settings: Settings | None = None, **request: object) -> list[ImageReady]:
        hand = hand or Hand()
        self.events = []

        def emit(event: Event) -> None:
            self.events.append(event)
            hand.see(event)

        asked = {"width": 64, "height": 64, "steps": 3, "seed": 1, "sampler": "Euler", **request}
        self.engine.run("job", GenerationRequest(**asked), settings or Settings(), emit, hand)  # type: ignore[arg-type]
        return self.pictures

    @property
    def pictures(self) -> list[ImageReady]:
        return [event for event in self.events if isinstance(event, ImageReady)]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[Studio]:
    folders = Folders.under(tmp_path_factory.mktemp("studio"))
    write_tiny_sd15(folders.checkpoint_dirs[0] / "tiny.safetensors", test_seed)
    engine = Engine(folders)
    yield Studio(engine, folders)
    engine.close()


class PretendCard(DeviceFacts):
    """A card as far as decisions go; its memory is the processor's."""

    @property
    def on(self) -> str:
        return "cpu"


@pytest.fixture
def card(studio: Studio) -> Any:
    """The studio's engine with such a card; what streams to it is counted."""
    engine = studio.engine
    facts, residency = engine.facts, engine.residency
    engine.facts = PretendCard("cuda", "a card", 10**10, facts.ram)
    links: list[CountingLink] = []

    def link(_device: torch.device) -> CountingLink:
        links.append(CountingLink())
        return links[-1]

    engine.residency = Residency(engine.catalogue, engine.facts, link=link)
    yield links
    engine.residency.close()
    engine.facts, engine.residency = facts, residency


@pytest.fixture
def pixels() -> Callable[[Studio, ImageReady], bytes]:
    from PIL import Image

    def read(studio: Studio, picture: ImageReady) -> bytes:
        assert picture.record.path is not None
        with Image.open(Path(studio.folders.data) / picture.record.path) as image:
            return image.tobytes()

    return read
