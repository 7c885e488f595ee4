"""A torchvision that was built for another torch is made importable.

Its import dies where its compiled operators cannot be loaded (a CUDA build beside a CPU torch, say), and with it dies
every import that looks whether it is there: transformers, spandrel. None of ours needs those operators; that they are
declared is enough.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

_MISSING = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # fmt: skip


@cache
def fit_torchvision() -> Any:
    """To be called before the first import of such a package; does nothing where torchvision is whole, or absent.

    What it returns keeps the declarations alive.
    """
    if find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
        return None
    except (RuntimeError, OSError, ImportError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for schema in _MISSING:
        library.define(schema)
    return library
