"""Every format under every naming: our weight equals W + multiplier · ΔW, worked out here in float64 and otherwise."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.weights.adapters.apply import Network, Networks
from modules.weights.keymaps import Target
from tests.weights.adapters.nets import Dice, Small, number, write_adapter

Array = np.ndarray
LINEAR = Target("unet", "input_blocks.1.1.transformer_blocks.0.attn2.to_k")
SQUARE = Target("unet", "middle_block.1.transformer_blocks.0.attn1.to_out.0")
WIDE = Target("unet", "output_blocks.3.1.transformer_blocks.0.ff.net.0.proj")
CONV = Target("unet", "input_blocks.1.0.in_layers.2")
STRIDED = Target("unet", "input_blocks.2.0.op")
SKIP = Target("unet", "output_blocks.0.0.skip_connection")
NORM = Target("unet", "output_blocks.1.0.in_layers.0")
LAYER_NORM = Target("unet", "middle_block.1.transformer_blocks.0.norm2")
TEXT = Target("te1", "encoder.layers.1.self_attn.q_proj")
MLP = Target("te1", "encoder.layers.0.mlp.fc1")
LINEARS, CONVS = (LINEAR, SQUARE, WIDE, TEXT, MLP), (CONV, STRIDED, SKIP)

Made = tuple[dict[str, Tensor], Callable[[Array], Array]]
"""Parts of a layer, and ΔW from W in float64."""


def f64(tensor: Tensor) -> Array:
    return tensor.double().numpy()


def lora(w: Tensor, dice: Dice) -> Made:
    rank, alpha, out = 3, 2.0, w.shape[0]
    up, down = dice(out, rank, *(1,) * (w.dim() - 2)), dice(rank, *w.shape[1:])
    total = np.zeros(tuple(w.shape))
    for r in range(rank):
        total += f64(up).reshape(out, rank)[:, r].reshape(-1, *[1] * (w.dim() - 1)) * f64(down)[r][None]
    return {"lora_up.weight": up, "lora_down.weight": down, "alpha": number(alpha)}, lambda _: total * alpha / rank


def lora_mid(w: Tensor, dice: Dice) -> Made:
    rank, alpha = 3, 1.5
    out, inputs, *kernel = w.shape
    up, mid, down = dice(out, rank, 1, 1), dice(rank, rank, *kernel), dice(rank, inputs, 1, 1)
    total = np.zeros(tuple(w.shape))
    for n, j in product(range(rank), repeat=2):
        outer = np.multiply.outer(f64(up)[:, n, 0, 0], f64(down)[j, :, 0, 0])
        total += outer[:, :, None, None] * f64(mid)[n, j]
    parts = {"lora_up.weight": up, "lora_mid.weight": mid, "lora_down.weight": down, "alpha": number(alpha)}
    return parts, lambda _: total * alpha / rank


def loha(w: Tensor, dice: Dice) -> Made:
    rank, alpha, out = 4, 3.0, w.shape[0]
    rest = w[0].numel()
    parts = {
        "hada_w1_a": dice(out, rank), "hada_w1_b": dice(rank, rest), "hada_w2_a": dice(out, rank),
        "hada_w2_b": dice(rank, rest), "alpha": number(alpha),
    }  # fmt: skip
    a, b, c, d = (f64(parts[name]) for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"))
    total = np.einsum("or,ri,os,si->oi", a, b, c, d).reshape(w.shape)
    return parts, lambda _: total * alpha / rank


def loha_tucker(w: Tensor, dice: Dice) -> Made:
    rank, alpha = 3, 3.0
    out, inputs, *kernel = w.shape
    parts = {"alpha": number(alpha)}
    sides = []
    for side in "12":
        a, b, t = dice(rank, out), dice(rank, inputs), dice(rank, rank, *kernel)
        parts |= {f"hada_w{side}_a": a, f"hada_w{side}_b": b, f"hada_t{side}": t}
        sides.append(sum(
            np.multiply.outer(f64(a)[i], f64(b)[j])[:, :, None, None] * f64(t)[i, j]
            for i, j in product(range(rank), repeat=2)
        ))  # fmt: skip
    return parts, lambda _: sides[0] * sides[1] * alpha / rank


def _kron(w1: Array, w2: Array, shape: tuple[int, ...]) -> Array:
    """Element [a·B + b, c·D + d] = w1[a, c] · w2[b, d]."""
    total = np.zeros((w1.shape[0] * w2.shape[0], w1.shape[1] * w2.shape[1], *w2.shape[2:]))
    for a, c in product(range(w1.shape[0]), range(w1.shape[1])):
        rows, columns = a * w2.shape[0], c * w2.shape[1]
        total[rows : rows + w2.shape[0], columns : columns + w2.shape[1]] = w1[a, c] * w2
    return total.reshape(shape)


def lokr_whole(w: Tensor, dice: Dice) -> Made:
    out, inputs, *kernel = w.shape
    w1, w2 = dice(4, 4), dice(out // 4, inputs // 4, *kernel)
    total = _kron(f64(w1), f64(w2), tuple(w.shape))
    return {"lokr_w1": w1, "lokr_w2": w2, "alpha": number(1e10)}, lambda _: total  # whole factors have no scale


def lokr_factors(w: Tensor, dice: Dice) -> Made:
    rank, alpha = 2, 5.0
    out, inputs, *kernel = w.shape
    w1_a, w1_b, w2_a = dice(4, rank), dice(rank, 8), dice(out // 4, rank)
    w2_b = dice(rank, inputs // 8 * (kernel[0] * kernel[1] if kernel else 1))
    total = _kron(f64(w1_a) @ f64(w1_b), f64(w2_a) @ f64(w2_b), tuple(w.shape)) if not kernel else None
    if total is None:
        second = (f64(w2_a) @ f64(w2_b)).reshape(out // 4, inputs // 8, *kernel)
        # A factor without kernel axes is multiplied out flat and then read as the weight (LyCORIS).
        total = np.kron(f64(w1_a) @ f64(w1_b), second.reshape(out // 4, -1)).reshape(w.shape)
    parts = {"lokr_w1_a": w1_a, "lokr_w1_b": w1_b, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b, "alpha": number(alpha)}
    return parts, lambda _: total * alpha / rank


def lokr_tucker(w: Tensor, dice: Dice) -> Made:
    rank, alpha = 2, 5.0
    out, inputs, *kernel = w.shape
    w1, t2, w2_a, w2_b = dice(4, 4), dice(rank, rank, *kernel), dice(rank, out // 4), dice(rank, inputs // 4)
    second: Array = sum(  # type: ignore[assignment]
        np.multiply.outer(f64(w2_a)[i], f64(w2_b)[j])[:, :, None, None] * f64(t2)[i, j]
        for i, j in product(range(rank), repeat=2)
    )
    total = _kron(f64(w1), second, tuple(w.shape))
    parts = {"lokr_w1": w1, "lokr_t2": t2, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b, "alpha": number(alpha)}
    return parts, lambda _: total * alpha / rank


def ia3_input(w: Tensor, dice: Dice) -> Made:
    factors = dice(1, w.shape[1], *(1,) * (w.dim() - 2))
    return {"weight": factors, "on_input": torch.tensor(True)}, lambda x: x * f64(factors)


def ia3_output(w: Tensor, dice: Dice) -> Made:
    factors = dice(w.shape[0], 1)
    spread = f64(factors).reshape(-1, *[1] * (w.dim() - 1))
    return {"weight": factors, "on_input": torch.tensor(False)}, lambda x: x * spread


def full(w: Tensor, dice: Dice) -> Made:
    diff = dice(*w.shape)
    return {"diff": diff}, lambda _: f64(diff)


def set_weight(w: Tensor, dice: Dice) -> Made:
    value = dice(*w.shape)
    return {"set_weight": value}, lambda x: f64(value) - x


def norm(w: Tensor, dice: Dice) -> Made:
    diff = dice(*w.shape)
    return {"w_norm": diff}, lambda _: f64(diff)


def _on_inputs(w: Array, m: Array) -> Array:
    """W with its input channels multiplied by a matrix."""
    return np.moveaxis(np.tensordot(w, m, axes=([1], [0])), -1, 1)


def glora_new(w: Tensor, dice: Dice) -> Made:
    rank, alpha = 3, 2.0
    out, inputs = w.shape[:2]
    parts = {
        "a1.weight": dice(inputs, rank), "a2.weight": dice(rank, inputs), "b1.weight": dice(out, rank),
        "b2.weight": dice(rank, w[0].numel()), "alpha": number(alpha),
    }  # fmt: skip
    a1, a2, b1, b2 = (f64(parts[f"{name}.weight"]) for name in ("a1", "a2", "b1", "b2"))
    return parts, lambda x: ((b1 @ b2).reshape(x.shape) + _on_inputs(x, a1 @ a2)) * alpha / rank


def glora_old(w: Tensor, dice: Dice) -> Made:
    rank, alpha = 3, 2.0
    out, inputs = w.shape[:2]
    parts = {
        "a1.weight": dice(rank, inputs), "a2.weight": dice(inputs, rank), "b1.weight": dice(rank, w[0].numel()),
        "b2.weight": dice(out, rank), "alpha": number(alpha),
    }  # fmt: skip
    a1, a2, b1, b2 = (f64(parts[f"{name}.weight"]) for name in ("a1", "a2", "b1", "b2"))
    return parts, lambda x: ((b2 @ b1).reshape(x.shape) + _on_inputs(x, a2 @ a1)) * alpha / rank


def _rotation(blocks: Array, limit: float | None) -> Array:
    """Cayley, the norm of all skew blocks together at most `limit`."""
    skew = blocks - np.swapaxes(blocks, -1, -2)
    if limit is not None:
        skew = skew * min(1.0, limit / np.linalg.norm(skew.ravel()))
    eye = np.eye(skew.shape[-1])
    return np.stack([
        (eye + one) @ np.linalg.inv(eye - one) for one in skew.reshape(-1, *skew.shape[-2:])
    ]).reshape(skew.shape)  # fmt: skip


def _block_diagonal(blocks: Array) -> Array:
    size = blocks.shape[1]
    total = np.zeros((len(blocks) * size,) * 2)
    for k, block in enumerate(blocks):
        total[k * size : (k + 1) * size, k * size : (k + 1) * size] = block
    return total


def _on_outputs(m: Array, w: Array) -> Array:
    return (m @ w.reshape(len(w), -1)).reshape(w.shape)


def oft(w: Tensor, dice: Dice) -> Made:
    blocks, rescale = dice(w.shape[0] // 8, 8, 8), 1 + dice(w.shape[0], *(1,) * (w.dim() - 1))
    turn = _block_diagonal(_rotation(f64(blocks), None)).T
    return {"oft_blocks": blocks, "rescale": rescale}, lambda x: _on_outputs(turn, x) * f64(rescale) - x


def oft_limited(w: Tensor, dice: Dice) -> Made:
    blocks, alpha = dice(w.shape[0] // 8, 8, 8), 0.01
    turn = _block_diagonal(_rotation(f64(blocks), alpha * w.shape[0])).T
    return {"oft_blocks": blocks, "alpha": number(alpha)}, lambda x: _on_outputs(turn, x) - x


def oft_diagonal(w: Tensor, dice: Dice) -> Made:
    blocks = torch.from_numpy(_rotation(f64(dice(w.shape[0] // 8, 8, 8)), None)).float()
    turn = _block_diagonal(f64(blocks)).T
    return {"oft_diag": blocks}, lambda x: _on_outputs(turn, x) - x


def boft(w: Tensor, dice: Dice) -> Made:
    out, size, stages = w.shape[0], 4, 2
    blocks = dice(stages, out // size, size, size)
    turns = _rotation(f64(blocks), None)

    def delta(x: Array) -> Array:
        turned = x
        for i in range(stages):
            k = 2**i * size // 2
            order = np.arange(out).reshape(-1, 2, k).transpose(0, 2, 1).ravel()  # (c g k) -> (c k g)
            permutation = np.eye(out)[order]
            turned = _on_outputs(permutation.T @ _block_diagonal(turns[i]) @ permutation, turned)
        return turned - x

    return {"oft_blocks": blocks}, delta


def _dora(make: Callable[[Tensor, Dice], Made], by: str) -> Callable[[Tensor, Dice], Made]:
    def made(w: Tensor, dice: Dice) -> Made:
        parts, plain = make(w, dice)
        ones = (1,) * (w.dim() - 2)
        if by == "column":
            magnitude = {"dora_scale": 1 + dice(1, w.shape[1], *ones)}
        elif by == "row":
            magnitude = {"dora_scale": 1 + dice(w.shape[0], 1, *ones)}
        else:
            magnitude = {"lora_magnitude_vector": 1 + dice(w.shape[0])}

        def delta(x: Array) -> Array:
            moved = x + plain(x)
            scale = f64(next(iter(magnitude.values()))).ravel()
            for n in range(len(scale)):
                where = (slice(None), n) if by == "column" else n
                moved[where] *= scale[n] / np.sqrt((moved[where] ** 2).sum())
            return moved - x

        return parts | magnitude, delta

    return made


FORMATS: dict[str, tuple[Callable[[Tensor, Dice], Made], tuple[Target, ...]]] = {
    "LoRA": (lora, (*LINEARS, *CONVS)),
    "LoRA with core": (lora_mid, (CONV, STRIDED)),
    "LoHa": (loha, (*LINEARS, *CONVS)),
    "LoHa Tucker": (loha_tucker, (CONV, STRIDED)),
    "LoKr whole": (lokr_whole, (*LINEARS, *CONVS)),
    "LoKr factors": (lokr_factors, (*LINEARS, *CONVS)),
    "LoKr Tucker": (lokr_tucker, (CONV, STRIDED)),
    "IA3 on input": (ia3_input, (*LINEARS, *CONVS)),
    "IA3 on output": (ia3_output, (*LINEARS, *CONVS)),
    "full": (full, (*LINEARS, *CONVS)),
    "set_weight": (set_weight, (LINEAR, CONV)),
    "norm": (norm, (NORM, LAYER_NORM)),
    "GLoRA new": (glora_new, (*LINEARS, *CONVS)),
    "GLoRA old": (glora_old, (*LINEARS, *CONVS)),
    "OFT": (oft, (*LINEARS, *CONVS)),
    "OFT with limit": (oft_limited, (*LINEARS, *CONVS)),
    "OFT diagonal": (oft_diagonal, (*LINEARS, *CONVS)),
    "BOFT": (boft, (*LINEARS, *CONVS)),
    "DoRA by column": (_dora(lora, "column"), (*LINEARS, *CONVS)),
    "DoRA by row": (_dora(lora, "row"), (*LINEARS, *CONVS)),
    "DoRA of PEFT": (_dora(lora, "vector"), (*LINEARS, *CONVS)),
    "DoRA on LoHa": (_dora(loha, "row"), (*LINEARS, *CONVS)),
    "DoRA on LoKr": (_dora(lokr_factors, "column"), LINEARS),
}
NAMINGS = ("kohya", "kohya ldm", "lycoris", "ldm", "diffusers", "peft", "peft raw")
FLAT_ONLY = {"IA3 on input", "IA3 on output"}  # their part is called "weight", which only flat keys set apart


def cases() -> list[object]:
    return [
        pytest.param(name, naming, id=f"{name}-{naming}")
        for name, naming in product(FORMATS, NAMINGS)
        if name not in FLAT_ONLY or naming in ("kohya", "kohya ldm", "lycoris")
    ]


@pytest.fixture(scope="module")
def applied() -> tuple[Small, Networks]:
    small = Small.of("SD 1.x", 5)
    return small, small.networks()


@pytest.mark.parametrize(("name", "naming"), cases())
def test_a_changed_weight_is_the_formula(
    name: str, naming: str, applied: tuple[Small, Networks], tmp_path: Path, test_seed: int
) -> None:
    (small, networks), (make, targets) = applied, FORMATS[name]
    dice, multiplier = Dice(test_seed), 0.7
    made = {target: make(small.layer(target).weight, dice) for target in targets}
    path = write_adapter(tmp_path / "a.safetensors", small, {t: parts for t, (parts, _) in made.items()}, naming)
    before = {target: f64(small.layer(target).weight.clone()) for target in targets}
    outcome = networks.apply([Network(path, "a", multiplier, multiplier)])
    assert outcome.applied == ("a",)
    assert outcome.warnings == ()
    for target, (_, delta) in made.items():
        wanted = before[target] + multiplier * delta(before[target].copy())
        got = f64(small.layer(target).weight)
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max(), f"{target.path}"
        assert np.abs(wanted - before[target]).max() > 1e-3
    networks.apply([])
    assert all(np.array_equal(f64(small.layer(target).weight), before[target]) for target in targets)
