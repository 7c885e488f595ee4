"""Names of picture files and folders: A1111's patterns, numbering, and the one check of paths a user can influence."""

from __future__ import annotations

import hashlib
import os
import re
import string
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from PIL import Image

from modules.schema.errors import BadRequest
from modules.schema.plan import Plan
from modules.schema.settings import Saving

MAX_VALUE = 128  # characters of one text value in a name, usually
MAX_COMPONENT = 255  # bytes of one part of a path on common file systems
_NAME_ROOM = MAX_COMPONENT - 40  # what a number, a `-<n>` suffix and the extension may need
_UNSAFE = re.compile(r'[#<>:"/\\|?*\n\r\t]')
# Breaks of lines, and what turns the direction of writing: with it a name can show another ending than it has.
_MISLEADING = r"\x00-\x1f\x7f\u0085\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNSAFE_ON_DISK = re.compile(rf'[<>:"\\|?*{_MISLEADING}]')
_UNSAFE_ON_UNIX = re.compile(rf"[/{_MISLEADING}]")
_RESERVED = re.compile(r"^(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)
_TOKEN = re.compile(r"\[([^\[\]]+)\]")
_LAST_ARGUMENT = re.compile(r"^(.*)<([^>]*)>$", re.DOTALL)
_WORD_SPLIT = re.compile(r"[\s" + re.escape(string.punctuation) + "]+")


@dataclass(frozen=True)
class NameFields:
    """What the patterns can name of one picture. `scheduler` is the one in use, never "Automatic".

    `seeds` are those of the whole job; `iteration` and `batch_index` count from 0; `[prompt_no_styles]` is
    `plain_prompt` where it is known, else the prompt without `style_texts`.
    """

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    seeds: tuple[int, ...] = ()
    steps: int = 0
    cfg_scale: float = 0.0
    width: int = 0
    height: int = 0
    sampler: str = ""
    scheduler: str = ""
    styles: tuple[str, ...] = ()
    plain_prompt: str | None = None
    style_texts: tuple[str, ...] = ()
    model_name: str = ""
    model_hash: str = ""
    vae: str | None = None
    denoising: float | None = None
    clip_skip: int = 1
    batch_size: int = 1
    n_iter: int = 1
    iteration: int = 0
    batch_index: int = 0
    from_picture: bool = False
    user: str = ""
    job_started: datetime = field(default_factory=datetime.now)
    now: datetime = field(default_factory=datetime.now)


@dataclass(frozen=True)
class _Scene:
    """One evaluation of a pattern. `zipped` is a name for an archive of several pictures."""

    fields: NameFields
    image: Image.Image | None
    basename: str
    zipped: bool
    max_words: int
    portable: bool

    def clean(self, text: str, replace_spaces: bool = False) -> str:
        return sanitize(text, replace_spaces, self.portable)


def fields_of(plan: Plan, k: int, user: str = "", job_started: datetime | None = None) -> NameFields:
    """What the patterns can name of picture k of a plan."""
    request, now = plan.request, datetime.now()
    return NameFields(
        prompt=plan.prompts[k],
        negative_prompt=plan.negative_prompts[k],
        seed=plan.seeds[k],
        seeds=plan.seeds,
        steps=request.steps,
        cfg_scale=request.cfg_scale,
        width=request.width,
        height=request.height,
        sampler=plan.sampler,
        scheduler=plan.scheduler,
        styles=request.styles,
        plain_prompt=request.prompt,
        model_name=plan.checkpoint.name,
        model_hash=plan.checkpoint.short_hash or "",
        clip_skip=plan.settings.model.CLIP_stop_at_last_layers,
        batch_size=request.batch_size,
        n_iter=request.n_iter,
        iteration=k // request.batch_size,
        batch_index=k % request.batch_size,
        denoising=plan.denoising_strength,
        from_picture=request.source is not None,
        user=user,
        job_started=job_started or now,
        now=now,
    )


def sanitize(text: str, replace_spaces: bool = True, portable: bool = True) -> str:
    """A text value made fit for a file name: unsafe characters and (if asked) spaces become underscores. Without
    `portable` only what no Unix allows is unsafe."""
    if replace_spaces:
        text = text.replace(" ", "_")
    return (_UNSAFE if portable else _UNSAFE_ON_UNIX).sub("_", text).lstrip(" ").rstrip(" .")


def _hash(text: str, length: str = "8") -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[: int(length)]


def _without_styles(s: _Scene) -> str:
    if s.fields.plain_prompt is not None:
        return s.clean(s.fields.plain_prompt)
    prompt = s.fields.prompt
    for style in s.fields.style_texts:
        for part in filter(None, style.split("{prompt}")):
            prompt = prompt.replace(part, "").replace(", ,", ",").strip().strip(",")
        prompt = prompt.strip().strip(",").strip()
    return s.clean(prompt)


def _words(s: _Scene) -> str:
    words = [word for word in _WORD_SPLIT.split(s.fields.prompt) if word] or ["empty"]
    return s.clean(" ".join(words[: s.max_words]))


def _datetime(s: _Scene, pattern: str = "", zone: str = "") -> str:
    """Local time of now, or that of a zone; a bad zone or pattern falls back to the default."""
    moment = s.fields.now
    if zone:
        try:
            moment = moment.astimezone(ZoneInfo(zone))
        except (KeyError, ValueError, OSError):  # unknown name, a path, or no zone data on this system
            moment = s.fields.now
    try:
        text = moment.strftime(pattern or "%Y%m%d%H%M%S")
    except ValueError:
        text = moment.strftime("%Y%m%d%H%M%S")
    return s.clean(text)


def _image_hash(s: _Scene, length: str = "64") -> str:
    if s.image is None:
        raise ValueError("no picture to hash")
    return hashlib.sha256(s.image.tobytes()).hexdigest()[: int(length)]


def _has_prompt(s: _Scene, *choices: str) -> str:
    prompt = s.fields.prompt.lower()
    found = ""
    for choice in choices:
        word, _, otherwise = choice.partition("|")
        found += word.lower() if word.lower() in prompt else otherwise
    return s.clean(found, replace_spaces=True)


def _generation_number(s: _Scene) -> int | None:
    f = s.fields
    if s.zipped or (f.n_iter == 1 and f.batch_size == 1):
        return None
    return f.iteration * f.batch_size + f.batch_index + 1


# Each takes the scene and the token's arguments; None is "skipped", an exception leaves the token as it is written.
TOKENS: dict[str, Callable[..., object]] = {
    "seed": lambda s: s.fields.seed,
    "seed_first": lambda s: s.fields.seed if s.fields.batch_size == 1 else s.fields.seeds[0],
    "seed_last": lambda s: None if s.fields.batch_size == 1 else s.fields.seeds[-1],
    "steps": lambda s: s.fields.steps,
    "cfg": lambda s: s.fields.cfg_scale,
    "width": lambda s: s.image.width if s.image else s.fields.width,
    "height": lambda s: s.image.height if s.image else s.fields.height,
    "sampler": lambda s: s.clean(s.fields.sampler),
    "scheduler": lambda s: s.clean(s.fields.scheduler.capitalize()),
    "sampler_scheduler": lambda s: s.clean(f"{s.fields.sampler} {s.fields.scheduler.capitalize()}".strip()),
    "styles": lambda s: s.clean(", ".join(n for n in s.fields.styles if n and n != "None") or "None"),
    "model_hash": lambda s: s.clean(s.fields.model_hash),
    "model_name": lambda s: s.clean(s.fields.model_name),
    "vae_filename": lambda s: s.clean(s.fields.vae.split(".")[0]) if s.fields.vae else "NoneType",
    "date": lambda s: s.fields.now.strftime("%Y-%m-%d"),
    "datetime": _datetime,
    "job_timestamp": lambda s: s.fields.job_started.strftime("%Y%m%d%H%M%S"),
    "prompt": lambda s: s.clean(s.fields.prompt, replace_spaces=True),
    "prompt_spaces": lambda s: s.clean(s.fields.prompt),
    "prompt_no_styles": _without_styles,
    "prompt_words": _words,
    "prompt_hash": lambda s, *n: _hash(s.fields.prompt, *n),
    "negative_prompt_hash": lambda s, *n: _hash(s.fields.negative_prompt, *n),
    "full_prompt_hash": lambda s, *n: _hash(f"{s.fields.prompt} {s.fields.negative_prompt}", *n),
    "image_hash": _image_hash,
    "hasprompt": _has_prompt,
    "batch_number": lambda s: None if s.zipped or s.fields.batch_size == 1 else s.fields.batch_index + 1,
    "batch_size": lambda s: s.fields.batch_size,
    "generation_number": _generation_number,
    "denoising": lambda s: s.fields.denoising,
    "clip_skip": lambda s: s.fields.clip_skip,
    "user": lambda s: s.clean(s.fields.user),
    "basename": lambda s: s.basename or "img",
    "none": lambda s: "",
}


def expand(
    pattern: str,
    fields: NameFields,
    image: Image.Image | None = None,
    basename: str = "",
    zipped: bool = False,
    max_words: int = 8,
    limit: int = MAX_VALUE,
    portable: bool = True,
) -> str:
    """The text of a pattern such as `[seed]-[prompt<…>]`; literal text, also `/`, stays; texts are cut at `limit`, and
    fit for every system or, without `portable`, for Unix.

    Names are case-insensitive. A skipped token takes the literal text before it along; an unknown token, or one whose
    evaluation fails, stays as written, without its arguments.
    """
    scene = _Scene(fields, image, basename, zipped, max_words, portable)
    result, at = "", 0
    for match in _TOKEN.finditer(pattern):
        literal, token = pattern[at : match.start()], match.group(1)
        at = match.end()
        arguments: list[str] = []
        while (last := _LAST_ARGUMENT.match(token)) is not None:
            token, argument = last.groups()
            arguments.insert(0, argument)
        try:
            value = TOKENS[token.lower()](scene, *arguments)
        except Exception:
            # Whatever goes wrong in one token must not cost the picture its name.
            value = f"[{token}]"
        if isinstance(value, str):
            value = value[:limit].rstrip(" .") if len(value) > limit else value
        if value is not None:
            result += f"{literal}{value}"
    return result + pattern[at:]


def clean_component(text: str, limit: int = MAX_COMPONENT, portable: bool = True) -> str:
    """One part of a path that every common system accepts: no separators, control or reserved names; at most `limit`
    bytes in UTF-8. Empty where nothing is left. Without `portable`: that Unix accepts."""
    text = (_UNSAFE_ON_DISK if portable else _UNSAFE_ON_UNIX).sub("_", text.replace("/", "_")).strip(" ")
    text = _cut(text, limit).rstrip(" .")
    return f"_{_cut(text, limit - 1)}" if portable and _RESERVED.match(text) else text


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, not between a letter and the marks that belong to it."""
    if len(text.encode("utf-8")) <= limit:
        return text
    kept = text.encode("utf-8")[:limit].decode("utf-8", "ignore")
    while kept and _joins(text[len(kept)]):
        kept = kept[:-1]
    return kept.rstrip("\u200d")


def _joins(character: str) -> bool:
    return unicodedata.combining(character) != 0 or character == "\u200d" or "\ufe00" <= character <= "\ufe0f"


def clean_path(text: str) -> Path:
    """A relative path from pattern text: `/` separates folders, every part is cleaned, empty and dot parts go."""
    parts = [clean_component(part, _NAME_ROOM) for part in text.split("/")]
    return Path(*[part for part in parts if part])


def resolve_under(root: Path, name: str) -> Path:
    """The path `name` below `root`; BadRequest where it would lie elsewhere or is no portable name.

    The rules of all systems hold on each of them: no drive, no backslash, no `..`, no stream (`a:b`), no NUL; a link
    that leads out of the root is refused too. The path need not exist.
    """
    allowed = "Use a relative path without '..', '\\' or ':'."
    text = str(name)
    if not text or text.startswith("/") or "\\" in text or ":" in text:
        raise BadRequest(f"{text!r} is not a path below {root.name}. {allowed}")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    for part in parts:
        if part == ".." or clean_component(part) != part:
            raise BadRequest(f"{text!r} has a part that is no portable file name ({part!r}). {allowed}")
    path = root.joinpath(*parts)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise BadRequest(f"{text!r} leads out of {root.name}. {allowed}")
    return path


def picture_place(
    saving: Saving, fields: NameFields, data_dir: Path, image: Image.Image | None = None, basename: str = ""
) -> tuple[Path, str]:
    """The folder of a picture, and its file name without number and extension (may be empty).

    The output folder is the owner's choice and may be absolute; patterns only add sub-folders below it (by a `/`).
    """
    own = saving.outdir_img2img_samples if fields.from_picture else saving.outdir_txt2img_samples
    root, words = data_dir / (saving.outdir_samples or own), saving.directories_max_prompt_words
    limit, portable = saving.filenames_max_length, os.name == "nt" or not saving.unix_filenames_sanitization
    folders = Path()
    if saving.save_to_dirs:
        pattern = saving.directories_filename_pattern or "[prompt_words]"
        folders = clean_path(expand(pattern, fields, image, max_words=words, limit=limit))
    pattern = saving.samples_filename_pattern or ("[seed]" if saving.save_to_dirs else "[seed]-[prompt_spaces]")
    *more, name = expand(pattern, fields, image, basename, max_words=words, limit=limit, portable=portable).split("/")
    folders /= clean_path("/".join(more))
    folder = resolve_under(root, folders.as_posix()) if folders.parts else root
    return folder, clean_component(name, _NAME_ROOM, portable)


def used_numbers(folder: Path, basename: str = "") -> set[int]:
    """The numbers that files of the folder begin with (after `basename-`); none in a missing folder."""
    prefix = f"{basename}-" if basename else ""
    used = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(prefix):
                    number = entry.name[len(prefix) :].split(".")[0].split("-")[0]
                    # Sub-folders may be called by date, and files without number by a seed of up to 20 digits.
                    if number.isascii() and number.isdigit() and len(number) <= 12 and not entry.is_dir():
                        used.add(int(number))
    except FileNotFoundError:
        return set()
    return used


def next_number(folder: Path, basename: str = "") -> int:
    """One more than the highest number in use; 0 where there is none."""
    return max(used_numbers(folder, basename), default=-1) + 1
