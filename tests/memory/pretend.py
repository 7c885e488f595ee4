"""A graphics card that is not there: tensors of the processor that say they lie on it, and are treated like it.

    with PretendCard() as card:
        ...                      # torch.empty(3, device="cuda") and .to("cuda") work
    card.waits                   # what the program had to wait for: numbers read, copies not begun beside it

Mixing devices raises as a card would. `graphs(monkeypatch)` adds CUDA graphs: what is computed meanwhile is noted, and
computed again into the same memory by a replay, so that what is not heard there is not heard here.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CARD = torch.device("cuda", 0)
READS = {
    "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero", "argwhere", "masked_select", "unique",
    "equal", "allclose", "is_nonzero", "bincount", "repeat_interleave",
}  # fmt: skip
"""Functions whose answer, or its size, is a number that is on the card."""
LOOKS = {"_has_compatible_shallow_copy_type"}
"""Those that compare no numbers."""
GIVEN = {"tensor", "as_tensor", "new_tensor", "from_numpy", "scalar_tensor"}
"""Those that bring numbers of the program's to a card."""


class Placed(Tensor):
    """A tensor that says it lies on the card."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():  # outside of `PretendCard`: only looked at
            return func(*args, **(kwargs or {}))


class PretendCard(TorchFunctionMode):
    """`waits`: places of the program, and how often it had to wait there."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.recording: list[tuple[Any, Any, Any, Any]] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name == "__get__":
            return self._property(func, args)
        if name == "__set__":
            return self._put(func, *args)
        out = self._computed(func, name, args, dict(kwargs))
        if self.recording is not None and (name == "__setitem__" or any(map(_is_placed, tree_leaves(out)))):
            self.recording.append((func, args, kwargs, out))
        return out

    def _property(self, func: Any, args: Any) -> Any:
        which = func.__self__.__name__
        if _is_placed(args[0]) and which in ("device", "is_cuda", "is_cpu"):
            return {"device": CARD, "is_cuda": True, "is_cpu": False}[which]
        out = _plainly(func, args, {})
        return _placed(out) if _is_placed(args[0]) and isinstance(out, Tensor) else out

    def _put(self, func: Any, tensor: Tensor, value: Any) -> None:
        """A parameter that is given other data lies where those do, as nets are moved."""
        _plainly(func, (tensor, value), {})
        if func.__self__.__name__ == "data" and _is_placed(tensor) != _is_placed(value):
            tensor.__class__ = Placed if _is_placed(value) else torch.nn.Parameter
            tensor._is_param = True  # type: ignore[attr-defined]

    def _computed(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = any(map(_is_placed, tensors))
        if name in ("to", "cpu", "cuda", "pin_memory", "type_as"):
            return self._moved(func, name, args, kwargs)
        if name in ("numpy", "__array__") and here:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted).type == "cuda":
            kwargs["device"] = "cpu"
            if kwargs.get("generator") is not None:
                raise RuntimeError("a generator of the processor draws for no card")
        elif wanted is None and name != "__setitem__":
            wanted = CARD if here else None
        on_card = wanted is not None and torch.device(wanted).type == "cuda"
        if (here and name in READS) or (on_card and name in GIVEN):
            self._wait()
        if name in ("__getitem__", "__setitem__"):
            if _is_placed(args[0]) and any(map(_looked_up, _parts(args[1]))):
                self._wait()
            if name == "__setitem__" and isinstance(args[2], Tensor) and args[2].dim():
                self._copied(args[2], args[0], False)
        elif name == "copy_":
            self._copied(args[1], args[0], kwargs.get("non_blocking", False) or args[2:3] == (True,))
        elif here and name not in LOOKS and any(not _is_placed(tensor) and tensor.dim() for tensor in tensors):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu")
        out = _plainly(func, args, kwargs)
        return tree_map(lambda leaf: _placed(leaf) if isinstance(leaf, Tensor) else leaf, out) if on_card else out

    def _moved(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        source, goal, rest = args[0], "cuda" if _is_placed(args[0]) else "cpu", []
        for value in args[1:]:
            if isinstance(value, (str, torch.device)):
                goal = torch.device(value).type
            elif isinstance(value, Tensor):
                goal = "cuda" if _is_placed(value) else "cpu"
                rest.append(value.dtype)
            elif isinstance(value, bool):
                kwargs.setdefault("non_blocking", value)
            elif value is not None:
                rest.append(value)
        if "device" in kwargs:
            goal = torch.device(kwargs.pop("device") or goal).type
        goal = {"cpu": "cpu", "pin_memory": "cpu", "cuda": "cuda"}.get(name, goal)
        if goal == "meta":
            return _plainly(Tensor.to, (source, "meta"), kwargs)
        if name == "pin_memory":
            out = _plainly(Tensor.clone, args, {})
            out.is_in_pinned_memory = True
            return out
        out = _plainly(Tensor.to, (source, *rest), kwargs)
        if (goal == "cuda") != _is_placed(source):
            out = _plainly(Tensor.clone, (out,), {}) if out.data_ptr() == source.data_ptr() else out
            self._copied(source, _placed(out) if goal == "cuda" else out, kwargs.get("non_blocking", False))
        return _placed(out) if goal == "cuda" else out

    def _copied(self, source: Tensor, goal: Tensor, beside: bool) -> None:
        pinned = getattr(source, "is_in_pinned_memory", False)
        if _is_placed(source) != _is_placed(goal) and source.numel() and not (beside and pinned):
            self._wait()

    def _wait(self) -> None:
        if self.recording is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        ours = [frame for frame in traceback.extract_stack() if "/modules/" in frame.filename]
        self.waits[f"{ours[-1].filename.rpartition('/modules/')[2]}:{ours[-1].lineno}" if ours else "a test"] += 1

    # ----------------------------------------------------------------------------------------------------- graphs

    def graphs(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Let `torch.cuda.graph` record on this card; what has been recorded."""
        made: list[Any] = []
        card = self

        class Graph:
            def __init__(self) -> None:
                self.steps: list[tuple[Any, Any, Any, Any]] = []
                self.replays = 0
                made.append(self)

            def pool(self) -> tuple[int, int]:
                return (0, 1)

            def replay(self) -> None:
                self.replays += 1
                for func, args, kwargs, before in self.steps:
                    again = card._computed(func, func.__name__, args, dict(kwargs))
                    for old, new in zip(tree_leaves(before), tree_leaves(again)):
                        if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                            _plainly(Tensor.copy_, (old, new), {})

        @contextlib.contextmanager
        def graph(of: Graph, pool: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
            card.recording = of.steps
            try:
                yield
            finally:
                card.recording = None

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", graph)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: None)
        monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
        return made


class PretendLink:
    """The way to that card."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def fetch(self, tensors: Any) -> Any:
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)

    def wait(self, fetched: Any) -> Any:
        return fetched

    def release(self, fetched: Any) -> None:
        """What is overwritten too early shows."""
        for copy in fetched:
            copy.fill_(torch.nan)


def _is_placed(value: Any) -> bool:
    return type(value) is Placed


def _placed(tensor: Tensor) -> Placed:
    return tensor if type(tensor) is Placed else _plainly(Tensor.as_subclass, (tensor, Placed), {})


def _plainly(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _parts(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _looked_up(part: Any) -> bool:
    """Whether an index has to be counted, or brought to the card first."""
    if isinstance(part, Tensor):
        return part.dtype == torch.bool or (not _is_placed(part) and part.dim() > 0)
    return isinstance(part, list)
