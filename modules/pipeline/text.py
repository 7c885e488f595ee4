"""Prompts to conditionings: schedules, chunks, the text towers, emphasis, the vector of SDXL.

A prompt becomes weighted parts (AND), each a schedule of texts; the texts of one schedule are encoded together, chunk
by chunk, and the results joined along the tokens (spec: 75-token chunks, each 77 with start and end). Where a family
has two towers, theirs are joined along the features; the pooled output of a text is that of its first chunk.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

import torch
from torch import Tensor

from modules.nets.layers import timestep_embedding
from modules.prompt import parse, tokens
from modules.schema.errors import NotANumber
from modules.schema.settings import Model, Prompting, Settings
from modules.weights.build import Tower
from modules.weights.facts import TowerFacts
from modules.weights.residency import LoadedModel

TOKENIZERS = {"clip": tokens.CLIP, "open_clip": tokens.OPEN_CLIP}
WAVES = 256
"""Width in which SDXL's denoisers are told each size, coordinate or score."""


@dataclass(frozen=True)
class Encoding:
    """One text as the denoiser is given it: tokens [T, D], and a vector [P] where the family has one."""

    tokens: Tensor
    vector: Tensor | None = None


@dataclass(frozen=True)
class ScheduledText:
    """Encodings of one text over the model calls: entry (until, encoding), see `parse.Subprompt.at`."""

    entries: tuple[tuple[int, Encoding], ...]

    def at(self, call: int) -> Encoding:
        """The encoding for the model call numbered `call` (from 0)."""
        for until, encoding in self.entries:
            if until >= call:
                return encoding
        return self.entries[-1][1]


@dataclass(frozen=True)
class PictureConditioning:
    """What one picture is drawn to and away from: parts of the prompt with their AND weights, and the negative."""

    parts: tuple[tuple[ScheduledText, float], ...]
    negative: ScheduledText
    padding: Padding = field(default_factory=lambda: Padding())
    _made: dict[tuple[int, ...], tuple[list[Encoding], Encoding]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def at(self, call: int) -> tuple[list[Encoding], Encoding]:
        """The parts (all of one length) and the negative for the model call numbered `call`.

        Calls that say the same are given the very same objects, so that what is made of them may be kept.
        """
        parts, negative = [text.at(call) for text, _ in self.parts], self.negative.at(call)
        key = tuple(map(id, (*parts, negative)))
        if key not in self._made:
            self._made[key] = self._even(parts, negative)
        return self._made[key]

    def _even(self, parts: list[Encoding], negative: Encoding) -> tuple[list[Encoding], Encoding]:
        longest = max(part.tokens.shape[0] for part in parts)
        lengths = [_stretched(part.tokens, longest) for part in parts]
        padded, padded_negative = self.padding(lengths, negative.tokens)
        return [_with(part, states) for part, states in zip(parts, padded)], _with(negative, padded_negative)


@dataclass(frozen=True)
class Padding:
    """How prompt and negative prompt of different lengths are made equal; `empty` [77, D] encodes no text.

    Without either they keep their lengths and cost a model call each.
    """

    empty: Tensor | None = None
    v0: bool = False

    def __call__(self, parts: list[Tensor], negative: Tensor) -> tuple[list[Tensor], Tensor]:
        length = parts[0].shape[0]
        if self.v0:
            return parts, _stretched(negative, length)[:length]
        if self.empty is None:
            return parts, negative
        longest = max(length, negative.shape[0])
        return [_filled(part, longest, self.empty) for part in parts], _filled(negative, longest, self.empty)


def _with(text: Encoding, states: Tensor) -> Encoding:
    return text if states is text.tokens else replace(text, tokens=states)


def _stretched(states: Tensor, length: int) -> Tensor:
    """[T, D] -> at least [length, D], the last vector repeated."""
    missing = length - states.shape[0]
    return torch.cat([states, states[-1:].expand(missing, -1)]) if missing > 0 else states


def _filled(states: Tensor, length: int, empty: Tensor) -> Tensor:
    """[T, D] -> [length, D] with encodings of empty text; lengths are multiples of its own."""
    missing = (length - states.shape[0]) // empty.shape[0]
    return torch.cat([states, *[empty] * missing]) if missing else states


@dataclass
class ConditioningCache:
    """The last encodings, by everything they depend on. Safe to share between threads."""

    limit: int = 256
    _entries: OrderedDict[tuple, tuple[Encoding, ...]] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def get(self, key: tuple) -> tuple[Encoding, ...] | None:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: tuple, value: tuple[Encoding, ...]) -> None:
        with self._lock:
            self._entries[key] = value
            while len(self._entries) > self.limit:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    @property
    def bytes(self) -> int:
        with self._lock:
            kept = [encoding for entry in self._entries.values() for encoding in entry]
        return sum(t.nbytes for encoding in kept for t in (encoding.tokens, encoding.vector) if t is not None)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Textual inversion for one model: words that stand for rows of the towers' input (Gal et al., arXiv:2208.01618).

    `rows`: by name, one [n, width] per tower. `skipped`: names whose rows fit another model. `identity` is equal for
    equal contents.
    """

    rows: Mapping[str, tuple[Tensor, ...]]
    words: tuple[tokens.Embeddings, ...]
    skipped: tuple[str, ...]
    identity: Hashable

    @classmethod
    def fitting(cls, model: LoadedModel, vectors: Mapping[str, Mapping[str, Tensor]], identity: Hashable) -> Embeddings:
        """Of all embeddings (by name, then by tower's name: rows [n, width]) those this model's towers can take."""
        rows = {}
        for name, by_tower in vectors.items():
            found = tuple(by_tower[t.facts.name] for t in model.towers if t.facts.name in by_tower)
            widths = tuple(t.net.config.width for t in model.towers)
            if tuple(v.shape[-1] for v in found) == widths and len({v.shape[0] for v in found}) == 1:
                rows[name] = found
        counts = {name: found[0].shape[0] for name, found in rows.items()}
        words = tuple(tokens.embeddings(TOKENIZERS[t.facts.tokenizer], counts) for t in model.towers)
        return cls(rows, words, tuple(name for name in vectors if name not in rows), identity)


def condition(
    model: LoadedModel,
    prompt: str,
    negative: str,
    calls: int,
    settings: Settings,
    size: tuple[int, int],
    cache: ConditioningCache,
    embeddings: Embeddings | None = None,
    first_calls: int | None = None,
) -> PictureConditioning:
    """Encode one picture's prompts.

    Args:
        calls: the number of model calls the schedule is spread over.
        size: (width, height) of the picture in pixels, which SDXL's denoisers are told.
        first_calls: in the second pass of hires fix, the model calls of the first: schedules count on from there.
    """
    prompting = settings.prompting
    layers = tuple(_layer(tower.facts, settings.model) for tower in model.towers)

    def encoded(sub: parse.Subprompt, is_negative: bool) -> ScheduledText:
        texts = tuple(text for _, text in sub.schedule)
        key = (
            model.identity, model.networks.outcome.text_key, texts, layers, prompting.emphasis,
            prompting.comma_padding_backtrack, prompting.use_old_emphasis_implementation,
            embeddings.identity if embeddings else None,
        )  # fmt: skip
        encodings = cache.get(key)
        if encodings is None:
            encodings = encode(model, texts, prompting, layers, embeddings)
            if model.policy.check_numbers and not all(torch.isfinite(one.tokens).all() for one in encodings):
                raise NotANumber(
                    "The text encoder produced numbers that are not finite; the checkpoint, an embedding or a LoRA may "
                    "be damaged: leave it out, or set Precision to float32 in the settings."
                )
            cache.put(key, encodings)
        if model.facts.vector:
            # SDXL learned to draw without text from zeros, not from the encoding of an empty text.
            zeroed = is_negative and not any(texts)
            told = _told(model, settings.model, size, is_negative)
            encodings = tuple(_with_vector(encoding, told, zeroed) for encoding in encodings)
        return ScheduledText(tuple((until, encoding) for (until, _), encoding in zip(sub.schedule, encodings)))

    def parsed(text: str, is_negative: bool) -> tuple[parse.Subprompt, ...]:
        spread = (calls, None) if first_calls is None else (first_calls, calls)
        return parse.parse_prompt(text, *spread, use_old=prompting.use_old_scheduling, negative=is_negative).subprompts

    parts = tuple((encoded(sub, False), sub.weight) for sub in parsed(prompt, False))
    wants_empty = prompting.pad_cond_uncond and not prompting.pad_cond_uncond_v0
    empty = encoded(parsed("", True)[0], False).at(0).tokens if wants_empty else None
    padding = Padding(empty, prompting.pad_cond_uncond_v0)
    return PictureConditioning(parts, encoded(parsed(negative, True)[0], True), padding)


def _layer(tower: TowerFacts, settings: Model) -> int:
    """Which hidden state of a tower is taken, from the end: the family's, or the user's where the family heeds it."""
    heeded = tower.clip_skip == "always" or (tower.clip_skip == "asked" and settings.sdxl_clip_l_skip)
    return settings.CLIP_stop_at_last_layers if heeded else tower.layer


def _told(model: LoadedModel, settings: Model, size: tuple[int, int], is_negative: bool) -> Tensor:
    """What a family with a vector is told beside the text, as waves (Podell et al., arXiv:2307.01952, section 2.2)."""
    width, height = size
    told: list[float] = [height, width, settings.sdxl_crop_top, settings.sdxl_crop_left]
    if model.facts.vector == "score":
        low, high = settings.sdxl_refiner_low_aesthetic_score, settings.sdxl_refiner_high_aesthetic_score
        told.append(low if is_negative else high)
    else:
        told += [height, width]
    return timestep_embedding(torch.tensor(told, dtype=torch.float32, device=model.policy.text_device), WAVES).flatten()


def _with_vector(encoding: Encoding, told: Tensor, zeroed: bool) -> Encoding:
    """A text whose vector is its pooled output, and what the denoiser is told besides."""
    assert encoding.vector is not None
    states, pooled = encoding.tokens, encoding.vector
    if zeroed:
        states, pooled = torch.zeros_like(states), torch.zeros_like(pooled)
    return Encoding(states, torch.cat([pooled, told]))


@torch.inference_mode()
def encode(
    model: LoadedModel,
    texts: tuple[str, ...],
    prompting: Prompting,
    layers: Sequence[int],
    embeddings: Embeddings | None = None,
) -> tuple[Encoding, ...]:
    """Texts of one schedule -> one encoding each: tokens [77·n, D], n the largest chunk count among them, and as vector
    the pooled output, where a tower has one.

    They share one call per chunk, and under the "Original" emphasis one mean: pictures of the reference depend on it.
    """
    distinct = tuple(dict.fromkeys(texts))
    place = [distinct.index(text) for text in texts]
    old = prompting.use_old_emphasis_implementation and model.facts.family == "sd1"
    chunks = [  # [tower][text][chunk]
        _chunks(
            distinct, TOKENIZERS[tower.facts.tokenizer], prompting, old, embeddings.words[k] if embeddings else None
        )
        for k, tower in enumerate(model.towers)
    ]
    count = max(len(of_text) for of_tower in chunks for of_text in of_tower)
    joined, pooled = [], None
    for k, (tower, layer) in enumerate(zip(model.towers, layers)):
        empty = tokens.chunk([], TOKENIZERS[tower.facts.tokenizer])
        columns = []
        for index in range(count):
            column = [(of_text + empty * (count - len(of_text)))[index] for of_text in chunks[k]]
            rows = {name: found[k] for name, found in embeddings.rows.items()} if embeddings else {}
            states, end = _run(tower, layer, column, rows, model.policy.text_device)
            weights = torch.tensor([column[i].weights for i in place], device=model.policy.text_device)
            columns.append(_weighted(states[place], weights, prompting.emphasis))
            if index == 0 and end is not None:
                pooled = end[place]
        joined.append(torch.cat(columns, dim=1))
    states = torch.cat(joined, dim=2)
    return tuple(Encoding(states[i], None if pooled is None else pooled[i]) for i in range(len(texts)))


def _chunks(
    texts: Sequence[str], tokenizer: tokens.Tokenizer, prompting: Prompting, old: bool, words: tokens.Embeddings | None
) -> list[list[tokens.Chunk]]:
    """The chunks of each text. `old`: brackets are read token by token, as before 2023."""
    plain = prompting.emphasis == "None"
    if old:
        return [tokens.bracket_chunk(text, tokenizer, not plain, words) for text in texts]
    pieces = [[(text, 1.0)] if plain else parse.parse_emphasis(text) for text in texts]
    return [tokens.chunk(one, tokenizer, prompting.comma_padding_backtrack, words) for one in pieces]


def _run(
    tower: Tower, layer: int, chunks: Sequence[tokens.Chunk], rows: Mapping[str, Tensor], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """One chunk of each text -> hidden states [B, 77, D] of the chosen layer, and the pooled output [B, P] where the
    family takes one; float32."""
    ids = torch.tensor([chunk.ids for chunk in chunks], device=device)
    embeds = tower.net.embed(ids)
    for k, chunk in enumerate(chunks):
        for fix in chunk.fixes:
            embeds[k, fix.offset + 1 : fix.offset + 1 + fix.vectors] = rows[fix.name][: fix.vectors].to(embeds)
    states = tower.net.hidden_states(embeds)
    chosen = states[-min(layer, len(states) - 1)]
    if tower.facts.norm:
        chosen = tower.net.final_layer_norm(chosen)
    return chosen.float(), tower.net.pooled(states[-1], ids).float() if tower.facts.pooled else None


def _weighted(z: Tensor, weights: Tensor, emphasis: str) -> Tensor:
    """Emphasis: scale each token's vector by its weight; "Original" then restores the mean over the whole tensor."""
    if emphasis in ("None", "Ignore"):
        return z
    scaled = z * weights[..., None]
    return scaled * (z.mean() / scaled.mean()) if emphasis == "Original" else scaled
