"""Cards of model files: what they say, what fits, what is written beside a model, and how many there may be."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from modules.imaging import embedded
from modules.imaging.metadata import read_infotext
from modules.schema.cards import CardNotes
from modules.schema.errors import BadFile, BadRequest, NotFound
from modules.schema.folders import Folders
from modules.schema.record import CheckpointView
from modules.schema.settings import Settings
from modules.service.cards import Cards
from modules.weights.library import Library
from modules.weights.networks import Shelf
from modules.weights.store import FileStore
from tests.opened import opened
from tests.weights.test_embeddings import as_json, pixel_coded
from tests.weights.tiny import write_keys

KEY = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
FULL = pytest.mark.skipif(not os.environ.get("TEST_FULL"), reason="a minute long: TEST_FULL=1 runs it")


class Shop:
    """Folders of model files with their cards."""

    def __init__(self, folders: Folders) -> None:
        self.folders, self.now = folders, Settings()
        self.library = Library(folders, folders.database, embedded.read_picture)
        self.cards = Cards(self.library, folders.state, lambda: self.now)

    def lora(self, name: str, width: int = 768, /, **metadata: str) -> Path:
        path = self.folders.lora / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_keys(path, {f"{KEY}.lora_down.weight": (4, width), f"{KEY}.lora_up.weight": (320, 4)}, metadata)
        return path

    def listed(self, kind: str = "lora", checkpoint: CheckpointView | None = None) -> dict[str, dict[str, Any]]:
        """By name, in order."""
        self.library.scan()
        return {entry["name"]: entry for entry in json.loads(self.cards.listing(kind, checkpoint))}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(Folders.under(tmp_path))
    yield shop
    shop.library.close()


def checkpoint(family: str, *towers: int) -> CheckpointView:
    return CheckpointView(
        name="x", title="x", path="x", size=1, family=family, resolution=(512, 512), towers=towers
    )  # fmt: skip


def png(size: tuple[int, int] = (700, 500), infotext: str = "") -> bytes:
    out, chunks = io.BytesIO(), PngImagePlugin.PngInfo()
    chunks.add_text("parameters", infotext)
    Image.linear_gradient("L").resize(size).convert("RGB").save(out, "PNG", pnginfo=chunks)
    return out.getvalue()


def test_a_card_says_what_header_and_user_say(shop: Shop) -> None:
    tags = {"10_ink": {"ink wash": 30, "1girl": 12}, "5_more": {"ink wash": 5, "tree": 1}}
    path = shop.lora(
        "people/ink", ss_output_name="Ink Style", sshs_model_hash="0123456789abcdef", ss_network_dim="8",
        ss_network_alpha="4", ss_sd_model_name="base.safetensors", ss_tag_frequency=json.dumps(tags),
        ss_dataset_dirs=json.dumps({"10_ink": {"n_repeats": 10, "img_count": 42}}),
        ss_bucket_info=json.dumps({"buckets": {"0": {"resolution": [512, 768], "count": 40}}}),
        **{"modelspec.trigger_phrase": "inkstyle", "ss_long": "x" * 5000, "ssmd_cover_images": "A" * 9000},
    )  # fmt: skip
    (entry,) = shop.listed().values()
    status = path.stat()
    assert (entry["name"], entry["word"], entry["family"]) == ("people/ink", "Ink Style", "sd1")
    assert (entry["hash"], entry["words"], entry["size"]) == ("0123456789ab", "inkstyle", status.st_size)
    assert entry["modified"] == pytest.approx(status.st_mtime, abs=0.01)
    assert entry["created"] == pytest.approx(getattr(status, "st_birthtime", status.st_ctime), abs=0.01)
    card = shop.cards.card(str(path))
    assert card.tags == (("ink wash", 35), ("1girl", 12), ("tree", 1))
    assert card.facts == {
        "Trained as": "Ink Style", "Base model": "base.safetensors", "Rank": "8 (alpha 4)", "Pictures": "42",
        "Sizes": "512×768 (40)",
    }  # fmt: skip
    assert card.metadata["ss_long"] == "x" * 5000
    assert "ssmd_cover_images" not in card.metadata
    path.with_suffix(".json").write_text(json.dumps({
        "description": "Black ink.", "notes": "mine", "activation text": "ink wash, black", "preferred weight": 0.7,
        "negative text": "colours", "sd version": "SD1",
    }))  # fmt: skip
    (entry,) = shop.listed().values()
    assert (entry["about"], entry["words"], entry["weight"]) == ("Black ink.", "ink wash, black", 0.7)
    assert entry["negative"] == "colours"
    assert shop.cards.card(str(path)).model.notes == "mine"


def test_captions_are_counted_by_their_words(shop: Shop) -> None:
    captions = {"a": {"a red house on a hill": 2, "a very old red tower": 1}}
    path = shop.lora("a", ss_tag_frequency=json.dumps(captions))
    shop.listed()
    assert shop.cards.card(str(path)).tags[0] == ("red", 3)


def test_prompt_names_are_those_the_engine_finds(shop: Shop) -> None:
    shop.lora("a/one")
    shop.lora("b/one")
    shop.lora("c", ss_output_name="last")
    shop.lora("d", ss_output_name="last")
    shop.lora("e", ss_output_name="c")
    shop.lora("f", ss_output_name="own name")
    words = {name: entry["word"] for name, entry in shop.listed().items()}
    assert words == {"a/one": "a/one", "b/one": "one", "c": "c", "d": "d", "e": "e", "f": "own name"}
    shelf = Shelf(shop.folders, FileStore(shop.folders.database))
    assert {name: shelf.find("lora", word).relative for name, word in words.items()} == {name: name for name in words}
    shop.now = shop.now.with_options({"lora_preferred_name": "Filename"})
    assert shop.listed()["f"]["word"] == "f"


FITTING = {
    "lora": {"sd1": 768, "sd2": 1024, "sdxl": 2048, "small": 64},
    "embedding": {"sd1": (768,), "sd2": (1024,), "sdxl": (768, 1280), "small": (64,)},
}
MODELS = {
    "sd1": checkpoint("sd1", 768), "sd2": checkpoint("sd2", 1024), "sdxl": checkpoint("sdxl", 768, 1280),
    "small": checkpoint("sd1", 64),
}  # fmt: skip


def test_what_fits_a_checkpoint_is_told_by_widths(shop: Shop) -> None:
    shop.folders.embeddings.mkdir()
    (shop.folders.models / "hypernetworks").mkdir(parents=True)
    for name, width in FITTING["lora"].items():
        shop.lora(name, width)
    for name, widths in FITTING["embedding"].items():
        names = ("emb_params",) if len(widths) == 1 else ("clip_l", "clip_g")
        rows = {key: torch.zeros(2, width) for key, width in zip(names, widths)}
        save_file(rows, shop.folders.embeddings / f"{name}.safetensors")
    nothing = {"linear.0.weight": torch.zeros(1, 1)}
    for name, width in (("sd1", 768), ("sd2", 1024)):
        content = {width: (nothing, nothing), 320: (nothing, nothing)}
        torch.save(content, shop.folders.models / "hypernetworks" / f"{name}.pt")
    for chosen, view in MODELS.items():
        for kind, names in (("lora", MODELS), ("embedding", MODELS), ("hypernetwork", ("sd1", "sd2"))):
            told = {name: entry.get("fits", True) for name, entry in shop.listed(kind, view).items()}
            assert told == {name: name == chosen for name in names}, (kind, chosen)
    assert all("fits" not in entry for entry in shop.listed().values())


def test_embeddings_in_pictures_are_told_from_pictures(shop: Shop, test_seed: int) -> None:
    shop.folders.embeddings.mkdir()
    pixel_coded(torch.ones(3, 768), 32, test_seed).save(shop.folders.embeddings / "card.png")
    Image.new("RGB", (8, 8)).save(shop.folders.embeddings / "holiday.png")
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("sd-ti-embedding", base64.b64encode(as_json(torch.ones(1, 1024))).decode())
    Image.new("RGB", (8, 8)).save(shop.folders.embeddings / "other.png", pnginfo=chunks)
    found = shop.listed("embedding", MODELS["sd1"])
    assert len(found) == 1 or set(found) == {"written"}  # both are called as is written in them
    paths = [Path(entry["path"]).name for entry in json.loads(shop.cards.listing("embedding", MODELS["sd1"]))]
    assert paths == ["card.png", "other.png"]
    views = {Path(view.path).name: view for view in shop.library.files("embedding")}
    assert (views["card.png"].vectors, views["card.png"].widths) == (3, (768,))
    assert (views["other.png"].vectors, views["other.png"].family) == (1, "sd2")
    assert Image.open(io.BytesIO(shop.cards.thumbnail(views["card.png"].path))).format == "WEBP"


def test_notes_are_written_as_a1111_keeps_them_and_nothing_else_changes(shop: Shop) -> None:
    path = shop.lora("ink")
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps({"description": "old", "civitai": {"id": 7}}))
    shop.listed()
    notes = CardNotes(description="new", notes="mine", activation="ink", preferred_weight=0.8, negative="colours",
                      sd_version="SD1")  # fmt: skip
    card = shop.cards.write_notes(str(path), notes)
    assert json.loads(beside.read_text()) == {
        "description": "new", "notes": "mine", "activation text": "ink", "preferred weight": 0.8,
        "negative text": "colours", "sd version": "SD1", "civitai": {"id": 7},
    }  # fmt: skip
    assert (card.model.activation, card.model.preferred_weight, card.model.description) == ("ink", 0.8, "new")
    assert json.loads(shop.cards.listing("lora"))[0]["about"] == "new"  # at once, without another look around
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    shop.cards.write_notes(str(path), CardNotes())
    assert json.loads(beside.read_text())["activation text"] == ""
    beside.write_text("{not json")
    with pytest.raises(BadFile, match=r"ink\.json beside the model holds no notes that can be read; move it away"):
        shop.cards.write_notes(str(path), notes)
    assert beside.read_text() == "{not json"


def test_a_checkpoint_keeps_its_vae_and_other_kinds_only_what_is_theirs(shop: Shop) -> None:
    shop.folders.embeddings.mkdir()
    save_file({"emb_params": torch.zeros(1, 768)}, shop.folders.embeddings / "word.safetensors")
    (entry,) = shop.listed("embedding").values()
    shop.cards.write_notes(entry["path"], CardNotes(notes="mine", activation="x", preferred_weight=2, negative="n"))
    said = json.loads((shop.folders.embeddings / "word.json").read_text())
    assert said == {"notes": "mine", "negative text": "n"}


def test_descriptions_in_text_files_are_read(shop: Shop) -> None:
    path = shop.lora("ink")
    path.with_suffix(".description.txt").write_text("From a text file.\n")
    assert shop.listed()["ink"]["about"] == "From a text file."
    path.with_suffix(".json").write_text('{"description": "From the user."}')
    assert shop.listed()["ink"]["about"] == "From the user."


def test_a_preview_is_put_beside_the_model_with_its_infotext(shop: Shop) -> None:
    path = shop.lora("ink")
    older = path.with_suffix(".png")
    older.write_bytes(png((64, 64)))
    entry = shop.listed()["ink"]
    small = Image.open(io.BytesIO(shop.cards.thumbnail(str(path))))
    assert small.size == (64, 64)
    picture = png(infotext="a house\nSteps: 3")
    card = shop.cards.write_preview(str(path), picture)
    assert path.with_suffix(".preview.png").read_bytes() == picture
    assert older.read_bytes() == png((64, 64))  # a user's file stays
    assert card.model.preview == str(path.with_suffix(".preview.png"))
    assert json.loads(shop.cards.listing("lora"))[0]["picture"] != entry["picture"]
    assert Image.open(io.BytesIO(shop.cards.thumbnail(str(path)))).size == (448, 320)
    out = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(out, "JPEG")
    shop.cards.write_preview(str(path), out.getvalue())
    made = Image.open(path.with_suffix(".preview.png"))
    assert (made.format, made.size, read_infotext(made)) == ("PNG", (40, 20), None)
    with opened() as names:
        shop.cards.thumbnail(str(path))
        shop.cards.thumbnail(str(path))
    assert sum(name.endswith(".png") for name in names) == 1  # a small one is kept
    with pytest.raises(BadFile):
        shop.cards.write_preview(str(path), b"<html>")
    with pytest.raises(NotFound):
        shop.cards.write_preview("/etc/passwd", picture)


def test_a_picture_in_the_metadata_is_shown(shop: Shop) -> None:
    path = shop.lora("ink", **{"modelspec.thumbnail": "data:image/png;base64," + base64.b64encode(png()).decode()})
    other = shop.lora("old", ssmd_cover_images=json.dumps([base64.b64encode(png((10, 20))).decode()]))
    broken = shop.lora("broken", ssmd_cover_images="[3]")
    assert all(entry["picture"] for entry in shop.listed().values())
    assert Image.open(io.BytesIO(shop.cards.thumbnail(str(path)))).size == (448, 320)
    assert Image.open(io.BytesIO(shop.cards.thumbnail(str(other)))).size == (10, 20)
    with pytest.raises(BadFile, match="picture of broken"):
        shop.cards.thumbnail(str(broken))
    with pytest.raises(NotFound):
        shop.cards.thumbnail(str(shop.folders.lora / "none.safetensors"))


def test_a_file_in_a_wrong_folder_says_where_it_belongs(shop: Shop) -> None:
    path = shop.lora("ink")
    shop.folders.checkpoint_dirs[0].mkdir(parents=True)
    os.link(path, shop.folders.checkpoint_dirs[0] / "lost.safetensors")
    assert shop.listed()["lost"]["problem"] == "It lies in Stable-diffusion; move it to Lora to use it."
    with pytest.raises(BadRequest, match="no cards of the kind 'vae'"):
        shop.cards.listing("vae")


def test_loras_are_known_by_their_hash(shop: Shop) -> None:
    shop.lora("mine", sshs_model_hash="0123456789abcdef", ss_output_name="My Style")
    shop.lora("unknown")
    shop.listed()
    assert shop.cards.by_hash() == {"0123456789ab": "My Style"}


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=FULL)])
def test_many_cards_are_put_together_without_a_disk(shop: Shop, count: int) -> None:
    sample = shop.lora("first", ss_output_name="x", ss_tag_frequency=json.dumps({"a": {"b" * 2000: 1}}))
    for n in range(1, count):
        os.link(sample, shop.folders.lora / f"{n:05}.safetensors")
    shop.library.scan()
    stamp = shop.cards.stamp("lora", None)
    with opened() as names:
        found = json.loads(shop.cards.listing("lora", MODELS["sd1"]))
    assert len(found) == count
    assert not names
    shop.library.scan()
    assert shop.cards.stamp("lora", None) == stamp
    sample.with_suffix(".json").write_text('{"notes": "new"}')
    shop.library.scan()
    assert shop.cards.stamp("lora", None) != stamp
