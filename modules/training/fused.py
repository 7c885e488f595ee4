"""Group norm and SiLU in one autograd step, for training on a processor.

torch's own group-norm backward takes most of a small autoencoder's step on a CPU. Here the statistics are two
reductions per channel in float32 and everything else is one multiply-add per element, in the dtype of the activations.
Gives the numbers of `torch.nn.functional.group_norm` followed by `silu` (a test compares both directions).
Made for channels-last activations; right, though slower, for any layout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _rows(x: Tensor) -> Tensor:
    """[B, C, ...] -> [B, N, C], without a copy where x is channels-last."""
    return x.movedim(1, -1).reshape(x.shape[0], -1, x.shape[1])


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """[B, N, C] -> the shape (and, from channels-last rows, the layout) of x."""
    return rows.view(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1)


def _channel_sums(rows: Tensor, squares: bool = False) -> Tensor:
    """Sums (of squares) over N of [B, N, C], [B, C] float32.

    Asking torch for a float32 sum of bfloat16 copies the whole tensor first (a fifth of the step). Sums over short runs
    are kept in bfloat16 and added in float32 instead: their rounding errors average out.
    """
    batch, count, channels = rows.shape
    if rows.dtype != torch.bfloat16 or count < 64:
        rows = rows.float()
        return torch.linalg.vector_norm(rows, dim=1).square() if squares else rows.sum(1)
    runs = next(n for n in (64, 32, 16, 8, 4, 2, 1) if count % n == 0)
    parts = (rows * rows if squares else rows).view(batch, runs, count // runs, channels)
    return parts.sum(2).float().sum(1)


class _GroupNormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        rows = _rows(x)
        batch, count, channels = rows.shape
        size = count * channels // groups

        def over_groups(per_channel: Tensor) -> Tensor:
            return per_channel.view(batch, groups, -1).sum(-1) / size

        mean = over_groups(_channel_sums(rows))
        square = over_groups(_channel_sums(rows, squares=True))
        rstd = (square - mean.square()).clamp_(min=0).add_(eps).rsqrt_()
        per_group = channels // groups
        scale = rstd.repeat_interleave(per_group, 1) * weight.float()
        shift = bias.float() - mean.repeat_interleave(per_group, 1) * scale
        out = torch.addcmul(shift.to(x.dtype)[:, None], rows, scale.to(x.dtype)[:, None])
        if silu:
            torch.nn.functional.silu(out, inplace=True)
        ctx.save_for_backward(x, weight, mean, rstd, scale, shift)
        ctx.groups, ctx.silu = groups, silu
        return _like(out, x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, mean, rstd, scale, shift = ctx.saved_tensors
        rows, grad = _rows(x), _rows(grads[0])
        batch, count, channels = rows.shape
        groups, per_group = ctx.groups, channels // ctx.groups
        size = count * per_group
        if ctx.silu:
            before = torch.addcmul(shift.to(x.dtype)[:, None], rows, scale.to(x.dtype)[:, None])
            grad = torch.ops.aten.silu_backward(grad, before)
        grad_sum = _channel_sums(grad)
        grad_x_sum = _channel_sums(grad * rows)
        mean_c = mean.repeat_interleave(per_group, 1)
        rstd_c = rstd.repeat_interleave(per_group, 1)
        grad_xhat_sum = (grad_x_sum - mean_c * grad_sum) * rstd_c  # per channel: sum of grad * normalised x
        gamma = weight.float()

        def group_mean(per_channel: Tensor) -> Tensor:
            return (per_channel.view(batch, groups, -1).sum(-1) / size).repeat_interleave(per_group, 1)

        a = group_mean(grad_sum * gamma)
        b = group_mean(grad_xhat_sum * gamma)
        # dx = rstd (gamma g - a - b xhat), written as one multiply-add of g and one of x
        by_x = -b * rstd_c * rstd_c
        constant = -(a * rstd_c) - by_x * mean_c
        dx = torch.addcmul(constant.to(x.dtype)[:, None], rows, by_x.to(x.dtype)[:, None])
        dx.addcmul_(grad, scale.to(x.dtype)[:, None])
        d_weight = grad_xhat_sum.sum(0).to(weight.dtype)
        d_bias = grad_sum.sum(0).to(weight.dtype)
        return _like(dx, x), d_weight, d_bias, None, None, None


class FusedGroupNorm(nn.Module):
    """Drop-in for `modules.nets.layers.GroupNorm`: same arguments, same keys."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5, silu: bool = False) -> None:
        super().__init__()
        self.groups, self.eps, self.silu = groups, eps, silu
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, input: Tensor) -> Tensor:
        out = _GroupNormSiLU.apply(input, self.weight, self.bias, self.groups, self.eps, self.silu)
        assert isinstance(out, Tensor)
        return out


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √D) v by two products: at the sizes of this model quicker backwards than torch's fused one."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ v
