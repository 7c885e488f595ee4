"""Interrogate: a small random CLIP in the layouts it is published in chooses words for a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from modules.imaging import inputs
from modules.nets.clip_pair import ClipPair, hugging_face
from modules.nets.torchvision_fit import fit_torchvision
from modules.pipeline import vocabulary
from modules.pipeline.interrogate import Interrogator, lists, load, prepared, tokens_of
from modules.pipeline.model_tasks import Workshop
from modules.pipeline.run import Engine
from modules.schema.errors import BadFile, NotFound
from modules.schema.events import Progress
from modules.schema.folders import Folders
from modules.schema.model_tasks import InterrogateTask
from modules.schema.request import Extras, Source
from modules.schema.settings import Settings
from modules.weights.library import clip_pair_file
from tests.pipeline.conftest import Hand, Studio
from tests.pipeline.test_img2img import keep, picture


def small(seed: int) -> Any:
    fit_torchvision()
    from transformers import CLIPConfig, CLIPModel

    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 96}
    config = CLIPConfig(
        text_config={**size, "hidden_act": "quick_gelu", "vocab_size": 49408, "eos_token_id": 49407},
        vision_config={**size, "hidden_act": "quick_gelu", "image_size": 64, "patch_size": 16}, projection_dim=32,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = CLIPModel(config).eval()
    for name, value in model.named_parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=0.5 if "embedding" in name else 1.5 / value[0].numel() ** 0.5)
    return model


def open_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as OpenAI and open_clip name them."""
    found = {
        "token_embedding.weight": weights["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": weights["text_model.embeddings.position_embedding.weight"],
        "text_projection": weights["text_projection.weight"].T.contiguous(), "logit_scale": weights["logit_scale"],
        "visual.class_embedding": weights["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": weights["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": weights["vision_model.embeddings.patch_embedding.weight"],
        "visual.proj": weights["visual_projection.weight"].T.contiguous(),
    }  # fmt: skip
    for kind in ("weight", "bias"):
        found[f"ln_final.{kind}"] = weights[f"text_model.final_layer_norm.{kind}"]
        found[f"visual.ln_pre.{kind}"] = weights[f"vision_model.pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = weights[f"vision_model.post_layernorm.{kind}"]
        for side, head in (("text_model", ""), ("vision_model", "visual.")):
            for layer in range(2):
                ours, theirs = f"{side}.encoder.layers.{layer}", f"{head}transformer.resblocks.{layer}"
                parts = [weights[f"{ours}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
                found[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(parts)
                for name, other in (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"),
                                    ("mlp.fc2", "mlp.c_proj"), ("self_attn.out_proj", "attn.out_proj")):  # fmt: skip
                    found[f"{theirs}.{other}.{kind}"] = weights[f"{ours}.{name}.{kind}"]
    return found


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    found = Folders.under(tmp_path)
    (found.models / "CLIP").mkdir(parents=True)
    return found


def test_the_likeliest_words_are_chosen_in_either_layout(folders: Folders, test_seed: int) -> None:
    model = small(test_seed)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    image = picture(test_seed, (90, 70))
    own = folders.data / "interrogate"
    own.mkdir()
    things = ["a cat", "a dog", "a house", "a ship on the sea"]
    (own / "things.txt").write_text("\n".join([*things, "", "a cat"]))
    (own / "flavors.top2.txt").write_text("red\ngreen\nblue\nyellow")
    pixels = prepared(image, 64)
    mean, spread = torch.tensor([0.4815, 0.4578, 0.4082]), torch.tensor([0.2686, 0.2613, 0.2758])
    with torch.no_grad():
        told = model(
            pixel_values=(pixels - mean.view(1, 3, 1, 1)) / spread.view(1, 3, 1, 1),
            input_ids=torch.tensor([tokens_of(text, 77) for text in things]),
        ).logits_per_image[0]
    for name, state in (("hf", weights), ("open", open_clip(weights))):
        for old in (folders.models / "CLIP").iterdir():
            old.unlink()
        save_file(state, folders.models / "CLIP" / f"{name}.safetensors")
        words = Interrogator(folders).describe(image, Settings()).split(", ")
        assert len(words) == 3
        assert words[2] == things[int(told.argmax())]
        assert set(words[:2]) < {"red", "green", "blue", "yellow"}
    assert set(hugging_face(open_clip(weights))) == set(hugging_face(weights))


def test_the_users_lists_come_before_ours(folders: Folders) -> None:
    assert lists(folders, Settings())[0] == (vocabulary.SUBJECTS, 1)
    assert all(len(set(words)) == len(words) > 20 for words, _ in lists(folders, Settings()))
    (folders.data / "interrogate").mkdir()
    (folders.data / "interrogate" / "artists.txt").write_text("one\ntwo\nthree\n")
    (folders.data / "interrogate" / "styles.txt").write_text("one\n\ntwo")
    limited = Settings().with_options({"interrogate_clip_dict_limit": 2})
    assert lists(folders, limited) == [(("one", "two"), 1), (("one", "two"), 4)]
    skipping = Settings().with_options({"interrogate_clip_skip_categories": ["artists"]})
    assert lists(folders, skipping) == [(("one", "two"), 4)]


def test_a_line_has_as_many_tokens_as_the_model_takes() -> None:
    assert tokens_of("a cat", 8) == [49406, 320, 2368, 49407, 49407, 49407, 49407, 49407]
    assert len(tokens_of("word " * 200, 77)) == 77
    assert prepared(Image.new("RGB", (300, 40)), 64).shape == (1, 3, 64, 64)


def test_without_a_model_a_sentence_says_what_to_add(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="models/CLIP"):
        Interrogator(folders).describe(Image.new("RGB", (8, 8)), Settings())
    path = folders.models / "CLIP" / "x.safetensors"
    save_file({"visual.proj": torch.zeros(4, 4), "junk": torch.zeros(1)}, path)
    assert clip_pair_file(folders) == path
    with pytest.raises(BadFile, match="both towers"):
        load(path)


def test_it_runs_as_a_task_whose_result_is_the_text(folders: Folders, test_seed: int) -> None:
    state = {key: value.contiguous() for key, value in small(test_seed).state_dict().items()}
    save_file(state, folders.models / "CLIP" / "ViT.safetensors")
    out = io.BytesIO()
    picture(test_seed).save(out, "PNG")
    name = inputs.keep(folders.inputs, out.getvalue())
    events: list[Any] = []
    Workshop(folders).run("task", InterrogateTask(image=name), Settings(), events.append, Hand())
    (last,) = events
    assert isinstance(last, Progress)
    words = last.text.split(", ")
    assert words[0] in vocabulary.SUBJECTS
    assert words[1] in vocabulary.MEDIUMS
    assert len(words) == 6
    assert isinstance(load(folders.models / "CLIP" / "ViT.safetensors"), ClipPair)


def test_extras_write_the_words_beside_each_picture(folders: Folders, test_seed: int) -> None:
    studio = Studio(Engine(folders), folders)
    source = Source(images=(keep(studio, picture(test_seed)),), extras=Extras(caption=True, flip=("Both",)))
    with pytest.raises(NotFound, match="models/CLIP"):
        studio.draw(source=source)
    state = {key: value.contiguous() for key, value in small(test_seed).state_dict().items()}
    save_file(state, folders.models / "CLIP" / "ViT.safetensors")
    made = studio.draw(source=source)
    assert len(made) == 2
    for one in made:
        words = (folders.data / str(one.record.path)).with_suffix(".txt").read_text("utf-8")
        assert words.split(", ")[0] in vocabulary.SUBJECTS
