"""Who draws: the engine in a process of its own (the default) or in a thread, behind one small interface.

A job goes in, events come out, the last one final (Done, Failed or Cancelled). Between the processes travel only JSON
and encoded pictures: nothing that is sent back can run code in the server. The engine is any class with

    Engine(folders).run(job_id, request, settings, emit, control)

named by a dotted path, so that the server never imports it (nor torch). `control` tells it of cancel and skip.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import logging.handlers
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from modules.schema import events as ev
from modules.schema.errors import Cancelled, EaselError
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings

ENGINE = "modules.pipeline.run:Engine"
CLOSE_SECONDS = 5.0
FACTS_SECONDS = 1.0
"""So often a worker that draws tells of its memory."""
ENVIRONMENT = {
    # OpenMP threads that spin while they wait starve each other on a busy machine: a denoiser call of 0.2 s took 14 s
    # beside other processes. A short spin before they sleep keeps most of the speed: a postcard takes 0.7 s on two
    # quiet cores, 1.2 s without.
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "1000",
    # Feature maps of 2 MB and more in pages of 2 MB (Linux): the system then spends a quarter of the time on handing
    # over new ones, which is up to a quarter of a large convolution.
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""What the drawing process is to have before its tensor library is loaded, which reads it."""
log = logging.getLogger("easel.worker")


class Worker(Protocol):
    """What the service asks of whoever draws. One job at a time; cancel and skip come from other threads."""

    def warm(self, settings: Settings) -> None:
        """Begins to load what the first job would wait for, the settings' model too; returns at once."""
        ...

    def unload(self) -> None:
        """Lets go of the loaded model once nothing is drawn with it; returns at once."""
        ...

    def renew(self, settings: Settings) -> None:
        """Begins anew once nothing is drawn, where that is possible, and warms up; returns at once."""
        ...

    def submit(
        self, job_id: str, request: GenerationRequest, settings: Settings, finished: frozenset[int] = frozenset()
    ) -> Iterator[ev.Event]:
        """Runs a job; ends with its final event and never raises. `finished`: pictures it need not draw again."""
        ...

    def cancel(self, job_id: str) -> None:
        """Ends a job at its next step, also one that is only about to begin."""
        ...

    def skip(self, job_id: str) -> None:
        """Goes on with the job's next picture."""
        ...

    def kill(self) -> None:
        """Ends whatever is being drawn by force, where that is possible."""
        ...

    def stats(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class Control:
    """The engine's ear for one job: `cancelled` stays, a skip is taken once; `finished` pictures may be left out."""

    def __init__(self, finished: frozenset[int] = frozenset()) -> None:
        self.finished = finished
        self._cancelled = threading.Event()
        self._skip = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def take_skip(self) -> bool:
        taken = self._skip.is_set()
        self._skip.clear()
        return taken

    def cancel(self) -> None:
        self._cancelled.set()

    def skip(self) -> None:
        self._skip.set()


class _Controls:
    """The controls of jobs by id; a message that arrives before its job is kept for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: tuple[str, Control] | None = None
        self._early: set[str] = set()
        self._closed = False

    def begin(self, job: str, finished: frozenset[int]) -> Control:
        with self._lock:
            control = Control(finished)
            if self._closed or job in self._early:
                control.cancel()
            self._early.clear()
            self._current = (job, control)
            return control

    def end(self) -> None:
        with self._lock:
            self._current = None

    def cancel(self, job: str) -> None:
        with self._lock:
            if self._current and self._current[0] == job:
                self._current[1].cancel()
            else:
                self._early.add(job)

    def skip(self, job: str) -> None:
        with self._lock:
            if self._current and self._current[0] == job:
                self._current[1].skip()

    def close(self) -> bool:
        """Cancels what is being drawn and whatever would begin; whether anything was being drawn."""
        with self._lock:
            self._closed = True
            if self._current:
                self._current[1].cancel()
            return self._current is not None


def load(path: str) -> Callable[[Folders], Any]:
    """The class or function at "package.module:name"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def run_job(
    engine: Any,
    job: str,
    request: GenerationRequest,
    settings: Settings,
    emit: Callable[[ev.Event], None],
    control: Control,
) -> ev.Event:
    """Lets the engine draw and says in one final event how it ended; tracebacks go to the log, never to the user."""
    started = time.monotonic()
    try:
        engine.run(job, request, settings, emit, control)
    except Cancelled:
        return ev.Cancelled()
    except EaselError as error:
        log.info("job %s: %s", job, error.message)
        hint = f" {error.hint}" if error.hint else ""
        return ev.Failed(code=error.code, message=f"{error.message}{hint}")
    except MemoryError:
        log.exception("job %s", job)
        return ev.Failed(
            code="out_of_memory", message="This machine ran out of memory; draw smaller or fewer pictures at once."
        )
    except Exception as error:
        log.exception("job %s", job)
        return ev.Failed(code="error", message=unexpected("The drawing", error))
    if control.cancelled:
        return ev.Cancelled()
    return ev.Done(seconds=round(time.monotonic() - started, 3))


def warm_engine(engine: Any, settings: Settings) -> None:
    """Lets an engine that can do so load its model before the first job asks for it."""
    warm = getattr(engine, "warm", None)
    if warm is not None:
        warm(settings)


def unload_engine(engine: Any) -> None:
    """Lets an engine that holds a model let go of it."""
    unload = getattr(engine, "unload", None)
    if unload is not None:
        unload()


def unexpected(what: str, error: BaseException) -> str:
    """One sentence for an error that nobody foresaw."""
    detail = " ".join(str(error).split())[:300]
    return f"{what} failed unexpectedly ({type(error).__name__}: {detail}); the log has the details."


class ThreadWorker:
    """The engine in this process: for tests and debugging. A crash of the engine is a crash of everything."""

    def __init__(self, engine_factory: Callable[[], Any]) -> None:
        self._factory = engine_factory
        self._engine: Any = None
        self._building = threading.Lock()
        self._controls = _Controls()
        self._jobs = 0

    def _ready(self) -> Any:
        with self._building:
            if self._engine is None:
                self._engine = self._factory()
            return self._engine

    def warm(self, settings: Settings) -> None:
        def build() -> None:
            with contextlib.suppress(Exception):  # the first job meets it again and tells
                warm_engine(self._ready(), settings)

        threading.Thread(target=build, name="warm", daemon=True).start()

    def unload(self) -> None:
        if self._engine is not None:
            threading.Thread(target=unload_engine, args=(self._engine,), name="unload", daemon=True).start()

    def renew(self, settings: Settings) -> None:
        """What a thread has loaded, stays."""
        self.warm(settings)

    def submit(
        self, job_id: str, request: GenerationRequest, settings: Settings, finished: frozenset[int] = frozenset()
    ) -> Iterator[ev.Event]:
        said: queue.Queue[tuple[bool, ev.Event]] = queue.Queue()
        control = self._controls.begin(job_id, finished)

        def draw() -> None:
            try:
                engine = self._ready()
            except Exception as error:
                log.exception("engine")
                last: ev.Event = ev.Failed(code="error", message=unexpected("Starting the engine", error))
            else:
                last = run_job(engine, job_id, request, settings, lambda e: said.put((False, e)), control)
            said.put((True, last))

        threading.Thread(target=draw, name=f"draw {job_id[:8]}", daemon=True).start()
        final = False
        while not final:
            final, event = said.get()
            if final:
                self._controls.end()
                self._jobs += 1
            yield event

    def cancel(self, job_id: str) -> None:
        self._controls.cancel(job_id)

    def skip(self, job_id: str) -> None:
        self._controls.skip(job_id)

    def kill(self) -> None:
        """A thread cannot be ended by force."""

    def stats(self) -> dict[str, Any]:
        return {"kind": "thread", "ready": self._engine is not None, "jobs": self._jobs, "restarts": 0}

    def close(self) -> None:
        self._controls.close()
        close = getattr(self._engine, "close", None)
        if close:
            close()


class ProcessWorker:
    """The engine in a spawned child. The child ends with this process, however that ends; a child that dies costs the
    job it drew, and the next one gets a new child."""

    def __init__(self, folders: Folders, engine: str = ENGINE) -> None:
        self._folders = folders
        self._engine = engine
        self._lock = threading.RLock()  # guards the child and sending to it
        self._reading = threading.Lock()
        self._child: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._asked: BaseProcess | None = None
        self._ready = False
        self._facts: dict[str, Any] = {}
        self._restarts = 0
        self._jobs = 0
        self._killed = False
        self._closed = False

    def warm(self, settings: Settings) -> None:
        with self._lock:
            self._start()
            self._send({"do": "warm", "settings": settings.model_dump(mode="json")})

    def unload(self) -> None:
        self._send({"do": "unload"})

    def renew(self, settings: Settings) -> None:
        child = self._child

        def follow() -> None:
            if child is not None:
                wait([child.sentinel])
            with self._reading, contextlib.suppress(OSError):  # its last words are read; the next job tells of errors
                self._buried(child)
                self.warm(settings)

        if self._send({"do": "end"}):
            threading.Thread(target=follow, name="renew", daemon=True).start()

    def _start(self) -> Connection | None:
        """The pipe to a living child, started if need be; None after `close`."""
        with self._lock:
            if self._closed:
                return None
            if self._child is not None and self._child.is_alive() and self._pipe is not None:
                return self._pipe
            if self._child is not None:
                self._drop()
                self._restarts += 1
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            self._ready, self._killed = False, False
            self._child = context.Process(
                target=child_main, args=(theirs, self._engine, self._folders), name="easel-worker", daemon=True
            )
            self._child.start()
            theirs.close()  # so that either end sees the other one's death
            self._pipe = ours
            return ours

    def _drop(self) -> None:
        with self._lock:
            if self._pipe is not None:
                self._pipe.close()
            if self._child is not None:
                self._child.join(timeout=CLOSE_SECONDS)
            self._pipe, self._child = None, None

    def _send(self, message: dict[str, Any]) -> bool:
        with self._lock:
            try:
                if self._pipe is None:
                    return False
                self._pipe.send_bytes(json.dumps(message).encode())
                return True
            except (OSError, ValueError):
                return False

    def submit(
        self, job_id: str, request: GenerationRequest, settings: Settings, finished: frozenset[int] = frozenset()
    ) -> Iterator[ev.Event]:
        message = {
            "do": "run",
            "job": job_id,
            "request": request.model_dump(mode="json"),
            "settings": settings.model_dump(mode="json"),
            "finished": sorted(finished),
        }
        if not self.stats()["ready"]:
            yield ev.Progress(step=0, steps=0, text="Starting the engine")
        # A child that died before it took the job has not touched it: then, once, another one gets it.
        for _ in range(2):
            taken = False
            for got, data in self._talk(message):
                taken = True
                if "event" not in got:
                    continue
                event = ev.EVENT.validate_python({**got["event"], "data": data} if data is not None else got["event"])
                self._jobs += bool(got["final"])
                yield event
                if got["final"]:
                    return
            if taken:
                break
            dying = self._asked
            self._buried(dying)  # its pipe closes a moment before it counts as dead, and it must not be asked again
        yield self._lost()

    def _talk(self, message: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bytes | None]]:
        """Gives a job to the child and tells what the child says of it, until the child is gone."""
        try:
            with self._lock:  # what is sent, the very child gets that is listened to
                pipe = self._start()
                child = self._asked = self._child
                if pipe is None or child is None or not self._send(message):
                    return
        except OSError:
            log.exception("the drawing process cannot be started")
            return
        with self._reading:
            while True:
                try:
                    # The child's last words come before its death: read the pipe to its end first.
                    wait([pipe, child.sentinel])
                    if not pipe.poll():
                        return
                    got, data = self._receive(pipe)
                except (EOFError, OSError, ValueError):
                    return
                if got.get("job") == message["job"]:
                    yield got, data

    def _receive(self, pipe: Connection) -> tuple[dict[str, Any], bytes | None]:
        got = json.loads(pipe.recv_bytes())
        data = pipe.recv_bytes() if got.get("blob") else None
        if "facts" in got:
            self._ready, self._facts = True, got["facts"]
        return got, data

    def _buried(self, child: BaseProcess | None) -> int | None:
        """Waits for a child that is ending; its exit code."""
        if child is None:
            return None
        with self._lock:  # of two threads that ask at once whether a child is dead, one would be told that it lives
            child.join(timeout=CLOSE_SECONDS)
            return child.exitcode

    def _lost(self) -> ev.Event:
        """The final event of a job whose child is gone; a new child is started for the next one."""
        child = self._asked or self._child
        if self._closed:
            return ev.Failed(code="worker_lost", message="The program was closed while this job was drawn.")
        code = self._buried(child)
        was_ready, killed = self._ready, self._killed
        log.error("the drawing process ended (exit code %s)", code)
        if was_ready:  # one that dies while it starts is not tried again before somebody asks
            with contextlib.suppress(OSError):
                self._start()
        if killed:
            return ev.Cancelled()
        return ev.Failed(code="worker_lost", message=_why(code))

    def cancel(self, job_id: str) -> None:
        self._send({"do": "cancel", "job": job_id})

    def skip(self, job_id: str) -> None:
        self._send({"do": "skip", "job": job_id})

    def kill(self) -> None:
        with self._lock:
            if self._child is not None and self._child.is_alive():
                self._killed = True
                self._child.kill()

    def stats(self) -> dict[str, Any]:
        child, pipe = self._child, self._pipe
        if pipe is not None and self._reading.acquire(blocking=False):  # between jobs: has it told that it is ready?
            try:
                while pipe.poll():
                    self._receive(pipe)
            except (EOFError, OSError, ValueError):
                pass  # it died; the next job finds out
            finally:
                self._reading.release()
        with self._lock:
            alive = child is not None and child.is_alive()
        return {
            "kind": "process",
            "pid": child.pid if child is not None else None,
            "alive": alive,
            "ready": self._ready,
            "jobs": self._jobs,
            "restarts": self._restarts,
            **self._facts,
        }

    def close(self) -> None:
        """Asks the child to end and makes sure it has."""
        with self._lock:
            self._closed = True
            child = self._child
            self._send({"do": "close"})
        if child is not None:
            child.join(timeout=CLOSE_SECONDS)
            if child.is_alive():
                child.kill()
                child.join()
        with self._lock:
            if self._pipe is not None:
                self._pipe.close()
            self._pipe, self._child = None, None


def _why(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in {int(s) for s in signal.Signals} else f"signal {-code}"
        cause = f"was ended by the system ({name})"
        if name == "SIGKILL":
            cause += ", most often because memory ran out: draw smaller or fewer pictures at once"
    else:
        cause = f"ended by itself (exit code {code}), see the log"
    return f"The drawing process {cause}. The next job gets a new one."


# ---- inside the child ------------------------------------------------------------------------------------------------


def child_main(pipe: Connection, engine_path: str, folders: Folders) -> None:
    """The child: one thread reads what the server asks, this one draws. It ends when the server is gone."""
    for name, value in ENVIRONMENT.items():  # a user's own values win
        os.environ.setdefault(name, value)
    # Ctrl+C in a terminal reaches both; the server decides when the child ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log_to(folders.state / "log", "worker.log")
    log_to_terminal()
    sending = threading.Lock()

    def send(message: dict[str, Any], blob: bytes | None = None) -> None:
        with sending:
            try:
                pipe.send_bytes(json.dumps(message if blob is None else {**message, "blob": True}).encode())
                if blob is not None:
                    pipe.send_bytes(blob)
            except OSError:
                os._exit(0)  # nobody listens any more

    controls = _Controls()
    asked: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_listen, args=(pipe, controls, asked), name="listen", daemon=True).start()
    try:
        engine = load(engine_path)(folders)
    except BaseException as error:
        log.exception("engine")
        message = unexpected("Starting the engine", error)
        while (job := asked.get()) is not None and job["do"] != "run":
            pass
        if job is not None:
            send({"job": job["job"], "final": True, "event": ev.Failed(code="error", message=message).model_dump()})
        os._exit(1)
    send({"facts": _facts_of(engine)})
    while (message := asked.get()) is not None:
        if message["do"] == "warm":
            with contextlib.suppress(Exception):  # the first job meets it again and tells
                warm_engine(engine, Settings.model_validate(message["settings"]))
        elif message["do"] == "unload":
            with contextlib.suppress(Exception):
                unload_engine(engine)
        else:
            _draw(engine, message, controls, send)
        send({"facts": _facts_of(engine)})
    with contextlib.suppress(Exception):
        getattr(engine, "close", lambda: None)()
    os._exit(0)


def _draw(engine: Any, asked: dict[str, Any], controls: _Controls, send: Callable[..., None]) -> None:
    job = asked["job"]
    send({"job": job})  # taken: from here on a death of this process is this job's
    told = time.monotonic()

    def emit(event: ev.Event, final: bool = False) -> None:
        nonlocal told
        if time.monotonic() - told > FACTS_SECONDS:
            told = time.monotonic()
            send({"facts": _facts_of(engine)})
        data = getattr(event, "data", None)
        body = event.model_dump(mode="json", exclude={"data"})
        send({"job": job, "final": final, "event": body}, data)

    control = controls.begin(job, frozenset(asked["finished"]))
    try:
        request = getattr(engine, "read_request", GenerationRequest.model_validate)(asked["request"])
        settings = Settings.model_validate(asked["settings"])
        last = run_job(engine, job, request, settings, emit, control)
    except BaseException as error:  # SystemExit and its like too: the server waits for a last word
        log.exception("job %s", job)
        last = ev.Failed(code="error", message=unexpected("The drawing", error))
    controls.end()
    emit(last, final=True)


def _listen(pipe: Connection, controls: _Controls, asked: queue.Queue[dict[str, Any] | None]) -> None:
    while True:
        try:
            message = json.loads(pipe.recv_bytes())
        except (EOFError, OSError, ValueError):
            os._exit(0)  # the server is gone, however it ended: nobody could see the picture
        if message["do"] in ("run", "warm", "unload"):
            asked.put(message)
        elif message["do"] == "cancel":
            controls.cancel(message["job"])
        elif message["do"] == "skip":
            controls.skip(message["job"])
        elif message["do"] == "end":
            asked.put(None)  # after what was asked before
        else:
            if not controls.close():
                os._exit(0)  # also while the engine is still being loaded: there is nothing to finish
            asked.put(None)


def _facts_of(engine: Any) -> dict[str, Any]:
    """What the engine tells of itself (device, memory), if it does and it is plain data."""
    try:
        return json.loads(json.dumps(engine.stats()))
    except Exception:
        return {}


def log_to(folder: Path, name: str) -> None:
    """Our messages of this process also go to a file of at most 3 MB, kept in three parts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            folder / name, maxBytes=2**20, backupCount=2, encoding="utf-8", errors="backslashreplace"
        )
    except OSError:
        return  # a folder that cannot be written costs the log, nothing else
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logger = logging.getLogger("easel")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def log_to_terminal() -> None:
    """All messages of this process, from the level that --loglevel or A1111's variable names, go to the terminal; as
    usual those of errors and warnings alone where neither does."""
    level = os.environ.get("SD_WEBUI_LOG_LEVEL", "").upper()
    if level in ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"):
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s [%(name)s] %(message)s", datefmt="%H:%M:%S")
        logging.getLogger("easel").setLevel(level)
