"""The models a job draws with, one at a time: its checkpoint, a refiner's, a second pass's."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

from modules.memory.policy import Policy
from modules.schema.record import CheckpointView
from modules.weights.residency import LoadedModel, Residency


class Models:
    """A lease that can change its checkpoint.

        with Models(residency, policy) as models:
            models.use(checkpoint).unet(…)

    Who draws asks `current` each time and keeps no net, so that the old one can be freed when another is taken.
    """

    def __init__(self, residency: Residency, policy: Policy) -> None:
        self.policy = policy
        self._residency = residency
        self._stack = ExitStack()
        self._current: LoadedModel | None = None

    @property
    def current(self) -> LoadedModel:
        assert self._current is not None, "use() comes first"
        return self._current

    def use(self, checkpoint: CheckpointView) -> LoadedModel:
        """Take that checkpoint, giving the present one back; costs nothing if it is the same.

        Raises as `Residency.lease`.
        """
        if self._current is None or self._current.checkpoint.path != checkpoint.path:
            self._current = None
            self._stack.close()
            self._current = self._stack.enter_context(self._residency.lease(checkpoint, self.policy))
        return self._current

    def __enter__(self) -> Models:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._current = None
        self._stack.close()
