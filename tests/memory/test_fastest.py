"""The way that measures best is taken, remembered, and never changes within a run."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from modules.memory.fastest import Fastest
from modules.memory.machine import DeviceFacts
from modules.pipeline.run import candidates


def way(delay: float, calls: list[str], name: str, error: type[Exception] | None = None):
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        calls.append(name)
        if error:
            raise error("no")
        time.sleep(delay)
        return v[:, :, :1].expand(*q.shape) + delay

    return attend


def inputs(n: int = 1024, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.zeros(batch, 1, n, 8) for _ in range(3))  # type: ignore[return-value]


def test_the_fastest_is_taken_and_told():
    calls, told = [], []
    ways = {"slow": way(0.03, calls, "slow"), "fast": way(0.001, calls, "fast")}
    choice = Fastest(ways, "here", remember=told.append)
    assert choice(*inputs()).max() < 0.01
    assert list(told[-1].values()) == ["fast"]
    calls.clear()
    choice(*inputs())
    choice(*inputs(batch=3))  # another batch size is not another size
    assert calls == ["fast", "fast"]
    assert len(told) == 1


def test_what_an_earlier_run_found_is_kept():
    calls, told = [], []
    ways = {"slow": way(0.03, calls, "slow"), "fast": way(0.001, calls, "fast")}
    Fastest(ways, "here", remember=told.append)(*inputs())
    calls.clear()
    again = Fastest({**ways, "fast": way(0.1, calls, "fast")}, "here", known=told[-1])
    again(*inputs())
    assert calls == ["fast"]
    Fastest({"slow": ways["slow"]}, "here", known=told[-1])(*inputs())  # a way that is gone is not looked for


def test_a_way_that_fails_is_not_chosen():
    calls: list[str] = []
    choice = Fastest({"slow": way(0.01, calls, "slow"), "none": way(0, calls, "none", ImportError)}, "here")
    choice(*inputs())
    assert set(choice.known.values()) == {"slow"}


def test_small_ones_are_not_measured():
    calls: list[str] = []
    choice = Fastest({"first": way(0.01, calls, "first"), "fast": way(0, calls, "fast")}, "here")
    choice(*inputs(512))
    assert calls == ["first"]
    assert not choice.known


def test_on_a_processor_two_heads_of_one_picture_tell_which():
    shapes: list[tuple[int, ...]] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        shapes.append(tuple(q.shape))
        return q

    q = torch.zeros(3, 4, 1024, 8)
    assert Fastest({"one": attend, "other": attend}, "here")(q, q, q).shape == q.shape
    assert set(shapes[:-1]) == {(1, 2, 1024, 8)}
    assert shapes[-1] == q.shape


def test_what_takes_all_scores_at_once_is_tried_only_where_torch_may_lack_fused_kernels():
    assert set(candidates(DeviceFacts("cpu", "a CPU", 2**34, 2**34))) == {"sdp", "split", "onednn"}
    assert set(candidates(DeviceFacts("cuda", "a card", 2**34, 2**34))) <= {"sdp", "xformers"}
    assert "Doggettx" in candidates(DeviceFacts("xpu", "a card", 2**34, 2**34))


def test_the_only_way_is_not_measured():
    calls: list[str] = []
    choice = Fastest({"only": way(0, calls, "only")}, "here")
    choice(*inputs())
    assert calls == ["only"]


def test_one_that_is_far_behind_is_asked_no_further():
    calls: list[str] = []
    choice = Fastest({"fast": way(0.005, calls, "fast"), "slow": way(0.03, calls, "slow")}, "here")
    choice(*inputs())
    assert set(choice.known.values()) == {"fast"}
    assert calls.count("slow") <= 2  # to warm up, and once warm
