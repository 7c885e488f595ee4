"""What remains after a job: the picture's record, and the job as everybody may see it."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

from pydantic import Field

from modules.schema.fields import Frozen
from modules.schema.request import GenerationRequest

JobState = Literal["queued", "paused", "running", "done", "failed", "cancelled"]
Role = Literal["picture", "grid", "part", "mask"]
FINAL_STATES: frozenset[str] = frozenset({"done", "failed", "cancelled"})


class SavedRecord(Frozen):
    """One finished picture. `path` is relative to the data folder, or None where it could not be (or was not) saved:
    then its bytes are kept by the service until it stops, and `problem` says why. `filmstrip`: where the picture of its
    steps lies, if one was asked for. `parents`: SHA-256 of the files of the picture and the mask it was drawn from.
    `role`: a picture, a grid of pictures, a part of a grid that is not asked for by itself, or what shows the mask
    of the picture before. `incomplete`: it was interrupted or skipped, and is shown as far as it came. `drawn_with`:
    what it was drawn by and on, besides its settings: pairs of a name and a value."""

    id: str
    job: str
    index: int
    path: str | None
    width: int
    height: int
    seed: int
    infotext: str
    created: float
    problem: str | None = None
    filmstrip: str | None = None
    parents: tuple[str, ...] = ()
    role: Role = "picture"
    incomplete: bool = False
    drawn_with: tuple[tuple[str, str], ...] = ()


class JobView(Frozen):
    """A job from outside. `position` is its place in the queue (0 = running or finished); times are Unix seconds.

    `attempts` counts how often a worker took it; `progress` is 0…1 over the whole job. `seed` and `subseed` are those
    of the first picture, drawn where the request left them open. `cancelling`: it was told to stop and has not yet.
    """

    id: str
    request: GenerationRequest
    state: JobState
    position: int
    created: float
    started: float | None = None
    finished: float | None = None
    attempts: int = 0
    progress: float = 0.0
    step: int = 0
    steps: int = 0
    eta: float | None = None
    text: str = ""
    error: str | None = None
    error_code: str | None = None
    warnings: tuple[str, ...] = ()
    images: tuple[SavedRecord, ...] = ()
    owner: str = ""
    seed: int = -1
    subseed: int = -1
    cancelling: bool = False


class QueueView(Frozen):
    """The queue of one user. `jobs`: the one being drawn, then those that wait, in their order; `ended`: the last ones
    that came to their end. `held`: nothing further is begun until it is let go. `others_before`: jobs of others that
    are drawn before the first waiting one here. `trouble`: why nothing goes on."""

    jobs: tuple[JobView, ...] = ()
    ended: tuple[JobView, ...] = ()
    held: bool = False
    others_before: int = 0
    trouble: str | None = None


class CheckpointView(Frozen):
    """A checkpoint file as the lists show it. Sizes in bytes; `resolution` is the model's native (width, height).

    `vae`: path of the VAE it is drawn with instead of its own, once that is decided; `vae_hash`: 10 digits. `towers`:
    widths of its text encoders (the denoiser reads their sum); empty where that is not known. `concat`: what it wants
    to see besides noise: "inpaint", "depth", "edit" or "".
    """

    name: str
    title: str
    path: str
    size: int
    family: str
    resolution: tuple[int, int]
    cfg_scale: float | None = None
    sha256: str | None = None
    problem: str | None = None
    vae: str | None = None
    vae_hash: str | None = None
    towers: tuple[int, ...] = ()
    concat: str = ""

    @property
    def vae_name(self) -> str | None:
        return PurePath(self.vae).name if self.vae else None

    @property
    def short_hash(self) -> str | None:
        return self.sha256[:10] if self.sha256 else None


class ModelView(Frozen):
    """A model file of any kind as the lists show it. `kind` is told by content (weights.kinds), `place` is the folder's
    name; `misplaced`: it is of another kind than its folder is for. `modified`, `created` in Unix seconds, `preview` a
    path, `preview_time` its state. `alias`, `widths`, `vectors`, `cover`: see `weights.glance`. `hash`: the 12 digits
    an infotext shows, where they are known. What the user wrote down beside it: `description` to `sd_version`;
    `activation` are the words to write with it (else the trainer's).
    """

    kind: str
    name: str
    path: str
    place: str
    misplaced: bool = False
    size: int
    modified: float
    family: str | None = None
    sha256: str | None = None
    autov3: str | None = None
    problem: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    preview: str | None = None
    description: str = ""
    notes: str = ""
    created: float = 0.0
    alias: str | None = None
    hash: str | None = None
    widths: tuple[int, ...] = ()
    vectors: int = 0
    cover: bool = False
    preview_time: int = 0
    activation: str = ""
    preferred_weight: float = 0.0
    negative: str = ""
    sd_version: str = ""
