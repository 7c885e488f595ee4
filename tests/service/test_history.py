"""The history: every picture listed, traced, thrown away and back; folders imported; a killed run's files found."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from modules.imaging import inputs
from modules.imaging.metadata import encode, read_infotext
from modules.imaging.naming import NameFields
from modules.imaging.save import kept_as, save_named
from modules.schema.errors import BadRequest, EaselError, NotFound
from modules.schema.folders import Folders
from modules.schema.history import ImportView, PictureView
from modules.schema.request import GenerationRequest, Mask, Source
from modules.schema.settings import Settings
from modules.service.database import Database
from modules.service.generation import GenerationService
from modules.service.history import History, insert, told
from modules.service.jobs import JobStore
from modules.service.thumbnails import Thumbnails
from tests.service.test_generation import ask, finish, wait_for

Open = Callable[..., GenerationService]
ROWS = 100_000 if os.environ.get("TEST_FULL") else 20_000


@pytest.fixture
def one(open_service: Open) -> GenerationService:
    return open_service("thread")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "history.sqlite3")
    yield database
    database.close()


def draw(service: GenerationService, prompt: str = "a red house", owner: str = "", **more: Any) -> list[str]:
    view = finish(service, service.submit(ask(prompt, **more), owner=owner))
    assert view.state == "done", view.error
    return [image.id for image in view.images]


def listed(history: History, query: str = "", **more: Any) -> list[PictureView]:
    return list(history.page(query, **more).pictures)


def test_a_drawn_picture_is_in_the_history_with_all_it_tells(one: GenerationService) -> None:
    (id,) = draw(one, "a house, <lora:ink:0.5>", negative_prompt="", sampler="Euler a", seed=11)
    (picture,) = listed(one.history)
    assert (picture.id, picture.seed, picture.model, picture.task) == (id, 11, "fake", "txt2img")
    detail = one.history.get(id)
    assert (detail.sampler, detail.networks, detail.width, detail.rating) == ("Euler a", "ink", 64, 0)
    assert detail.infotext == one.gallery.get(id).infotext
    assert [group.count for group in one.history.groups().groups] == [1]
    one.history.rate([id], rating=4, favourite=True)
    assert one.history.groups("rating:4 is:favourite lora:ink").total == 1
    with pytest.raises(BadRequest):
        one.history.rate([id], rating=6)


def test_each_user_sees_only_the_own_pictures(one: GenerationService) -> None:
    (mine,), (other,) = draw(one, owner="anna"), draw(one, "another", owner="ben")
    anna = one.history.of("anna")
    assert [picture.id for picture in listed(anna)] == [mine]
    assert anna.groups().total == 1
    for forbidden in (anna.get, anna.thumbnail, anna.lineage, anna.file, lambda id: anna.delete([id]),
                      lambda id: anna.rate([id], rating=1), lambda id: anna.compare(mine, id)):  # fmt: skip
        with pytest.raises(NotFound):
            forbidden(other)
    assert one.history.of("ben").get(other).rating == 0
    assert anna.empty_trash() == 0
    assert one.history.groups().total == 2


def test_deleted_pictures_come_back_to_the_byte_and_place(one: GenerationService, folders: Folders) -> None:
    first, second = draw(one, n_iter=2)
    path, _ = one.picture(first)
    assert isinstance(path, Path)
    before, times = path.read_bytes(), path.stat().st_mtime_ns
    one.history.thumbnail(first)
    assert one.history.delete([first, first]) == [first]
    assert not path.exists()
    assert [picture.id for picture in listed(one.history)] == [second]
    assert [picture.id for picture in listed(one.history, shelf="trash")] == [first]
    assert one.history.groups().trashed == 1
    found, _ = one.picture(first)  # still to be seen where it is shown
    assert isinstance(found, Path)
    assert found.read_bytes() == before
    assert folders.state in found.parents
    assert one.history.restore([first]) == [first]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, times)
    assert not list((folders.state / "trash").iterdir())
    assert one.history.groups().trashed == 0
    # Where its name is taken by now, it comes back beside that one.
    one.history.delete([first])
    path.write_bytes(b"somebody else's")
    one.history.restore([first])
    beside, record = one.picture(first)
    assert isinstance(beside, Path)
    assert beside.read_bytes() == before
    assert (beside.parent, beside != path, record.path) == (path.parent, True, kept_as(beside, folders.data))
    assert path.read_bytes() == b"somebody else's"
    # Emptied, it is gone, and nothing else.
    one.history.delete([first])
    assert one.history.empty_trash() == 1
    assert [picture.id for picture in listed(one.history)] == [second]
    assert not list((folders.state / "trash").glob("*"))
    assert path.read_bytes() == b"somebody else's"
    with pytest.raises(NotFound):
        one.picture(first)


def test_a_file_that_somebody_else_removed_is_marked_and_no_error(
    one: GenerationService, folders: Folders, open_service: Open
) -> None:
    (id,) = draw(one)
    path, _ = one.picture(id)
    assert isinstance(path, Path)
    aside = path.rename(folders.data / "aside")
    one.close()
    again = open_service("thread")
    wait_for(lambda: again.history.groups("is:missing").total == 1)
    with pytest.raises(NotFound, match="no longer at"):
        again.picture(id)
    assert again.history.get(id).missing
    aside.rename(path)
    assert again.picture(id)[0] == path
    assert not again.history.get(id).missing
    path.unlink()
    assert again.history.delete([id]) == [id]  # there is nothing to move
    assert again.history.empty_trash() == 1


def test_pictures_know_what_they_came_from_and_led_to(one: GenerationService) -> None:
    grandparent, sibling = draw(one, n_iter=2)
    path, _ = one.picture(grandparent)
    assert isinstance(path, Path)

    def drawn_over(data: bytes, mask: bytes | None = None, origin: str | None = None) -> str:
        name = one.keep_input(data)
        if origin:
            one.history.note_origin(name, origin)
        masked = Mask(image=one.keep_input(mask)) if mask else None
        return draw(one, "over", source=Source(images=(name,), mask=masked))[0]

    mask = encode(Image.new("L", (64, 64), 255), None)
    parent = drawn_over(path.read_bytes(), mask)
    wait_for(lambda: one.history.get(parent).bytes is not None)
    parent_path, _ = one.picture(parent)
    assert isinstance(parent_path, Path)
    child = drawn_over(parent_path.read_bytes())
    painted = drawn_over(encode(Image.new("RGB", (64, 64), "red"), None), origin=parent)

    assert one.history.get(parent).task == "inpaint"
    lineage = one.history.lineage(parent)
    came = {(r.steps, r.kind, r.picture.id if r.picture else None) for r in lineage.came_from}
    assert came == {(-1, "source", grandparent), (-1, "mask", None)}
    assert [(r.steps, r.picture and r.picture.id) for r in lineage.led_to] == [(1, child), (1, painted)]
    above = [r for r in one.history.lineage(child).came_from if r.kind == "source"]
    assert [(r.steps, r.picture and r.picture.id) for r in above] == [(-2, grandparent), (-1, parent)]
    oldest = one.history.lineage(grandparent)
    assert [(r.steps, r.picture and r.picture.id) for r in oldest.led_to] == [(1, parent), (2, child), (2, painted)]
    assert [picture.id for picture in oldest.beside] == [sibling]

    # What the pictures were drawn from stays while they do, unless it is a picture itself.
    wanted = one.history.sources_wanted()
    assert one.history.source(next(iter(wanted))).is_file()
    names = {kind: name for name, kind in one.history.get(parent).parents.items()}
    assert Image.open(io.BytesIO(one.history.source_thumbnail(names["mask"]))).size == (64, 64)
    assert names["mask"] in wanted
    assert names["source"] not in wanted
    with pytest.raises(NotFound):
        one.history.of("somebody").source(names["mask"])
    old = time.time() - 90_000
    for kept in one.folders.inputs.iterdir():
        os.utime(kept, (old, old))
    inputs.sweep(one.folders.inputs, wanted)
    assert one.history.source(names["mask"]).read_bytes() == mask
    assert one.history.source(names["source"]).read_bytes() == path.read_bytes()


def test_two_pictures_are_compared_in_words(one: GenerationService) -> None:
    (a,), (b,) = draw(one, "a house, day", steps=4), draw(one, "a house, night", steps=5, sampler="Euler")
    comparison = one.history.compare(a, b)
    assert comparison.words == "prompt: + 'night', − 'day'; steps 4 → 5; sampler DPM++ 2M → Euler"
    assert {(change.name, change.kind) for change in comparison.changes} == {
        ("Prompt", "added"), ("Prompt", "removed"), ("Steps", "changed"), ("Sampler", "changed"),
    }  # fmt: skip
    assert one.history.compare(a, a).words == ""


def test_a_picture_drawn_again_is_the_same_or_it_is_said_what_differs(one: GenerationService) -> None:
    (a,) = draw(one, "a house", steps=4, seed=-1)
    again = one.again(one.history.get(a).job, same=True)
    finish(one, again)
    (b,) = (record.id for record in one.job(again).images)
    same = one.history.compare(a, b)
    assert (same.words, same.pixels, same.largest) == ("", 0.0, 0)
    # The second as another machine might have drawn it: a pixel lighter, by another torch.
    path = one.history.file(b)
    assert path is not None
    with Image.open(path) as image:
        other, text = image.convert("RGB"), read_infotext(image)
    red, green, blue = other.getpixel((3, 5))  # type: ignore[misc]
    other.putpixel((3, 5), (red, green + 7 if green < 200 else green - 7, blue))
    path.write_bytes(encode(other, text))
    with contextlib.closing(sqlite3.connect(one.folders.database)) as db, db:
        for id, torch in ((a, "2.13.0"), (b, "2.14.1")):
            told = {"drawn_with": [["torch", torch], ["device", "processor"]]}
            db.execute("UPDATE records SET body = json_patch(body, ?) WHERE id = ?", (json.dumps(told), id))
    differs = one.history.compare(a, b)
    assert differs.words == "drawn with torch 2.13.0 → 2.14.1"
    assert differs.pixels == pytest.approx(1 / (other.width * other.height))
    assert differs.largest == 7
    path.unlink()
    assert one.history.compare(a, b).pixels is None


# ------------------------------------------------------------------------------------------------- from earlier runs


def test_a_killed_run_leaves_no_file_that_is_not_listed(folders: Folders, open_service: Open, test_seed: int) -> None:
    """The state on the disk after a kill between the file and its row, for each picture of a job and a stranger."""
    rng = random.Random(test_seed)
    store = JobStore(database := Database(folders.database))
    request = GenerationRequest(prompt="a", n_iter=4, steps=4, width=64, height=64, seed=rng.choice([-1, 5]))
    id = store.add(request, Settings())
    job = store.take()
    assert job is not None
    lost = sorted(rng.sample(range(4), 2))

    def save(seed: int) -> Path:
        image = Image.new("RGB", (64, 64), (seed % 256, 0, 0))
        text = f"a\nSteps: 4, Sampler: Euler, Seed: {seed}, Size: 64x64"
        return save_named(image, text, NameFields(seed=seed), Settings().saving, folders.data)

    files = [save(job.request.seed + k) for k in lost]
    strip = files[0].with_name(f"{files[0].stem}-steps.png")
    shutil.copy(files[0], strip)
    stranger = save(job.request.seed + 1000)
    database.close()

    service = open_service("thread")
    view = finish(service, id)
    assert view.state == "done"
    assert [image.index for image in view.images] == [0, 1, 2, 3]
    assert [folders.data / str(view.images[k].path) for k in lost] == files
    saved = {path for path in folders.data.rglob("*.png") if folders.state not in path.parents} - {strip}
    assert {folders.data / service.history.get(picture.id).path for picture in listed(service.history)} == saved
    assert stranger in saved
    assert len(saved) == 5
    total = service.history.groups().total
    service.close()
    assert open_service("thread").history.groups().total == total


def test_pictures_of_a_version_without_history_enter_it(one: GenerationService, open_service: Open) -> None:
    ids = draw(one, n_iter=3)
    with one._database.write() as db:
        db.execute("DELETE FROM pictures")
    one.close()
    again = open_service("thread")
    wait_for(lambda: again.history.groups().total == 3)
    assert [picture.id for picture in listed(again.history, sort="oldest")] == ids
    assert again.history.groups("red").total == 3


# ------------------------------------------------------------------------------------------------------------- import


def imported(service: GenerationService, folder: Path, owner: str = "") -> ImportView:
    service.importer.start(str(folder), owner)
    wait_for(lambda: service.importer.view().state != "running")
    return service.importer.view()


@pytest.fixture
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What A1111 leaves behind: folders by task and day, all formats, a text beside, damage, a link in a circle."""
    root = tmp_path_factory.mktemp("a1111")
    formats = {"png": "png", "jpg": "jpg", "webp": "webp", "avif": "avif"}
    number = 0
    for task in ("txt2img-images", "img2img-images", "txt2img-grids"):
        for day in ("2023-01-02", "2024-05-06"):
            folder = root / "outputs" / task / day
            folder.mkdir(parents=True)
            for suffix, kind in formats.items():
                number += 1
                strength = ", Denoising strength: 0.5" if "img2img" in task else ""
                text = (
                    f"castle number{number}, 城\nNegative prompt: fog\nSteps: 9, Sampler: Euler a, CFG scale: 7, Seed: "
                    f"{number}, Size: 64x48, Model: anything-v3{strength}, Version: v1.6.0"
                )
                image = Image.new("RGB", (64, 48), (number, 0, 0))
                path = folder / f"{number:05}-{number}.{suffix}"
                path.write_bytes(encode(image, text, kind))
                os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    bare = root / "outputs" / "txt2img-images" / "bare.png"
    bare.write_bytes(encode(Image.new("L", (32, 32)), None))
    beside = "told beside\nSteps: 5, Sampler: Heun, CFG scale: 3, Seed: 77, Size: 32x32"
    bare.with_suffix(".txt").write_text(beside, "utf-8")
    (root / "outputs" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (root / "outputs" / "notes.md").write_text("no picture")
    (root / "outputs" / "round").symlink_to(root)
    return root / "outputs"


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "round" not in path.parts
    }


def test_a_folder_of_a1111_is_imported_and_never_touched(one: GenerationService, outputs: Path) -> None:
    before = contents(outputs)
    view = imported(one, outputs)
    assert (view.state, view.total, view.added, view.known, view.unread) == ("done", 26, 25, 0, 1)
    assert one.history.groups("model:anything castle").total == 24
    assert {p.seed for p in listed(one.history, "castle seed:>=1", limit=100)} == set(range(1, 25))
    assert one.history.groups("task:grid").total == one.history.groups("task:img2img").total == 8
    assert one.history.groups("城").total == 24
    (beside,) = listed(one.history, "told beside")
    assert (beside.seed, beside.imported, beside.day) == (77, True, time.strftime("%Y-%m-%d"))
    (seventh,) = listed(one.history, "seed:7")
    assert seventh.created == 1_700_000_007
    assert Image.open(io.BytesIO(one.history.thumbnail(seventh.id))).size == (64, 48)
    # Marks live here alone; deleting only hides.
    one.history.rate([seventh.id], rating=5)
    assert one.history.delete([seventh.id]) == [seventh.id]
    assert one.history.groups("seed:7").total == 0
    again = imported(one, outputs)
    assert (again.added, again.known, again.unread) == (0, 25, 1)
    assert one.history.groups("seed:7").total == 0
    assert one.history.groups().known == 24
    one.history.restore([seventh.id])
    assert one.history.get(seventh.id).rating == 5
    one.history.delete([seventh.id])
    assert one.history.empty_trash() == 1
    assert contents(outputs) == before


def test_an_import_takes_up_what_is_new_changed_or_gone(one: GenerationService, outputs: Path) -> None:
    imported(one, outputs)
    first, *_ = sorted(outputs.rglob("0*.png"))
    (picture,) = listed(one.history, f"file:{first.name}")
    one.history.rate([picture.id], rating=3)
    text = "repainted\nSteps: 1, Sampler: Euler, Seed: 4321, Size: 96x96"
    first.write_bytes(encode(Image.new("RGB", (96, 96)), text))
    (outputs / "new.png").write_bytes(encode(Image.new("RGB", (16, 16)), None))
    view = imported(one, outputs)
    assert (view.added, view.known) == (2, 24)
    (changed,) = listed(one.history, "repainted")
    assert (changed.seed, changed.width, changed.rating, changed.id != picture.id) == (4321, 96, 3, True)
    assert one.history.groups(f"file:{first.name}").total == 1
    first.unlink()
    with pytest.raises(NotFound):
        one.history.thumbnail(changed.id)
    assert one.history.get(changed.id).missing


def test_an_imported_picture_can_be_a_source(one: GenerationService, outputs: Path) -> None:
    imported(one, outputs)
    (picture,) = listed(one.history, "seed:5")
    data = one.history.file(picture.id)
    assert data is not None
    (child,) = draw(one, source=Source(images=(one.keep_input(data.read_bytes()),)))
    wait_for(lambda: one.history.lineage(child).came_from[0].picture is not None)
    assert one.history.lineage(child).came_from[0].picture == one.history.page("seed:5").pictures[0]
    assert [r.picture and r.picture.id for r in one.history.lineage(picture.id).led_to] == [child]


def test_own_pictures_are_not_imported_a_second_time(one: GenerationService, folders: Folders) -> None:
    draw(one, n_iter=2)
    view = imported(one, folders.data / "outputs")
    assert (view.added, view.known) == (0, 2)
    (id, *_) = [picture.id for picture in listed(one.history)]
    one.history.delete([id])
    assert imported(one, folders.data).added == 0  # the trash is ours


@pytest.mark.parametrize("folder", ["", "no such folder", "a\0b", "/etc/passwd"])
def test_what_is_no_folder_is_refused(one: GenerationService, folder: str) -> None:
    with pytest.raises(BadRequest):
        one.importer.start(folder)
    assert one.importer.view().state == "none"


# -------------------------------------------------------------------------------------------------------- many, small


def fill(database: Database, count: int, rng: random.Random) -> None:
    """Rows as an artist of three years has them."""
    words = [f"word{n}" for n in range(2000)]
    start = 1_700_000_000
    for first in range(0, count, 5000):
        with database.write(durable=False) as db:
            for number in range(first, min(count, first + 5000)):
                prompt = ", ".join(rng.sample(words, 12)) + f", <lora:style{number % 40}:0.8>"
                text = (
                    f"{prompt}\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: {number}, "
                    f"Size: 512x512, Model: model{number % 30}"
                )
                created = start + number * 900
                day = time.strftime("%Y-%m-%d", time.localtime(created))
                insert(
                    db,
                    {
                        "id": f"{number:032x}", "owner": "", "created": created, "day": day, "path": f"o/{number}.png",
                        "file": f"{number}.png", "width": 512, "height": 512, "infotext": text, **vars(told(text)),
                        "rating": number % 6, "favourite": int(number % 50 == 0),
                    },
                )  # fmt: skip


def test_many_pictures_are_laid_out_and_paged(
    database: Database, folders: Folders, test_seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(test_seed)
    fill(database, ROWS, rng)
    history = History(database, folders)

    def measured(what: str, act: Callable[[], Any]) -> Any:
        start = time.process_time()
        found = act()
        with capsys.disabled():
            if os.environ.get("TEST_FULL"):
                print(f"  {what}: {(time.process_time() - start) * 1000:.0f} ms of processor time, {ROWS} pictures")
        return found

    groups = measured("opening: days", history.groups)
    assert groups.total == ROWS == groups.known
    page = measured("opening: first page", lambda: history.page(limit=100))
    assert page.pictures[0].id == f"{ROWS - 1:032x}"
    some = measured("a jump to the middle", lambda: history.page(offset=ROWS // 2, limit=100))
    assert [int(picture.id, 16) for picture in some.pictures] == [ROWS // 2 - 1 - n for n in range(100)]
    assert len(measured("a jump to the end", lambda: history.page(offset=ROWS - 7)).pictures) == 7
    assert measured("two words", lambda: history.groups("word7 word1")).total > 0
    assert measured("a model", lambda: history.groups("model:model7")).total > 0
    assert measured("a seed", lambda: history.groups(f"seed:{ROWS // 2}")).total == 1
    rated = measured("by rating", lambda: history.groups(sort="rated"))
    assert [group.key for group in rated.groups] == ["5", "4", "3", "2", "1", "0"]
    for sort in ("newest", "oldest", "rated"):
        seen: list[str] = []
        after = None
        for _ in range(5):
            page = history.page("is:favourite", sort=sort, after=after, limit=37)
            seen += [picture.id for picture in page.pictures]
            after = page.next
        assert len(seen) == len(set(seen)) == 185
        key = {"newest": lambda n: -n, "oldest": lambda n: n, "rated": lambda n: (-(n % 6), -n)}[sort]
        wanted = sorted((n for n in range(ROWS) if n % 50 == 0), key=key)[:185]
        assert [int(id, 16) for id in seen] == wanted
    with pytest.raises(BadRequest):
        history.page(after="nonsense")


def test_thumbnails_are_kept_up_to_a_size(tmp_path: Path) -> None:
    thumbnails = Thumbnails(tmp_path, most_bytes=10_000)
    made: list[str] = []

    def make(name: str) -> bytes:
        made.append(name)
        return name.encode() * 100

    names = [f"{number:010}" for number in range(30)]
    for number, name in enumerate(names):
        assert thumbnails.get(name, lambda name=name: make(name)) == name.encode() * 100  # type: ignore[misc]
        os.utime(tmp_path / name[:2] / f"{name}.webp", (number, number))
    assert made == names
    assert thumbnails.get(names[-1], lambda: b"") == names[-1].encode() * 100
    kept = list(tmp_path.rglob("*.webp"))
    assert 5 <= len(kept) <= 10
    assert thumbnails.get(names[0], lambda: make("again")) == b"again" * 100
    with pytest.raises(EaselError):
        thumbnails.get("new1234567", lambda: (_ for _ in ()).throw(NotFound("gone")))
    assert thumbnails.get("../../../etc/passwd", lambda: b"made") == b"made"
    assert not list(tmp_path.parent.glob("etc"))
