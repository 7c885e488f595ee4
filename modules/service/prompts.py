"""What can be said of a prompt before it is drawn: its tokens, its chunks, and what does not do what it looks like.

Counts as the engine will: styles merged in, network tags taken out, embeddings as their vectors, by the tokenizer of
the chosen checkpoint's first text tower. Wildcards are counted as written, since what they draw is not known yet.
"""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from modules.imaging import embedded
from modules.prompt import counter, networks, parse, tokens, wildcards
from modules.prompt.styles import Style, apply_styles
from modules.schema.errors import NotFound
from modules.schema.folders import Folders
from modules.schema.prompts import Problem, PromptCheck, PromptNames, TagView, TextCheck
from modules.schema.settings import Settings
from modules.service.styles import StyleStore
from modules.service.tag_files import TagFiles
from modules.weights.catalogue import Catalogue
from modules.weights.glance import PICTURES, Glance
from modules.weights.networks import Kind

MAX_PROBLEMS = 20
TOKENIZERS = {"sd2": tokens.OPEN_CLIP, "sdxl-refiner": tokens.OPEN_CLIP}
"""By family; of all others the first tower is CLIP-L."""
WIDTHS = {"sd1": (768,), "sd2": (1024,), "sdxl": (768, 1280), "sdxl-refiner": (1280,)}
"""Of the towers in published models, for checkpoints that were not looked at yet."""
NETWORK_KINDS = ("lora", "lyco", "hypernet")
_COMMENT = re.compile(r"#[^\n]*")


class PromptDesk:
    """Checks prompts for an editor. Thread-safe; reads folders when asked, and each file's header once."""

    def __init__(
        self, folders: Folders, catalogue: Catalogue, styles: StyleStore, settings: Callable[[], Settings]
    ) -> None:
        self.folders, self.catalogue, self.styles, self.settings = folders, catalogue, styles, settings
        self._lock = threading.Lock()
        self._words: tuple[object, tokens.Embeddings] | None = None
        self._tag_files = TagFiles(folders.data, folders.extensions, self._disables)

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
        family, towers = self._model(checkpoint or settings.model.sd_model_checkpoint)
        tokenizer = TOKENIZERS.get(family, tokens.CLIP)
        embeddings = self._words_for(tokenizer, towers)

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

    # ---- names ----

    def names(self) -> PromptNames:
        """All that can be named, of every kind."""

        def named(kind: Kind) -> tuple[str, ...]:
            return tuple(sorted({file.name for file in self.catalogue.networks.files(kind)}, key=str.lower))

        fitting, others = self._sorted(())
        return PromptNames(
            lora=named("lora"),
            hypernet=named("hypernet"),
            embedding=tuple(sorted({**fitting, **others}, key=str.lower)),
            wildcard=tuple(wildcards.names(*self._wildcard_places())),
            style=tuple(self.styles.known()),
        )

    def tags(self, start: str) -> list[TagView]:
        """Tags of the user's tag lists that begin so."""
        return self._tag_files.find(start)

    # ---- problems ----

    def _problems(self, text: str, negative: bool, settings: Settings) -> tuple[Problem, ...]:
        prompting = settings.prompting
        if prompting.enable_prompt_comments:
            text = _COMMENT.sub(lambda comment: " " * len(comment.group()), text)
        found = [] if prompting.emphasis == "None" and "[" not in text else parse.problems(text)
        if prompting.prompt_wildcards == "Files and choices":
            inside = wildcards.brace_spans(text)
            found = [span for span in found if not any(start <= span.start < end for start, end in inside)]
        odd = [Problem(start=s.start, end=s.end, message=s.message, fix=_escaped(text, s)) for s in found]
        odd += self._tag_problems(text, negative)
        if prompting.prompt_wildcards != "Off":
            odd += self._wildcard_problems(text)
        odd.sort(key=lambda problem: (problem.start, problem.end))
        return tuple(odd[:MAX_PROBLEMS])

    def _tag_problems(self, text: str, negative: bool) -> Iterator[Problem]:
        for start, end, tag in parse.tag_spans(text):
            fix = None
            if negative:
                message = "Network tags act in the prompt; in the negative prompt this is text."
            elif tag.kind not in NETWORK_KINDS:
                message = f"<{tag.kind}:…> is no kind of network; it is taken out and does nothing."
                near = _nearest(tag.kind, NETWORK_KINDS)
                fix = f"<{near}{text[start + 1 + len(tag.kind) : end]}" if near else None
            elif problem := networks.problem_of(tag):
                message = f"This network tag does nothing: {problem}."
            elif not self._is_network(tag.kind, tag.positional[0]):
                kind: Kind = "hypernet" if tag.kind == "hypernet" else "lora"
                name = tag.positional[0]
                folder = self.catalogue.networks.folder(kind).name
                message = f"No file in {folder} is called {name}; this tag does nothing."
                near = _nearest(name, [file.name for file in self.catalogue.networks.files(kind)])
                fix = text[start:end].replace(f":{name}", f":{near}", 1) if near else None
            else:
                continue
            yield Problem(start=start, end=end, message=message, fix=fix)

    def _wildcard_problems(self, text: str) -> Iterator[Problem]:
        lookup = None
        for start, end, name in wildcards.name_spans(text):
            if lookup is None:
                lookup = wildcards.folder_lookup(*self._wildcard_places())
            if not lookup(name):
                message = f"No wildcard file is called {name}.txt, so this stays as text."
                near = _nearest(name, wildcards.names(*self._wildcard_places()))
                yield Problem(start=start, end=end, message=message, fix=f"__{near}__" if near else None)

    # ---- files ----

    def _model(self, checkpoint: str | None) -> tuple[str, tuple[int, ...]]:
        """Family and widths of the text towers of a checkpoint, of SD 1.x where there is none."""
        try:
            view = self.catalogue.default(checkpoint)
        except NotFound:
            return "sd1", WIDTHS["sd1"]
        return view.family, tuple(sorted(view.towers)) or WIDTHS.get(view.family, ())

    def _disables(self, key: str) -> bool:
        return self.settings().extensions.disables(key)

    def _wildcard_places(self) -> tuple[Path, ...]:
        return wildcards.places(self.folders.wildcards, self.folders.extensions, self._disables)

    def _is_network(self, kind: str, name: str) -> bool:
        return self.catalogue.networks.has("hypernet" if kind == "hypernet" else "lora", name)

    def embeddings(self, checkpoint: str | None = None) -> tuple[dict[str, Glance], dict[str, Glance]]:
        """By name, those that a checkpoint's text encoders can take, and the others."""
        return self._sorted(self._model(checkpoint or self.settings().model.sd_model_checkpoint)[1])

    def _sorted(self, towers: tuple[int, ...]) -> tuple[dict[str, Glance], dict[str, Glance]]:
        shelf, fitting, others = self.catalogue.networks, {}, {}
        for file in shelf.files("embedding"):
            seen = shelf.facts(file, embedded.read_picture)
            name = seen.word if file.path.suffix.lower() in PICTURES else file.name
            if name and seen.kind != "picture":
                fits = seen.vectors and (not towers or seen.widths == towers)
                (fitting if fits else others)[name] = seen
        return fitting, others

    def _words_for(self, tokenizer: tokens.Tokenizer, towers: tuple[int, ...]) -> tokens.Embeddings:
        """The words that stand for rows of towers of these widths, as the engine will know them."""
        vectors = {name: seen.vectors for name, seen in self._sorted(towers)[0].items()}
        with self._lock:
            key = (tokenizer, tuple(vectors.items()))
            if self._words is None or self._words[0] != key:  # taking thousands of names apart takes a while
                self._words = (key, tokens.embeddings(tokenizer, vectors))
            return self._words[1]


def _nearest(name: str, names: Sequence[str]) -> str | None:
    """The name that was probably meant, if any."""
    small = {each.lower(): each for each in names}
    found = difflib.get_close_matches(name.lower(), small, n=1, cutoff=0.6)
    return small[found[0]] if found else None


def _escaped(text: str, span: parse.Span) -> str | None:
    """A stray sign, written so that it is that sign."""
    sign = text[span.start : span.end]
    return f"\\{sign}" if sign in ("(", ")", "[", "]", "|") else None


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
