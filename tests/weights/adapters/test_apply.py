"""Adapters on nets: what is merged comes back bit for bit, costs nothing twice, and equals what is computed beside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.memory.devices import DeviceFacts
from modules.memory.policy import Policy
from modules.nets.unet import UNet
from modules.schema.folders import Folders
from modules.weights.adapters.apply import Network
from modules.weights.catalogue import Catalogue
from modules.weights.keymaps import Target
from modules.weights.residency import LoadedModel, Residency
from tests.weights.adapters.nets import FAMILIES, Dice, Small, key_of, number, write_adapter
from tests.weights.adapters.test_formats import CONVS, FORMATS, LINEARS
from tests.weights.tiny import write_tiny

CPU = torch.device("cpu")
POLICY = Policy("cpu", "float32", "float32", "float32")


def lora_for(small: Small, dice: Dice, rank: int = 2, part: str = "attn") -> dict[Target, dict[str, torch.Tensor]]:
    """A LoRA for every attention layer of the denoiser and every layer of the text encoders."""
    layers = {}
    for net, module in small.nets().items():
        for path, layer in module.named_modules():
            if isinstance(layer, torch.nn.Linear) and (part in path or net != "unet") and path != "text_projection":
                out, inputs = layer.weight.shape
                layers[Target(net, path)] = {
                    "lora_up.weight": dice(out, rank), "lora_down.weight": dice(rank, inputs), "alpha": number(rank),
                }  # fmt: skip
    return layers


def draw(unet: UNet, seed: int) -> torch.Tensor:
    dice = Dice(seed)
    y = None if unet.config.adm_channels is None else dice(2, unet.config.adm_channels)
    with torch.no_grad():
        return unet(dice(2, unet.config.in_channels, 8, 8, scale=1), torch.tensor([3.0, 500.0]),
                    dice(2, 5, unet.config.context_dim, scale=1), y)  # fmt: skip


@pytest.fixture
def small(test_seed: int) -> Small:
    return Small.of("SD 1.x", test_seed)


@pytest.fixture
def lora(small: Small, tmp_path: Path, test_seed: int) -> Path:
    return write_adapter(tmp_path / "lora.safetensors", small, lora_for(small, Dice(test_seed)))


def test_merged_and_beside_draw_the_same(small: Small, tmp_path: Path, test_seed: int) -> None:
    for name, (make, targets) in FORMATS.items():
        dice = Dice(test_seed)
        unet_only = [target for target in targets if not target.is_text]
        made = {target: make(small.layer(target).weight, dice)[0] for target in unet_only}
        network = Network(write_adapter(tmp_path / f"{name}.safetensors", small, made), name, 0.5, 0.5)
        plain = draw(small.unet, test_seed)
        pristine = small.digest()
        merging, beside = small.networks(), small.networks(beside=True)
        merging.apply([network])
        merged = draw(small.unet, test_seed)
        merging.apply([])
        beside.apply([network])
        assert small.digest() == pristine
        apart = draw(small.unet, test_seed)
        beside.apply([])
        assert (merged - apart).abs().max() <= 1e-5 * merged.abs().max(), name
        assert (merged - plain).abs().max() > 1e-4, name
        assert torch.equal(draw(small.unet, test_seed), plain)


@pytest.mark.parametrize("fails_at", [1, 7, 40])
def test_after_an_exception_half_way_every_weight_is_back(small: Small, lora: Path, fails_at: int) -> None:
    pristine, networks = small.digest(), small.networks()
    small.source.fails_at = fails_at
    with pytest.raises(OSError, match="the disk is gone"):
        networks.apply([Network(lora, "lora")])
    assert small.digest() == pristine
    assert networks.outcome.applied == ()
    assert networks.apply([Network(lora, "lora")]).applied == ("lora",)
    assert small.digest() != pristine


def test_an_exception_while_going_back_is_made_good_by_the_next(small: Small, lora: Path) -> None:
    pristine, networks = small.digest(), small.networks()
    networks.apply([Network(lora, "lora")])
    small.source.reads.clear()
    small.source.fails_at = 9
    with pytest.raises(OSError, match="the disk is gone"):
        networks.apply([])
    networks.apply([])
    assert small.digest() == pristine


def test_the_same_networks_again_read_nothing(small: Small, lora: Path) -> None:
    networks = small.networks()
    networks.apply([Network(lora, "lora", 0.5, 0.5)])
    changed = small.digest()
    small.source.reads.clear()
    networks.apply([Network(lora, "lora", 0.5, 0.5)])
    assert small.source.reads == []
    assert small.digest() == changed


def test_only_weights_whose_recipe_differs_are_read(small: Small, lora: Path, tmp_path: Path, test_seed: int) -> None:
    networks = small.networks()
    networks.apply([Network(lora, "lora", 0.5, 0.5)])
    small.source.reads.clear()
    networks.apply([Network(lora, "lora", 0.5, 0.7)])  # the text encoder's stays
    assert small.source.reads
    assert {target.net for target, _ in small.source.reads} == {"unet"}
    assert not any("ff" in target.path or "conv" in target.path for target, _ in small.source.reads)


def test_zero_is_exactly_the_original(small: Small, lora: Path) -> None:
    pristine, networks = small.digest(), small.networks()
    networks.apply([Network(lora, "lora", 0.9, 0.9)])
    networks.apply([Network(lora, "lora", 0.0, 0.0)])
    assert small.digest() == pristine


def test_text_encoder_and_denoiser_have_their_own_strength(small: Small, lora: Path) -> None:
    networks = small.networks()
    before = {net: [t.clone() for t in module.state_dict().values()] for net, module in small.nets().items()}

    def changed() -> set[str]:
        now = {net: list(module.state_dict().values()) for net, module in small.nets().items()}
        return {net for net in now if any(not torch.equal(a, b) for a, b in zip(before[net], now[net]))}

    networks.apply([Network(lora, "lora", 1.0, 0.0)])
    assert changed() == {"te1"}
    networks.apply([Network(lora, "lora", 0.0, 1.0)])
    assert changed() == {"unet"}


def test_several_add_up_in_any_order_and_one_named_twice_counts_twice(
    small: Small, lora: Path, tmp_path: Path, test_seed: int
) -> None:
    other = write_adapter(tmp_path / "b.safetensors", small, lora_for(small, Dice(test_seed + 1)))
    networks = small.networks()
    both = [Network(lora, "lora", 0.5, 0.5), Network(other, "b", 0.25, 0.25)]
    networks.apply(both)
    one_way = draw(small.unet, test_seed)
    networks.apply(both[::-1])
    torch.testing.assert_close(draw(small.unet, test_seed), one_way, rtol=1e-4, atol=1e-5)
    networks.apply([Network(lora, "lora", 0.75, 0.75)])
    once = draw(small.unet, test_seed)
    networks.apply([Network(lora, "lora", 0.5, 0.5), Network(lora, "lora", 0.25, 0.25)])
    torch.testing.assert_close(draw(small.unet, test_seed), once, rtol=1e-4, atol=1e-5)


def test_fewer_ranks_are_the_first_ones_at_the_same_scale(small: Small, tmp_path: Path, test_seed: int) -> None:
    dice, target = Dice(test_seed), LINEARS[0]
    weight = small.layer(target).weight.clone()
    up, down = dice(weight.shape[0], 4), dice(4, weight.shape[1])
    parts = {"lora_up.weight": up, "lora_down.weight": down, "alpha": number(2.0)}
    path = write_adapter(tmp_path / "a.safetensors", small, {target: parts})
    small.networks().apply([Network(path, "a", 1.0, 1.0, ranks=3)])
    torch.testing.assert_close(small.layer(target).weight, weight + up[:, :3] @ down[:3] * (2 / 4))


def test_biases_change_and_come_back(small: Small, tmp_path: Path, test_seed: int) -> None:
    dice, target = Dice(test_seed), CONVS[0]
    layer, pristine = small.layer(target), small.digest()
    weight, bias, diff = layer.weight.clone(), layer.bias.clone(), dice(layer.bias.shape[0])
    path = write_adapter(tmp_path / "a.safetensors", small, {target: {"diff_b": diff}})
    networks = small.networks()
    assert networks.apply([Network(path, "a", 0.5, 0.5)]).warnings == ()
    torch.testing.assert_close(layer.bias, bias + 0.5 * diff)
    assert torch.equal(layer.weight, weight)
    networks.apply([])
    assert small.digest() == pristine


def test_an_inpainting_model_takes_a_first_convolution_made_for_four_channels(tmp_path: Path, test_seed: int) -> None:
    small, dice = Small.of("SD 1.x inpainting", test_seed), Dice(test_seed)
    target = Target("unet", "input_blocks.0.0")
    weight = small.layer(target).weight.clone()
    diff = dice(weight.shape[0], 4, 3, 3)
    path = tmp_path / "a.safetensors"
    save_file({"lora_unet_conv_in.diff": diff}, path)
    small.networks().apply([Network(path, "a")])
    changed = small.layer(target).weight
    torch.testing.assert_close(changed[:, :4], weight[:, :4] + diff)
    assert torch.equal(changed[:, 4:], weight[:, 4:])


@pytest.mark.parametrize("rslora", [False, True])
def test_alpha_of_peft_stands_in_the_metadata(small: Small, tmp_path: Path, test_seed: int, rslora: bool) -> None:
    dice, (first, second) = Dice(test_seed), LINEARS[:2]
    layers = {}
    for target in (first, second):
        out, inputs = small.layer(target).weight.shape
        layers[target] = {"lora_up.weight": dice(out, 4), "lora_down.weight": dice(4, inputs)}
    weights = {target: small.layer(target).weight.clone() for target in layers}
    pattern = key_of(small, second, "x", "peft").removeprefix("unet.").removesuffix(".x")
    said = {"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {pattern: 1}, "unet.use_rslora": rslora}
    path = write_adapter(tmp_path / "a.safetensors", small, layers, "peft", {"lora_adapter_metadata": json.dumps(said)})
    small.networks().apply([Network(path, "a")])
    for target, alpha in ((first, 8), (second, 1)):
        product = layers[target]["lora_up.weight"] @ layers[target]["lora_down.weight"]
        scale = alpha / (4**0.5 if rslora else 4)
        torch.testing.assert_close(small.layer(target).weight, weights[target] + product * scale)


def test_keys_that_match_nothing_are_counted(small: Small, lora: Path) -> None:
    tensors = load_file(lora)
    tensors["lora_unet_no_such_layer.lora_up.weight"] = torch.zeros(2, 2)
    tensors["lora_unet_no_such_layer.lora_down.weight"] = torch.zeros(2, 2)
    tensors["something.else"] = torch.zeros(2)
    save_file(tensors, lora)
    outcome = small.networks().apply([Network(lora, "lora")])
    assert outcome.applied == ("lora",)
    assert any("1 of" in warning and "no_such_layer" in warning for warning in outcome.warnings)
    assert any("1 keys" in warning and "something.else" in warning for warning in outcome.warnings)


def test_missing_and_damaged_files_are_left_out_and_the_rest_applied(small: Small, lora: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(lora.read_bytes()[:-10])
    gone = tmp_path / "gone.safetensors"
    outcome = small.networks().apply([Network(broken, "broken"), Network(gone, "gone"), Network(lora, "lora")])
    assert outcome.applied == ("lora",)
    assert outcome.refused == ("broken", "gone")
    assert "incomplete" in outcome.warnings[0]
    assert "is gone" in outcome.warnings[1]


# ------------------------------------------------------------------------------------------------ blocks


def blocks_changed(small: Small, path: Path, blocks: str) -> set[str]:
    before = {key: value.clone() for key, value in small.unet.state_dict().items()}
    text = [value.clone() for value in small.towers[0].state_dict().values()]
    networks = small.networks()
    outcome = networks.apply([Network(path, "a", blocks=blocks)])
    assert outcome.warnings == ()
    changed = {
        ".".join(key.split(".")[:2] if key.startswith(("in", "output")) else key.split(".")[:1])
        for key, value in small.unet.state_dict().items()
        if not torch.equal(before[key], value)
    }
    if any(not torch.equal(a, b) for a, b in zip(text, small.towers[0].state_dict().values())):
        changed.add("text")
    networks.apply([])
    return changed


def test_block_weights_scale_their_blocks(small: Small, lora: Path) -> None:
    everything = {"text", "input_blocks.1", "middle_block", "output_blocks.2", "output_blocks.3"}
    assert blocks_changed(small, lora, "ALL") == everything
    assert blocks_changed(small, lora, "OUTALL") == {"text", "output_blocks.2", "output_blocks.3"}
    assert blocks_changed(small, lora, "MID") == {"middle_block"}
    assert blocks_changed(small, lora, "IN01+OUT03") == {"input_blocks.1", "output_blocks.3"}
    one_number_each = "0,1,0,0,0,0,0,0,0.5,0,0,0,0,0,0,0,0"  # of 17: BASE IN01 … OUT03
    assert blocks_changed(small, lora, one_number_each) == {"input_blocks.1", "output_blocks.3"}


def test_a_block_weight_is_a_factor(small: Small, lora: Path) -> None:
    networks, target = small.networks(), Target("unet", "output_blocks.3.1.transformer_blocks.0.attn1.to_q")
    before = small.layer(target).weight.clone()
    networks.apply([Network(lora, "lora")])
    whole = small.layer(target).weight - before
    numbers = ["0"] * 26
    numbers[17] = "-0.5"  # OUT03
    networks.apply([Network(lora, "lora", blocks=",".join(numbers))])
    torch.testing.assert_close(small.layer(target).weight, before - 0.5 * whole, rtol=1e-4, atol=1e-5)


def test_block_weights_nobody_can_read_are_told_and_ignored(small: Small, lora: Path) -> None:
    for text in ("1,2,3", "nothing", "1,x"):
        outcome = small.networks().apply([Network(lora, "lora", blocks=text)])
        assert outcome.applied == ("lora",)
        assert any(f"lbw={text}" in warning for warning in outcome.warnings)


# ------------------------------------------------------------------------------------------------ families


LABELS = ("SD 1.x", "SD 2.x", "SDXL", "SDXL refiner", "SSD-1B")
MATRIX = {
    "sd1": ("SD 1.x", "all", "kohya"), "sd1 denoiser": ("SD 1.x", "unet", "diffusers"),
    "sd1 text": ("SD 1.x", "text", "kohya"), "sd2": ("SD 2.x", "all", "kohya"),
    "sd2 denoiser": ("SD 2.x", "unet", "peft"), "sdxl": ("SDXL", "all", "kohya ldm"),
    "sdxl denoiser": ("SDXL", "unet", "kohya"), "sdxl text": ("SDXL", "text", "kohya"),
    "refiner": ("SDXL refiner", "unet", "ldm"), "flux": ("", "", ""),
}  # fmt: skip
"""Adapters: name -> (model it is made for, which of its layers, naming). SSD-1B is a smaller SDXL and takes SDXL's."""


def test_each_adapter_is_taken_by_its_own_family_alone(tmp_path: Path, test_seed: int) -> None:
    smalls = {label: Small.of(label, test_seed) for label in LABELS}
    decided, wrong = 0, []
    for name, (own, what, naming) in MATRIX.items():
        path = tmp_path / f"{name}.safetensors"
        if own:
            layers = lora_for(smalls[own], Dice(test_seed), part="attn2")
            layers = {t: parts for t, parts in layers.items() if what == "all" or t.is_text == (what == "text")}
            write_adapter(path, smalls[own], layers, naming)
        else:
            keys = [f"lora_unet_double_blocks_0_img_attn_qkv.lora_{way}.weight" for way in ("up", "down")]
            save_file({key: torch.zeros(8, 8) for key in keys}, path)
        for label, small in smalls.items():
            pristine, networks = small.digest(), small.networks()
            outcome = networks.apply([Network(path, name)])
            right = bool(own) and FAMILIES[label] == FAMILIES[own]
            decided += 1
            if (outcome.applied == (name,)) != right:
                wrong.append(f"{name} on {label}: {outcome.warnings}")
            if (small.digest() != pristine) != right:
                wrong.append(f"{name} on {label}: weights")
            networks.apply([])
    assert decided == 50
    assert not wrong


def test_the_refusal_names_both_families(tmp_path: Path, test_seed: int) -> None:
    xl, small = Small.of("SDXL", test_seed), Small.of("SD 1.x", test_seed)
    path = write_adapter(tmp_path / "a.safetensors", xl, lora_for(xl, Dice(test_seed)), "kohya ldm")
    (warning,) = small.networks().apply([Network(path, "ink")]).warnings
    assert warning == "ink was not applied: it is made for SDXL, the checkpoint is SD 1.x; choose one made for SD 1.x."


def test_what_the_trainer_wrote_counts_where_shapes_do_not_tell(tmp_path: Path, test_seed: int) -> None:
    small = Small.of("SD 1.x", test_seed)
    layers = {t: parts for t, parts in lora_for(small, Dice(test_seed), part="attn1").items() if not t.is_text}
    path = write_adapter(tmp_path / "a.safetensors", small, layers, metadata={"ss_v2": "True"})
    assert small.networks().apply([Network(path, "a")]).refused == ("a",)
    layers = lora_for(small, Dice(test_seed))
    path = write_adapter(tmp_path / "b.safetensors", small, layers, metadata={"ss_v2": "True"})
    assert small.networks().apply([Network(path, "b")]).applied == ("b",)


# ------------------------------------------------------------------------------------------------ a real model


def digest_of(model: LoadedModel) -> dict[str, bytes]:
    nets = {"unet": model.unet, "vae": model.vae, **{t.facts.name: t.net for t in model.towers}}
    return {
        f"{net}.{name}": tensor.contiguous().view(torch.uint8).numpy().tobytes()
        for net, module in nets.items()
        for name, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize("label", ["SD 1.x", "SD 2.x", "SDXL"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_leased_model_is_pristine_when_no_network_is_asked_for(
    label: str, precision: str, tmp_path: Path, test_seed: int
) -> None:
    folders = Folders.under(tmp_path)
    write_tiny(folders.checkpoint_dirs[0] / "m.safetensors", label, test_seed, dtype=torch.float32)
    catalogue = Catalogue(folders, folders.database)
    small = Small.of(label, test_seed)
    path = write_adapter(tmp_path / "a.safetensors", small, lora_for(small, Dice(test_seed)), "kohya ldm")
    policy = Policy("cpu", precision, "float32", "float32", channels_last=precision != "float32")
    residency = Residency(catalogue, DeviceFacts("cpu", "CPU", 0, False, False))
    view = catalogue.find("m")
    with residency.lease(view, policy) as model:
        pristine = digest_of(model)
    with residency.lease(view, policy, [Network(path, "a")]) as model:
        assert model.networks.outcome.applied == ("a",)
        changed = {name for name, value in digest_of(model).items() if value != pristine[name]}
        assert {name.split(".")[0] for name in changed} == {"unet", *(t.facts.name for t in model.towers)}
        assert any("q_proj" in name for name in changed)
        with residency.lease(view, policy) as inner:
            assert digest_of(inner) == pristine
        assert {name for name, value in digest_of(model).items() if value != pristine[name]} == changed
    with pytest.raises(RuntimeError, match="job"), residency.lease(view, policy, [Network(path, "a", 0.5, 0.5)]):
        raise RuntimeError("the job failed")
    with residency.lease(view, policy) as model:
        assert digest_of(model) == pristine
