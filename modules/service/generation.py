"""The one front desk: every way in submits here, and anybody may follow, come back, cancel.

    service = GenerationService(Folders.under(data))
    job = service.submit(GenerationRequest(prompt="a red house"))     # durable before it returns
    for position, event in service.follow(job):                       # from any thread, any number of times
        ...
    service.job(job).images

One thread takes the jobs in order and lets the worker draw them. The browser never owns a job. A full disk holds the
queue: what was drawn stays in memory, and is saved when there is room again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sqlite3
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import PydanticSerializationError

from modules.imaging import embedded, inputs
from modules.imaging.metadata import open_bounded
from modules.imaging.naming import NameFields
from modules.imaging.save import kept_as, safe_write, save_named, sweep_leftovers, time_of_a_file
from modules.schema import events as ev
from modules.schema.errors import BadRequest, DiskTrouble, EaselError, NotFound
from modules.schema.folders import Folders
from modules.schema.memory import MemoryEstimate, MemoryNow
from modules.schema.record import FINAL_STATES, CheckpointView, JobView, QueueView, SavedRecord
from modules.schema.request import GenerationRequest
from modules.schema.settings import SECTION_OF, Settings, is_place
from modules.service.cards import Cards
from modules.service.database import Database
from modules.service.extensions import ExtensionStore
from modules.service.freezing import NOTHING_FROZEN, SWITCHES, Freeze
from modules.service.gallery import Gallery
from modules.service.history import History
from modules.service.importing import Importer
from modules.service.jobs import FINAL_EVENTS, Job, JobStore
from modules.service.keeper import Keeper, adopt
from modules.service.lock import FolderLock
from modules.service.model_files import ModelFiles
from modules.service.model_tasks import ModelTasks
from modules.service.planner import Planner
from modules.service.presets import PresetStore
from modules.service.prompts import PromptDesk
from modules.service.settings_store import SettingsStore
from modules.service.styles import StyleStore
from modules.service.thumbnails import small
from modules.service.ui_config import UiConfig
from modules.service.webhook import Webhooks
from modules.service.worker import CLOSE_SECONDS, ProcessWorker, Worker, unexpected
from modules.weights.catalogue import Catalogue
from modules.weights.library import Library

UNSAVED_BYTES = 2**30
"""Pictures that could not be saved are kept in memory up to this size, the newest."""
RETRY_SECONDS = 1.0
REFUSED_SECONDS = 10.0
"""So long after a folder could not be written it is tried again."""
SWEEP_SECONDS = 3600.0
MOST_WAITING = 500
SHARED_MOST_WAITING = 100
"""Jobs of one owner that may wait at once; fewer where several share."""
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What a disk says that may pass; anything else (no permission) will not, and does not hold the queue."""
FORCE_SECONDS = 20.0
"""A second cancel this long after the first one ends a worker that does not listen."""
QUIET_SECONDS = 120.0
"""A worker that says nothing for so long may hang: the job says so, and a cancel ends the worker at once."""
log = logging.getLogger("easel.service")


class GenerationService:
    """Jobs, events, pictures, checkpoints and settings for all front ends. Thread-safe; never imports torch."""

    def __init__(
        self,
        folders: Folders,
        worker_factory: Callable[[Folders], Worker] = ProcessWorker,
        from_flags: Mapping[str, Any] | None = None,
        webhooks: Collection[str] = (),
        most_waiting: int = MOST_WAITING,
        freeze: Freeze = NOTHING_FROZEN,
    ) -> None:
        """Jobs that an earlier run left queued, or was drawing when it ended, go on at once.

        `from_flags`: options the command line decided; they win over the settings file and are not written to it.
        `webhooks`: addresses that a job may ask to be called at its end. `most_waiting`: jobs of one owner. `freeze`:
        settings that nobody may change.

        InUse where another process works on the same folder. `warnings` holds a sentence for everything that is not as
        it should be (a damaged settings file, a folder that cannot be written) but did not keep it from starting.
        """
        self.folders = folders
        self.freeze = freeze
        self._from_flags = dict(from_flags or {})
        self._allowed_webhooks = frozenset(webhooks)
        self._most_waiting = most_waiting
        self.warnings: list[str] = []
        self._lock_file = self._take_folder()
        self._database = self._open_database()
        self._jobs = JobStore(self._database)
        self.gallery = Gallery(self._database)
        self.history = History(self._database, folders)
        self.importer = Importer(self._database, folders)
        self._settings = SettingsStore(folders.settings_file, folders.state / "settings")
        self.ui_config = UiConfig(folders.ui_config_file, folders.state / "settings")
        self.presets = PresetStore(folders.data / "presets.json", folders.state / "settings")
        self.warnings += self._settings.warnings + self.ui_config.warnings + self.presets.warnings
        self.catalogue = Catalogue(folders, folders.database)
        self.library = Library(folders, folders.database, embedded.read_picture)
        self.library.start()
        self.cards = Cards(self.library, folders.state, lambda: self.settings)
        self.model_tasks = ModelTasks(folders, lambda: self.settings)
        self.model_files = ModelFiles(folders)
        self.styles = StyleStore(folders.styles_files, folders.state / "styles")
        self.prompts = PromptDesk(folders, self.catalogue, self.styles, lambda: self.settings)
        self.extensions = ExtensionStore(
            folders.extensions, lambda: self.settings, lambda: self._worker.stats().get("extensions", {})
        )

        self._changed = threading.Condition()  # guards what follows; notified whenever a follower may have news
        self._running: str | None = None
        self._cancel_asked = 0.0
        self._heard = 0.0  # when the running job's worker last said something
        self._trouble: str | None = None
        self._preview: tuple[str, int, ev.Preview] | None = None
        self._unsaved: OrderedDict[str, bytes] = OrderedDict()
        self._to_save: deque[SavedRecord] = deque()  # pictures that could not be saved; the dispatcher's alone
        self._try_again, self._refusal = 0.0, ""  # when to try those again that were refused, and what was said
        self._closing = False
        self._news = [0, 0]  # counts of everything that happened, and of what changed more than a job's progress

        self._adopt()
        self._jobs.recover()
        self._keeper = Keeper(self._database, folders)
        self._webhooks = Webhooks(self._jobs, self._jobs.view)
        self._worker = worker_factory(folders)
        self._worker.warm(self.settings)
        self._planner = Planner(folders, self.catalogue, lambda: self.settings, self._worker.stats)
        self._dispatcher = threading.Thread(target=self._dispatch, name="dispatch", daemon=True)
        self._dispatcher.start()
        threading.Thread(target=self._sweep, args=(time_of_a_file(),), name="sweep", daemon=True).start()

    def _take_folder(self) -> FolderLock | None:
        try:
            return FolderLock(self.folders.state)
        except OSError:
            return None  # a folder that cannot be written cannot be damaged by two; the database says the rest

    def _open_database(self) -> Database:
        try:
            database = Database(self.folders.database)
        except DiskTrouble as error:
            self.warnings.append(f"{error.message} Until then jobs and history are forgotten when Easel is closed.")
            return Database(None)
        self.warnings += database.warnings
        return database

    def _adopt(self) -> None:
        try:
            adopt(self._database, self._jobs, self.folders)
        except (EaselError, OSError, sqlite3.Error):  # what is not listed is at worst drawn a second time
            log.exception("pictures of the last run")

    def _sweep(self, started: float) -> None:
        """Removes what an earlier run had half written, and now and then source pictures that no job waits for."""
        saving = self._settings.settings.saving.model_dump()
        chosen = [saving[key] for key in saving if key.startswith("outdir_") and saving[key]]
        for name in (*chosen, self.folders.state):
            sweep_leftovers(self.folders.data / name, started)
        while not self._closing:
            with contextlib.suppress(OSError, EaselError, sqlite3.Error):  # an hour later they are looked at again
                inputs.sweep(self.folders.inputs, self._jobs.inputs_wanted() | self.history.sources_wanted())
            with self._changed:
                self._changed.wait_for(lambda: self._closing, SWEEP_SECONDS)

    # ---- jobs ----

    def submit(
        self, request: GenerationRequest, owner: str = "", key: str | None = None, webhook: str | None = None
    ) -> str:
        """Queues a request with the settings of now, and returns the job's id once it is safely written.

        The same `key` of the same owner gives the same job again, however often it is sent. `webhook`: one of the
        addresses given at the start, called when the job has ended. DiskTrouble where the queue cannot be written;
        BadRequest for what cannot be stored or must not be overridden; TooMany where too many jobs wait.
        """
        if webhook is not None and webhook not in self._allowed_webhooks:
            raise BadRequest(
                "That webhook is not one of those this server was started with (--webhook).", field="webhook"
            )
        for name in request.override_settings:
            if is_place(name) or SECTION_OF.get(name) == "extensions":
                raise BadRequest(
                    f"A request cannot choose {name!r}; it is the owner's setting.",
                    field="override_settings",
                )
        request = self.extensions.checked(request)
        try:
            job = self._jobs.add(request, self.settings, owner, key, webhook, self._most_waiting)
        except (PydanticSerializationError, UnicodeError):
            raise BadRequest(
                "The request holds characters or values that cannot be written down; send plain text and numbers."
            ) from None
        self._tell()
        return job

    def again(self, job: str, owner: str = "", same: bool = False) -> str:
        """Queues the same request once more, with the settings of now; a seed that was left open is drawn anew, unless
        the `same` pictures are wanted."""
        view = self._jobs.view(job)
        seeds = {"seed": view.seed, "subseed": view.subseed} if same else {}
        return self.submit(view.request.model_copy(update=seeds), owner or view.owner)

    def _tell(self, more: bool = True) -> None:
        """Something happened; `more` than the progress of a job."""
        with self._changed:
            self._news[0] += 1
            self._news[1] += more
            self._changed.notify_all()

    def follow(self, job: str, after: int = 0, timeout: float | None = None) -> Iterator[tuple[int, ev.Event]]:
        """The events of a job above a position, those that were and those to come, until its final one.

        Previews come live only, the newest, under the position of the event before them: `after` may be any position
        that was given out. Ends early when nothing came for `timeout` seconds or the service closes. NotFound for an
        unknown id.
        """
        self._jobs.state(job)
        return self._follow(job, after, timeout)

    def _follow(self, job: str, after: int, timeout: float | None) -> Iterator[tuple[int, ev.Event]]:
        seen_preview = 0
        since = time.monotonic()
        while True:
            with self._changed:
                if self._closing:
                    return
                # Read under the lock that is held while events are stored: none can slip in before the wait.
                events = self._jobs.events(job, after)
                preview = self._preview if self._preview and self._preview[0] == job else None
                fresh = preview is not None and preview[1] > seen_preview
                if not events and not fresh:
                    if self._jobs.state(job) in FINAL_STATES:
                        return
                    left = None if timeout is None else since + timeout - time.monotonic()
                    if left is not None and left <= 0:
                        return
                    self._changed.wait(left)
                    continue
            for position, event in events:
                after = position
                yield position, event
                if isinstance(event, FINAL_EVENTS):
                    return
            if fresh and preview is not None:
                seen_preview = preview[1]
                yield after, preview[2]
            since = time.monotonic()

    def job(self, job: str) -> JobView:
        """NotFound for an unknown id."""
        return self._as_now(self._jobs.view(job))

    def current(self, owner: str | None = None) -> JobView | None:
        """The job that is being drawn, else the first that waits; of one owner if asked."""
        view = self._jobs.current(owner)
        return view and self._as_now(view)

    def jobs(self, limit: int = 100, owner: str | None = None) -> list[JobView]:
        """Newest first; of one owner if asked."""
        return [self._as_now(view) for view in self._jobs.views(limit, owner)]

    def _as_now(self, view: JobView) -> JobView:
        """With what only this process knows of a job that has not ended."""
        if view.state not in ("running", "queued"):
            return view
        trouble, stopping = self._trouble, self._running == view.id and self._cancel_asked > 0
        if trouble is None and self._running == view.id and (minutes := self._quiet() / 60) > QUIET_SECONDS / 60:
            trouble = f"Nothing was heard from the drawing process for {minutes:.0f} minutes; Interrupt ends it"
        return view.model_copy(update={"cancelling": stopping} | ({"text": trouble} if trouble else {}))

    def queue(self, owner: str | None = None, ended: int = 30) -> QueueView:
        """What is drawn and what waits, in order, and the last jobs that ended; of one owner if asked."""
        return QueueView(
            jobs=tuple(self._as_now(view) for view in self._jobs.unfinished(owner)),
            ended=tuple(self._jobs.ended(ended, owner)),
            held=self._jobs.held(owner),
            others_before=self._jobs.others_before(owner),
            trouble=self._trouble,
        )

    def hold_queue(self, held: bool, owner: str | None = None) -> None:
        """Whether further jobs are begun: of one owner, or of all. The one being drawn goes on."""
        self._jobs.hold_all(owner, held)
        self._tell()

    def watch(self, seen: tuple[int, int], timeout: float) -> tuple[int, int]:
        """Waits until something happened since `seen`: counts of all that happens in the queue, and of what changed
        more than a job's progress. At most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: tuple(self._news) != seen or self._closing, timeout)
            return self._news[0], self._news[1]

    def pause(self, job: str) -> None:
        """A waiting job is passed over until it is resumed. BadRequest where it does not wait."""
        self._jobs.hold(job, True)
        self._tell()

    def resume(self, job: str) -> None:
        self._jobs.hold(job, False)
        self._tell()

    def move(self, job: str, before: str | None = None) -> None:
        """Puts a waiting job before another waiting one of its owner, or behind all of them."""
        self._jobs.move(job, before)
        self._tell()

    def _quiet(self) -> float:
        """Seconds since the worker of the running job said something."""
        return time.monotonic() - self._heard

    def cancel(self, job: str) -> None:
        """Ends a job: a waiting one at once, the running one at its next step. Nothing happens to a finished one.

        Asked again after twenty seconds, a worker that does not listen is ended by force; one that has said nothing for
        two minutes, at once. NotFound for an unknown id.
        """
        if self._jobs.cancel_queued(job):
            self._tell()
            self._webhooks.wake()
            return
        with self._changed:
            if self._running != job:
                return
            first, now = self._cancel_asked, time.monotonic()
            self._cancel_asked = first or now
        self._tell()
        self._worker.cancel(job)
        if (first and now - first > FORCE_SECONDS) or self._quiet() > QUIET_SECONDS:
            self._worker.kill()

    def skip(self, job: str) -> None:
        """The running job goes on with its next picture. NotFound for an unknown id."""
        self._jobs.state(job)
        self._worker.skip(job)

    def preview(self, job: str) -> tuple[int, str, bytes] | None:
        """(number, format, encoded picture) of the newest preview while the job runs; numbers grow."""
        with self._changed:
            if self._preview is None or self._preview[0] != job:
                return None
            _, number, event = self._preview
            return number, event.format, event.data

    # ---- pictures, checkpoints, settings ----

    def keep_input(self, data: bytes) -> str:
        """Stores a picture to draw from and returns its name for a request. BadFile where it is none."""
        return inputs.keep(self.folders.inputs, data)

    def picture(self, record_id: str) -> tuple[bytes | Path, SavedRecord]:
        """The file of a picture (made, imported or in the trash), or its bytes where it could not be saved. NotFound
        where neither is there."""
        try:
            record = self.gallery.get(record_id)
        except NotFound:
            record = self.history.record(record_id)
        with self._changed:
            data = self._unsaved.get(record_id)
        if data is not None:
            return data, record
        if record.path is None:
            raise NotFound("That picture was never saved.")
        try:
            path = self.history.file(record_id)
        except NotFound:  # not in the history yet: of a version that had none
            path = self.folders.data / record.path
        if path is None or not path.is_file():
            raise NotFound(f"That picture is no longer at {record.path}.")
        return path, record

    def thumbnail(self, record_id: str) -> bytes:
        """A small WebP of a picture. NotFound as for the picture."""
        found, record = self.picture(record_id)
        if isinstance(found, Path):
            with contextlib.suppress(NotFound):
                return self.history.thumbnail(record_id)
        return small(found, name=f"Picture {record.id}")

    def checkpoints(self, refresh: bool = False) -> list[CheckpointView]:
        return self.catalogue.checkpoints(refresh)

    def checkpoint(self, name: str | None = None) -> CheckpointView:
        """The one called so by name, title or hash; without a name the one that is drawn with. NotFound."""
        return self.catalogue.find(name) if name else self.catalogue.default(self.settings.model.sd_model_checkpoint)

    @property
    def settings(self) -> Settings:
        return self._settings.settings.with_options(self._from_flags)

    @property
    def unused_options(self) -> Mapping[str, Any]:
        """A1111's options that change nothing here, as config.json has them."""
        return self._settings.unused

    def change_settings(self, changes: dict[str, Any]) -> Settings:
        """By A1111's flat names. BadRequest, nothing changed; DiskTrouble, changed until the program ends. Where
        extensions were switched, the worker begins anew."""
        self.freeze.check(self.settings, changes, self.unused_options)
        self._try_again = 0.0  # perhaps another folder was chosen
        before = [self.settings.option(key) for key in SWITCHES]
        try:
            return self._settings.change(changes)
        finally:
            if [self.settings.option(key) for key in SWITCHES] != before:
                self.renew()
            with self._changed:
                self._changed.notify_all()

    def renew(self) -> None:
        """The worker begins anew once it draws nothing: the code of extensions is read from their folders again."""
        with contextlib.suppress(OSError):
            self.folders.extension_mark.unlink()
        self._worker.renew(self.settings)

    def unload(self) -> None:
        """The worker lets go of its model once it draws nothing; the next job loads one again."""
        self._worker.unload()

    def load(self) -> None:
        """The worker loads the settings' model, so that the next job need not wait."""
        self._worker.warm(self.settings)

    def estimate(self, request: GenerationRequest) -> MemoryEstimate | None:
        """The memory a job would take (`planner`)."""
        return self._planner.estimate(request)

    def memory(self) -> MemoryNow:
        """The memory that is held."""
        return self._planner.now()

    def stats(self) -> dict[str, Any]:
        return {
            "worker": self._worker.stats(),
            "running": self._running,
            "trouble": self._trouble,
            "jobs": self._jobs.counts(),
            "pictures": self.gallery.count(),
        }

    def close(self) -> None:
        """Ends the worker. A job that is being drawn waits again and goes on at the next start."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        self._webhooks.close()
        self.model_tasks.close()
        self.library.close()
        self.importer.close()
        self._keeper.close()
        self._worker.close()
        self._dispatcher.join(timeout=CLOSE_SECONDS)
        self._put_away()
        self._database.close()
        if self._lock_file is not None:
            self._lock_file.close()

    # ---- the dispatcher ----

    def _dispatch(self) -> None:
        while not self._closing:
            try:
                full = self._save_kept()
                if full:
                    self._pause(full)
                    continue
                with self._changed:
                    job = self._jobs.take()
                    if job is None:
                        if not self._closing:
                            self._changed.wait(REFUSED_SECONDS if self._to_save else None)
                        continue
                    self._running, self._cancel_asked, self._heard = job.id, 0.0, time.monotonic()
                    self._tell()
                self._draw(job)
            except DiskTrouble as error:  # the queue itself cannot be read or written: wait for the disk
                self._pause(error.message)
            except Exception:
                log.exception("dispatcher")
                self._pause(None)

    def _draw(self, job: Job) -> None:
        ended = False
        try:
            # Which extensions run is never decided by what was allowed when the job was queued.
            now = {key: self.settings.option(key) for key in SWITCHES}
            for event in self._worker.submit(job.id, job.request, job.settings.with_options(now), job.finished):
                if self._closing:  # read on to the end, so that the worker is free to hear that it shall close
                    self._jobs.put_back(job.id)
                    ended = True
                    continue
                ended = isinstance(event, FINAL_EVENTS)
                self._publish(job.id, event)
        except EaselError:
            raise
        except Exception as error:
            log.exception("job %s", job.id)
            self._publish(job.id, ev.Failed(code="error", message=unexpected("The drawing", error)))
            ended = True
        finally:
            with self._changed:
                self._running, self._preview = None, None
                self._tell()
        if not ended:
            self._publish(job.id, ev.Failed(code="worker_lost", message="The worker went silent; try again."))

    def _publish(self, job: str, event: ev.Event) -> None:
        """Stores an event and wakes the followers. While the disk refuses, steps are left out and the rest waits."""
        self._heard = time.monotonic()
        if isinstance(event, ev.Preview):
            with self._changed:
                number = self._preview[1] + 1 if self._preview and self._preview[0] == job else 1
                self._preview = (job, number, event)
                self._tell(more=False)
            return
        if isinstance(event, ev.ImageReady) and event.data is not None:
            self._keep(event.record.id, event.data)
            if event.record.problem:
                self._to_save.append(event.record)
        while not self._closing:
            try:
                with self._changed:
                    self._jobs.append(job, event)
                    self._trouble = None
                    if isinstance(event, FINAL_EVENTS):
                        self._running, self._preview = None, None
                    self._tell(more=not isinstance(event, ev.Progress))
                if isinstance(event, FINAL_EVENTS):
                    self._webhooks.wake()
                if isinstance(event, ev.ImageReady):
                    self._keeper.wake()
                return
            except DiskTrouble as error:
                if isinstance(event, ev.Progress):
                    return
                self._pause(error.message)

    def _keep(self, record: str, data: bytes) -> None:
        with self._changed:
            self._unsaved[record] = data
            while len(self._unsaved) > 1 and sum(map(len, self._unsaved.values())) > UNSAVED_BYTES:
                self._unsaved.popitem(last=False)

    def _save_kept(self) -> str | None:
        """Saves pictures that could not be; the trouble, where the disk is full. One that is refused for another
        reason holds nothing up: it stays in memory, and is tried again later."""
        while self._to_save and time.monotonic() >= self._try_again:
            record = self._to_save.popleft()
            data = self._unsaved.get(record.id)
            try:
                if data is not None:
                    fields = NameFields(seed=record.seed, width=record.width, height=record.height)
                    image = open_bounded(data, name=f"Picture {record.id}")
                    path = save_named(image, record.infotext, fields, self.settings.saving, self.folders.data)
                    self._saved_later(record, path)
            except DiskTrouble as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL_DISK:
                    self._to_save.appendleft(record)
                    return f"{error.message} The queue waits; the finished picture is kept until then."
                self._to_save.append(record)
                self._try_again = time.monotonic() + REFUSED_SECONDS
                if error.message != self._refusal:
                    self._refusal = error.message
                    log.warning("%s The finished pictures are kept until they can be saved.", error.message)
            except EaselError as error:
                log.warning("picture %s: %s", record.id, error.message)
            self._trouble = None
        return None

    def _saved_later(self, record: SavedRecord, path: Path) -> None:
        """A picture that was kept in memory lies there now."""
        place = kept_as(path, self.folders.data)
        self._jobs.saved_later(record.model_copy(update={"path": place, "problem": None}))
        self._keeper.wake()
        with self._changed:
            self._unsaved.pop(record.id, None)

    def _put_away(self) -> None:
        """At the end, what could not be saved in its own folder goes into ours."""
        for record in tuple(self._to_save):
            data = self._unsaved.get(record.id)
            if data is None:
                continue
            with contextlib.suppress(EaselError, OSError):
                ending = (open_bounded(data).format or "png").lower()
                path = safe_write(self.folders.state / "unsaved" / f"{record.id}.{ending}", data)
                self._saved_later(record, path)
                log.warning("A picture that could not be saved elsewhere lies in %s.", path)

    def _pause(self, reason: str | None) -> None:
        with self._changed:
            if self._trouble != reason:
                self._trouble = reason
                self._tell()
            if not self._closing:
                self._changed.wait(RETRY_SECONDS)
