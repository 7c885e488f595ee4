"""Extra networks in a job: from the tags of a prompt to files, to the model, and to the infotext."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from modules.imaging import embedded
from modules.pipeline.context import RunContext
from modules.pipeline.text import TOKENIZERS, Embeddings, Encoding, PictureConditioning
from modules.prompt import networks as tags
from modules.prompt import parse, tokens
from modules.sampling import table
from modules.schema.errors import BadFile, EaselError, NotFound
from modules.schema.networks import NetworkUse
from modules.schema.plan import Plan
from modules.schema.settings import Networks
from modules.weights.adapters.apply import Network
from modules.weights.embeddings import Embedding, from_json, from_tensors, open_embedding
from modules.weights.glance import PICTURES
from modules.weights.networks import Kind, NetworkFile, Shelf
from modules.weights.residency import LoadedModel

# ------------------------------------------------------------------------------------------------ planning


def find(prompts: Sequence[str], shelf: Shelf) -> tuple[tuple[NetworkUse, ...], tuple[str, ...]]:
    """The files of all networks that prompts name, and sentences on those that are not found.

    The strengths in what is answered mean nothing: they differ from prompt to prompt (`uses_of`).
    """
    found: dict[tuple[str, str], NetworkUse | None] = {}
    warnings: dict[str, None] = {}
    for prompt in dict.fromkeys(prompts):
        uses, problems = tags.read_networks(prompt)
        warnings |= dict.fromkeys(problems)
        for use in uses:
            if (use.kind, use.name) in found or use.name == "None":
                continue
            try:
                file = shelf.find(use.kind, use.name)
                found[use.kind, use.name] = use.model_copy(
                    update={"path": str(file.path), "hash": shelf.short_hash(file) if use.kind == "lora" else ""}
                )
            except (NotFound, BadFile) as error:
                found[use.kind, use.name] = None
                warnings[f"{error.message} It was left out."] = None
    return tuple(use for use in found.values() if use), tuple(warnings)


def uses_of(prompt: str, found: Sequence[NetworkUse]) -> tuple[NetworkUse, ...]:
    """The networks a prompt names, with its strengths, in order; those without a file are left out."""
    files = {(use.kind, use.name): use for use in found}
    uses = []
    for use in tags.read_networks(prompt)[0]:
        file = files.get((use.kind, use.name))
        if file:
            uses.append(use.model_copy(update={"path": file.path, "hash": file.hash}))
    return tuple(uses)


def with_defaults(prompts: Sequence[str], settings: Networks, shelf: Shelf) -> tuple[str, ...]:
    """Prompts with the tags of the networks that the settings give to every prompt, unless the first names them."""
    suffix = ""
    kinds: tuple[tuple[Kind, str], ...] = (("lora", settings.sd_lora), ("hypernet", settings.sd_hypernetwork))
    for kind, name in kinds:
        named = {tag.positional[0] for tag in parse.extract_tags(prompts[0])[1] if tag.positional}
        if name not in ("", "None") and name not in named and any(file.name == name for file in shelf.files(kind)):
            suffix += f"<{kind}:{name}:{settings.extra_networks_default_multiplier}>"
    return tuple(prompt + suffix for prompt in prompts)


def infotext_fields(plan: Plan, k: int) -> dict[str, str]:
    """What an infotext says of picture k's networks, by its keys."""
    settings, fields = plan.settings.networks, {}
    # As in the original, the first prompt of a batch decides which networks the whole batch is drawn with.
    uses = uses_of(plan.prompts[k - k % plan.request.batch_size], plan.networks)
    left_out = [use.name for use in uses if use.name in plan.not_applied]
    hashes = {_bare(use.name): use.hash for use in uses if use.hash and use.name not in left_out}
    if hashes and settings.lora_add_hashes_to_infotext:
        fields["Lora hashes"] = ", ".join(f"{name}: {digest}" for name, digest in hashes.items())
    if plan.ti_hashes and plan.ti_hashes[k] and settings.textual_inversion_add_hashes_to_infotext:
        fields["TI hashes"] = plan.ti_hashes[k]
    if left_out:
        fields["Not applied"] = ", ".join(dict.fromkeys(left_out))
    return fields


def _bare(name: str) -> str:
    return name.replace(":", "").replace(",", "")


# ------------------------------------------------------------------------------------------------ drawing


def at_start(plan: Plan, k: int) -> tuple[Network, ...]:
    """The networks that the batch with picture k begins with."""
    calls = plan.request.steps * table.find_sampler(plan.sampler)[0].order
    return Cast(uses_of(plan.prompts[k], plan.networks), calls).at(0)


def settled(plan: Plan, batch: range, model: LoadedModel, ctx: RunContext) -> Plan:
    """The plan with what only the opened checkpoint can tell: networks that do not fit it, embeddings that do."""
    outcome = model.networks.apply(at_start(plan, batch.start))
    hashes = list(plan.ti_hashes or ("",) * plan.pictures)
    words = words_in([text for k in batch for text in (plan.prompts[k], plan.negative_prompts[k])], model, ctx)
    for k in batch:
        hashes[k] = _ti_hashes(plan, k, model, words)
    not_applied = tuple(dict.fromkeys((*plan.not_applied, *outcome.refused)))
    return plan.model_copy(update={"not_applied": not_applied, "ti_hashes": tuple(hashes)})


@dataclass
class Cast:
    """The networks of one pass: which, and how strong at which model call.

        cast = Cast(uses, calls=20)
        cast.enter(model, call)                              # before each call: the model is made what it should be
        conditionings = cast.conditioned(model, condition)   # texts, read by encoders at their strength of the time

    `warn` is told what could not be applied, each time. `first_calls`: in a second pass, the calls of the first.
    """

    uses: Sequence[NetworkUse]
    calls: int
    calls_per_step: int = 1
    warn: Callable[[str], None] = lambda message: None
    first_calls: int | None = None
    _stretches: tuple[tuple[int, tuple[Network, ...]], ...] = field(init=False)

    def __post_init__(self) -> None:
        table = tags.strengths(self.uses, self.calls, self.calls_per_step, self.first_calls)
        self._stretches = tuple(
            (until, tuple(_network(use, now) for use, now in zip(self.uses, strengths))) for until, strengths in table
        )

    def at(self, call: int) -> tuple[Network, ...]:
        """The networks of a call."""
        return next((on for until, on in self._stretches if until >= call), self._stretches[-1][1])

    def enter(self, model: LoadedModel, call: int) -> None:
        """Give the model the networks of a call; costs nothing while they stay the same."""
        for message in model.networks.apply(self.at(call)).warnings:
            self.warn(message)

    def conditioned(
        self, model: LoadedModel, condition: Callable[[LoadedModel], list[PictureConditioning]]
    ) -> list[PictureConditioning]:
        """What `condition` answers; where text encoders change on the way, for every stretch of it."""
        stages: list[tuple[int, list[PictureConditioning]]] = []
        before: tuple | None = None
        for until, networks in self._stretches:
            strengths = tuple(network.text_encoder for network in networks)
            if strengths == before:
                stages[-1] = (until, stages[-1][1])
                continue
            self.enter(model, until)
            stages.append((until, condition(model)))
            before = strengths
        self.enter(model, 0)
        if len(stages) == 1:
            return stages[0][1]
        pictures = range(len(stages[0][1]))
        return [Staged.of(tuple((until, pictured[k]) for until, pictured in stages)) for k in pictures]


@dataclass(frozen=True)
class Staged(PictureConditioning):
    """Conditionings that follow one another: (last call, conditioning)."""

    stages: tuple[tuple[int, PictureConditioning], ...] = ()

    @classmethod
    def of(cls, stages: tuple[tuple[int, PictureConditioning], ...]) -> Staged:
        first = stages[0][1]
        return cls(first.parts, first.negative, first.padding, stages)

    def at(self, call: int) -> tuple[list[Encoding], Encoding]:
        return next((stage for until, stage in self.stages if until >= call), self.stages[-1][1]).at(call)


def _network(use: NetworkUse, strength: tags.Strength) -> Network:
    return Network(
        Path(use.path), use.name, strength.text_encoder, strength.unet, use.ranks, use.blocks,
        is_hypernetwork=use.kind == "hypernet",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ embeddings


@dataclass(frozen=True)
class Words:
    """Embeddings that occur in prompts: as the encoders take them, and their hashes."""

    embeddings: Embeddings | None = None
    hashes: dict[str, str] = field(default_factory=dict)


def words_in(texts: Sequence[str], model: LoadedModel, ctx: RunContext) -> Words:
    """The embeddings whose names occur in texts: those in the folder, and those that came with the LoRAs applied.

    Only files whose names occur are opened. One of the folder goes before a bundled one of the same name; that one's
    hash is the name of the LoRA it came with.
    """
    found: dict[str, tuple[Embedding, str]] = {}
    shelf = ctx.catalogue.networks
    for name, vectors in model.networks.outcome.embeddings.items():
        try:
            found[name] = (from_tensors(name, vectors, name), model.networks.outcome.bundled_by.get(name, ""))
        except BadFile as error:
            ctx.warn(error.message)
    spoken = _Spoken(texts, model)
    for file in shelf.files("embedding"):
        try:
            name = _name_of(file, shelf)
            if spoken.contains(name):
                found[name] = (_opened(file), shelf.short_hash(file))
        except EaselError as error:
            ctx.warn(f"{error.message} It was left out.")
    names = tuple(tower.facts.name for tower in model.towers)
    widths = tuple(tower.net.config.width for tower in model.towers)
    rows = {}
    for name, (embedding, _) in found.items():
        fitting = embedding.for_towers(names, widths)
        if fitting is None:
            sizes = "+".join(str(tensor.shape[1]) for tensor in embedding.rows.values())
            ctx.warn(
                f"The embedding {name} is made for another family ({sizes} wide, {model.facts.label} has "
                f"{'+'.join(map(str, widths))}), so its name is read as plain words."
            )
        else:
            rows[name] = fitting
            if embedding.vectors > tokens.CHUNK:
                ctx.warn(f"The embedding {name} has {embedding.vectors} rows; the first {tokens.CHUNK} are used.")
    if not rows:
        return Words()
    identity = tuple((name, found[name][1], _sums(rows[name])) for name in sorted(rows))
    hashes = {name: found[name][1] for name in rows}
    return Words(Embeddings.fitting(model, rows, identity), hashes)


def _sums(rows: Mapping[str, Tensor]) -> tuple[float, ...]:
    """Different for different rows under one name and hash, as bundled ones have."""
    return tuple(float(tensor.double().abs().sum()) for tensor in rows.values())


def _name_of(file: NetworkFile, shelf: Shelf) -> str:
    """What an embedding is called: as its file, in a picture as written there; "" where a picture is just a picture, or
    not readable.

    Pictures are opened once: what is found is kept until the file changes.
    """
    if file.path.suffix.lower() not in PICTURES:
        return file.name
    return shelf.facts(file, embedded.read_picture).word or ""


def _opened(file: NetworkFile) -> Embedding:
    if file.path.suffix.lower() not in PICTURES:
        return open_embedding(file.path)
    said = embedded.read_picture(file.path)
    if said is None:
        raise BadFile(f"{file.path.name} is a picture without an embedding in it.")
    return from_json(said, file.path.name, file.name)


class _Spoken:
    """Texts as tokens, to see which names occur in them."""

    def __init__(self, texts: Sequence[str], model: LoadedModel) -> None:
        self._tokenizer = TOKENIZERS[model.towers[0].facts.tokenizer]
        pieces = {piece for text in texts for piece, _ in parse.parse_emphasis(text)}
        # A space on both sides makes a run of tokens a part of the text.
        self._texts = [f" {' '.join(map(str, self._tokenizer.encode(piece)))} " for piece in pieces]

    def contains(self, name: str) -> bool:
        """Whether the tokens of a name follow one another somewhere."""
        sequence = f" {' '.join(map(str, self._tokenizer.encode(name)))} "
        return sequence.strip() != "" and any(sequence in text for text in self._texts)


def _ti_hashes(plan: Plan, k: int, model: LoadedModel, words: Words) -> str:
    """The infotext's "TI hashes" of picture k, as A1111 writes it: for each text encoder and each part of the prompt
    the embeddings in it, the part read last first, so that one may stand there several times."""
    if words.embeddings is None:
        return ""
    read: list[list[str]] = []
    backtrack = plan.settings.prompting.comma_padding_backtrack
    for text, negative in ((plan.negative_prompts[k], True), (plan.prompts[k], False)):
        subs = parse.parse_prompt(text, plan.request.steps, negative=negative).subprompts
        for sub in dict.fromkeys(subs):
            for tower, vocabulary in zip(model.towers, words.embeddings.words):
                names: dict[str, None] = {}
                for _, one in sub.schedule:
                    pieces = parse.parse_emphasis(one)
                    for chunk in tokens.chunk(pieces, TOKENIZERS[tower.facts.tokenizer], backtrack, vocabulary):
                        names |= dict.fromkeys(fix.name for fix in chunk.fixes)
                read.append([f"{_bare(name)}: {words.hashes[name]}" for name in names if words.hashes[name]])
    return ", ".join(entry for names in reversed(read) for entry in names)
