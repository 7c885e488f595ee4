"""The front desk as the front ends see it: `service.generation.GenerationService`, or the tests' stand-in.

Everything here may block on the database for some milliseconds, so routes call it from worker threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from modules.schema.events import Event
from modules.schema.record import CheckpointView, JobView, SavedRecord
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings
from modules.service.prompts import PromptDesk
from modules.service.styles import StyleStore


class FrontDesk(Protocol):
    """Jobs in, events and pictures out. Unknown ids raise NotFound."""

    warnings: list[str]
    """A sentence for everything that was not as it should be at the start."""

    styles: StyleStore
    prompts: PromptDesk

    @property
    def settings(self) -> Settings: ...

    def submit(self, request: GenerationRequest, /, owner: str = "", key: str | None = None) -> str: ...

    def follow(self, job: str, /, after: int = 0, timeout: float | None = None) -> Iterator[tuple[int, Event]]:
        """Events behind position `after`, then new ones as they come; ends after the last event of the job, or when
        `timeout` seconds pass without one."""
        ...

    def job(self, id: str, /) -> JobView: ...

    def jobs(self, limit: int = 100) -> Sequence[JobView]: ...

    def cancel(self, id: str, /) -> Any: ...

    def skip(self, id: str, /) -> Any: ...

    def preview(self, id: str, /) -> tuple[int, str, bytes] | None: ...

    def picture(self, record_id: str, /) -> tuple[bytes | Path, SavedRecord]: ...

    def checkpoints(self, refresh: bool = False) -> Sequence[CheckpointView]: ...

    def change_settings(self, changes: dict[str, Any], /) -> Any: ...

    def close(self) -> None: ...
