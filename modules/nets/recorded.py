"""The denoiser called with less ado: replayed as a CUDA graph, or compiled.

Both stand before a net and are called like it. What they cannot do they leave to the net itself, so the first picture
never waits for them: a graph is recorded at the second call of a size, which runs on the card but once; compiling goes
on in a thread of its own while the net draws. Sizes, and what else changes the work, are keys: each gets its own.

Weights are read where they lie, so a LoRA merged into them is heard without recording anew; a net that has moved is
recorded again. torch keeps what it compiled on disk (TORCHINDUCTOR_CACHE_DIR) and hands weights over as inputs.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from modules.nets.hypertile import Tiling
from modules.nets.unet import Cache, Prompted

MOST = 4
"""Sizes kept at once; the one unused longest goes."""
log = logging.getLogger("easel.nets")


def calling(net: nn.Module, how: str) -> Callable[..., Tensor]:
    """`net`, or what stands before it: "Plain", "CUDA graphs" or "torch.compile"."""
    if how == "CUDA graphs":
        return Recorded(net)
    return Compiled(net) if how == "torch.compile" else net


class _Before:
    """What both share: inputs as plain tensors, and the key they have."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._weight = next(net.parameters())

    def inputs(self, x: Tensor, timesteps: Tensor, context: Tensor | Prompted, y: Tensor | None) -> list[Tensor]:
        tokens = context.tokens if isinstance(context, Prompted) else context
        return [x, timesteps, tokens, *([] if y is None else [y])]

    def key(self, given: list[Tensor], *options: Any) -> tuple:
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in given)
        return shapes, options, self._weight.device, self._weight.data_ptr()


class Recorded(_Before):
    """Calls are recorded once per key as a CUDA graph and then replayed: the card is told once, not layer by layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self._graphs: OrderedDict[tuple, tuple[Any, list[Tensor], Tensor] | None] = OrderedDict()

    def __call__(
        self, x: Tensor, timesteps: Tensor, context: Tensor | Prompted, y: Tensor | None = None,
        context_map: Any = None, merging: float = 0.0, cache: Cache | None = None, tiling: Tiling | None = None,
    ) -> Tensor:  # fmt: skip
        if context_map is not None or cache is not None or not x.is_cuda:
            return self.net(x, timesteps, context, y, context_map, merging, cache, tiling)
        given = self.inputs(x, timesteps, context, y)
        key = self.key(given, merging, tiling)
        if key not in self._graphs:
            self._graphs[key] = None
            while len(self._graphs) > MOST:
                self._graphs.popitem(last=False)
            # The first call warms up all that is measured or loaded.
            return self.net(x, timesteps, given[2], y, merging=merging, tiling=tiling)
        self._graphs.move_to_end(key)
        found = self._graphs[key] or self._record(key, given, merging, tiling)
        if found is None:
            return self.net(x, timesteps, context, y, merging=merging, tiling=tiling)
        graph, kept, out = found
        for place, tensor in zip(kept, given):
            place.copy_(tensor)
        graph.replay()
        return out.clone()

    def forget(self) -> None:
        """Let go of what was recorded: the net has moved, and graphs know weights by their address."""
        self._graphs.clear()

    def _record(
        self, key: tuple, given: list[Tensor], merging: float, tiling: Tiling | None
    ) -> tuple[Any, list[Tensor], Tensor] | None:
        kept = [tensor.clone() for tensor in given]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                out = self.net(*kept[:3], kept[3] if len(kept) > 3 else None, merging=merging, tiling=tiling)
        except torch.OutOfMemoryError:
            self._graphs.clear()
            raise
        except RuntimeError as error:  # something in the net waits for the card: it stays as it was
            log.warning("the denoiser cannot be recorded: %s", error)
            return None
        self._graphs[key] = graph, kept, out
        return self._graphs[key]


class Compiled(_Before):
    """Calls go to a compiled net as soon as it is ready for their key."""

    def __init__(self, net: nn.Module, **options: Any) -> None:
        """`options`: of torch.compile."""
        super().__init__(net)
        self._options = options
        self._compiled: Callable[..., Tensor] | None = None
        self._ready: set[tuple] = set()
        self._asked: set[tuple] = set()
        self._working: threading.Thread | None = None

    def __call__(
        self, x: Tensor, timesteps: Tensor, context: Tensor | Prompted, y: Tensor | None = None,
        context_map: Any = None, merging: float = 0.0, cache: Cache | None = None, tiling: Tiling | None = None,
    ) -> Tensor:  # fmt: skip
        if context_map is not None or cache is not None or merging or tiling is not None:
            return self.net(x, timesteps, context, y, context_map, merging, cache, tiling)
        given = self.inputs(x, timesteps, context, y)
        key = self.key(given)
        if key in self._ready and self._compiled is not None:
            return self._compiled(x, timesteps, given[2], y)
        if key not in self._asked and (self._working is None or not self._working.is_alive()):
            self._asked.add(key)
            examples = [tensor.clone() for tensor in given]
            self._working = threading.Thread(target=self._compile, args=(key, examples), name="compile", daemon=True)
            self._working.start()
        return self.net(x, timesteps, context, y)

    def wait(self) -> None:
        """Until what is being compiled is ready."""
        if self._working is not None:
            self._working.join()

    def _compile(self, key: tuple, given: list[Tensor]) -> None:
        try:
            if self._compiled is None:
                self._compiled = torch.compile(self.net, **self._options)
            with torch.inference_mode():
                self._compiled(*given[:3], given[3] if len(given) > 3 else None)
        except Exception as error:  # whatever the compiler cannot do, the net can
            log.warning("the denoiser cannot be compiled: %s", error)
        else:
            self._ready.add(key)
