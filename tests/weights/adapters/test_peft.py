"""What PEFT (the library behind diffusers' adapters) saves and merges, we merge. Skipped where it is absent."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.weights.adapters.apply import Network
from tests.weights.adapters.nets import Dice, Small

peft = pytest.importorskip("peft")

LAYERS = r".*(attn\d\.to_[qkv]|attn2\.to_out\.0|in_layers\.2|0\.op|output_blocks\.0\.0\.skip_connection|proj_in)"
CONFIGS: dict[str, Any] = {
    "LoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=LAYERS),
    "LoRA, rank stabilised": lambda: peft.LoraConfig(r=4, lora_alpha=2, target_modules=LAYERS, use_rslora=True),
    "LoRA, ranks and alphas by layer": lambda: peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=LAYERS, rank_pattern={"attn2.to_k": 2}, alpha_pattern={"attn1.to_q": 1}
    ),
    "DoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=LAYERS, use_dora=True),
    "LoHa": lambda: peft.LoHaConfig(r=3, alpha=5, target_modules=LAYERS),
    "LoHa Tucker": lambda: peft.LoHaConfig(r=3, alpha=5, target_modules=LAYERS, use_effective_conv2d=True),
    "LoKr": lambda: peft.LoKrConfig(r=3, alpha=5, target_modules=LAYERS, decompose_both=True),
    "LoKr Tucker": lambda: peft.LoKrConfig(r=2, alpha=5, target_modules=LAYERS, use_effective_conv2d=True),
    "LoKr whole": lambda: peft.LoKrConfig(r=64, alpha=32, target_modules=LAYERS),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_peft_merges_we_merge(name: str, tmp_path: Path, test_seed: int) -> None:
    small, dice = Small.of("SD 1.x", test_seed), Dice(test_seed)
    theirs = peft.get_peft_model(copy.deepcopy(small.unet), CONFIGS[name]())
    for key, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            value = dice(*parameter.shape)
            parameter.data.copy_(1 + value if "magnitude" in key else value)
    theirs.save_pretrained(tmp_path)
    outcome = small.networks().apply([Network(tmp_path / "adapter_model.safetensors", name)])
    assert outcome.warnings == ()
    before = small.source.states["unet"]
    changed = 0
    for key, wanted in theirs.merge_and_unload().state_dict().items():
        got = small.unet.state_dict()[key]
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        changed += not torch.equal(got, before[key])
    assert changed > 10
