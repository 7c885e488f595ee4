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
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modules.nets.hypertile import Tiling
from modules.nets.layers import Conv2d, Slot
from modules.nets.streamed import Stored
from modules.nets.unet import Cache, Prompted, Residuals

MOST = 4
"""Sizes kept at once; the one unused longest goes."""
log = logging.getLogger("easel.nets")


def calling(net: nn.Module, how: str) -> Callable[..., Tensor]:
    """`net`, or what stands before it: "Plain", "CUDA graphs" or "torch.compile"."""
    if how == "CUDA graphs":
        return Recorded(net)
    return Compiled(net) if how == "torch.compile" else net


def forget(call: Callable[..., Tensor]) -> None:
    """Let go of what is kept to call a net faster, where anything is."""
    if isinstance(call, _Before):
        call.forget()


class _Before(ABC):
    """What both share: inputs as plain tensors, and the key they have."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._weight = next(net.parameters())
        self._convolution = next((layer for layer in net.modules() if isinstance(layer, Conv2d)), None)
        beside = any(isinstance(layer, Stored) for layer in net.modules())  # else adapters are merged
        self._slots = [layer for layer in net.modules() if beside and isinstance(layer, Slot)]

    def inputs(self, x: Tensor, timesteps: Tensor, context: Tensor | Prompted, y: Tensor | None) -> list[Tensor]:
        tokens = context.tokens if isinstance(context, Prompted) else context
        return [x, timesteps, tokens, *([] if y is None else [y])]

    def key(self, given: list[Tensor], *options: Any) -> tuple:
        """What a call is the same under: sizes, where the weights lie, and at which edges a picture goes on."""
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in given)
        wrap = self._convolution.wrap if self._convolution else None
        return shapes, options, wrap, self._weight.device, self._weight.data_ptr()

    def altered(self) -> bool:
        """Whether layers make their weights anew at each call, as those do that an adapter changes from beside."""
        return any(layer.delta is not None for layer in self._slots)

    @abstractmethod
    def forget(self) -> None:
        """Let go of what was recorded."""


class _Graph(NamedTuple):
    graph: Any
    inputs: list[Tensor]
    out: Tensor


class Recorded(_Before):
    """Calls are recorded once per key as a CUDA graph and then replayed: the card is told once, not layer by layer."""

    def __init__(self, net: nn.Module, call: Callable[..., Tensor] | None = None) -> None:
        """`call`: what is recorded in place of the net itself."""
        super().__init__(net)
        self.call = net if call is None else call
        self._graphs: OrderedDict[tuple, _Graph | str] = OrderedDict()
        """By key; before it is recorded "met", and where that cannot be, "plain"."""

    def __call__(
        self, x: Tensor, timesteps: Tensor, context: Tensor | Prompted, y: Tensor | None = None,
        context_map: Any = None, merging: float = 0.0, cache: Cache | None = None, tiling: Tiling | None = None,
        control: Residuals | None = None,
    ) -> Tensor:  # fmt: skip
        alone = context_map is None and cache is None and control is None
        if not alone or not x.is_cuda or self.altered():
            return self.net(x, timesteps, context, y, context_map, merging, cache, tiling, control)
        given = self.inputs(x, timesteps, context, y)
        more: dict[str, Any] = {"merging": merging, "tiling": tiling} if merging or tiling is not None else {}
        key = self.key(given, merging, tiling)
        if key not in self._graphs:
            self._graphs[key] = "met"
            while len(self._graphs) > MOST:
                self._graphs.popitem(last=False)
            # The first call warms up all that is measured or loaded.
            return self.call(x, timesteps, given[2], y, **more)
        self._graphs.move_to_end(key)
        if self._graphs[key] == "met":
            self._graphs[key] = self._record(given, more) or "plain"  # not tried again at every step
        found = self._graphs[key]
        if not isinstance(found, _Graph):
            return self.call(x, timesteps, given[2] if self.call is not self.net else context, y, **more)
        for place, tensor in zip(found.inputs, given):
            place.copy_(tensor)
        found.graph.replay()
        return found.out.clone()

    def forget(self) -> None:
        """Let go of what was recorded: the net has moved, and graphs know weights by their address; or memory is
        wanted, of which they hold what a call takes."""
        for key, found in self._graphs.items():
            self._graphs[key] = "met" if isinstance(found, _Graph) else found

    def _record(self, given: list[Tensor], more: dict[str, Any]) -> _Graph | None:
        kept = [tensor.clone() for tensor in given]
        graph = torch.cuda.CUDAGraph()
        # What one graph leaves in its memory nobody reads after its replay, so all may use the same.
        pool = next((other.graph.pool() for other in self._graphs.values() if isinstance(other, _Graph)), None)
        try:
            # The outer `with` gives the drawing its stream back where recording fails. Other threads (a compiler, the
            # gauge) may go on calling the card meanwhile.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
            ):
                out = self.call(*kept[:3], kept[3] if len(kept) > 3 else None, **more)
        except RuntimeError as error:  # memory ran out, or something in the net waits for the card
            log.warning("the denoiser cannot be recorded: %s", error)
        else:
            return _Graph(graph, kept, out)
        # By now the error is gone, and with it what it held; the net by itself takes less than net and graphs.
        del graph, kept
        self.forget()
        torch.cuda.empty_cache()
        return None


class Compiled(_Before):
    """Calls go to a compiled net as soon as it is ready for their key; on a card that is recorded besides."""

    def __init__(self, net: nn.Module, **options: Any) -> None:
        """`options`: of torch.compile."""
        super().__init__(net)
        self._options = options
        self._compiled: Recorded | None = None
        self._ready: set[tuple] = set()
        self._asked: set[tuple] = set()
        self._working: threading.Thread | None = None

    def __call__(
        self, x: Tensor, timesteps: Tensor, context: Tensor | Prompted, y: Tensor | None = None,
        context_map: Any = None, merging: float = 0.0, cache: Cache | None = None, tiling: Tiling | None = None,
        control: Residuals | None = None,
    ) -> Tensor:  # fmt: skip
        alone = context_map is None and cache is None and control is None
        if not alone or merging or tiling is not None or self.altered():
            return self.net(x, timesteps, context, y, context_map, merging, cache, tiling, control)
        given = self.inputs(x, timesteps, context, y)
        key = self.key(given)
        if key in self._ready and self._compiled is not None:
            return self._compiled(x, timesteps, given[2], y)
        out = self.net(x, timesteps, context, y)
        # After the net's own call: what is measured once has been by now.
        if key not in self._asked and (self._working is None or not self._working.is_alive()):
            self._asked.add(key)
            examples = [tensor.clone() for tensor in given]
            self._working = threading.Thread(target=self._compile, args=(key, examples), name="compile", daemon=True)
            self._working.start()
        return out

    def forget(self) -> None:
        """Let go of recordings; what was compiled stays."""
        if self._compiled is not None:
            self._compiled.forget()

    def wait(self) -> None:
        """Until what is being compiled is ready."""
        if self._working is not None:
            self._working.join()

    def _compile(self, key: tuple, given: list[Tensor]) -> None:
        try:
            if self._compiled is None:
                self._compiled = Recorded(self.net, torch.compile(self.net, **self._options))
            with torch.inference_mode():
                self._compiled.call(*given[:3], given[3] if len(given) > 3 else None)
        except Exception as error:  # whatever the compiler cannot do, the net can
            log.warning("the denoiser cannot be compiled: %s", error)
        else:
            self._ready.add(key)
