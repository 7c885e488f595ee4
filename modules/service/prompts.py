"""What can be said of a prompt before it is drawn: its tokens, its chunks, and what does not do what it looks like.

Counts as the engine will: styles merged in, network tags taken out, embeddings as their vectors, by the tokenizer of
the chosen checkpoint's first text tower. Wildcards are counted as written, since what they draw is not known yet.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.prompt import counter, networks, parse, tokens, wildcards
from modules.prompt.styles import Style, apply_styles
from modules.schema.errors import BadFile, NotFound
from modules.schema.folders import Folders
from modules.schema.prompts import Problem, PromptCheck, TextCheck
from modules.schema.settings import Settings
from modules.service.styles import StyleStore
from modules.weights.catalogue import Catalogue
from modules.weights.headers import read_header

MAX_PROBLEMS = 20
TOKENIZERS = {"sd2": tokens.OPEN_CLIP, "sdxl-refiner": tokens.OPEN_CLIP}
"""By family; of all others the first tower is CLIP-L."""
WIDTHS = {"sd1": {768}, "sd2": {1024}, "sdxl": {768, 1280}, "sdxl-refiner": {1280}}
PRETRAINED_WIDTHS = frozenset({768, 1024, 1280})
"""Of the towers in published models. An embedding of another width fits a model of its own kind, so it is counted."""
EMBEDDING_FILES = frozenset({".safetensors", ".pt", ".bin"})
NETWORK_FILES = frozenset({".safetensors", ".pt", ".ckpt", ".bin"})
NETWORK_KINDS = ("lora", "lyco", "hypernet")
_COMMENT = re.compile(r"#[^\n]*")

Stamp = tuple[int, int]


class PromptDesk:
    """Checks prompts for an editor. Thread-safe; reads folders when asked, and each file's header once."""

    def __init__(
        self, folders: Folders, catalogue: Catalogue, styles: StyleStore, settings: Callable[[], Settings]
    ) -> None:
        self.folders, self.catalogue, self.styles, self.settings = folders, catalogue, styles, settings
        self._lock = threading.Lock()
        self._headers: dict[tuple[str, Stamp], _Facts] = {}

    def check(
        self,
        prompt: str,
        negative_prompt: str = "",
        *,
        styles: Sequence[str] = (),
        steps: int = 20,
        checkpoint: str | None = None,
    ) -> PromptCheck:
        """Both prompts as typed, with the chosen styles. A checkpoint that is not known counts as SD 1.x."""
        settings = self.settings()
        prompting = settings.prompting
        known = self.styles.known() if styles and prompting.include_styles_into_token_counters else {}
        chosen = [known[name] for name in styles if name in known]
        family = self._family(checkpoint or settings.model.sd_model_checkpoint)
        tokenizer = TOKENIZERS.get(family, tokens.CLIP)
        embeddings = tokens.embeddings(tokenizer, self._vectors(family))

        def counted(text: str, negative: bool) -> TextCheck:
            problems = self._problems(text, negative, settings)
            if prompting.disable_token_counters:
                return TextCheck(tokens=0, limit=tokens.CHUNK, problems=problems)
            merged, start, first = _merged(chosen, text, negative)
            found = counter.count(
                merged,
                tokenizer,
                steps=steps,
                negative=negative,
                comments=prompting.enable_prompt_comments,
                emphasis=prompting.emphasis != "None",
                comma_backtrack=prompting.comma_padding_backtrack,
                embeddings=embeddings,
            )
            places = (place - start + first for place in found.boundaries)
            boundaries = tuple(place for place in places if first <= place < len(text))
            return TextCheck(tokens=found.tokens, limit=found.limit, boundaries=boundaries, problems=problems)

        return PromptCheck(
            prompt=counted(prompt, False),
            negative_prompt=counted(negative_prompt, True),
            counted=not prompting.disable_token_counters,
        )

    # ---- problems ----

    def _problems(self, text: str, negative: bool, settings: Settings) -> tuple[Problem, ...]:
        prompting = settings.prompting
        if prompting.enable_prompt_comments:
            text = _COMMENT.sub(lambda comment: " " * len(comment.group()), text)
        found = [] if prompting.emphasis == "None" and "[" not in text else parse.problems(text)
        if prompting.prompt_wildcards == "Files and choices":
            inside = wildcards.brace_spans(text)
            found = [span for span in found if not any(start <= span.start < end for start, end in inside)]
        found += self._tag_problems(text, negative)
        if prompting.prompt_wildcards != "Off":
            found += self._wildcard_problems(text)
        found.sort(key=lambda span: (span.start, span.end))
        return tuple(Problem(start=span.start, end=span.end, message=span.message) for span in found[:MAX_PROBLEMS])

    def _tag_problems(self, text: str, negative: bool) -> Iterator[parse.Span]:
        for start, end, tag in parse.tag_spans(text):
            if negative:
                yield parse.Span(start, end, "Network tags act in the prompt; in the negative prompt this is text.")
            elif tag.kind not in NETWORK_KINDS:
                yield parse.Span(start, end, f"<{tag.kind}:…> is no kind of network; it is taken out and does nothing.")
            elif problem := networks.problem_of(tag):
                yield parse.Span(start, end, f"This network tag does nothing: {problem}.")
            elif not self._is_network(tag.kind, tag.positional[0]):
                folder, name = self._network_folder(tag.kind).name, tag.positional[0]
                yield parse.Span(start, end, f"No file in {folder} is called {name}; this tag does nothing.")

    def _wildcard_problems(self, text: str) -> Iterator[parse.Span]:
        lookup = None
        for start, end, name in wildcards.name_spans(text):
            if lookup is None:
                places = wildcards.places(self.folders.wildcards, self.folders.data / "extensions")
                lookup = wildcards.folder_lookup(*places)
            if not lookup(name):
                yield parse.Span(start, end, f"No wildcard file is called {name}.txt, so this stays as text.")

    # ---- files ----

    def _family(self, checkpoint: str | None) -> str:
        try:
            return self.catalogue.default(checkpoint).family
        except NotFound:
            return "sd1"

    def _network_folder(self, kind: str) -> Path:
        if kind == "hypernet":
            return self.folders.extra.get("hypernetworks", self.folders.models / "hypernetworks")
        return self.folders.lora

    def _is_network(self, kind: str, name: str) -> bool:
        """Whether a file is called so, or else was called so by its maker (in its header)."""
        files = list(_files(self._network_folder(kind), NETWORK_FILES))
        return any(path.stem == name for path in files) or any(
            self._facts(path).alias == name for path in files if path.suffix == ".safetensors"
        )

    def _vectors(self, family: str) -> dict[str, int]:
        """Embeddings that the family's towers can take, with their numbers of vectors."""
        found: dict[str, int] = {}
        for path in _files(self.folders.embeddings, EMBEDDING_FILES):
            facts = self._facts(path)
            pretrained = facts.widths & PRETRAINED_WIDTHS
            if facts.vectors and (not pretrained or pretrained == WIDTHS.get(family, pretrained)):
                found[path.stem] = facts.vectors
        return found

    def _facts(self, path: Path) -> _Facts:
        try:
            status = path.stat()
        except OSError:
            return _Facts()
        key = str(path), (status.st_mtime_ns, status.st_size)
        with self._lock:
            found = self._headers.get(key)
        if found is None:
            found = _Facts.of(path)
            with self._lock:
                self._headers[key] = found
        return found


@dataclass(frozen=True)
class _Facts:
    """What a network's or embedding's header says: vectors and their widths, and the name its maker gave it."""

    vectors: int = 0
    widths: frozenset[int] = frozenset()
    alias: str = ""

    @classmethod
    def of(cls, path: Path) -> _Facts:
        try:
            header = read_header(path)
        except BadFile:
            return cls()
        shapes = [(1, *info.shape) if len(info.shape) == 1 else info.shape for info in header.tensors.values()]
        rows = [shape for shape in shapes if len(shape) == 2]
        vectors = rows[0][0] if rows and len(shapes) <= 3 else 0
        return cls(vectors, frozenset(shape[1] for shape in rows), header.metadata.get("ss_output_name", ""))


def _files(folder: Path, endings: frozenset[str]) -> Iterator[Path]:
    for at, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(at, name)
            if path.suffix.lower() in endings and not name.startswith("."):
                yield path


_PLACE = "\ue000"  # for private use: stands for the typed text while styles are merged around it


def _merged(styles: Sequence[Style], text: str, negative: bool) -> tuple[str, int, int]:
    """The text with styles merged in, where the typed text begins in it, and at which of its characters.

    Blank space around the typed text goes where a style is appended to it.
    """
    table: Mapping[str, Style] = {str(k): style for k, style in enumerate(styles)}
    both = apply_styles(table, table, text, text)
    marked = apply_styles(table, table, _PLACE, _PLACE)
    merged, place = both[negative], marked[negative].find(_PLACE)
    whole = merged[place : place + len(text)] == text
    return merged, place, 0 if whole else len(text) - len(text.lstrip())
