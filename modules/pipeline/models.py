"""The models a job draws with, one at a time: its checkpoint, a refiner's, a second pass's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

from modules.memory.policy import Policy
from modules.nets.layers import seamless
from modules.schema.record import CheckpointView
from modules.weights.adapters.apply import Network
from modules.weights.residency import LoadedModel, Residency


class Models:
    """A lease that can change its checkpoint.

        with Models(residency, policy) as models:
            models.use(checkpoint).unet(…)

    `tiling`: whether pictures go on at their opposite edge along x and along y.
    Who draws asks `current` each time and keeps no net, so that the old one can be freed when another is taken.
    """

    def __init__(self, residency: Residency, policy: Policy, tiling: tuple[bool, bool] = (False, False)) -> None:
        self.policy, self.tiling = policy, tiling
        self._residency = residency
        self._stack = ExitStack()
        self._current: LoadedModel | None = None

    @property
    def current(self) -> LoadedModel:
        assert self._current is not None, "use() comes first"
        return self._current

    def use(self, checkpoint: CheckpointView, networks: Sequence[Network] = ()) -> LoadedModel:
        """Take that checkpoint, giving the present one back; costs nothing if it is the same.

        `networks` are those it will begin with, where it is taken anew; who draws changes them as the prompts ask.

        Raises as `Residency.lease`.
        """
        if self._current is None or self._current.checkpoint.path != checkpoint.path:
            self._current = None
            self._stack.close()
            model = self._stack.enter_context(self._residency.lease(checkpoint, self.policy, networks))
            if any(self.tiling):
                self._stack.enter_context(seamless((model.unet, model.vae), *self.tiling))
            self._current = model
        return self._current

    def __enter__(self) -> Models:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._current = None
        self._stack.close()
