"""Every family and layout: told apart, loaded to the last weight, its facts right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.memory.devices import detect as detect_device
from modules.memory.policy import choose
from modules.nets.autoencoder import AutoencoderConfig
from modules.nets.clip import ClipConfig
from modules.nets.unet import UNetConfig
from modules.schema.errors import BadFile
from modules.schema.folders import Folders
from modules.schema.settings import Settings
from modules.weights.build import blueprint, fill
from modules.weights.catalogue import Catalogue
from modules.weights.detect import detect
from modules.weights.headers import read_header
from modules.weights.reading import open_model
from modules.weights.residency import Residency
from modules.weights.sidecar import SideCar, read_sidecar
from tests.weights import full_size
from tests.weights.tiny import LAYOUTS, VAE, open_clip_keys, write_tiny

CPU = detect_device(use_cpu=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, test_seed) -> Folders:
    """One small file of every layout, called by its label."""
    folders = Folders.under(tmp_path_factory.mktemp("families"))
    for label in LAYOUTS:
        write_tiny(folders.checkpoint_dirs[0] / f"{label.replace('/', ' as ')}.safetensors", label, test_seed)
    return folders


def file_of(folders: Folders, label: str) -> Path:
    return folders.checkpoint_dirs[0] / f"{label.replace('/', ' as ')}.safetensors"


def test_confusion_matrix_of_families_is_diagonal(folders):
    found = {label: detect(read_header(file_of(folders, label))).label for label in LAYOUTS}
    labels = sorted({*found.values(), *(label.split("/")[0] for label in LAYOUTS)})
    width = max(map(len, LAYOUTS))
    print("\n" + " " * width, *(f"{n:>2}" for n in range(len(labels))))
    for label, answer in found.items():
        print(f"{label:{width}}", *(" X" if answer == column else " ." for column in labels))
    print(*(f"{n}: {label}" for n, label in enumerate(labels)), sep="\n")
    assert found == {label: label.split("/")[0] for label in LAYOUTS}


@pytest.mark.parametrize("label", LAYOUTS)
def test_sizes_are_read_off_and_every_weight_arrives(folders, label):
    layout, path = LAYOUTS[label], file_of(folders, label)
    tensors, cpu = load_file(path), torch.device("cpu")
    with open_model(path) as file:
        facts = detect(file.header)
        nets = blueprint(facts, file.header)
        assert nets.unet.config == layout.unet
        assert nets.vae.config == VAE
        assert [tower.net.config for tower in nets.towers] == [config for _, _, config in layout.towers]
        fill(nets.unet, file, facts.unet, cpu, torch.float32)
        fill(nets.vae, file, facts.vae, cpu, torch.float32)
        for tower in nets.towers:
            fill(tower.net, file, tower.facts.component, cpu, torch.float32)
    for (prefix, opened, _), tower in zip(layout.towers, nets.towers):
        state = tower.net.state_dict()
        if opened:
            written = open_clip_keys(state)
            if tower.net.config.projection is None:
                written.pop("text_projection")
            written.pop("logit_scale")
        else:
            written = {name: value for name, value in state.items() if name != "text_projection.weight"}
        same(written, tensors, prefix)
    same(nets.unet.state_dict(), tensors, "model.diffusion_model.")
    same(nets.vae.state_dict(), tensors, "first_stage_model.")
    if "SDXL/HF" in label:
        projection = {"text_projection.weight": nets.towers[1].net.text_projection.weight.data}
        same(projection, tensors, "conditioner.embedders.1.transformer.")


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], prefix: str) -> None:
    for name, value in ours.items():
        assert torch.equal(value, theirs[prefix + name].float()), name


EXPECTED = {  # family, prediction, concat, vector, zero SNR, levels, latent scale
    "SD 1.x": ("sd1", "eps", "", "", False, None, 0.18215),
    "SD 1.x inpainting": ("sd1", "eps", "inpaint", "", False, None, 0.18215),
    "SD 1.x instruct-pix2pix": ("sd1", "eps", "edit", "", False, None, 0.18215),
    "SD 2.x": ("sd2", "eps", "", "", False, None, 0.18215),
    "SD 2.x (v)": ("sd2", "v", "", "", False, None, 0.18215),
    "SD 2.x inpainting": ("sd2", "eps", "inpaint", "", False, None, 0.18215),
    "SD 2.x depth": ("sd2", "eps", "depth", "", False, None, 0.18215),
    "SDXL": ("sdxl", "eps", "", "sizes", False, None, 0.13025),
    "SDXL inpainting": ("sdxl", "eps", "inpaint", "sizes", False, None, 0.13025),
    "SDXL (v)": ("sdxl", "v", "", "sizes", True, None, 0.13025),
    "SSD-1B": ("sdxl", "eps", "", "sizes", False, None, 0.13025),
    "Playground v2.5": ("sdxl", "edm", "", "sizes", False, (0.002, 80.0), 0.5),
    "CosXL": ("sdxl", "v", "", "sizes", False, (pytest.approx(0.002), 100.0), 0.13025),
    "SDXL refiner": ("sdxl-refiner", "eps", "", "score", False, None, 0.13025),
}


@pytest.mark.parametrize("label", EXPECTED)
def test_facts(folders, label):
    facts = detect(read_header(file_of(folders, label)))
    found = (facts.family, facts.prediction, facts.concat, facts.vector, facts.zero_snr, facts.sigma_range)
    assert (*found, facts.latent.scale) == EXPECTED[label]


def test_playground_latents_are_centred_by_the_numbers_in_the_file(folders, test_seed):
    catalogue = Catalogue(folders, folders.database)
    residency = Residency(catalogue, CPU)
    with residency.lease(catalogue.find("Playground v2.5"), choose(CPU, Settings())) as model:
        mean = torch.tensor([-1.6574, 1.886, -1.383, 2.5155]).view(4, 1, 1)
        std = torch.tensor([8.4927, 5.9022, 6.5498, 5.2299]).view(4, 1, 1)
        z = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(test_seed))
        torch.testing.assert_close(model.to_latents(z), (z - mean) * 0.5 / std)
        torch.testing.assert_close(model.from_latents(model.to_latents(z)), z)
    residency.close()


def test_side_car_and_metadata_decide_what_sd2_predicts(tmp_path, test_seed):
    wide = write_tiny(tmp_path / "wide.safetensors", "SD 2.x (v)", test_seed)
    narrow = write_tiny(
        tmp_path / "narrow.safetensors", "SD 2.x", test_seed,
        metadata={"modelspec.architecture": "stable-diffusion-v2-768-v"},
    )  # fmt: skip
    (tmp_path / "wide.yaml").write_text("model: {params: {parameterization: eps, linear_start: 0.001}}")
    assert detect(read_header(wide)).prediction == "v"
    said = detect(read_header(wide), read_sidecar(wide))
    assert (said.prediction, said.label, said.betas) == ("eps", "SD 2.x", (0.00085, 0.012))
    assert detect(read_header(narrow)).prediction == "v"
    assert detect(read_header(narrow), SideCar(prediction="eps")).prediction == "eps"


def test_an_sd2_pickle_is_taken_for_a_velocity_model_and_says_so(tmp_path, test_seed):
    path = write_tiny(tmp_path / "m.safetensors", "SD 2.x", test_seed)
    torch.save({"state_dict": load_file(path)}, tmp_path / "m.ckpt")
    facts = detect(read_header(tmp_path / "m.ckpt"))
    assert facts.prediction == "v"
    assert "m.ckpt predicts noise or velocity could not be read" in facts.warnings[0]
    said = detect(read_header(tmp_path / "m.ckpt"), SideCar(prediction="eps"))
    assert (said.prediction, said.warnings) == ("eps", ())


def test_sizes_of_the_weights_win_over_the_side_cars_with_a_warning(tmp_path, test_seed):
    path = write_tiny(tmp_path / "m.safetensors", "SDXL", test_seed)
    (tmp_path / "m.yaml").write_text(
        "model: {params: {network_config: {params: {in_channels: 9, context_dim: 96, adm_in_channels: 2816}}}}"
    )
    facts = detect(read_header(path), read_sidecar(path))
    assert facts.concat == ""
    assert facts.warnings == (
        "m.yaml says in_channels 9, the weights have 4; the weights are believed.",
        "m.yaml says adm_channels 2816, the weights have 1600; the weights are believed.",
    )


def test_sd2_takes_the_penultimate_layer_unless_the_tower_ends_there(tmp_path, test_seed):
    path = write_tiny(tmp_path / "m.safetensors", "SD 2.x", test_seed)
    assert detect(read_header(path)).towers[0].layer == 2
    assert detect(read_header(path), SideCar(text_layer="last")).towers[0].layer == 1
    tensors = load_file(path)
    blocks = {key: value for key, value in tensors.items() if ".resblocks.2." in key}
    for n in range(3, 23):
        tensors |= {key.replace(".resblocks.2.", f".resblocks.{n}."): value.clone() for key, value in blocks.items()}
    save_file(tensors, path)
    facts = detect(read_header(path))
    assert (facts.towers[0].component.config["layers"], facts.towers[0].layer) == (23, 1)


def test_other_weights_in_the_file_are_left_alone(tmp_path, test_seed):
    """EMA copies, schedule buffers and position ids that a merge has turned into fractions change nothing."""
    path = write_tiny(tmp_path / "m.safetensors", "SD 1.x", test_seed)
    before = detect(read_header(path))
    tensors = load_file(path)
    ema = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): value.clone()
        for key, value in tensors.items()
        if key.startswith("model.diffusion_model.")
    }
    extra = {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77).half()[None] * 1.001,
        "betas": torch.linspace(0, 1, 1000), "model_ema.decay": torch.tensor(0.9999),
    }  # fmt: skip
    save_file(tensors | ema | extra, path)
    after = detect(read_header(path))
    assert UNetConfig(**after.unet.config) == UNetConfig(**before.unet.config)
    assert ClipConfig(**after.towers[0].component.config) == ClipConfig(**before.towers[0].component.config)


@pytest.mark.parametrize(
    ("label", "key", "shape", "words"),
    [
        ("SDXL", "model.diffusion_model.label_emb.0.0.weight", (128, 99), "a vector of 99"),
        ("SDXL", "conditioner.embedders.1.model.text_projection", None, "text_projection is missing"),
        ("SDXL", "conditioner.embedders.1.model.positional_embedding", None, "no conditioner.embedders.1."),
        ("SDXL refiner", "conditioner.embedders.0.model.positional_embedding", (12, 64), "12 positions"),
        ("SD 2.x", "model.diffusion_model.input_blocks.0.0.weight", (32, 6, 3, 3), "takes 6 channels"),
        ("SD 2.x", "cond_stage_model.model.token_embedding.weight", (9, 64), "knows 9 tokens"),
    ],
)
def test_odd_files_are_refused_with_the_reason(tmp_path, test_seed, label, key, shape, words):
    path = write_tiny(tmp_path / "m.safetensors", label, test_seed)
    tensors = load_file(path)
    del tensors[key]
    save_file(tensors if shape is None else tensors | {key: torch.zeros(shape)}, path)
    with pytest.raises(BadFile, match=words):
        detect(read_header(path))


def test_a_fused_projection_of_the_wrong_size_is_named(tmp_path, test_seed):
    path = write_tiny(tmp_path / "m.safetensors", "SD 2.x", test_seed)
    key = "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight"
    save_file(load_file(path) | {key: torch.zeros(190, 64)}, path)
    header = read_header(path)
    with pytest.raises(BadFile, match=r"in_proj_weight is \[190, 64\].* expects \[192, 64\]"):
        blueprint(detect(header), header)


# ---------------------------------------------------------------------------------------------------------- full size


TOWERS = {"clip_l": (196, 123_060_480), "clip_h": (294, 354_032_641), "clip_g": (390, 694_659_841)}
"""Keys and numbers of each tower in the released files."""


@pytest.mark.parametrize("label", full_size.LAYOUTS)
def test_full_size_files_are_recognised_and_complete(label):
    layout = full_size.LAYOUTS[label]
    header = full_size.header_of(layout)
    facts = detect(header)
    assert facts.label == label
    nets = blueprint(facts, header)
    assert nets.unet.config == layout.unet
    assert nets.vae.config == AutoencoderConfig()
    assert [tower.net.config for tower in nets.towers] == [config for _, _, config in layout.towers]
    side = {"sd1": 512, "sd2": 768 if facts.prediction == "v" else 512}.get(facts.family, 1024)
    assert facts.resolution == (side, side)
    for tower in nets.towers:
        mine = [info for key, info in header.tensors.items() if key.startswith(tower.facts.component.prefix)]
        assert (len(mine), sum(math.prod(info.shape) for info in mine)) == TOWERS[tower.facts.name]
    unused = sum(2 if config.projection is None else 1 for _, opened, config in layout.towers if opened)
    assert nets.extra == unused + len(layout.extra)  # logit_scale, and a projection that SD 2 does not ask for
