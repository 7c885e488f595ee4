"""Attention as plain functions behind one signature, so a policy can choose by measurement.

Each takes q [B, H, N, D], k and v [B, H, M, D], an optional additive mask broadcastable to [B, H, N, M],
and returns [B, H, N, D]: softmax(q kᵀ / √D + mask) v (Vaswani et al., arXiv:1706.03762).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Attention = Callable[..., Tensor]

ContextMap = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Context [B, M, D] -> (what keys are made of, what values are made of), both [B, M, D]."""


def sdp(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """torch's fused scaled_dot_product_attention."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def split(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, rows: int = 512) -> Tensor:
    """Query rows in slices: matmul, softmax, matmul. Each output row sees all keys, so the result is exact."""
    batch, heads, n, _ = q.shape
    keys = (k * k.shape[-1] ** -0.5).reshape(batch * heads, k.shape[2], k.shape[3]).transpose(1, 2)
    values = v.reshape(batch * heads, v.shape[2], v.shape[3])
    queries = q.reshape(batch * heads, n, q.shape[3])
    out = torch.empty(batch * heads, n, v.shape[3], dtype=q.dtype, device=q.device)
    for row in range(0, n, rows):
        scores = torch.bmm(queries[:, row : row + rows], keys)
        if mask is not None:
            mask_rows = mask[..., row : row + rows, :] if mask.shape[-2] > 1 else mask
            scores = (scores.view(batch, heads, *scores.shape[1:]) + mask_rows).view_as(scores)
        out[:, row : row + rows] = torch.bmm(scores.softmax(-1), values)
    return out.view(batch, heads, n, v.shape[3])
