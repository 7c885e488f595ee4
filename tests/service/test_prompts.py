"""What the desk says of prompts: tokens of every family, embeddings, styles, and problems with their places."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from modules.prompt.styles import Style, write_styles
from modules.schema.folders import Folders
from modules.schema.settings import Settings
from modules.service.prompts import PromptDesk
from modules.service.styles import StyleStore
from modules.weights.catalogue import Catalogue
from tests.weights.test_embeddings import as_json, pixel_coded
from tests.weights.tiny import write_tiny_sd15


class Desk(PromptDesk):
    """Over a folder of its own; `now` are the settings."""

    def __init__(self, folders: Folders) -> None:
        self.now = Settings()
        styles = StyleStore(folders.styles_files, folders.state)
        super().__init__(folders, Catalogue(folders, folders.database), styles, lambda: self.now)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(Folders.under(tmp_path))


@pytest.mark.parametrize(
    ("prompt", "tokens", "limit"),
    [
        ("", 0, 75),
        ("cat " * 75, 75, 75),
        ("cat " * 76, 76, 150),
        ("cat BREAK dog", 76, 150),
        ("a cat # and a comment", 2, 75),
        ("a cat <lora:x:1>", 2, 75),
        ("[one:one two three:0.5]", 3, 75),
        ("a b c AND d", 3, 75),
    ],
)
def test_tokens_are_counted_as_they_will_be_encoded(desk, prompt, tokens, limit):
    found = desk.check(prompt).prompt
    assert (found.tokens, found.limit) == (tokens, limit)


def test_AND_and_tags_in_the_negative_prompt(desk):
    found = desk.check("", "a AND b <lora:x:1>").negative_prompt
    assert found.tokens == 3  # the tag is not counted, as in A1111; it is told
    assert ["negative prompt this is text" in problem.message for problem in found.problems] == [True]


def test_boundaries_stand_where_they_were_typed(desk):
    desk.folders.styles_files[0].write_bytes(
        write_styles([Style("photo", "photo of {prompt}, 35mm"), Style("hq", "best quality")])
    )
    typed = "  " + "cat " * 80
    assert desk.check(typed).prompt.boundaries == (2 + 75 * 4,)
    found = desk.check(typed, styles=["photo", "hq", "none"]).prompt
    assert found.tokens == 80 + 2 + 4 + 3  # photo of / , 35mm is four / , best quality
    assert found.boundaries == (2 + 73 * 4,)
    assert desk.check(typed, styles=["hq"]).prompt.boundaries == (2 + 75 * 4,)
    desk.now = Settings().with_options({"include_styles_into_token_counters": False})
    assert desk.check(typed, styles=["photo"]).prompt.tokens == 80


def test_counters_can_be_turned_off(desk):
    desk.now = Settings().with_options({"disable_token_counters": True})
    found = desk.check("a (red")
    assert (found.counted, found.prompt.tokens, len(found.prompt.problems)) == (False, 0, 1)


def test_embeddings_count_their_vectors(desk):
    desk.folders.embeddings.mkdir()
    save_file({"emb_params": torch.zeros(5, 768)}, desk.folders.embeddings / "easyneg.safetensors")
    save_file({"emb_params": torch.zeros(4, 1024)}, desk.folders.embeddings / "othermodel.safetensors")
    save_file(
        {"clip_l": torch.zeros(3, 768), "clip_g": torch.zeros(3, 1280)}, desk.folders.embeddings / "xl.safetensors"
    )
    torch.save({"string_to_param": {"*": torch.zeros(7, 768)}}, desk.folders.embeddings / "oldstyle.pt")
    (desk.folders.embeddings / "broken.pt").write_bytes(b"PK\x03\x04junk")
    plain = len(["a", "b"])
    assert desk.check("a EasyNeg b").prompt.tokens == plain + 5
    assert desk.check("a oldstyle b").prompt.tokens == plain + 7
    words = desk.check("a othermodel b").prompt.tokens
    assert words == desk.check("a other b").prompt.tokens + desk.check("model").prompt.tokens  # no embedding: its words


def test_embeddings_in_pictures_and_lists_count_their_vectors_too(desk, test_seed):
    folder = desk.folders.embeddings
    folder.mkdir()
    pixel_coded(torch.ones(6, 768), 32, test_seed).save(folder / "somefile.png")
    chunks = PngImagePlugin.PngInfo()
    said = as_json(torch.ones(3, 768)).replace(b'"name": "written"', b'"name": "chunkword"')
    chunks.add_text("sd-ti-embedding", base64.b64encode(said).decode())
    Image.new("RGB", (16, 16), "red").save(folder / "other.png", pnginfo=chunks)
    Image.new("RGB", (16, 16), "red").save(folder / "holiday.png")
    torch.save([{"<one>": torch.zeros(2, 768)}, {"<two>": torch.zeros(1, 768)}], folder / "listword.pt")
    torch.save({"<token>": torch.zeros(768)}, folder / "binword.bin")
    for word, count in (("written", 6), ("chunkword", 3), ("listword", 3), ("binword", 1)):
        assert desk.check(f"a {word} b").prompt.tokens == 2 + count, word
    assert desk.check("holiday").prompt.tokens == 1


def test_embeddings_of_a_small_model_are_counted_by_its_own_width(desk, test_seed):
    write_tiny_sd15(desk.folders.checkpoint_dirs[0] / "tiny.safetensors", test_seed)
    desk.folders.embeddings.mkdir()
    save_file({"emb_params": torch.zeros(5, 32)}, desk.folders.embeddings / "ownword.safetensors")
    save_file({"emb_params": torch.zeros(5, 768)}, desk.folders.embeddings / "easyneg.safetensors")
    words = desk.check("easyneg").prompt.tokens
    assert desk.check("ownword").prompt.tokens == 5
    assert words != 5


@pytest.mark.parametrize(
    ("prompt", "marked", "words"),
    [
        ("a (red", "(", "never closed"),
        ("[a:b:soon]", "[a:b:soon]", "no prompt edit"),
        ("x <lora:none:1>", "<lora:none:1>", "No file in Lora is called none"),
        ("x <foo:bar>", "<foo:bar>", "no kind of network"),
        ("x <lora:ink:much>", "<lora:ink:much>", "is no strength"),
        ("a __beast__", "__beast__", "No wildcard file is called beast.txt"),
        ("😀 # (\na )", ")", "closes nothing"),
    ],
)
def test_problems_are_told_with_their_places(desk, prompt, marked, words):
    (problem,) = desk.check(prompt).prompt.problems
    assert prompt[problem.start : problem.end] == marked
    assert words in problem.message


def test_what_is_there_is_no_problem(desk):
    desk.folders.lora.mkdir(parents=True)
    desk.folders.wildcards.mkdir()
    (desk.folders.wildcards / "beast.txt").write_text("cat")
    save_file({"x": torch.zeros(1)}, desk.folders.lora / "ink_v2.safetensors", metadata={"ss_output_name": "ink"})
    assert desk.check("a __beast__ <lora:ink_v2:1> <lora:ink:0.5> <lyco:ink:1>").prompt.problems == ()
    desk.now = Settings().with_options({"prompt_wildcards": "Files and choices"})
    assert desk.check("[a:b:0.5] {red|blue}").prompt.problems == ()
    desk.now = Settings()
    assert len(desk.check("[a:b:0.5] {red|blue}").prompt.problems) == 1


def test_a_prompt_that_changes_at_every_step_is_still_counted_soon(desk):
    many = "".join(f"[{'|'.join('ab' * n)}] " for n in (1, 2, 3, 5, 7, 11)) + "cat " * 20_000
    assert desk.check(many, steps=150).prompt.tokens > 20_000


def test_what_was_probably_meant_is_offered(desk):
    for path in ("models/Lora/sub/Ink Wash.safetensors", "wildcards/animals.txt", "models/hypernetworks/anime.pt"):
        (desk.folders.data / path).parent.mkdir(parents=True, exist_ok=True)
        (desk.folders.data / path).write_bytes(b"cat")
    text = "<lora:ink wsh:0.5:x=1> __animls__ <hypernet:anme:1> <lra:Ink Wash:1> (a <lora:nothing alike:1>"
    found = {text[problem.start : problem.end]: problem.fix for problem in desk.check(text).prompt.problems}
    assert found == {
        "<lora:ink wsh:0.5:x=1>": "<lora:Ink Wash:0.5:x=1>",
        "__animls__": "__animals__",
        "<hypernet:anme:1>": "<hypernet:anime:1>",
        "<lra:Ink Wash:1>": "<lora:Ink Wash:1>",
        "(": "\\(",
        "<lora:nothing alike:1>": None,
    }


def test_names_of_every_kind_are_listed(desk):
    for path in ("models/Lora/b.safetensors", "models/Lora/A/a.pt", "embeddings/bad.pt", "wildcards/x/cats.txt"):
        (desk.folders.data / path).parent.mkdir(parents=True, exist_ok=True)
        (desk.folders.data / path).write_bytes(b"x")
    desk.styles.save("Ink", "ink", "")
    found = desk.names()
    assert (found.lora, found.embedding, found.wildcard, found.style) == (("a", "b"), ("bad",), ("x/cats",), ("Ink",))
    assert found.hypernet == ()


def test_tag_lists_are_searched_by_name_and_alias(desk):
    folder = desk.folders.data / "extensions" / "complete" / "tags"
    folder.mkdir(parents=True)
    lines = ['blue_eyes,0,500,"azure_eyes,eyes_of_blue"', "blue_sky,0,900", "Blue_Hair", '"a""b,c",0,x', ",,", "\0"]
    (folder / "danbooru.csv").write_bytes("\r\n".join(lines).encode())
    (folder / "broken.csv").write_bytes(b'\xff\xfe"never closed,\n' * 50)
    assert [(tag.name, tag.count, tag.alias) for tag in desk.tags("blue ")] == [
        ("blue_sky", 900, ""), ("blue_eyes", 500, ""), ("Blue_Hair", 0, ""),
    ]  # fmt: skip
    assert [(tag.name, tag.alias) for tag in desk.tags("AZURE")] == [("blue_eyes", "azure_eyes")]
    assert desk.tags("eyes") == desk.tags("eyes_of") == desk.tags("eyes_of_blue") != []
    assert desk.tags("") == desk.tags("zzz") == []
    (folder / "danbooru.csv").write_text("blue_moon,0,1\n")
    assert [tag.name for tag in desk.tags("blue")] == ["blue_moon"]
