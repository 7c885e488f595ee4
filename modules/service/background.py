"""Work of the server that is done beside all else: one thread that sleeps until it is woken."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from modules.schema.errors import EaselError


class Background:
    """Does `work` once at the start and again whenever it was woken. What goes wrong is logged; the next time comes.

    `closed` is for `work` to look at, or to wait on: it should end soon once that is set.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._work, self._log = work, logging.getLogger(f"easel.{name}")
        self._due, self.closed = threading.Event(), threading.Event()
        self._due.set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._due.set()

    def close(self, patience: float) -> None:
        """Ends it, waiting at most `patience` seconds for what it does just now."""
        self.closed.set()
        self._due.set()
        self._thread.join(timeout=patience)

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self.closed.is_set():
                return
            try:
                self._work()
            except EaselError as error:
                self._log.warning("%s", error.message)
            except Exception:
                if not self.closed.is_set():  # then what it works with may be gone already
                    self._log.exception("failed")
