"""Prompts to conditionings: schedules, chunks, the text tower, emphasis.

A prompt becomes weighted parts (AND), each a schedule of texts; the texts of one schedule are encoded together, chunk
by chunk, and the results joined along the tokens (spec: 75-token chunks, each 77 with start and end).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor

from modules.prompt import parse, tokens
from modules.schema.settings import Prompting
from modules.weights.residency import LoadedModel


@dataclass(frozen=True)
class ScheduledText:
    """Encodings of one text over the model calls: entry (until, tokens [T, D]), see `parse.Subprompt.at`."""

    entries: tuple[tuple[int, Tensor], ...]

    def at(self, call: int) -> Tensor:
        """The encoding for the model call numbered `call` (from 0)."""
        for until, states in self.entries:
            if until >= call:
                return states
        return self.entries[-1][1]


@dataclass(frozen=True)
class PictureConditioning:
    """What one picture is drawn to and away from: parts of the prompt with their AND weights, and the negative."""

    parts: tuple[tuple[ScheduledText, float], ...]
    negative: ScheduledText
    padding: Padding = field(default_factory=lambda: Padding())

    def at(self, call: int) -> tuple[list[Tensor], Tensor]:
        """Tokens of the parts (all of one length) and of the negative for the model call numbered `call`."""
        parts = [text.at(call) for text, _ in self.parts]
        longest = max(part.shape[0] for part in parts)
        return self.padding([_stretched(part, longest) for part in parts], self.negative.at(call))


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


def _stretched(states: Tensor, length: int) -> Tensor:
    """[T, D] -> at least [length, D], the last vector repeated."""
    missing = length - states.shape[0]
    return torch.cat([states, states[-1:].expand(missing, -1)]) if missing > 0 else states


def _filled(states: Tensor, length: int, empty: Tensor) -> Tensor:
    """[T, D] -> [length, D] with encodings of empty text; lengths are multiples of its own."""
    missing = (length - states.shape[0]) // empty.shape[0]
    return torch.cat([states, *[empty] * missing])


@dataclass
class ConditioningCache:
    """The last encodings, by everything they depend on. Safe to share between threads."""

    limit: int = 256
    _entries: OrderedDict[tuple, tuple[Tensor, ...]] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def get(self, key: tuple) -> tuple[Tensor, ...] | None:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: tuple, value: tuple[Tensor, ...]) -> None:
        with self._lock:
            self._entries[key] = value
            while len(self._entries) > self.limit:
                self._entries.popitem(last=False)


def condition(
    model: LoadedModel,
    prompt: str,
    negative: str,
    calls: int,
    prompting: Prompting,
    clip_skip: int,
    cache: ConditioningCache,
) -> PictureConditioning:
    """Encode one picture's prompts. `calls` is the number of model calls the schedule is spread over."""

    def encoded(sub: parse.Subprompt) -> ScheduledText:
        texts = tuple(text for _, text in sub.schedule)
        key = (model.identity, texts, clip_skip, prompting.emphasis, prompting.comma_padding_backtrack)
        states = cache.get(key)
        if states is None:
            states = encode(model, texts, prompting, clip_skip)
            cache.put(key, states)
        return ScheduledText(tuple((until, z) for (until, _), z in zip(sub.schedule, states)))

    def parsed(text: str, is_negative: bool) -> tuple[parse.Subprompt, ...]:
        return parse.parse_prompt(text, calls, use_old=prompting.use_old_scheduling, negative=is_negative).subprompts

    parts = tuple((encoded(sub), sub.weight) for sub in parsed(prompt, False))
    wants_empty = prompting.pad_cond_uncond and not prompting.pad_cond_uncond_v0
    empty = encoded(parsed("", True)[0]).at(0) if wants_empty else None
    padding = Padding(empty, prompting.pad_cond_uncond_v0)
    return PictureConditioning(parts, encoded(parsed(negative, True)[0]), padding)


@torch.inference_mode()
def encode(model: LoadedModel, texts: tuple[str, ...], prompting: Prompting, clip_skip: int) -> tuple[Tensor, ...]:
    """Texts of one schedule -> one [77·n, D] each, n the largest chunk count among them.

    They share one call per chunk, and under the "Original" emphasis one mean: pictures of the reference depend on it.
    """
    distinct = tuple(dict.fromkeys(texts))
    rows = {
        text: tokens.chunk(_emphasis(text, prompting), tokens.CLIP, prompting.comma_padding_backtrack)
        for text in distinct
    }
    count = max(len(chunks) for chunks in rows.values())
    for chunks in rows.values():
        chunks.extend(tokens.chunk([], tokens.CLIP) * (count - len(chunks)))
    columns = []
    for index in range(count):
        z = _tower(model, torch.tensor([rows[text][index].ids for text in distinct]), clip_skip)
        z = z[[distinct.index(text) for text in texts]]
        weights = torch.tensor([rows[text][index].weights for text in texts], dtype=z.dtype, device=z.device)
        columns.append(_weighted(z, weights, prompting.emphasis))
    joined = torch.cat(columns, dim=1)
    return tuple(joined)


def _emphasis(text: str, prompting: Prompting) -> list[tuple[str, float]]:
    return [(text, 1.0)] if prompting.emphasis == "None" else parse.parse_emphasis(text)


def _tower(model: LoadedModel, ids: Tensor, clip_skip: int) -> Tensor:
    """Token ids [B, 77] -> [B, 77, D] float32 from the chosen layer, through the final norm (SD1)."""
    text = model.text
    states = text.hidden_states(text.embed(ids.to(model.device)))
    return text.final_layer_norm(states[-min(clip_skip, len(states) - 1)]).float()


def _weighted(z: Tensor, weights: Tensor, emphasis: str) -> Tensor:
    """Emphasis: scale each token's vector by its weight; "Original" then restores the mean over the whole tensor."""
    if emphasis in ("None", "Ignore"):
        return z
    scaled = z * weights[..., None]
    return scaled * (z.mean() / scaled.mean()) if emphasis == "Original" else scaled
