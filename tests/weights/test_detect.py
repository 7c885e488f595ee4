"""Checkpoints are recognised by structure, their sizes read off shapes, everything else called by its right name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.nets.autoencoder import AutoencoderConfig
from modules.nets.clip import ClipConfig
from modules.nets.unet import UNetConfig
from modules.schema.errors import BadFile
from modules.weights.detect import detect
from modules.weights.headers import Header, TensorInfo, read_header
from modules.weights.sidecar import SideCar, read_sidecar
from tests.weights.tiny import PREFIXES, TEXT, UNET, VAE, tiny_tensors, write_keys, write_tiny_sd15

U = "model.diffusion_model."

OTHERS = {
    "SD3": {U + "joint_blocks.0.context_block.attn.qkv.weight": (8, 8), U + "x_embedder.proj.weight": (8, 16, 2, 2)},
    "Flux": {"double_blocks.0.img_attn.norm.key_norm.scale": (8,), "img_in.weight": (8, 64)},
    "U-Net of an SDXL": {"input_blocks.0.0.weight": (32, 4, 3, 3), "label_emb.0.0.weight": (128, 2816)},
    "U-Net of an SD 1.x": {"input_blocks.0.0.weight": (32, 4, 3, 3)},
    "AltDiffusion": {U + "input_blocks.0.0.weight": (32, 4, 3, 3), "cond_stage_model.roberta.embeddings.w": (3, 3)},
    "a LoRA": {"lora_unet_mid_block.lora_down.weight": (4, 32), "lora_unet_mid_block.lora_up.weight": (32, 4)},
    "LoRA": {"unet.up.lora_A.weight": (4, 32), "unet.up.lora_B.weight": (32, 4)},
    "models/VAE": {"encoder.conv_in.weight": (32, 3, 3, 3), "decoder.conv_in.weight": (32, 4, 3, 3)},
    "embedding": {"emb_params": (3, 768)},
    "ControlNet": {"control_model.input_blocks.0.0.weight": (32, 4, 3, 3), "control_model.x": (1,)},
    "diffusers layout": {"conv_in.weight": (32, 4, 3, 3), "down_blocks.0.resnets.0.norm1.weight": (32,)},
    "upscaler": {"conv_first.weight": (64, 3, 3, 3), "conv_last.weight": (3, 64, 3, 3)},
    "text encoder": {f"text_model.encoder.layers.0.x{n}": (2, 2) for n in range(12)},
    "IP-Adapter": {"ip_adapter.1.to_k_ip.weight": (8, 8), "image_proj.norm.weight": (8,)},
    "no model known here": {f"layer{n}.weight": (2, 2) for n in range(12)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_drawn_is_called_by_name(tmp_path, name):
    path = write_keys(tmp_path / "file.safetensors", OTHERS[name])
    with pytest.raises(BadFile) as caught:
        detect(read_header(path))
    assert name in caught.value.message
    assert caught.value.message.startswith("file.safetensors is ")


@pytest.mark.parametrize(
    ("unet", "vae", "text"),
    [
        (UNET, VAE, TEXT),
        (
            UNetConfig(
                model_channels=32, channel_mult=(1, 2, 2, 3), num_res_blocks=2, input_depths=(0, 0, 1, 1, 2, 2, 0, 0),
                middle_depth=3, output_depths=(0, 0, 0, 2, 2, 2, 1, 1, 1, 0, 0, 0), context_dim=64, num_heads=None,
                head_dim=32,
            ),
            AutoencoderConfig(ch=64, ch_mult=(1, 2), num_res_blocks=2),
            ClipConfig(width=64, layers=3, heads=2, mlp=100, positions=90),
        ),
        (
            UNetConfig(
                model_channels=64, channel_mult=(1, 2, 4), num_res_blocks=1, input_depths=(1, 1, 0), middle_depth=None,
                output_depths=(0, 0, 1, 1, 1, 1), context_dim=32, num_heads=None, head_dim=32,
            ),
            VAE,
            TEXT,
        ),
    ],
)  # fmt: skip
def test_every_size_is_read_off_the_shapes(tmp_path, test_seed, unet, vae, text):
    path = write_tiny_sd15(tmp_path / "m.safetensors", test_seed, unet=unet, vae=vae, text=text)
    facts = detect(read_header(path))
    assert facts.family == "sd1"
    assert UNetConfig(**facts.unet.config) == unet
    assert AutoencoderConfig(**facts.vae.config) == vae
    assert ClipConfig(**facts.towers[0].component.config) == text


def full_size_header(metadata: dict[str, str] | None = None) -> Header:
    """The header of a full-size SD 1.5 file, without the file."""
    from modules.nets.autoencoder import Autoencoder
    from modules.nets.clip import TextEncoder
    from modules.nets.unet import UNet

    with torch.device("meta"):
        nets = {"unet": UNet(UNetConfig()), "vae": Autoencoder(AutoencoderConfig()), "text": TextEncoder(ClipConfig())}
    tensors = {
        PREFIXES[part] + key: TensorInfo("F16", tuple(tensor.shape), 0, tensor.numel() * 2)
        for part, net in nets.items()
        for key, tensor in net.state_dict().items()
    }
    return Header(Path("v1-5.safetensors"), tensors, metadata or {})


def test_full_size_sd15_is_recognised_with_the_real_rules():
    facts = detect(full_size_header())
    assert UNetConfig(**facts.unet.config) == UNetConfig()
    assert AutoencoderConfig(**facts.vae.config) == AutoencoderConfig()
    assert ClipConfig(**facts.towers[0].component.config) == ClipConfig()
    assert (facts.latent.scale, facts.prediction, facts.resolution) == (0.18215, "eps", (512, 512))


def test_heads_side_car_before_metadata_before_rule(tmp_path, test_seed):
    path = write_tiny_sd15(tmp_path / "m.safetensors", test_seed)
    header = read_header(path)
    said = Header(header.path, header.tensors, {"easel.unet_head_dim": "16", "easel.text_heads": "4"})
    assert detect(header).unet.config["head_dim"] == 32
    assert detect(header).towers[0].component.config["heads"] == 1
    assert detect(said).unet.config["head_dim"] == 16
    assert detect(said).towers[0].component.config["heads"] == 4
    assert detect(said, SideCar(num_heads=8)).unet.config["num_heads"] == 8
    with pytest.raises(BadFile, match="cannot be split into heads of 48"):
        detect(header, SideCar(head_dim=48))


@pytest.mark.parametrize(
    ("metadata", "resolution", "cfg"),
    [
        ({}, (128, 128), None),
        ({"modelspec.resolution": "256x192", "easel.default_cfg_scale": "5"}, (256, 192), 5.0),
        ({"modelspec.resolution": "768", "easel.default_cfg_scale": "nan"}, (768, 768), None),
        ({"modelspec.resolution": "99999x1", "easel.default_cfg_scale": "a lot"}, (128, 128), None),
    ],
)
def test_metadata_sets_native_size_and_cfg(tmp_path, test_seed, metadata, resolution, cfg):
    facts = detect(read_header(write_tiny_sd15(tmp_path / "m.safetensors", test_seed, metadata=metadata)))
    assert (facts.resolution, facts.cfg_scale) == (resolution, cfg)


@pytest.mark.parametrize(("part", "words"), [("vae", "no autoencoder"), ("text", "no text encoder")])
def test_a_missing_part_is_named(tmp_path, test_seed, part, words):
    tensors = {key: t for key, t in tiny_tensors(test_seed).items() if not key.startswith(PREFIXES[part])}
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(BadFile, match=words):
        detect(read_header(tmp_path / "m.safetensors"))


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("text:embeddings.token_embedding.weight", (100, 32), "knows 100 tokens"),
        ("text:embeddings.position_embedding.weight", (10, 32), "10 positions"),
        ("unet:input_blocks.0.0.weight", (33, 4, 3, 3), "33 channels"),
        ("unet:input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (32, 48), "48 wide"),
        ("unet:label_emb.0.0.weight", (128, 100), "a vector of 100"),
        ("vae:encoder.conv_in.weight", (32, 1, 3, 3), "latent channels|autoencoder"),
        ("unet:input_blocks.1.0.out_layers.3.weight", (40, 32, 3, 3), "no multiples"),
    ],
)
def test_odd_sizes_are_refused_with_the_reason(tmp_path, test_seed, key, shape, words):
    path = write_tiny_sd15(tmp_path / "m.safetensors", test_seed)
    part, name = key.split(":")
    save_file(load_file(path) | {PREFIXES[part] + name: torch.zeros(shape)}, path)
    with pytest.raises(BadFile, match=words):
        detect(read_header(path))


def test_side_car_values_are_read_and_nothing_is_imported(tmp_path):
    checkpoint = tmp_path / "m.safetensors"
    (tmp_path / "m.yaml").write_text(
        "model:\n  target: this.module.does.not.Exist\n  params:\n    parameterization: v\n    scale_factor: 0.5\n"
        "    unet_config:\n      target: os.system\n      params: {num_heads: 8, num_head_channels: -3}\n"
    )
    assert read_sidecar(checkpoint) == SideCar(num_heads=8, prediction="v", scale_factor=0.5)


@pytest.mark.parametrize(
    "content",
    [
        b"model: [unclosed",
        b"\xff\xfe\x00",
        b"!!python/object/apply:os.system ['echo canary > canary']",
        b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]",
        b"[" * 5000,
        b"#" * 300_000,
    ],
)
def test_a_bad_side_car_warns_and_is_ignored(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_bytes(content)
    car = read_sidecar(tmp_path / "m.safetensors")
    assert len(car.warnings) == 1
    assert "m.yaml" in car.warnings[0]
    assert car == SideCar(warnings=car.warnings)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("content", [b"", b"5", b"- a\n- b", b"model: 3", b"model: {params: {unet_config: [1]}}"])
def test_a_side_car_without_values_says_nothing(tmp_path, content):
    (tmp_path / "m.yaml").write_bytes(content)
    assert read_sidecar(tmp_path / "m.safetensors") == SideCar()
