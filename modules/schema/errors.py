"""What can go wrong, as one tree; every front end translates it to its own voice (toast, 4xx JSON, stderr + exit code).

EaselError
├── BadRequest      the request cannot be drawn as written (names the field)
├── NotFound        a named thing (checkpoint, sampler, job, picture) does not exist
├── BadFile         a file is damaged, hostile, or not what its place says
├── OutOfMemory     the device ran out of memory
├── NotANumber      a stage produced NaN or infinity
├── Cancelled       the user interrupted the job
├── WorkerLost      the worker process ended in mid-job
├── DiskTrouble     a file could not be written
├── InUse           another process of ours works on the same data folder
└── TooMany         more is asked for at once than one may

Each message is one sentence that says what is wrong, what is allowed and what to do. `hint` may add a next step.
"""

from __future__ import annotations


class EaselError(Exception):
    """Base of all errors that are meant to be shown to the user."""

    code = "error"

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint


class BadRequest(EaselError):
    code = "bad_request"


class NotFound(EaselError):
    code = "not_found"


class BadFile(EaselError):
    code = "bad_file"


class OutOfMemory(EaselError):
    code = "out_of_memory"


class NotANumber(EaselError):
    code = "not_a_number"


class Cancelled(EaselError):
    code = "cancelled"


class WorkerLost(EaselError):
    code = "worker_lost"


class DiskTrouble(EaselError):
    code = "disk"


class InUse(EaselError):
    code = "in_use"


class TooMany(EaselError):
    code = "too_many"
