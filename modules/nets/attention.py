"""Attention as plain functions behind one signature, so a policy can choose by measurement.

Each takes q [B, H, N, D], k and v [B, H, M, D], an optional mask broadcastable to [B, H, N, M], and returns
[B, H, N, D]: softmax(q kᵀ / √D + mask) v (Vaswani et al., arXiv:1706.03762). A mask is added, in any float type, or
boolean: True where a key is seen, at least one in each row.

`ATTENTIONS` names them. They differ in speed and in the memory for scores, not in what they compute. In half precision
scores and their softmax are in float32 all the same: rounded, they would err by more than all else together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

Attention = Callable[..., Tensor]

ContextMap = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Context [B, M, D] -> (what keys are made of, what values are made of), both [B, M, D]."""

ROWS = 512
"""Query rows per slice: 4096 scores in each fit a core's second-level cache (measured: 512 is best of 64 … 4096)."""
SCORES = 2**27
"""Most scores in memory at once for those that slice by size: 256 MB in half precision, and twice that as weights."""
SAMPLED = 16
"""One key in so many is looked at to guess a row's largest score."""


def sdp(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """torch's fused scaled_dot_product_attention, whichever kernel it takes."""
    q, k, v = _for_kernels(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_added(mask, q))


def sdp_no_mem(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same without torch's memory-efficient kernel, whose sums may come in another order the next time."""
    from torch.nn.attention import SDPBackend, sdpa_kernel  # loads a compiler's package: only where it is asked for

    q, k, v = _for_kernels(q, k, v)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=_added(mask, q))


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The formula as it stands: all scores at once."""
    return _rows(q, _keys(k), v, _added(mask, q))


def split(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, rows: int = ROWS) -> Tensor:
    """Head by head, query rows in slices: a slice's scores stay in the cache. Each row sees all keys: exact."""
    mask = _added(mask, q)
    prepared = _keys(k)
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            keys, values = prepared[b, h].T.contiguous().T, _values(v[b, h])
            for row in range(0, q.shape[2], rows):
                some = q[b, h, row : row + rows]
                out[b, h, row : row + rows] = _rows(some, keys, values, _part(mask, b, h, row, rows))
    return out


def split_v1(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """One head of one picture at a time, all its rows."""
    return split(q, k, v, mask, rows=max(1, q.shape[2]))


def doggettx(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scores: int = SCORES) -> Tensor:
    """All heads together, query rows in as few slices as keep to `scores` numbers at once."""
    per_row = q.shape[0] * q.shape[1] * k.shape[2]
    rows = max(1, min(q.shape[2], scores // max(1, per_row)))
    mask = _added(mask, q)
    keys = _keys(k)
    pieces = [
        _rows(q[:, :, row : row + rows], keys, v, _part(mask, None, None, row, rows))
        for row in range(0, q.shape[2], rows)
    ]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def invokeai(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scores: int = SCORES) -> Tensor:
    """Whole where it fits; else as many heads at once as fit; else one head with its rows in slices."""
    mask = _added(mask, q)
    per_head = q.shape[2] * k.shape[2]
    if q.shape[0] * q.shape[1] * per_head <= scores:
        return plain(q, k, v, mask)
    together = max(1, scores // max(1, per_head))
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
    for b in range(q.shape[0]):
        for h in range(0, q.shape[1], together):
            heads = slice(h, h + together)
            piece = None if mask is None else mask.expand(*q.shape[:3], k.shape[2])[b : b + 1, heads]
            out[b, heads] = doggettx(q[b : b + 1, heads], k[b : b + 1, heads], v[b : b + 1, heads], piece, scores)[0]
    return out


def sub_quadratic(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    q_chunk: int = 1024,
    kv_chunk: int | None = None,
    threshold: int | None = None,
) -> Tensor:
    """Rows and keys in chunks, their softmaxes joined (Rabe & Staats, arXiv:2112.05682): √M memory.

    `kv_chunk`: keys per chunk, √M where None. `threshold`: up to so many bytes of scores nothing is chunked.
    """
    mask = _added(mask, q)
    m = k.shape[2]
    if threshold is not None and q.shape[0] * q.shape[1] * q.shape[2] * m * q.element_size() <= threshold:
        return plain(q, k, v, mask)
    kv_chunk = min(m, kv_chunk or max(1, int(math.sqrt(m))))
    if kv_chunk == m:
        keys = _keys(k)
        return _joined(q, v, q_chunk, lambda rows, row: _rows(rows, keys, v, _part(mask, None, None, row, q_chunk)))
    values = _values(v)

    def one(rows: Tensor, row: int) -> Tensor:
        here = _part(mask, None, None, row, q_chunk)
        top = rows.new_full((*rows.shape[:3], 1), -math.inf, dtype=torch.float32)
        total = torch.zeros_like(top)
        sums = rows.new_zeros((*rows.shape[:3], v.shape[3]), dtype=torch.float32)
        for begin in range(0, m, kv_chunk):
            chunk = slice(begin, begin + kv_chunk)
            scores = _products(rows, k[:, :, chunk]) * k.shape[-1] ** -0.5
            if here is not None:
                scores = scores + (here[..., chunk] if here.shape[-1] > 1 else here)
            higher = torch.maximum(top, scores.amax(-1, keepdim=True))
            anchor = torch.where(higher.isinf(), 0.0, higher)  # a row that is masked so far
            weights = torch.exp(scores - anchor)
            fade = torch.exp(top - anchor)
            total = total * fade + weights.sum(-1, keepdim=True)
            sums = sums * fade + (weights.to(values.dtype) @ values[:, :, chunk]).float()
            top = higher
        return (sums / total).to(q.dtype)

    return _joined(q, v, q_chunk, one)


def xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The fused kernels of the package of that name, for CUDA and ROCm; what they cannot do is left to torch's."""
    from xformers.ops import memory_efficient_attention  # type: ignore[import-not-found]  # optional, warns without CUDA

    mask = _added(mask, q)
    bias = None if mask is None else mask.expand(*q.shape[:3], k.shape[2]).contiguous()
    try:
        out = memory_efficient_attention(*(t.transpose(1, 2).contiguous() for t in (q, k, v)), attn_bias=bias)
    except (NotImplementedError, ValueError):  # no kernel for this head size, number type or alignment of the mask
        return sdp(q, k, v, mask)
    return out.transpose(1, 2)


def onednn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, rows: int = ROWS) -> Tensor:
    """For processors: `split` by oneDNN's matrix products (twice the speed of torch's own in float32 on AMD).

    Three passes over the scores are saved. A softmax is the same whatever is subtracted from a row's scores, so instead
    of the row's true maximum a guess from every 16th key is, inside the product, by one column more; the sum of
    the weights is one more column of the second product. In bfloat16 the scores that matter are then near zero, where
    it is finest: half the error of rounded scores. Should the guess be so wrong that a row overflows, its slice is done
    again.
    """
    d, m, n = q.shape[3], k.shape[2], q.shape[2]
    if mask is not None or m < 4 * SAMPLED or q.device.type != "cpu" or q.dtype not in _onednn_dtypes():
        return split(q, k, v, mask, rows)
    queries = q.new_empty(n, d + 1)
    keys = q.new_ones(m, d + 1)
    values = v.new_ones(v.shape[3] + 1, m)
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype)
    scale = d**-0.5 / math.log(2)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            queries[:, :d] = q[b, h]
            torch.mul(k[b, h], scale, out=keys[:, :d])
            values[:-1] = v[b, h].T
            few = keys[::SAMPLED, :d].contiguous()
            for row in range(0, n, rows):
                some = queries[row : row + rows]
                some[:, d] = -_product(some[:, :d], few).amax(-1)
                sums = _product(_product(some, keys).exp2_(), values)
                here = out[b, h, row : row + rows]
                torch.div(sums[:, :-1], sums[:, -1:], out=here)
                if not sums[:, -1].isfinite().all():
                    scores = _product(some[:, :d], keys[:, :d].contiguous())
                    sums = _product((scores - scores.amax(-1, keepdim=True)).exp2_(), values)
                    torch.div(sums[:, :-1], sums[:, -1:], out=here)
    return out


ATTENTIONS: Mapping[str, Attention] = MappingProxyType({
    "sdp": sdp,
    "sdp-no-mem": sdp_no_mem,
    "xformers": xformers,
    "split": split,
    "V1": split_v1,
    "Doggettx": doggettx,
    "InvokeAI": invokeai,
    "sub-quadratic": sub_quadratic,
    "onednn": onednn,
    "None": plain,
})  # fmt: skip


def attention_of(name: str, chunks: tuple[int, int, int] = (1024, 0, 0)) -> Attention:
    """The function of that name. `chunks`: the query chunk, key chunk and threshold of "sub-quadratic", 0 is none."""
    found = ATTENTIONS[name]
    if name != "sub-quadratic":
        return found
    q_chunk, kv_chunk, threshold = chunks
    return functools.partial(found, q_chunk=q_chunk, kv_chunk=kv_chunk or None, threshold=threshold or None)


def upcast(attention: Attention) -> Attention:
    """The same in float32, for models whose scores overflow float16."""

    def wide(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return attention(q.float(), k.float(), v.float(), mask).to(q.dtype)

    return wide


def _for_kernels(*parts: Tensor) -> tuple[Tensor, ...]:
    """On a card the numbers of each head side by side, as its fused kernels ask: without them all scores are in memory,
    2 GB for the autoencoder at 1024x1024. The processor's answers stay as they have always been."""
    return tuple(part if part.device.type == "cpu" or part.stride(-1) == 1 else part.contiguous() for part in parts)


def _added(mask: Tensor | None, q: Tensor) -> Tensor | None:
    """A mask as what is added to scores of q, in its number type."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, -math.inf)
    return mask.to(q.dtype)


HALF = torch.float16, torch.bfloat16


def _keys(k: Tensor) -> Tensor:
    """Keys as `_scores` takes them: times 1 / √D, of half precision in float32 on a processor, where products are then
    no slower (in float16 a twentieth of the time); on a card as they are."""
    if k.dtype in HALF and k.device.type != "cpu":
        return k
    return (k.float() if k.dtype in HALF else k) * k.shape[-1] ** -0.5


def _values(v: Tensor) -> Tensor:
    return v.float() if v.dtype in HALF and v.device.type == "cpu" else v


def _scores(q: Tensor, keys: Tensor) -> Tensor:
    """Scores [..., N, M] of q [..., N, D], keys as `_keys` has them; float32 where q is of half precision."""
    if keys.dtype in HALF:
        return _products(q, keys).mul_(keys.shape[-1] ** -0.5)
    return q.to(keys.dtype) @ keys.transpose(-2, -1)


def _products(q: Tensor, k: Tensor) -> Tensor:
    """q kᵀ; of half precision in float32, which NVIDIA's cards give without rounding first."""
    if q.dtype not in HALF:
        return q @ k.transpose(-2, -1)
    if q.device.type == "cpu":
        return q.float() @ k.float().transpose(-2, -1)
    if q.is_cuda and torch.version.hip is None and not torch.is_grad_enabled():
        rows, columns = q.reshape(-1, *q.shape[-2:]), k.reshape(-1, *k.shape[-2:])
        return torch.bmm(rows, columns.transpose(1, 2), out_dtype=torch.float32).view(*q.shape[:-1], k.shape[-2])
    return (q @ k.transpose(-2, -1)).float()


def _rows(q: Tensor, keys: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = _scores(q, keys)
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1, dtype=torch.float32)
    del scores  # half of what this takes at its peak
    values = _values(v)
    return (weights.to(values.dtype) @ values).to(q.dtype)


def _joined(q: Tensor, v: Tensor, chunk: int, one: Callable[[Tensor, int], Tensor]) -> Tensor:
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
    for row in range(0, q.shape[2], chunk):
        out[:, :, row : row + chunk] = one(q[:, :, row : row + chunk], row)
    return out


def _part(mask: Tensor | None, b: int | None, h: int | None, row: int, rows: int) -> Tensor | None:
    """The part of a mask for some rows, of one picture and head where they are given."""
    if mask is None:
        return None
    mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    if mask.shape[2] > 1:
        mask = mask[:, :, row : row + rows]
    if b is None or h is None:
        return mask
    return mask[b if mask.shape[0] > 1 else 0, h if mask.shape[1] > 1 else 0]


@functools.cache
def _onednn_dtypes() -> frozenset[torch.dtype]:
    from modules.nets.packed import dtypes  # it imports the layers; asked once

    return dtypes()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a [N, D] times b [M, D] transposed, by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
