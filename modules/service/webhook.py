"""Tells other programs of finished jobs: one POST with a few lines of JSON to an address the owner named at the start.

    {"job": "…", "state": "done", "error": null, "pictures": ["…"]}

Only addresses given on the command line are ever called, so a request cannot make this machine call somebody else.
Redirects are not followed. An address that does not answer is tried again, at the next start too.
"""

from __future__ import annotations

import http.client
import json
import logging
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from modules.schema.errors import EaselError
from modules.schema.record import JobView
from modules.service.background import Background
from modules.service.jobs import JobStore

SECONDS = 10.0
TRIES = 5
log = logging.getLogger("easel.webhook")


class Webhooks:
    """One thread that calls what is due. `wake` after a job ended; `close` at the end."""

    def __init__(self, jobs: JobStore, view: Callable[[str], JobView], pause: float = 2.0) -> None:
        self._jobs = jobs
        self._view = view
        self._pause = pause  # seconds before the second try; doubled each time
        self._background = Background("webhook", self._tell_due)
        self._background.start()

    def wake(self) -> None:
        self._background.wake()

    def close(self) -> None:
        self._background.close(patience=1)

    def _tell_due(self) -> None:
        for job, address in self._jobs.due_webhooks():
            self._tell(job, address)
            if self._background.closed.is_set():
                return  # what was not told stays due
            self._jobs.webhook_done(job)

    def _tell(self, job: str, address: str) -> None:
        try:
            view = self._view(job)
        except EaselError:
            return
        body = {
            "job": job, "state": view.state, "error": view.error, "pictures": [image.id for image in view.images]
        }  # fmt: skip
        for number in range(TRIES):
            try:
                status = post(address, json.dumps(body).encode())
                if status < 500:
                    if status >= 400:
                        log.warning("the webhook answered %s to job %s", status, job)
                    return
            except (OSError, http.client.HTTPException) as error:
                log.info("the webhook was not reached (%s)", error)
            if self._background.closed.wait(self._pause * 2**number):
                return
        log.warning("the webhook was not reached in %s tries for job %s", TRIES, job)


def post(address: str, body: bytes) -> int:
    """The status of one POST. OSError or HTTPException where there is no answer in time."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=SECONDS, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=SECONDS)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body, {"Content-Type": "application/json", "User-Agent": "Easel"})
        return connection.getresponse().status
    finally:
        connection.close()
