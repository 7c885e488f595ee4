"""Every attention against the formula in float64, over head sizes, lengths and masks."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.nets import packed
from modules.nets.attention import ATTENTIONS, attention_of, onednn, sub_quadratic, upcast

HERE = [name for name in ATTENTIONS if name != "xformers"]
SIZES = [(64, 64, 8), (300, 300, 40), (100, 77, 64), (1030, 70, 80), (77, 530, 160), (1, 1, 64)]
"""(query tokens, key tokens, head dimension); 512 and 1024 are where slices end."""


def inputs(generator: torch.Generator, n: int, m: int, d: int, sharp: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(2, 3, length, d, generator=generator) for length in (n, m, m))
    return q * sharp, k, v


def formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = q.double() @ k.double().transpose(2, 3) / q.shape[3] ** 0.5
    return (scores if mask is None else scores + mask.double()).softmax(-1) @ v.double()


def masks(generator: torch.Generator, n: int, m: int) -> dict[str, Tensor | None]:
    return {
        "none": None,
        "causal": torch.full((n, m), -1e4).triu(1),
        "per picture": torch.randn(2, 1, n, m, generator=generator),
        "per head": torch.randn(1, 3, n, m, generator=generator),
        "keys": torch.randn(2, 1, 1, m, generator=generator),
    }


@pytest.fixture
def generator(test_seed) -> torch.Generator:
    return torch.Generator().manual_seed(test_seed)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_attention_is_the_formula(generator, name, size):
    q, k, v = inputs(generator, *size)
    for kind, mask in masks(generator, *size[:2]).items():
        found = ATTENTIONS[name](q, k, v, mask)
        assert found.shape == q.shape
        assert (found - formula(q, k, v, mask)).abs().max() < 1e-5, kind


HEADS = (40, 64, 80, 160, 512, 8, 33, 1)
"""Head sizes of SD 1 (40, 80, 160), SD 2 and SDXL (64), the VAE (512), and odd ones."""
LENGTHS = (1, 2, 77, 154, 231, 255, 513)
TYPES = {torch.float32: (2e-6, 3e-6), torch.float16: (5e-4, 1e-3), torch.bfloat16: (4.5e-3, 8e-3)}
"""The error as a share of the answer, and the largest of it as a share of the largest number. Rounding the right answer
alone takes 5e-4 of a float16 number and 4e-3 of a bfloat16 one."""
FAST = {"onednn": 2e-2}
"""Those of bfloat16 that round their scores, for half the time."""


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", HERE)
def test_attention_is_the_formula_whatever_comes(generator, name, dtype):
    """Every head size with lengths, masks, batch and heads drawn by lot; the error against the formula on the same,
    rounded inputs, in what a number of that type can tell apart."""

    def one_of(choices: tuple[int, ...]) -> int:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    lengths = LENGTHS if dtype == torch.float32 else LENGTHS[:5]  # processors take their time over float16
    for d in HEADS:
        b, h = (1, 3) if d % 2 else (2, 1)
        n, m = one_of(lengths), one_of(lengths)
        q, k, v = (torch.randn(b, h, length, d, generator=generator).to(dtype) for length in (n, m, m))
        seen = torch.rand(b, 1, n, m, generator=generator) < 0.7
        seen[..., 0] = True
        cases: dict[str, Tensor | None] = {
            "none": None,
            "boolean": seen,
            "boolean, keys": seen[:, :, :1],
            "causal": torch.ones(n, m, dtype=torch.bool).tril(),
            "added": torch.randn(b, h, n, m, generator=generator),
            "added, hidden": torch.zeros(n, m).masked_fill(~seen[0, 0], -torch.inf),
        }
        for kind, mask in cases.items():
            if mask is not None and mask.dtype == torch.bool:
                added = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
            else:
                added = mask if mask is None else mask.to(dtype)
            right = formula(q, k, v, added)
            found = ATTENTIONS[name](q, k, v, mask)
            assert (found.dtype, found.shape) == (dtype, q.shape)
            off = found - right
            share, largest = TYPES[dtype]
            if dtype == torch.bfloat16 and name in FAST:
                share = largest = FAST[name]
            assert off.norm() < share * right.norm(), (d, b, h, n, m, kind)
            assert off.abs().max() < largest * right.abs().max(), (d, b, h, n, m, kind)


@pytest.mark.parametrize(("m", "d"), [(4096, 40), (77, 40), (231, 512)])
def test_a_whole_pictures_tokens(generator, m, d):
    q, k, v = (torch.randn(1, 1, length, d, generator=generator) for length in (4096, m, m))
    right = formula(q, k, v)
    for name in HERE:
        assert (ATTENTIONS[name](q, k, v) - right).abs().max() < 1e-4, name


def test_without_a_fitting_kernel_xformers_is_torchs_own(generator, monkeypatch):
    """A package that can only do what is even: what it cannot is computed all the same."""
    asked = []

    def memory_efficient_attention(q: Tensor, k: Tensor, v: Tensor, attn_bias: Tensor | None = None) -> Tensor:
        asked.append(tuple(q.shape))
        if q.shape[3] > 256:
            raise NotImplementedError("no operator for this head size")
        if attn_bias is not None and attn_bias.shape[3] % 8:
            raise ValueError("the bias is not aligned")
        right = formula(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_bias)
        return right.to(q.dtype).transpose(1, 2)

    ops = types.ModuleType("xformers.ops")
    ops.memory_efficient_attention = memory_efficient_attention  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    for n, m, d in ((64, 64, 40), (64, 77, 64), (64, 64, 512)):
        q, k, v = inputs(generator, n, m, d)
        for mask in (None, torch.rand(n, m, generator=generator) < 0.9):
            found = ATTENTIONS["xformers"](q, k, v, mask)
            assert (found - F.scaled_dot_product_attention(q, k, v, mask)).abs().max() < 1e-5
    assert len(asked) == 6


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("sharp", [5.0, 40.0])
def test_large_scores_do_not_overflow(generator, name, sharp):
    q, k, v = inputs(generator, 600, 600, 40, sharp)
    assert (ATTENTIONS[name](q, k, v) - formula(q, k, v)).abs().max() < 1e-3


def test_a_key_that_the_guess_of_the_maximum_misses(generator):
    q, k, v = inputs(generator, 520, 256, 40)
    k[:, :, 5] = 60 * q[:, :, 3]  # not among the sampled ones, hundreds above them all
    found = onednn(q, k, v)
    assert found.isfinite().all()
    assert (found - formula(q, k, v)).abs().max() < 1e-3


@pytest.mark.skipif(torch.bfloat16 not in packed.dtypes(), reason="the processor has no bfloat16")
@pytest.mark.parametrize("sharp", [1.0, 3.0])
def test_bfloat16_on_the_processor_is_nearer_than_the_plain_loop(generator, sharp):
    q, k, v = (t.bfloat16() for t in inputs(generator, 1024, 1024, 40, sharp))
    right = formula(q, k, v)

    def error(found: Tensor) -> float:
        return ((found - right).norm() / right.norm()).item()

    loop = (q @ (k * 40**-0.5).transpose(2, 3)).softmax(-1) @ v
    assert error(onednn(q, k, v)) < error(loop)
    assert error(onednn(q, k, v)) < 0.01


@pytest.mark.parametrize("chunks", [(1024, 0, 0), (7, 0, 0), (64, 50, 0), (300, 1000, 0), (16, 16, 10**9)], ids=str)
def test_chunk_sizes_change_nothing(generator, chunks):
    q, k, v = inputs(generator, 130, 90, 40)
    mask = torch.randn(1, 1, 130, 90, generator=generator)
    mask[..., :60] = -torch.inf  # whole chunks of keys are hidden
    found = attention_of("sub-quadratic", chunks)(q, k, v, mask)
    assert (found - formula(q, k, v, mask)).abs().max() < 1e-5


def test_below_the_threshold_nothing_is_chunked(generator):
    q, k, v = inputs(generator, 32, 32, 16)
    whole = ATTENTIONS["None"](q, k, v)
    assert torch.equal(sub_quadratic(q, k, v, threshold=2 * 3 * 32 * 32 * 4), whole)
    assert not torch.equal(sub_quadratic(q, k, v, threshold=2 * 3 * 32 * 32 * 4 - 1), whole)


@pytest.mark.parametrize("name", ["Doggettx", "InvokeAI"])
@pytest.mark.parametrize("scores", [1, 500, 9_000, 10**9])
def test_slices_keep_to_the_scores_allowed(generator, name, scores):
    q, k, v = inputs(generator, 100, 80, 24)
    mask = torch.randn(2, 1, 100, 80, generator=generator)
    found = ATTENTIONS[name](q, k, v, mask, scores=scores)
    assert (found - formula(q, k, v, mask)).abs().max() < 1e-5


def test_upcast_computes_in_float32():
    q = torch.full((1, 1, 2, 64), 200.0, dtype=torch.float16)  # its scores are beyond 65504 before they are scaled
    seen = []

    def watched(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        seen.append(q.dtype)
        return ATTENTIONS["None"](q, k, v, mask)

    assert upcast(watched)(q, q, q).dtype == torch.float16
    assert seen == [torch.float32]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_is_the_formula_on_a_card(generator, name, dtype):
    if name == "xformers" and (dtype == torch.float32 or not importlib.util.find_spec("xformers")):
        pytest.skip("needs xformers and half precision")
    for size in ((4096, 4096, 40), (1024, 77, 64), (256, 256, 160)):
        q, k, v = (t.to("cuda", dtype) for t in inputs(generator, *size))
        right = formula(q, k, v)
        most = {torch.float32: 1e-3, torch.float16: 1e-3, torch.bfloat16: 6e-3}[dtype]  # float32 may be NVIDIA's TF32
        error = ((ATTENTIONS[name](q, k, v) - right).norm() / right.norm()).item()
        assert error < most
        seen = torch.rand(*size[:2], generator=generator).to("cuda") < 0.7
        seen[:, 0] = True
        hidden = torch.zeros(seen.shape, device="cuda").masked_fill(~seen, -torch.inf)
        right = formula(q, k, v, hidden)
        error = ((ATTENTIONS[name](q, k, v, seen) - right).norm() / right.norm()).item()
        assert error < most, "boolean mask"
