"""Small networks are learned beside frozen nets, and their files mean to the engine what they meant while learning."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from modules.schema.errors import BadFile, BadRequest
from modules.training import network_files
from modules.training.teach import (
    EmbeddingLearner,
    HypernetworkLearner,
    Lesson,
    LoraLearner,
    contexts,
    latents_of,
    lesson_loss,
    main,
    open_base,
    read_folder,
    teach,
    text_widths,
)
from modules.weights.adapters.apply import Network, Networks
from modules.weights.adapters.hypernetwork import context_map, open_hypernetwork
from modules.weights.embeddings import open_embedding
from modules.weights.reading import open_model, plain_values
from tests.weights.tiny import write_tiny, write_tiny_sd15

LESSON = Lesson(steps=40, batch=4, learning_rate=2e-2, warm_up=1, bfloat16=False)
CAPTIONS = [["a zorp, night"], ["zorp"], ["two zorp by day", "zorp, day"]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, test_seed) -> Path:
    return write_tiny_sd15(tmp_path_factory.mktemp("base") / "tiny.safetensors", test_seed)


@pytest.fixture
def base(checkpoint):
    return open_base(checkpoint)


@pytest.fixture(scope="module")
def latents(test_seed):
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(test_seed)) + 1.5


def quiet(line: str) -> None:
    pass


def weights(base) -> dict[str, torch.Tensor]:
    return {
        f"{n}.{key}": value.clone()
        for n, net in enumerate((base.unet, base.text)) for key, value in net.state_dict().items()
    }  # fmt: skip


def facts(base, name="ink"):
    return network_files.Facts.of(base.path, name, 3, 64, LESSON, CAPTIONS, comment="made for a test")


def error(base, learner, latents) -> float:
    return float(lesson_loss(base, learner, latents, CAPTIONS, LESSON, 0).detach())


def learned(base, learner, latents):
    """Trains, and asserts that the same samples are now predicted better, and that the nets stayed as they are."""
    before, start = weights(base), error(base, learner, latents)
    curve = teach(base, learner, latents, CAPTIONS, LESSON, log=quiet)
    assert error(base, learner, latents) < start
    assert [step for step, _ in curve] == [25, 40]
    for key, value in weights(base).items():
        assert torch.equal(value, before[key]), key


def close(a, b):
    """Equal but for the rounding of memory laid out otherwise."""
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def look(base, rows, mapped=None):
    with torch.no_grad():
        x = torch.linspace(-1, 1, 256).reshape(1, 4, 8, 8)
        return base.unet(x, torch.tensor([400]), rows, context_map=mapped)


@pytest.mark.parametrize("convolutions", [False, True])
def test_a_lora_file_does_what_was_learned(base, latents, tmp_path, test_seed, convolutions):
    with torch.no_grad():
        plain = contexts(base, HypernetworkLearner([32], 1), ["zorp"])
        nothing = look(base, plain)
    learner = LoraLearner(base, rank=2, alpha=1.0, seed=test_seed, convolutions=convolutions)
    with torch.no_grad():
        close(look(base, contexts(base, learner, ["zorp"])), nothing)  # it begins at nothing
    learned(base, learner, latents)
    with torch.no_grad():
        rows = contexts(base, learner, ["zorp"])
        wanted = look(base, rows)
    learner.close()
    with torch.no_grad():
        close(look(base, contexts(base, learner, ["zorp"])), nothing)  # closed, nothing of it is left

    path = network_files.write_lora(tmp_path / "ink.safetensors", learner.tensors(), 2, 1.0, facts(base))
    pristine = {"unet": base.unet, "te1": base.text}
    stored = {
        (net, key): value.clone() for net, module in pristine.items() for key, value in module.state_dict().items()
    }

    class Source:
        def __call__(self, target, name):
            return stored[target.net, f"{target.path}.{name}"]

        def close(self):
            pass

    networks = Networks(base.unet, [base.text], Source(), "sd1", "SD 1.x", torch.device("cpu"))
    outcome = networks.apply((Network(path, "ink"),))
    assert outcome.warnings == ()
    assert outcome.applied == ("ink",)
    with torch.no_grad():
        drawn = look(base, contexts(base, learner, ["zorp"]))
    assert (drawn - nothing).abs().max() > 1e-3
    torch.testing.assert_close(drawn, wanted, rtol=2e-3, atol=2e-3)
    networks.apply(())
    with torch.no_grad():
        close(look(base, contexts(base, learner, ["zorp"])), nothing)


def test_a_lora_s_metadata_are_what_cards_read(base, tmp_path, test_seed):
    learner = LoraLearner(base, rank=2, alpha=2.0, seed=test_seed)
    learner.close()
    path = network_files.write_lora(tmp_path / "ink.safetensors", learner.tensors(), 2, 2.0, facts(base))
    with safe_open(str(path), "pt") as file:
        said = file.metadata()
    assert said["ss_output_name"] == "ink"
    assert said["ss_base_model_version"] == "sd_v1"
    assert json.loads(said["ss_tag_frequency"])["1_ink"] == {"zorp": 1, "a zorp": 1, "night": 1, "two zorp by day": 1}
    assert (said["ss_network_dim"], said["ss_network_alpha"]) == ("2", "2.0")
    assert len(said["ss_new_sd_model_hash"]) == 64
    content = path.read_bytes()
    body = content[8 + int.from_bytes(content[:8], "little") :]
    assert said["sshs_model_hash"] == hashlib.sha256(body).hexdigest()


def test_an_embedding_is_rows_under_its_name(base, latents, tmp_path):
    learner = EmbeddingLearner(base, "zorp", vectors=3, like="night")
    begin = learner.vectors.detach().clone()
    learned(base, learner, latents)
    path = network_files.write_embedding(tmp_path / "zorp.pt", learner.vectors, facts(base, "zorp"))
    found = open_embedding(path)
    assert found.name == "zorp"
    assert torch.equal(found.rows[""], learner.vectors.detach())
    assert not torch.equal(found.rows[""], begin)
    said = plain_values(path)
    assert (said["name"], said["step"], said["sd_checkpoint_name"]) == ("zorp", 40, "tiny")


def test_a_hypernetwork_file_maps_as_it_learned(base, latents, tmp_path, test_seed):
    widths = text_widths(base)
    learner = HypernetworkLearner(widths, test_seed)
    with torch.no_grad():
        rows = contexts(base, learner, ["zorp"])
        nothing = look(base, rows)
        close(look(base, rows, learner.context_map()), nothing)  # it begins at nothing
    learned(base, learner, latents)
    path = network_files.write_hypernetwork(tmp_path / "haze.pt", learner.pairs, learner.said, facts(base, "haze"))
    opened = open_hypernetwork(path, torch.device("cpu"))
    assert set(opened.pairs) == set(widths)
    with torch.no_grad():
        close(look(base, rows, context_map([(opened, 1.0)])), look(base, rows, learner.context_map()))
        assert (look(base, rows, learner.context_map()) - nothing).abs().max() > 1e-3
    assert context_map([(opened, 0.0)]) is None
    assert plain_values(path)["layer_structure"] == [1, 2, 1]


def test_learning_repeats_itself(checkpoint, latents, test_seed):
    outcomes = []
    for _ in range(2):
        base = open_base(checkpoint)
        learner = LoraLearner(base, rank=1, alpha=1.0, seed=test_seed)
        teach(base, learner, latents, CAPTIONS, Lesson(steps=3, batch=2, bfloat16=False), log=quiet)
        outcomes.append(learner.tensors())
    assert all(torch.equal(value, outcomes[1][key]) for key, value in outcomes[0].items())


def test_pictures_and_captions_of_a_folder(tmp_path, base):
    Image.new("RGB", (90, 64), "red").save(tmp_path / "0001-a red_wall.png")
    Image.new("RGB", (64, 80), "blue").save(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("a blue wall,\n day\n")
    pictures, captions = read_folder(tmp_path, 64)
    assert captions == [["a red wall"], ["a blue wall, day"]]
    assert [tuple(p[0, 0]) for p in pictures] == [(255, 0, 0), (0, 0, 255)]
    assert latents_of(base, pictures).shape == (2, 4, 8, 8)
    (tmp_path / "none").mkdir()
    with pytest.raises(BadRequest, match="no picture"):
        read_folder(tmp_path / "none", 64)


@pytest.mark.parametrize("kind", ["lora", "embedding", "hypernetwork"])
def test_the_command_writes_a_file_the_engine_reads(kind, checkpoint, tmp_path, capsys):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "zorp.png")
    output = tmp_path / ("out.safetensors" if kind == "lora" else "out.pt")
    main([
        kind, "--checkpoint", str(checkpoint), "--pictures", str(tmp_path), "--name", "zorp", "--output", str(output),
        "--size", "64", "--steps", "2", "--batch", "2",
    ])  # fmt: skip
    with open_model(output) as file:
        assert file.header.tensors
    assert str(output) in capsys.readouterr().out


def test_another_family_is_refused(tmp_path, test_seed):
    path = write_tiny(tmp_path / "xl.safetensors", "SDXL", seed=test_seed)
    with pytest.raises(BadFile, match="plain Stable Diffusion 1"):
        open_base(path)
