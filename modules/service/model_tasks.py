"""Work on model files behind the front desk: one task after another, in a process that lives as long as there are any.

    tasks = ModelTasks(folders, lambda: settings)
    id = tasks.submit(MergeTask(primary_model_name="a", …))
    tasks.view(id).progress

Tasks are not kept over a restart: what was half written is gone, and nothing else was touched.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from modules.schema import events as ev
from modules.schema.errors import NotFound
from modules.schema.folders import Folders
from modules.schema.model_tasks import ModelTask, TaskView
from modules.schema.settings import Settings
from modules.service.worker import ProcessWorker, Worker, unexpected

WORKSHOP = "modules.pipeline.model_tasks:Workshop"
KEPT = 100
log = logging.getLogger("easel.models")


class ModelTasks:
    """Thread-safe; never imports torch. Drawing goes on beside it."""

    def __init__(
        self,
        folders: Folders,
        settings: Callable[[], Settings],
        worker_factory: Callable[[Folders], Worker] | None = None,
    ) -> None:
        self._folders, self._settings = folders, settings
        self._factory = worker_factory or partial(ProcessWorker, engine=WORKSHOP)
        self._lock = threading.RLock()
        self._views: OrderedDict[str, TaskView] = OrderedDict()
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, task: ModelTask) -> str:
        """Queue a task; its id."""
        id = uuid.uuid4().hex
        with self._lock:
            self._views[id] = TaskView(id=id, task=task)
            while len(self._views) > KEPT:
                self._views.popitem(last=False)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="model tasks", daemon=True)
                self._thread.start()
        return id

    def view(self, id: str) -> TaskView:
        """NotFound for an unknown id."""
        with self._lock:
            if id not in self._views:
                raise NotFound("No such task is known; those of an earlier run are forgotten.")
            return self._views[id]

    def views(self) -> list[TaskView]:
        """Newest first."""
        with self._lock:
            return list(reversed(self._views.values()))

    def cancel(self, id: str) -> None:
        """Ends a task; what it had written is removed. Nothing happens to a finished one. NotFound: unknown id."""
        with self._lock:
            view = self.view(id)
            if view.state == "queued":
                self._change(id, state="cancelled")
            elif view.state == "running" and self._worker:
                self._worker.cancel(id)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            worker, thread = self._worker, self._thread
        if worker:
            worker.close()
        if thread:
            thread.join(timeout=10)

    def _change(self, id: str, **changes: object) -> None:
        with self._lock:
            if id in self._views:
                self._views[id] = self._views[id].model_copy(update=changes)

    def _next(self) -> TaskView | None:
        """The task to do; None ends the thread and gives its worker back."""
        with self._lock:
            waiting = None if self._closed else next((v for v in self._views.values() if v.state == "queued"), None)
            if waiting is None:
                worker, self._worker, self._thread = self._worker, None, None
            else:
                worker = None
                self._worker = self._worker or self._factory(self._folders)
                self._change(waiting.id, state="running")
        if worker:
            worker.close()
        return waiting

    def _work(self) -> None:
        while (view := self._next()) is not None:
            try:
                self._do(view)
            except Exception as error:
                log.exception("task %s", view.id)
                self._change(view.id, state="failed", error=unexpected("The task", error), error_code="error")

    def _do(self, view: TaskView) -> None:
        assert self._worker is not None
        for event in self._worker.submit(view.id, view.task, self._settings()):  # type: ignore[arg-type]
            if isinstance(event, ev.Progress):
                self._change(view.id, progress=event.fraction, text=event.text)
            elif isinstance(event, ev.Done):
                self._change(view.id, state="done", progress=1.0, result=self.view(view.id).text, text="")
            elif isinstance(event, ev.Failed):
                self._change(view.id, state="failed", error=event.message, error_code=event.code)
            elif isinstance(event, ev.Cancelled):
                self._change(view.id, state="cancelled")
