"""Merged checkpoints hold exactly the numbers the method says, and the files they came from stay as they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modules.pipeline.model_tasks import Workshop
from modules.schema.errors import BadRequest, Cancelled, EaselError
from modules.schema.folders import Folders
from modules.schema.model_tasks import ConvertTask, MergeTask
from modules.schema.settings import Settings
from modules.weights import merge
from modules.weights.headers import read_header
from modules.weights.merge import Recipe
from tests.weights.tiny import tiny_tensors, write_tiny_sd15

KEY = "model.diffusion_model.input_blocks.0.0.weight"
LACKED = "model.diffusion_model.time_embed.0.bias"
VAE = "first_stage_model.decoder.conv_in.weight"


class Hand:
    finished: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self.cancelled = False
        self.events = []

    def take_skip(self) -> bool:
        return False


@pytest.fixture
def folders(tmp_path, test_seed) -> Folders:
    folders = Folders.under(tmp_path)
    for n, name in enumerate("abc"):
        write_tiny_sd15(
            folders.checkpoint_dirs[0] / f"{name}.safetensors",
            test_seed + n,
            metadata={"who": name, "note": f"of {name}"},
        )
    return folders


def run(folders: Folders, task: object, hand: Hand | None = None) -> Path:
    """Do a task; no file that was there before may change."""
    root = folders.checkpoint_dirs[0]
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in root.rglob("*") if path.is_file()}
    hand = hand or Hand()
    try:
        Workshop(folders).run("t", task, Settings(), hand.events.append, hand)  # type: ignore[arg-type]
    finally:
        assert {path: hashlib.sha256(path.read_bytes()).digest() for path in before} == before
        assert not list(root.rglob(".easel-*"))
    (made,) = [path for path in root.rglob("*") if path.is_file() and path not in before and path.suffix != ".yaml"]
    assert hand.events[-1].text == made.name
    return made


def merged(folders: Folders, **fields: object) -> Path:
    return run(folders, MergeTask(**{"primary_model_name": "a", "secondary_model_name": "b", **fields}))  # type: ignore[arg-type]


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def test_weighted_sum(folders):
    made = merged(folders, multiplier=0.3)
    assert made.name == "0.7(a) + 0.3(b).safetensors"
    a, b, found = (load_file(folders.checkpoint_dirs[0] / n) for n in ("a.safetensors", "b.safetensors", made.name))
    assert found.keys() == a.keys()
    for key in a:
        torch.testing.assert_close(found[key], 0.7 * a[key] + 0.3 * b[key] if "model" in key else a[key])


def test_add_difference_where_c_lacks_a_key_adds_nothing(folders):
    root = folders.checkpoint_dirs[0]
    a, b, c = (load_file(root / f"{n}.safetensors") for n in "abc")
    save_file({key: value for key, value in c.items() if key != LACKED}, root / "d.safetensors")
    made = merged(folders, interp_method="Add difference", tertiary_model_name="d", multiplier=0.5, custom_name="sum")
    found = load_file(made)
    assert made.name == "sum.safetensors"
    assert torch.equal(found[LACKED], a[LACKED])
    torch.testing.assert_close(found[VAE], a[VAE] + 0.5 * (b[VAE] - c[VAE]))


def test_no_interpolation_halves_bakes_and_discards(folders):
    (folders.models / "VAE").mkdir()
    other = {
        k.removeprefix("first_stage_model."): v for k, v in tiny_tensors(99).items() if k.startswith("first_stage")
    }
    torch.save({"state_dict": other}, folders.models / "VAE/v.vae.pt")
    task = MergeTask(
        primary_model_name="a", interp_method="No interpolation", save_as_half=True, bake_in_vae="v.vae.pt",
        discard_weights=r"^cond_stage_model\.", custom_name="pruned",
    )  # fmt: skip
    made = run(folders, task)
    found = load_file(made)
    a = load_file(folders.checkpoint_dirs[0] / "a.safetensors")
    assert set(found) == {key for key in a if not key.startswith("cond_stage_model.")}
    assert all(value.dtype == torch.float16 for value in found.values())
    assert torch.equal(found[VAE], other["decoder.conv_in.weight"].half())
    assert torch.equal(found[KEY], a[KEY].half())


@pytest.mark.parametrize(("channels", "kind"), [(9, "inpainting"), (8, "instruct-pix2pix")])
def test_a_wider_first_layer_keeps_its_own_channels(folders, channels, kind):
    root = folders.checkpoint_dirs[0]
    a = load_file(root / "a.safetensors")
    a[KEY] = torch.randn(32, channels, 3, 3)
    save_file(a, root / "wide.safetensors")
    made = merged(folders, primary_model_name="wide", multiplier=0.5)
    found, b = load_file(made)[KEY], load_file(root / "b.safetensors")[KEY]
    assert made.name.endswith(f".{kind}.safetensors")
    torch.testing.assert_close(found[:, :4], 0.5 * a[KEY][:, :4] + 0.5 * b)
    assert torch.equal(found[:, 4:], a[KEY][:, 4:])
    with pytest.raises(BadRequest, match=f"wide.safetensors is an {kind} model.*choose it as model A"):
        Workshop(folders).run(
            "t",
            MergeTask(primary_model_name="b", secondary_model_name="wide"),
            Settings(),
            lambda e: None,
            Hand(),
        )  # type: ignore[arg-type]


def test_metadata_tells_how_it_was_made(folders):
    made = metadata_of(merged(folders, metadata={"author": "me", "tags": ["x"]}))
    assert (made["who"], made["note"], made["format"], made["author"], made["tags"]) == (
        "b",
        "of b",
        "pt",
        "me",
        '["x"]',
    )
    recipe, parents = json.loads(made["sd_merge_recipe"]), json.loads(made["sd_merge_models"])
    sha = hashlib.sha256((folders.checkpoint_dirs[0] / "a.safetensors").read_bytes()).hexdigest()
    assert recipe["primary_model_hash"] == sha[:10]
    assert (recipe["type"], recipe["interp_method"], recipe["multiplier"]) == ("webui", "Weighted sum", 0.3)
    assert parents[sha] == {
        "name": "a.safetensors",
        "legacy_hash": parents[sha]["legacy_hash"],
        "sd_merge_recipe": None,
    }
    again = metadata_of(merged(folders, primary_model_name="0.7(a) + 0.3(b)", custom_name="again"))
    assert len(json.loads(again["sd_merge_models"])) == 3
    assert metadata_of(merged(folders, save_metadata=False, custom_name="bare")) == {}


def test_a_side_car_comes_along(folders):
    root = folders.checkpoint_dirs[0]
    (root / "b.yaml").write_text("model: {params: {parameterization: v}}")
    made = merged(folders, custom_name="x")
    assert made.with_suffix(".yaml").read_text() == (root / "b.yaml").read_text()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"custom_name": "b"}, "b.safetensors is there already"),
        ({"custom_name": "../b"}, "not a path below|no portable"),
        ({"custom_name": "/tmp/x"}, "not a path below"),
        ({"secondary_model_name": None}, "model is missing"),
        ({"secondary_model_name": "nobody"}, "No checkpoint is called"),
        ({"interp_method": "Add difference"}, "model is missing"),
        ({"discard_weights": "("}, "no regular expression"),
        ({"discard_weights": "."}, "Nothing would be left"),
        ({"bake_in_vae": "x.pt"}, "No VAE is called"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(folders, fields, words):
    root = folders.checkpoint_dirs[0]
    task = MergeTask(**{"primary_model_name": "a", "secondary_model_name": "b", **fields})  # type: ignore[arg-type]
    with pytest.raises(EaselError, match=words):
        Workshop(folders).run("t", task, Settings(), lambda e: None, Hand())
    assert sorted(path.name for path in root.iterdir()) == ["a.safetensors", "b.safetensors", "c.safetensors"]


def test_different_families_are_not_merged(folders):
    path = folders.checkpoint_dirs[0] / "a.safetensors"
    a = read_header(path)
    b = replace(a, tensors={**a.tensors, LACKED: replace(a.tensors[LACKED], shape=(64,))})
    with pytest.raises(BadRequest, match=r"different families: .*time_embed.0.bias is \[128\] in one, \[64\]"):
        merge.plan(Recipe("Weighted sum", 0.5), a, b)


def test_an_interrupted_merge_leaves_nothing(folders):
    hand = Hand()

    class Impatient(list):
        def append(self, event: object) -> None:
            hand.cancelled = getattr(event, "text", "") == "Writing the model"

    hand.events = Impatient()
    with pytest.raises(Cancelled):
        Workshop(folders).run(
            "t",
            MergeTask(primary_model_name="a", secondary_model_name="b"),
            Settings(),
            hand.events.append,
            hand,
        )  # type: ignore[arg-type]
    assert sorted(path.name for path in folders.checkpoint_dirs[0].iterdir()) == [f"{n}.safetensors" for n in "abc"]


def test_a_pickle_becomes_safetensors_and_stays(folders, test_seed):
    tensors = tiny_tensors(test_seed + 7)
    torch.save({"state_dict": tensors, "epoch": 3}, folders.checkpoint_dirs[0] / "old.ckpt")
    made = run(folders, ConvertTask(checkpoint="old"))
    assert made.name == "old.safetensors"
    found = load_file(made)
    assert all(torch.equal(found[key], value) for key, value in tensors.items())
    with pytest.raises(BadRequest, match="nothing to convert"):
        Workshop(folders).run("t", ConvertTask(checkpoint="a"), Settings(), lambda e: None, Hand())  # type: ignore[arg-type]
