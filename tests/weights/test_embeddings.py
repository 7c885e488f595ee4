"""Embedding files of every form, networks found by name, hashes."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from modules.imaging import embedded
from modules.schema.errors import BadFile, NotFound
from modules.schema.folders import Folders
from modules.weights.embeddings import from_json, open_embedding
from modules.weights.networks import Shelf
from modules.weights.store import FileStore
from tests.weights.adapters.nets import Dice


@pytest.fixture
def rows(test_seed: int) -> torch.Tensor:
    return Dice(test_seed)(3, 32)


def webui_dict(rows: torch.Tensor) -> dict:
    return {
        "string_to_token": {"*": 265}, "string_to_param": {"*": rows}, "name": "written", "step": 7,
        "sd_checkpoint": "deadbeef", "sd_checkpoint_name": "tiny",
    }  # fmt: skip


def as_json(rows: torch.Tensor) -> bytes:
    said = webui_dict(rows) | {"string_to_param": {"*": {"TORCHTENSOR": rows.tolist()}}}
    return json.dumps(said).encode()


def test_pickles_of_a1111_diffusers_and_lists(tmp_path: Path, rows: torch.Tensor) -> None:
    torch.save(webui_dict(rows), tmp_path / "a.pt")
    torch.save({"<word>": rows[0]}, tmp_path / "b.bin")
    torch.save([{"<one>": rows[:1]}, {"<two>": rows[1:]}], tmp_path / "c.pt")
    for name, wanted in (("a.pt", rows), ("b.bin", rows[:1]), ("c.pt", rows)):
        embedding = open_embedding(tmp_path / name)
        assert embedding.name == name[0]
        assert embedding.vectors == len(wanted)
        assert torch.equal(embedding.rows[""], wanted)


def test_safetensors_of_one_tower_and_of_two(tmp_path: Path, rows: torch.Tensor) -> None:
    save_file({"emb_params": rows.half()}, tmp_path / "a.safetensors")
    assert torch.equal(open_embedding(tmp_path / "a.safetensors").rows[""], rows.half().float())
    save_file({"clip_l": rows, "clip_g": rows.repeat(1, 2)}, tmp_path / "b.safetensors")
    assert open_embedding(tmp_path / "b.safetensors").rows.keys() == {"clip_l", "clip_g"}


def test_an_embedding_fits_its_own_family_alone(tmp_path: Path, rows: torch.Tensor) -> None:
    save_file({"emb_params": rows}, tmp_path / "one.safetensors")
    save_file({"clip_l": rows, "clip_g": rows.repeat(1, 2)}, tmp_path / "two.safetensors")
    one, two = open_embedding(tmp_path / "one.safetensors"), open_embedding(tmp_path / "two.safetensors")
    fitting = one.for_towers(("clip_h",), (32,))
    assert fitting is not None
    assert torch.equal(fitting["clip_h"], rows)
    assert one.for_towers(("clip_l",), (64,)) is None
    assert one.for_towers(("clip_l", "clip_g"), (32, 64)) is None
    assert two.for_towers(("clip_l", "clip_g"), (32, 64)) is not None
    assert two.for_towers(("clip_l", "clip_g"), (64, 32)) is None
    assert two.for_towers(("clip_g",), (64,)) is None


def test_a_text_chunk_of_a_png(tmp_path: Path, rows: torch.Tensor) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("sd-ti-embedding", base64.b64encode(as_json(rows)).decode())
    Image.new("RGB", (16, 16), "red").save(tmp_path / "p.png", pnginfo=chunks)
    said = embedded.read_picture(tmp_path / "p.png")
    assert said is not None
    embedding = from_json(said, "p.png", "p")
    assert embedding.name == "written"
    torch.testing.assert_close(embedding.rows[""], rows)


def scramble(block: np.ndarray) -> np.ndarray:
    """Another writer of the generator, one number after the other."""
    state, out = 0, block.copy().ravel()
    for k in range(out.size):
        state = (1664525 * state + 1013904223) % 2**32
        out[k] ^= (state % 255) & 0x0F
    return out.reshape(block.shape)


def pixel_coded(rows: torch.Tensor, height: int, seed: int) -> Image.Image:
    """A picture as A1111 writes it: data left and right, decoration in the high bits, black columns, black border."""
    random = np.random.default_rng(seed)
    payload = np.frombuffer(zlib.compress(as_json(rows), 9), np.uint8)
    width = -(-payload.size // (height * 3))
    data = np.resize(payload, height * width * 3).reshape(height, width, 3)
    decoration = random.integers(0, 16, (height, width, 3)).astype(np.uint8) << 4
    low = scramble(data & 0x0F) | decoration
    high = scramble(data >> 4) | decoration[:, ::-1]
    picture = random.integers(1, 256, (height, 24, 3)).astype(np.uint8) | 1
    column = np.zeros((height, 1, 3), np.uint8)
    return Image.fromarray(np.concatenate([low, column, picture, column, high], axis=1))


@pytest.mark.parametrize("height", [32, 64])
def test_pixels_of_a_picture(tmp_path: Path, rows: torch.Tensor, test_seed: int, height: int) -> None:
    path = tmp_path / "p.png"
    pixel_coded(rows, height, test_seed).save(path)
    said = embedded.read_picture(path)
    assert said is not None
    torch.testing.assert_close(from_json(said, "p.png", "p").rows[""], rows)


def test_a_plain_picture_carries_nothing(tmp_path: Path, test_seed: int) -> None:
    noise = np.random.default_rng(test_seed).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    for name, image in (("noise", Image.fromarray(noise)), ("black", Image.new("RGB", (9, 9)))):
        image.save(tmp_path / f"{name}.png")
        assert embedded.read_picture(tmp_path / f"{name}.png") is None


def test_a_picture_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    pixels = np.asarray(pixel_coded(torch.zeros(40, 100), 32, 1))
    data = embedded.pixel_payload(pixels)
    assert data is not None
    assert embedded.pixel_payload(pixels, limit=len(data)) == data
    with pytest.raises(ValueError, match="cut short or too large"):
        embedded.pixel_payload(pixels, limit=len(data) // 2)


def test_a_picture_cut_off_at_the_bottom_is_refused(tmp_path: Path, rows: torch.Tensor) -> None:
    image = pixel_coded(rows, 64, 1)
    image.crop((0, 0, image.width, 20)).save(tmp_path / "p.png")
    with pytest.raises(BadFile, match=r"p\.png carries no readable embedding"):
        embedded.read_picture(tmp_path / "p.png")


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": torch.zeros(2, 3, 4)},
        {"a": torch.full((2, 3), float("nan"))},
        {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)},
        {"a": torch.zeros(2, dtype=torch.int64)},
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(BadFile, match=r"a\.safetensors is"):
        open_embedding(tmp_path / "a.safetensors")


# ------------------------------------------------------------------------------------------------ the shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    folders = Folders.under(tmp_path)
    folders.lora.mkdir(parents=True)
    folders.embeddings.mkdir(parents=True)
    return Shelf(folders, FileStore(folders.database))


def write_lora(shelf: Shelf, name: str, metadata: dict[str, str] | None = None, value: float = 1.0) -> Path:
    path = shelf.folders.lora / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
    save_file({key: torch.full((2, 768), value)}, path, metadata or {})
    return path


def test_networks_are_found_by_file_name_path_and_alias(shelf: Shelf) -> None:
    write_lora(shelf, "ink", {"ss_output_name": "Ink Style"})
    write_lora(shelf, "people/ink2")
    assert shelf.find("lora", "ink").name == "ink"
    assert shelf.find("lora", "Ink Style").name == "ink"
    assert shelf.find("lora", "ink2").relative == "people/ink2"
    assert shelf.find("lora", "people/ink2").name == "ink2"
    with pytest.raises(NotFound, match=r"No LoRA is called 'inc'\. Nearest: ink"):
        shelf.find("lora", "inc")
    with pytest.raises(NotFound):
        shelf.find("lora", "INK")  # names are case-sensitive, as in A1111


def test_a_name_that_two_trainers_gave_is_nobodys(shelf: Shelf) -> None:
    write_lora(shelf, "a", {"ss_output_name": "last"})
    write_lora(shelf, "b", {"ss_output_name": "last"})
    write_lora(shelf, "c", {"ss_output_name": "none"})
    for name in ("last", "none"):
        with pytest.raises(NotFound):
            shelf.find("lora", name)


def test_new_files_are_found_at_once(shelf: Shelf) -> None:
    write_lora(shelf, "a")
    assert [file.name for file in shelf.files("lora")] == ["a"]
    write_lora(shelf, "b")
    assert shelf.find("lora", "b").name == "b"


def test_previews_hidden_and_empty_files_are_no_networks(shelf: Shelf) -> None:
    folder = shelf.folders.embeddings
    for name in ("a.preview.png", ".hidden.pt", "notes.txt"):
        (folder / name).write_bytes(b"x")
    (folder / "empty.pt").touch()
    (folder / "a.pt").write_bytes(b"x")
    assert [file.path.name for file in shelf.files("embedding")] == ["a.pt"]


def test_hashes_are_a1111s(shelf: Shelf) -> None:
    path = write_lora(shelf, "a", {"note": "one"})
    file = shelf.find("lora", "a")
    raw = path.read_bytes()
    tensors = raw[8 + int.from_bytes(raw[:8], "little") :]
    assert shelf.short_hash(file) == hashlib.sha256(tensors).hexdigest()[:12]
    write_lora(shelf, "b", {"note": "another"})
    assert shelf.short_hash(shelf.find("lora", "b")) == shelf.short_hash(file)
    write_lora(shelf, "c", {"sshs_model_hash": "0123456789abcdef"})
    assert shelf.short_hash(shelf.find("lora", "c")) == "0123456789ab"
    (shelf.folders.embeddings / "e.pt").write_bytes(b"embedding")
    assert shelf.short_hash(shelf.find("embedding", "e")) == hashlib.sha256(b"embedding").hexdigest()[:12]


def test_a_file_is_looked_at_again_when_it_changes(shelf: Shelf) -> None:
    write_lora(shelf, "a", {"ss_output_name": "one"})
    assert shelf.find("lora", "one").name == "a"
    write_lora(shelf, "a", {"ss_output_name": "another name"})
    assert shelf.find("lora", "another name").name == "a"
    assert shelf.facts(shelf.find("lora", "a")).family == "sd1"
