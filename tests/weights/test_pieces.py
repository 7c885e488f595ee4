"""Models in pieces draw as one file would: diffusers folders, U-Nets alone, VAEs of their own, averaged weights."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from modules.memory.devices import detect
from modules.memory.policy import choose
from modules.schema.errors import BadFile
from modules.schema.folders import Folders
from modules.schema.settings import Settings
from modules.weights import vaes
from modules.weights.catalogue import Catalogue
from modules.weights.reading import open_model
from modules.weights.residency import Residency
from tests.weights.tiny import randomise, tiny_tensors, write_tiny_sd15

FACTS = detect(use_cpu=True)
POLICY = choose(FACTS, Settings())
TEXT = "cond_stage_model.transformer."
VAE = "first_stage_model."
UNET = "model.diffusion_model."


@pytest.fixture
def folders(tmp_path) -> Folders:
    folders = Folders.under(tmp_path)
    folders.checkpoint_dirs[0].mkdir(parents=True)
    return folders


@pytest.fixture
def residency(folders) -> Residency:
    return Residency(Catalogue(folders, folders.database), FACTS)


def find(residency: Residency, name: str):
    assert residency.catalogue is not None
    return residency.catalogue.find(name)


def answers(residency: Residency, name: str, vae: Path | None = None) -> dict[str, Tensor]:
    """What the three nets of a model make of fixed inputs."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 49000, (1, 77), generator=generator)
    x, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 77, 32, generator=generator)
    view = find(residency, name).model_copy(update={"vae": str(vae) if vae else None})
    with residency.lease(view, POLICY) as model, torch.inference_mode():
        text = model.towers[0].net
        return {
            "unet": model.unet(x, torch.tensor([500.0]), context),
            "vae": model.vae.decode(x),
            "text": text.final_layer_norm(text.hidden_states(text.embed(ids))[-1]),
        }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for part in a:
        difference = (a[part] - b[part]).abs().max() / b[part].abs().max()
        # Two programs' float32 differ by up to 2e-4 on these nets; a misplaced tensor changes everything.
        assert difference < 1e-3, f"{part}: {difference:.1e}"


def write_folder(folder: Path, seed: int, bin_unet: bool = False) -> dict[str, Any]:
    """A small SD 1.x model as diffusers saves it."""
    generator = torch.Generator().manual_seed(seed)
    library: Any = diffusers  # its annotations are narrower than what it takes
    parts: dict[str, Any] = {
        "unet": library.UNet2DConditionModel(
            block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=(1, 2),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        "vae": library.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 32, 64, 64), layers_per_block=1, latent_channels=4,
        ),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1,
                eos_token_id=49407,
            )
        ),
    }  # fmt: skip
    for name, net in parts.items():
        saved: Any = randomise(net, generator)
        saved.save_pretrained(folder / name, safe_serialization=not (bin_unet and name == "unet"))
    index = {name: ["library", type(net).__name__] for name, net in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index}))
    return parts


def oracle(parts: dict[str, Any]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 49000, (1, 77), generator=generator)
    x, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 77, 32, generator=generator)
    with torch.inference_mode():
        return {
            "unet": parts["unet"](x, torch.tensor([500.0]), context).sample,
            "vae": parts["vae"].decode(x).sample,
            "text": parts["text_encoder"](ids).last_hidden_state,
        }


@pytest.mark.parametrize("bin_unet", [False, True])
def test_a_diffusers_folder_draws_as_diffusers_does(residency, folders, test_seed, bin_unet):
    folder = folders.checkpoint_dirs[0] / "pipe"
    parts = write_folder(folder, test_seed, bin_unet)
    view = find(residency, "pipe")
    assert (view.problem, view.family, view.name) == (None, "sd1", "pipe")
    same(answers(residency, "pipe"), oracle(parts))
    assert len(residency.catalogue.hash_of(view)) == 64  # type: ignore[union-attr]


def test_shards_are_read_as_one(residency, folders, test_seed):
    folder = folders.checkpoint_dirs[0] / "pipe"
    parts = write_folder(folder, test_seed)
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    keys = sorted(tensors)
    halves = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    for name, some in halves.items():
        save_file({key: tensors[key] for key in some}, whole.with_name(name))
    places = {key: name for name, some in halves.items() for key in some}
    whole.unlink()
    whole.with_name(f"{whole.name}.index.json").write_text(json.dumps({"weight_map": places}))
    same(answers(residency, "pipe"), oracle(parts))
    whole.with_name("b.safetensors").unlink()
    assert "lacks unet/b.safetensors" in (residency.catalogue.checkpoints(refresh=True)[0].problem or "")  # type: ignore[union-attr]
    places[keys[0]] = "../../../secret.safetensors"
    whole.with_name(f"{whole.name}.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(BadFile, match="list of weight files in unet is damaged"):
        open_model(folder)


def test_a_unet_alone_takes_its_companions_from_the_folders(residency, folders, test_seed, monkeypatch):
    monkeypatch.setattr("modules.weights.assembly.TOWERS", {32: (32,)})
    monkeypatch.setattr("modules.weights.assembly.KINDS", {32: "sd1"})
    root = folders.checkpoint_dirs[0]
    whole = load_file(write_tiny_sd15(root / "whole.safetensors", test_seed))
    unet = {key.removeprefix(UNET): value for key, value in whole.items() if key.startswith(UNET)}
    save_file(unet, root / "bare.safetensors")
    save_file({UNET + key: value for key, value in unet.items()}, root / "prefixed.safetensors")
    for name in ("bare", "prefixed"):
        problem = find(residency, name).problem or ""
        assert "a VAE in models/VAE and a CLIP text encoder 32 wide in models/text_encoder" in problem
    (folders.models / "VAE").mkdir()
    (folders.models / "text_encoder").mkdir()
    save_file(
        {k.removeprefix(VAE): v for k, v in whole.items() if k.startswith(VAE)}, folders.models / "VAE/v.safetensors"
    )
    save_file(
        {k.removeprefix(TEXT): v for k, v in whole.items() if k.startswith(TEXT)},
        folders.models / "text_encoder/clip_l.safetensors",
    )
    residency.catalogue.checkpoints(refresh=True)  # type: ignore[union-attr]
    for name in ("bare", "prefixed"):
        assert find(residency, name).problem is None
        same(answers(residency, name), answers(residency, "whole"))


@pytest.mark.parametrize("form", ["bare", "prefixed", "wrapped pickle", "diffusers"])
def test_a_vae_of_its_own_takes_the_place_of_the_checkpoints(residency, folders, test_seed, form):
    root = folders.checkpoint_dirs[0]
    write_tiny_sd15(root / "a.safetensors", test_seed)
    other = {k.removeprefix(VAE): v for k, v in tiny_tensors(test_seed + 1).items() if k.startswith(VAE)}
    (folders.models / "VAE").mkdir()
    path = folders.models / "VAE" / ("v.safetensors" if form != "wrapped pickle" else "v.vae.pt")
    if form == "bare":
        save_file(other | {"loss.logvar": torch.zeros(1)}, path)
    elif form == "prefixed":
        save_file({VAE + key: value for key, value in other.items()}, path)
    elif form == "wrapped pickle":
        torch.save({"state_dict": other, "global_step": 3}, path)
    else:
        parts = write_folder(folders.data / "pipe", test_seed)
        path = folders.data / "pipe/vae/diffusion_pytorch_model.safetensors"
    mine, theirs = answers(residency, "a"), answers(residency, "a", path)
    same({"unet": mine["unet"], "text": mine["text"]}, {"unet": theirs["unet"], "text": theirs["text"]})
    if form == "diffusers":
        same({"vae": theirs["vae"]}, {"vae": oracle(parts)["vae"]})
    else:
        save_file(tiny_tensors(test_seed + 1), root / "b.safetensors")
        residency.catalogue.checkpoints(refresh=True)  # type: ignore[union-attr]
        same({"vae": theirs["vae"]}, {"vae": answers(residency, "b")["vae"]})
    same(mine, answers(residency, "a"))  # and the checkpoint's own is back


def test_a_file_that_is_no_vae_is_refused_before_anything_is_dropped(residency, folders, test_seed, tmp_path):
    write_tiny_sd15(folders.checkpoint_dirs[0] / "a.safetensors", test_seed)
    before = answers(residency, "a")
    save_file({"x.lora_up.weight": torch.ones(2, 2)}, tmp_path / "lora.safetensors")
    wide = {k.removeprefix(VAE): v for k, v in tiny_tensors(test_seed).items() if k.startswith(VAE)}
    wide["decoder.conv_in.weight"] = torch.zeros(32, 16, 3, 3)
    save_file(wide, tmp_path / "wide.safetensors")
    for name, words in {"lora": "no autoencoder", "wide": "16-channel latents"}.items():
        with pytest.raises(BadFile, match=words):
            answers(residency, "a", tmp_path / f"{name}.safetensors")
        assert [view.name for view in residency.kept] == ["a"]
        assert residency.kept[0].vae is None
    same(before, answers(residency, "a"))


def test_the_averaged_weights_where_the_notes_ask_for_them(residency, folders, test_seed):
    root = folders.checkpoint_dirs[0]
    trained, averaged = tiny_tensors(test_seed), tiny_tensors(test_seed + 1)
    flat = {
        "model_ema." + k.removeprefix("model.").replace(".", ""): v for k, v in averaged.items() if k.startswith(UNET)
    }
    save_file(trained | flat | {"model_ema.decay": torch.ones(1)}, root / "both.safetensors")
    save_file(trained, root / "trained.safetensors")
    save_file({k: averaged[k] if k.startswith(UNET) else v for k, v in trained.items()}, root / "averaged.safetensors")
    same(answers(residency, "both"), answers(residency, "trained"))
    (root / "both.json").write_text(json.dumps({"ema": True, "prediction type": "v", "notes": "mine"}))
    same(answers(residency, "both"), answers(residency, "averaged"))
    with residency.lease(find(residency, "both"), POLICY) as model:
        assert model.prediction == "v"


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "scaled", "bf16"])
def test_small_number_types_are_computed_in_the_policys(residency, folders, test_seed, kind):
    root = folders.checkpoint_dirs[0]
    tensors = tiny_tensors(test_seed)
    stored, exact = {}, {}
    dtype = {"F8_E5M2": torch.float8_e5m2, "bf16": torch.bfloat16}.get(kind, torch.float8_e4m3fn)
    for key, value in tensors.items():
        if not key.startswith(UNET) or value.dim() < 2:
            stored[key] = exact[key] = value
            continue
        scale = value.abs().max() / 448 if kind == "scaled" else torch.tensor(1.0)
        stored[key] = (value / scale).to(dtype)
        exact[key] = stored[key].float() * scale
        if kind == "scaled":
            stored[key.removesuffix("weight") + "scale_weight"] = scale
    if kind == "scaled":
        stored[UNET + "scaled_fp8"] = torch.zeros(2, dtype=dtype)
    save_file(stored, root / "small.safetensors")
    save_file(exact, root / "exact.safetensors")
    same(answers(residency, "small"), answers(residency, "exact"))


def test_several_models_stay_where_the_policy_keeps_them(residency, folders, test_seed):
    for n, name in enumerate("abc"):
        write_tiny_sd15(folders.checkpoint_dirs[0] / f"{name}.safetensors", test_seed + n)
    two = replace(POLICY, models_kept=2)
    for name in "aba":
        with residency.lease(find(residency, name), two) as model:
            last = model
    with residency.lease(find(residency, "a"), two) as model:
        assert model is last
    del model, last
    assert [view.name for view in residency.kept] == ["b", "a"]
    with residency.lease(find(residency, "c"), two):
        assert [view.name for view in residency.kept] == ["a", "c"]
    with residency.lease(find(residency, "c"), POLICY), residency.lease(find(residency, "b"), POLICY):
        assert {view.name for view in residency.kept} >= {"b", "c"}  # what is leased is never freed
    with residency.lease(find(residency, "a"), POLICY):
        assert [view.name for view in residency.kept] == ["a"]


def test_models_are_freed_when_nobody_has_drawn_for_a_while(residency, folders, test_seed):
    write_tiny_sd15(folders.checkpoint_dirs[0] / "a.safetensors", test_seed)
    with residency.lease(find(residency, "a"), POLICY):
        residency.free_when_idle(0.05)
        time.sleep(0.15)  # its time is over, but the model is leased
        assert residency.loaded
    deadline = time.monotonic() + 30
    while residency.loaded and time.monotonic() < deadline:
        time.sleep(0.02)
    assert residency.loaded is None


def test_the_vae_rule(folders, tmp_path):
    root = folders.checkpoint_dirs[0]
    (folders.models / "VAE").mkdir()
    for path in (root / "sd.safetensors", root / "sdxl.vae.pt", root / "named.vae.safetensors"):
        path.touch()
    for name in ("other.safetensors", "named.pt", "third.ckpt"):
        (folders.models / "VAE" / name).touch()
    listed = vaes.list_vaes(folders)
    assert list(listed) == ["named.pt", "named.vae.safetensors", "other.safetensors", "sdxl.vae.pt", "third.ckpt"]

    def chosen(stem: str, setting: str, noted: str | None = None, wins: bool = True) -> str | None:
        choice = vaes.choose(root / f"{stem}.safetensors", setting, noted, listed, wins)
        return choice.warning or (choice.path.name if choice.path else None)

    assert chosen("sd", "Automatic") is None  # A1111 would take sdxl.vae.pt, which merely begins alike
    assert chosen("sdxl", "Automatic") == "sdxl.vae.pt"
    assert chosen("named", "Automatic") == "named.vae.safetensors"
    assert chosen("third", "Automatic") == "third.ckpt"
    assert chosen("named", "None") is None
    assert chosen("named", "other.safetensors") == "other.safetensors"
    assert chosen("named", "other") == "other.safetensors"
    assert chosen("named", "other.safetensors", wins=False) == "named.vae.safetensors"
    assert chosen("sd", "Automatic", "third.ckpt") == "third.ckpt"
    assert chosen("sd", "other.safetensors", "third.ckpt", wins=False) == "third.ckpt"
    assert "No VAE is called 'othr.safetensors'" in (chosen("sd", "othr.safetensors") or "")
    assert "No VAE is called" in (chosen("sd", str(folders.models / "VAE/other.safetensors")) or "")  # no paths
