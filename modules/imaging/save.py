"""Writing files so that a crash, a full disk or a second writer never costs a picture.

Every file of ours goes through `safe_write`: temporary file in the same folder, write, fsync, publish under its name
in one step, fsync the folder. A name that is taken is never overwritten unless asked. When it raises, nothing is left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from modules.imaging.metadata import encode
from modules.imaging.naming import NameFields, fields_of, next_number, picture_place, used_numbers
from modules.schema.errors import DiskTrouble
from modules.schema.plan import Plan
from modules.schema.settings import Saving

TEMP_PREFIX = ".easel-"
TEMP_SUFFIX = ".part"
_COARSE_CLOCK = 5
"""CLOCK_REALTIME_COARSE of Linux (uapi/linux/time.h), which Python does not name: what file systems read."""
# File systems without hard links answer link() with one of these.
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL, errno.EXDEV}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_MAX_TRIES = 10_000


class NameTaken(DiskTrouble):
    """A file of that name is there already, and overwriting was not asked for."""


class Disk:
    """The few calls that change a disk. Tests hand in one whose k-th call fails."""

    def create(self, path: Path) -> int:
        """A new file, opened for writing; FileExistsError if the name is taken, also by a link."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        return os.open(path, flags, 0o666)

    def write(self, handle: int, data: memoryview) -> int:
        return os.write(handle, data)

    def sync(self, handle: int) -> None:
        os.fsync(handle)

    def close(self, handle: int) -> None:
        os.close(handle)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def make_folder(self, path: Path) -> None:
        os.mkdir(path)

    def sync_folder(self, path: Path) -> None:
        """Makes names in the folder durable. Windows has no such call, some network disks refuse it."""
        if os.name == "nt":
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}:
                raise
        finally:
            os.close(handle)


DISK = Disk()


def safe_write(
    path: Path, data: bytes | Iterable[bytes | memoryview], overwrite: bool = False, disk: Disk = DISK
) -> Path:
    """Writes the whole file or none of it, and returns its path once it is durable. `data` may come in pieces; if
    making one of them raises, nothing is left.

    NameTaken where the name is in use and `overwrite` is off; DiskTrouble, in one sentence, for everything else.
    """
    path = Path(path)
    temp = path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(8)}{TEMP_SUFFIX}")
    try:
        make_folders(path.parent, disk)
        handle = disk.create(temp)
    except OSError as error:
        raise trouble(error, path) from error
    _fill_and_publish(handle, temp, path, data, overwrite, disk)
    return path


def make_folders(folder: Path, disk: Disk = DISK) -> None:
    """The folder and its missing parents, each made durable; OSError as it comes."""
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        if folder.parent == folder:
            break
        folder = folder.parent
    for each in reversed(missing):
        # Another thread may have made it in the meantime; a file in its place stays an error.
        try:
            disk.make_folder(each)
        except FileExistsError:
            if not each.is_dir():
                raise
        disk.sync_folder(each.parent)


def _fill_and_publish(
    handle: int, temp: Path, path: Path, data: bytes | Iterable[bytes | memoryview], overwrite: bool, disk: Disk
) -> None:
    """From an open temporary file to the published one; the handle is closed, the temporary name gone in any case."""
    published = False
    try:
        try:
            for piece in (data,) if isinstance(data, bytes) else data:
                rest = memoryview(piece)
                while len(rest):
                    rest = rest[disk.write(handle, rest) :]
            disk.sync(handle)
        finally:
            disk.close(handle)
        if overwrite:
            disk.replace(temp, path)
        else:
            _publish_new(temp, path, disk)
            published = True
        disk.sync_folder(path.parent)
    except BaseException as error:
        _remove(disk, temp)
        if published:
            _remove(disk, path)
        if isinstance(error, FileExistsError):
            raise NameTaken(f"{path.name} is there already; it was left as it is.") from error
        if isinstance(error, OSError):
            raise trouble(error, path) from error
        raise
    if not overwrite:
        _remove(disk, temp)


def move_file(source: Path, target: Path, aside: bool = False, disk: Disk = DISK) -> Path:
    """Moves a file, its bytes and times as they are, to a name that is free; where it lies then.

    NameTaken where the name is in use, or with `aside` a name with a number; DiskTrouble for everything else. When it
    raises, the file is still in its old place. Between two disks it is copied, made durable, then removed.
    """
    first = target
    for number in range(1, _MAX_TRIES):
        try:
            make_folders(target.parent, disk)
            try:
                disk.link(source, target)
                disk.sync_folder(target.parent)
            except OSError as error:
                if isinstance(error, FileExistsError) or error.errno not in _NO_LINKS:
                    raise
                safe_write(target, source.read_bytes(), disk=disk)
                with contextlib.suppress(OSError):
                    shutil.copystat(source, target)
            break
        except (FileExistsError, NameTaken) as error:
            if not aside:
                raise NameTaken(f"{target.name} is there already; it was left as it is.") from error
            target = first.with_name(f"{first.stem}-{number}{first.suffix}")
        except OSError as error:
            raise trouble(error, target) from error
    else:
        raise DiskTrouble(f"{first.parent} holds {_MAX_TRIES} files called {first.stem}; move some away.")
    try:
        disk.remove(source)
        disk.sync_folder(source.parent)
    except OSError as error:
        if source.exists():
            _remove(disk, target)
            raise trouble(error, source) from error
    return target


def _remove(disk: Disk, path: Path) -> None:
    """Removes a file if it can; what stays is a leftover that `sweep_leftovers` takes later."""
    with contextlib.suppress(OSError):
        disk.remove(path)


def _publish_new(temp: Path, path: Path, disk: Disk) -> None:
    """Gives the finished file its name in one step; FileExistsError where the name is taken."""
    try:
        disk.link(temp, path)
    except OSError as error:
        if isinstance(error, FileExistsError) or error.errno not in _NO_LINKS:
            raise
        # No hard links here: take the name with an empty file of our own, then put the finished one in its place.
        handle = disk.create(path)
        try:
            disk.close(handle)
            disk.replace(temp, path)
        except OSError:
            _remove(disk, path)
            raise


def trouble(error: OSError, path: Path) -> DiskTrouble:
    """One sentence for the user from what the system said about writing `path`."""
    folder = path.parent
    if error.errno in _FULL:
        return DiskTrouble(f"The disk that holds {folder} is full, so {path.name} was not written; free some space.")
    if error.errno in _REFUSED:
        return DiskTrouble(
            f"{folder} cannot be written to, so {path.name} was not saved; allow it or choose another folder."
        )
    if error.errno == errno.ENAMETOOLONG:
        return DiskTrouble(f"The name {path.name[:60]}… is too long for this disk; use a shorter filename pattern.")
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return DiskTrouble(f"{folder} is not a folder, so {path.name} was not written; move that file away.")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return DiskTrouble(f"{path.name} could not be written to {folder} ({reason}); check that disk.")


# Sides that a format can hold.
LONGEST = {"jpg": 65535, "jpeg": 65535, "webp": 16383, "avif": 65535}


def encode_picture(image: Image.Image, infotext: str | None, saving: Saving, grid: bool = False) -> tuple[bytes, str]:
    """The file of a picture in the format the settings ask for, and its ending ("png"); what that format cannot hold
    is a PNG."""
    format = saving.grid_format if grid else saving.samples_format
    if max(image.size) > LONGEST.get(format, max(image.size)):
        format = "png"
    told = infotext if saving.enable_pnginfo else None
    return encode(image, told, format, saving.jpeg_quality, saving.webp_lossless), format


def encode_png(image: Image.Image, infotext: str | None) -> bytes:
    """The PNG file of a picture, with its infotext in the `parameters` chunk."""
    return encode(image, infotext, "png")


def save_picture(
    image: Image.Image, infotext: str, plan: Plan, k: int, data_dir: Path, user: str = "", disk: Disk = DISK,
    *, basename: str = "", grid: bool = False,
) -> str:  # fmt: skip
    """Saves picture k of a plan, or a grid that begins with it, into the folder of grids; returns its path as records
    hold it (`kept_as`). Raises as `save_named`."""
    fields, saving = fields_of(plan, k, user), plan.settings.saving
    if grid:
        places = {
            "outdir_samples": saving.outdir_grids,
            "outdir_txt2img_samples": saving.outdir_txt2img_grids,
            "outdir_img2img_samples": saving.outdir_img2img_grids,
            "samples_format": saving.grid_format,
            "samples_filename_pattern": _grid_name(saving),
            "save_images_add_number": True,
            "save_to_dirs": saving.grid_save_to_dirs,
        }
        saving = saving.model_copy(update=places)
    path = save_named(image, infotext, fields, saving, data_dir, basename, disk)
    if saving.save_txt:
        with contextlib.suppress(DiskTrouble):  # the picture is safe, and holds it as well
            safe_write(path.with_suffix(".txt"), f"{infotext}\n".encode("utf-8", "replace"), disk=disk)
    return kept_as(path, data_dir)


def _grid_name(saving: Saving) -> str:
    return (saving.samples_filename_pattern or "[seed]-[prompt_spaces]") if saving.grid_extended_filename else "[seed]"


def save_beside(image: Image.Image, infotext: str, path: str, suffix: str, data_dir: Path, disk: Disk = DISK) -> str:
    """Saves a picture that belongs to a saved one (`path` as records hold it) as `<its name>-<suffix>.png` in the same
    folder; returns its path as records hold it. DiskTrouble where it cannot be written."""
    owner = data_dir / path
    for number in range(_MAX_TRIES):
        name = f"{owner.stem}-{suffix}{f'-{number}' if number else ''}.png"
        with contextlib.suppress(NameTaken):
            return kept_as(safe_write(owner.with_name(name), encode_png(image, infotext), disk=disk), data_dir)
    raise DiskTrouble(f"{owner.parent} holds {_MAX_TRIES} pictures called {owner.stem}-{suffix}; move some away.")


def kept_as(path: Path, data_dir: Path) -> str:
    """The path relative to the data folder, with `/`; absolute where the owner saves pictures elsewhere."""
    return path.relative_to(data_dir).as_posix() if path.is_relative_to(data_dir) else str(path)


def save_named(
    image: Image.Image,
    infotext: str,
    fields: NameFields,
    saving: Saving,
    data_dir: Path,
    basename: str = "",
    disk: Disk = DISK,
) -> Path:
    """Saves a finished picture where the settings say, under the next free number, and returns its path.

    The number is reserved by the name of the temporary file, so that threads and processes that save at the same time
    take different numbers. DiskTrouble where it could not be written; then no trace of it is left.
    """
    data, ending = encode_picture(image, infotext, saving)
    folder, name = picture_place(saving, fields, data_dir, image, basename)
    first = folder / f"{name or basename or 'picture'}.{ending}"
    try:
        make_folders(folder, disk)
        if saving.save_images_add_number or not name:
            return _save_numbered(folder, basename, name, data, ending, disk)
    except OSError as error:
        raise trouble(error, first) from error
    for suffix in range(_MAX_TRIES):
        path = first if not suffix else folder / f"{name}-{suffix}.{ending}"
        with contextlib.suppress(NameTaken):
            return safe_write(path, data, disk=disk)
    raise DiskTrouble(f"{folder} holds {_MAX_TRIES} pictures called {name}; turn on the number in file names.")


def _save_numbered(folder: Path, basename: str, name: str, data: bytes, ending: str, disk: Disk) -> Path:
    number = next_number(folder, basename)
    for _ in range(_MAX_TRIES):
        temp = folder / f"{TEMP_PREFIX}{basename}{number:05}{TEMP_SUFFIX}"
        try:
            handle = disk.create(temp)
        except FileExistsError:  # somebody is writing that number
            number += 1
            continue
        # Between counting and reserving somebody may have published this number and let go of it: look again.
        try:
            used = used_numbers(folder, basename)
        except OSError:  # the folder cannot be listed any more; publishing never overwrites anyway
            used = set()
        if number in used:
            with contextlib.suppress(OSError):
                disk.close(handle)
            _remove(disk, temp)
            number = max(used) + 1
            continue
        path = folder / f"{numbered(number, basename, name)}.{ending}"
        try:
            _fill_and_publish(handle, temp, path, data, False, disk)
        except NameTaken:
            number += 1
            continue
        return path
    raise DiskTrouble(f"No free number was found in {folder}; empty it of files that end in {TEMP_SUFFIX}.")


def numbered(number: int, basename: str, name: str) -> str:
    """`00012-<name>`, or with a basename `grid-0012-<name>`."""
    start = f"{basename}-{number:04}" if basename else f"{number:05}"
    return f"{start}-{name}" if name else start


def time_of_a_file() -> float:
    """The earliest time (Unix seconds) that a file written from now on can carry: file systems read a clock that ticks
    some hundred times a second, so their times lie behind `time.time()`."""
    return time.clock_gettime(_COARSE_CLOCK) if sys.platform == "linux" else time.time() - 0.1


def sweep_leftovers(folder: Path, before: float, disk: Disk = DISK) -> int:
    """Removes our own temporary files last written before that time (Unix seconds), in all sub-folders; how many."""
    count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if name.startswith(TEMP_PREFIX) and name.endswith(TEMP_SUFFIX):
                path = Path(place, name)
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < before:
                        disk.remove(path)
                        count += 1
    return count
