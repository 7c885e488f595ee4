"""What PEFT (the library behind diffusers' adapters) saves and merges, we merge, and what diffusers fuses by it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.weights.adapters.apply import Network
from modules.weights.keymaps import Target
from tests.nets.diffusers_keys import translated, unet_key
from tests.weights.adapters.nets import Dice, Small, number, write_adapter

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


def test_what_diffusers_loads_and_fuses_we_merge(tmp_path: Path, test_seed: int) -> None:
    """A LoRA in kohya's names on every layer diffusers can put one, through its own converter and PEFT."""
    diffusers = pytest.importorskip("diffusers")
    small = Small.of("SD 1.x", test_seed)
    theirs: Any = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=(1, 2),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    pristine = small.source.states["unet"]
    theirs.load_state_dict(translated(theirs.state_dict(), lambda k: unet_key(k, 1, (1,)), pristine.__getitem__))
    dice, layers = Dice(test_seed), {}
    for path, layer in small.unet.named_modules():
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)) and ("transformer" in path or ".in_layers" in path):
            out, inputs, *kernel = layer.weight.shape
            up, down = dice(out, 3, *(1 for _ in kernel)), dice(3, inputs, *kernel)
            layers[Target("unet", path)] = {"lora_up.weight": up, "lora_down.weight": down, "alpha": number(2.0)}
    path = write_adapter(tmp_path / "a.safetensors", small, layers)
    state, alphas = diffusers.StableDiffusionPipeline.lora_state_dict(str(path), unet_config=theirs.config)
    theirs.load_lora_adapter(state, network_alphas=alphas, prefix="unet")
    theirs.fuse_lora(lora_scale=0.6)
    theirs.unload_lora()
    outcome = small.networks().apply([Network(path, "a", 0.6, 0.6)])
    assert outcome.warnings == ()
    for key, wanted in theirs.state_dict().items():
        ours = small.unet.state_dict()[unet_key(key, 1, (1,))].reshape(wanted.shape)
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    assert sum(not torch.equal(small.layer(t).weight, pristine[f"{t.path}.weight"]) for t in layers) == len(layers) > 30
