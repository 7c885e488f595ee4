"""The yaml file beside a checkpoint (`<name>.yaml`, CompVis layout), of which only values are read.

Such files name Python classes under `target:`; here nothing is ever imported or built from them. They decide what
weights cannot tell (heads, prediction); sizes are always those of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 256 * 1024
RELEASED_BETAS = (0.00085, 0.012)
"""Start and end of the noise schedule of every released model."""

SIZES = {
    "in_channels": "in_channels", "model_channels": "model_channels", "context_dim": "context_dim",
    "adm_channels": "adm_in_channels",
}  # fmt: skip
"""Sizes of the U-Net: our name of each, and the yaml's."""


@dataclass(frozen=True)
class SideCar:
    """What a side-car says; None where it says nothing. `warnings` are for the user.

    `betas`: start and end of the noise schedule (the released models' where it says nothing). `text_layer`: "last" or
    "penultimate", of an OpenCLIP tower. `sizes`: of the U-Net, by the names of its config; the weights' are believed.
    """

    num_heads: int | None = None
    head_dim: int | None = None
    prediction: str | None = None
    scale_factor: float | None = None
    betas: tuple[float, float] = RELEASED_BETAS
    text_layer: str | None = None
    sizes: tuple[tuple[str, int], ...] = ()
    warnings: tuple[str, ...] = ()


NO_SIDECAR = SideCar()


def sidecar_path(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".yaml")


def read_sidecar(checkpoint: Path) -> SideCar:
    """The side-car of a checkpoint. A missing one says nothing; a broken one says nothing and warns."""
    path = sidecar_path(checkpoint)
    try:
        if not path.is_file():
            return NO_SIDECAR
        if path.stat().st_size > MAX_BYTES:
            return SideCar(warnings=(f"{path.name} is larger than {MAX_BYTES // 1024} KB and was ignored.",))
        document = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except (yaml.YAMLError, OSError, UnicodeDecodeError, ValueError, RecursionError):
        return SideCar(warnings=(f"{path.name} is not readable yaml and was ignored.",))
    params = _at(document, "model", "params")
    net = _at(params, "unet_config", "params") or _at(params, "network_config", "params")
    scaling = _at(params, "denoiser_config", "params", "scaling_config", "target")
    prediction = _at(params, "parameterization")
    if isinstance(scaling, str) and scaling.endswith("VScaling"):
        prediction = "v"
    elif isinstance(scaling, str) and scaling.endswith("EpsScaling"):
        prediction = "eps"
    betas = _number(_at(params, "linear_start")), _number(_at(params, "linear_end"))
    layer = _at(params, "cond_stage_config", "params", "layer")
    return SideCar(
        num_heads=_positive(_at(net, "num_heads")),
        head_dim=_positive(_at(net, "num_head_channels")),
        prediction=prediction if prediction in ("eps", "v") else None,
        scale_factor=_number(_at(params, "scale_factor")),
        betas=(betas[0], betas[1]) if betas[0] and betas[1] and betas[0] < betas[1] < 1 else RELEASED_BETAS,
        sizes=tuple((ours, n) for ours, theirs in SIZES.items() if (n := _positive(_at(net, theirs), 1_000_000))),
        text_layer=layer if layer in ("last", "penultimate") else None,
    )


class _Loader(yaml.SafeLoader):
    """Plain values only; aliases are refused, since they can make a small file huge."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def _at(value: Any, *names: str) -> Any:
    """value[name][name]…, or None as soon as there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _positive(value: Any, below: int = 1000) -> int | None:
    return value if type(value) is int and 0 < value < below else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and 0 < value < 1000 else None
