"""The depth map that SD 2's depth model is shown beside the latents, and draws along."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.imaging import inputs
from modules.pipeline.context import RunContext
from modules.schema.plan import Plan

NO_MAP = (
    "This model draws along a depth map, and none was sent: everything was taken to be equally far away. "
    "Send a grey picture as depth map, bright where things are near."
)


def shown(plan: Plan, batch: range, size: tuple[int, int], ctx: RunContext) -> Tensor:
    """[B, 1, h, w] for latents of `size` = (h, w), nearest 1, farthest -1; 0 everywhere where there is no map.

    Scaling as in the original (https://github.com/Stability-AI/stablediffusion), where MiDaS measures the distance.
    """
    name = plan.request.depth_map
    if name is None:
        ctx.warn(NO_MAP)
        return torch.zeros(len(batch), 1, *size)
    grey = np.asarray(inputs.load(ctx.folders.inputs, name).convert("F"), dtype=np.float32)
    small = F.interpolate(torch.from_numpy(grey.copy())[None, None], size=size, mode="bicubic", align_corners=False)
    low, high = small.aminmax()
    if high - low < 1e-3:
        return torch.zeros(len(batch), 1, *size)
    return (2 * (small - low) / (high - low) - 1).expand(len(batch), -1, -1, -1)
