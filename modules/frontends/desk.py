"""The front desk as the front ends see it: `service.generation.GenerationService`, or the tests' stand-in.

Everything here may block on the database for some milliseconds, so routes call it from worker threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from modules.schema.errors import BadRequest, NotFound
from modules.schema.events import Event
from modules.schema.folders import Folders
from modules.schema.memory import MemoryEstimate, MemoryNow
from modules.schema.record import CheckpointView, JobView, QueueView, SavedRecord
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings
from modules.service.cards import Cards
from modules.service.extensions import ExtensionStore
from modules.service.freezing import Freeze
from modules.service.history import History
from modules.service.importing import Importer
from modules.service.model_files import ModelFiles
from modules.service.model_tasks import ModelTasks
from modules.service.presets import PresetStore
from modules.service.prompts import PromptDesk
from modules.service.styles import StyleStore
from modules.service.ui_config import UiConfig
from modules.weights.library import Library


class FrontDesk(Protocol):
    """Jobs in, events and pictures out. Unknown ids raise NotFound."""

    warnings: list[str]
    """A sentence for everything that was not as it should be at the start."""
    freeze: Freeze
    folders: Folders
    styles: StyleStore
    ui_config: UiConfig
    presets: PresetStore
    prompts: PromptDesk
    model_files: ModelFiles
    library: Library
    cards: Cards
    model_tasks: ModelTasks
    importer: Importer
    extensions: ExtensionStore

    @property
    def history(self) -> History: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def unused_options(self) -> Mapping[str, Any]:
        """A1111's options that change nothing here."""
        ...

    def submit(
        self, request: GenerationRequest, /, owner: str = "", key: str | None = None, webhook: str | None = None
    ) -> str: ...

    def follow(self, job: str, /, after: int = 0, timeout: float | None = None) -> Iterator[tuple[int, Event]]:
        """Events behind position `after`, then new ones as they come; ends after the last event of the job, or when
        `timeout` seconds pass without one."""
        ...

    def job(self, id: str, /) -> JobView: ...

    def jobs(self, limit: int = 100, owner: str | None = None) -> Sequence[JobView]: ...

    def current(self, owner: str | None = None) -> JobView | None:
        """The job that is being drawn, else the first that waits."""
        ...

    def cancel(self, id: str, /) -> Any: ...

    def skip(self, id: str, /) -> Any: ...

    def again(self, id: str, /, owner: str = "", same: bool = False) -> str:
        """Queues the request of a job once more, with the `same` seeds where that is wanted; the new id."""
        ...

    def queue(self, owner: str | None = None, ended: int = 30) -> QueueView: ...

    def hold_queue(self, held: bool, owner: str | None = None) -> Any:
        """Whether further jobs are begun, of one owner or of all."""
        ...

    def watch(self, seen: tuple[int, int], timeout: float, /) -> tuple[int, int]:
        """Waits until something happened in the queue: counts of all, and of what changed more than progress."""
        ...

    def pause(self, id: str, /) -> Any: ...

    def resume(self, id: str, /) -> Any: ...

    def move(self, id: str, /, before: str | None = None) -> Any: ...

    def preview(self, id: str, /) -> tuple[int, str, bytes] | None: ...

    def picture(self, record_id: str, /) -> tuple[bytes | Path, SavedRecord]: ...

    def thumbnail(self, record_id: str, /) -> bytes: ...

    def keep_input(self, data: bytes, /) -> str:
        """Stores a picture to draw from and returns its name for a request."""
        ...

    def checkpoints(self, refresh: bool = False) -> Sequence[CheckpointView]: ...

    def checkpoint(self, name: str | None = None, /) -> CheckpointView:
        """The one of that name, title or hash; the settings' without. NotFound."""
        ...

    def change_settings(self, changes: dict[str, Any], /) -> Any: ...

    def unload(self) -> Any: ...

    def load(self) -> Any: ...

    def renew(self) -> Any:
        """The worker begins anew once it draws nothing."""
        ...

    def estimate(self, request: GenerationRequest, /) -> MemoryEstimate | None:
        """The memory a job would take; None as long as nothing is known of the device."""
        ...

    def memory(self) -> MemoryNow: ...

    def stats(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class OwnDesk:
    """The front desk for one user: only the own jobs and pictures are known; those of others do not exist."""

    def __init__(self, desk: FrontDesk, owner: str) -> None:
        self._desk = desk
        self.owner = owner
        self.warnings, self.freeze = desk.warnings, desk.freeze
        self.folders = desk.folders
        self.ui_config, self.presets = desk.ui_config, desk.presets
        self.styles, self.prompts, self.model_files = desk.styles, desk.prompts, desk.model_files
        self.library, self.model_tasks, self.cards = desk.library, desk.model_tasks, desk.cards
        self.importer, self.extensions = desk.importer, desk.extensions

    @property
    def history(self) -> History:
        return self._desk.history.of(self.owner)

    @property
    def settings(self) -> Settings:
        return self._desk.settings

    @property
    def unused_options(self) -> Mapping[str, Any]:
        return self._desk.unused_options

    def submit(
        self, request: GenerationRequest, /, owner: str = "", key: str | None = None, webhook: str | None = None
    ) -> str:
        batch = request.source.batch if request.source else None
        if batch is not None and batch.folders:
            raise BadRequest(
                "Folders of this machine are for whoever sits at it; with a login, send the pictures themselves.",
                field="batch",
            )
        return self._desk.submit(request, self.owner, key, webhook)

    def follow(self, job: str, /, after: int = 0, timeout: float | None = None) -> Iterator[tuple[int, Event]]:
        return self._desk.follow(self.job(job).id, after, timeout)

    def job(self, id: str, /) -> JobView:
        view = self._desk.job(id)
        if view.owner != self.owner:
            raise NotFound(f"No job has the id {id[:40]!r}; the list of jobs shows those that are known.")
        return view

    def jobs(self, limit: int = 100, owner: str | None = None) -> Sequence[JobView]:
        return self._desk.jobs(limit, self.owner)

    def current(self, owner: str | None = None) -> JobView | None:
        return self._desk.current(self.owner)

    def cancel(self, id: str, /) -> Any:
        return self._desk.cancel(self.job(id).id)

    def skip(self, id: str, /) -> Any:
        return self._desk.skip(self.job(id).id)

    def again(self, id: str, /, owner: str = "", same: bool = False) -> str:
        return self._desk.again(self.job(id).id, self.owner, same)

    def queue(self, owner: str | None = None, ended: int = 30) -> QueueView:
        return self._desk.queue(self.owner, ended)

    def hold_queue(self, held: bool, owner: str | None = None) -> Any:
        return self._desk.hold_queue(held, self.owner)

    def watch(self, seen: tuple[int, int], timeout: float, /) -> tuple[int, int]:
        return self._desk.watch(seen, timeout)

    def pause(self, id: str, /) -> Any:
        return self._desk.pause(self.job(id).id)

    def resume(self, id: str, /) -> Any:
        return self._desk.resume(self.job(id).id)

    def move(self, id: str, /, before: str | None = None) -> Any:
        return self._desk.move(self.job(id).id, before)

    def preview(self, id: str, /) -> tuple[int, str, bytes] | None:
        return self._desk.preview(self.job(id).id)

    def picture(self, record_id: str, /) -> tuple[bytes | Path, SavedRecord]:
        found, record = self._desk.picture(record_id)
        owner = self._desk.job(record.job).owner if record.job else self._desk.history.owner_of(record_id)
        if owner != self.owner:
            raise NotFound("No picture of that id is known; the list shows those that are.")
        return found, record

    def thumbnail(self, record_id: str, /) -> bytes:
        self.picture(record_id)
        return self._desk.thumbnail(record_id)

    def keep_input(self, data: bytes, /) -> str:
        return self._desk.keep_input(data)

    def checkpoints(self, refresh: bool = False) -> Sequence[CheckpointView]:
        return self._desk.checkpoints(refresh)

    def checkpoint(self, name: str | None = None, /) -> CheckpointView:
        return self._desk.checkpoint(name)

    def change_settings(self, changes: dict[str, Any], /) -> Any:
        return self._desk.change_settings(changes)

    def unload(self) -> Any:
        return self._desk.unload()

    def load(self) -> Any:
        return self._desk.load()

    def renew(self) -> Any:
        return self._desk.renew()

    def estimate(self, request: GenerationRequest, /) -> MemoryEstimate | None:
        return self._desk.estimate(request)

    def memory(self) -> MemoryNow:
        return self._desk.memory()

    def stats(self) -> dict[str, Any]:
        return self._desk.stats()

    def close(self) -> None:
        """It is everybody's; nobody closes it from here."""


def desk_of(desk: FrontDesk, user: str | None) -> FrontDesk:
    """The desk as this user may see it. `user` is None where there is no login: then all is everybody's."""
    return desk if user is None else OwnDesk(desk, user)
