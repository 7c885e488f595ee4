"""The history as everybody may see it: pictures in groups, one picture, what it came from, an import."""

from __future__ import annotations

from typing import Literal

from modules.schema.fields import Frozen

Sort = Literal["newest", "oldest", "rated"]
SORTS: tuple[Sort, ...] = ("newest", "oldest", "rated")
Shelf = Literal["here", "trash"]
ParentKind = Literal["source", "mask"]


class PictureView(Frozen):
    """One picture in a list. `created` in Unix seconds; `rating` 0 (none) to 5; `missing`: its file is gone, by
    somebody else's doing; `imported`: it was not made here, so its file is never touched."""

    id: str
    created: float
    day: str
    width: int
    height: int
    seed: int | None
    task: str
    model: str
    prompt: str
    rating: int
    favourite: bool
    missing: bool
    imported: bool


class PictureDetail(PictureView):
    """`path` as kept: relative to the data folder, or absolute. `job`: what drew it, "" where that is not known, as its
    picture `number`. `drawn_with`: see `SavedRecord`."""

    infotext: str
    negative: str
    sampler: str
    networks: str
    path: str
    bytes: int | None
    trashed: bool
    parents: dict[str, ParentKind]
    job: str
    number: int
    drawn_with: tuple[tuple[str, str], ...]


class Group(Frozen):
    """A day, or a rating, and how many pictures it has."""

    key: str
    count: int


class TermView(Frozen):
    """A part of a search as typed, and what is wrong with it."""

    text: str
    start: int
    end: int
    problem: str = ""


class Groups(Frozen):
    """All that a search finds, in the order shown. `trashed`: how many pictures lie in the trash."""

    total: int
    groups: tuple[Group, ...]
    terms: tuple[TermView, ...] = ()
    trashed: int = 0
    known: int = 0


class Page(Frozen):
    """Some pictures in order. `next` continues behind them; None at the end."""

    pictures: tuple[PictureView, ...]
    next: str | None = None


class Relative(Frozen):
    """One picture of a lineage. `picture` is None where it came from outside (then `source` names what was kept of it).

    `steps`: how many pictures away, negative for what it came from. `kind`: what it was used as. `parent`: where it
    hangs, an id or the name of a source.
    """

    steps: int
    kind: ParentKind = "source"
    picture: PictureView | None = None
    source: str | None = None
    of: str = ""
    trashed: bool = False


class Lineage(Frozen):
    """What a picture came from (farthest first), what it led to, and what else was drawn in the same job."""

    came_from: tuple[Relative, ...] = ()
    led_to: tuple[Relative, ...] = ()
    beside: tuple[PictureView, ...] = ()


class ImportView(Frozen):
    """An import of a folder. `state`: running, done, cancelled or failed. `added`: new in the history; `known`: were
    there already; `unread`: files that are no pictures, whatever their names say."""

    folder: str = ""
    state: Literal["none", "running", "done", "cancelled", "failed"] = "none"
    looked_at: int = 0
    total: int = 0
    added: int = 0
    known: int = 0
    unread: int = 0
    current: str = ""
    error: str = ""


class ChangeView(Frozen):
    """One difference of two pictures' settings (`prompt.difference.Change`)."""

    name: str
    kind: str
    before: str
    after: str
    phrase: bool


class Comparison(Frozen):
    """`words`: all of it in one line; "" where settings and surroundings are the same. `pixels`: share of the pixels
    that differ, 0 to 1, and `largest`: by how much of 255 at most; None where sizes differ or a file is gone."""

    words: str
    changes: tuple[ChangeView, ...]
    pixels: float | None = None
    largest: int | None = None
