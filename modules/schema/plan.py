"""The plan: a request with everything looked up, decided and checked, before any weight moves.

Infotext is a function of the plan; the same plan gives the same picture.
"""

from __future__ import annotations

from modules.schema.fields import Frozen
from modules.schema.networks import NetworkUse
from modules.schema.record import CheckpointView
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings


class SecondPass(Frozen):
    """What hires fix's second pass has of its own, looked up. `checkpoint` is None where it is the first pass's."""

    sampler: str
    scheduler: str
    steps: int
    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    size: tuple[int, int]
    checkpoint: CheckpointView | None = None


class ControlFile(Frozen):
    """The file that a unit of ControlNet names, looked up."""

    title: str
    path: str
    parameters: int


class Plan(Frozen):
    """`prompts`, `seeds`… have one entry per picture, n_iter × batch_size in all.

    `template`, `negative_template`: the prompts before wildcards were drawn from each picture's seed; `draws` says what
    was drawn for each picture ("" for nothing).
    `networks`: the files of all extra networks that the prompts name; how strong each is, each prompt says itself.
    `not_applied`: names of those that do not fit the checkpoint, and `ti_hashes` for each picture: known only once
    the checkpoint is open. `init_hashes`: MD5 of each source picture's pixels, where they are saved.
    `controls`: the file of each unit of the request.
    Pictures are drawn at sizes rounded up to the latent grid and cropped to the asked size. `concat` ("inpaint",
    "edit" or "") is what the checkpoint wants to see besides noise; like its hash it is known once its file is open.
    """

    request: GenerationRequest
    settings: Settings
    checkpoint: CheckpointView
    sampler: str
    scheduler: str
    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    template: str = ""
    negative_template: str = ""
    draws: tuple[str, ...] = ()
    seeds: tuple[int, ...]
    subseeds: tuple[int, ...]
    second: SecondPass | None = None
    refiner: CheckpointView | None = None
    concat: str = ""
    networks: tuple[NetworkUse, ...] = ()
    controls: tuple[ControlFile, ...] = ()
    not_applied: tuple[str, ...] = ()
    ti_hashes: tuple[str, ...] = ()
    init_hashes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def denoising_strength(self) -> float | None:
        """Of the source's or the second pass's; None for a picture out of nothing."""
        part = self.request.source or self.request.hires
        return part.denoising_strength if part else None

    @property
    def pictures(self) -> int:
        return len(self.seeds)

    def batches(self) -> list[range]:
        """Indices of the pictures drawn together."""
        size = self.request.batch_size
        return [range(start, min(start + size, self.pictures)) for start in range(0, self.pictures, size)]
