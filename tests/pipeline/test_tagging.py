"""Tags of DeepDanbooru's net: numbered as its file is, padded as where it was trained, written as A1111 does."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from modules.imaging import inputs
from modules.nets.danbooru import REPEATS, TagNet, TagNetConfig
from modules.pipeline.model_tasks import Workshop
from modules.pipeline.tagging import Tagger, written
from modules.schema.errors import BadFile, NotFound
from modules.schema.events import Progress
from modules.schema.folders import Folders
from modules.schema.model_tasks import InterrogateTask
from modules.schema.settings import Settings
from modules.weights.danbooru import load_tagger
from tests.pipeline.conftest import Hand
from tests.pipeline.test_img2img import picture
from tests.weights.tiny import randomise

TAGS = ("1girl", "rating:safe", "house_(small)", "blue_sky", "night", "red_roof", "tree", "z")
# What each of these convolutions of the published file is: its weight's shape and its stride.
PUBLISHED = {
    0: ((64, 3, 7, 7), 2), 1: ((256, 64, 1, 1), 1), 3: ((64, 64, 3, 3), 1), 10: ((256, 64, 1, 1), 1),
    11: ((512, 256, 1, 1), 2), 13: ((128, 128, 3, 3), 2), 36: ((1024, 512, 1, 1), 2), 96: ((1024, 256, 1, 1), 1),
    97: ((256, 1024, 1, 1), 1), 98: ((256, 256, 3, 3), 2), 100: ((1024, 1024, 1, 1), 2), 101: ((256, 1024, 1, 1), 1),
    158: ((2048, 1024, 1, 1), 2), 170: ((1024, 1024, 3, 3), 2), 178: ((9176, 4096, 1, 1), 1),
}  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    found = Folders.under(tmp_path)
    (found.models / "torch_deepdanbooru").mkdir(parents=True)
    return found


def write(folders: Folders, seed: int) -> dict[str, Tensor]:
    """A file of random weights, a 16th as wide as the published one."""
    with torch.device("meta"):
        net = TagNet(TagNetConfig(4, len(TAGS)))
    weights = dict(randomise(net, torch.Generator().manual_seed(seed)).state_dict())
    path = folders.models / "torch_deepdanbooru" / "model-resnet_custom_v3.pt"
    torch.save({**weights, "tags": list(TAGS)}, path)
    return weights


def same(x: Tensor, size: int, stride: int, fill: float = 0.0) -> Tensor:
    """TensorFlow's padding "SAME"."""
    for side in (3, 2):
        total = max((-(-x.shape[side] // stride) - 1) * stride + size - x.shape[side], 0)
        ends = (total // 2, total - total // 2)
        x = F.pad(x, ends if side == 3 else (0, 0, *ends), value=fill)
    return x


def told(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The net step by step."""

    def conv(number: int, x: Tensor, stride: int = 1) -> Tensor:
        weight = weights[f"n_Conv_{number}.weight"]
        return F.conv2d(same(x, weight.shape[2], stride), weight, weights.get(f"n_Conv_{number}.bias"), stride)

    x = F.max_pool2d(same(conv(0, x, 2).relu(), 3, 2, float("-inf")), 3, 2)
    number = 1
    for stage, repeats in enumerate(REPEATS):
        stride = 2 if stage else 1
        last = stage == 3  # that stage keeps the width
        beside, first = (number + 3, number) if last else (number, number + 1)
        h = conv(first + 2, conv(first + 1, conv(first, x).relu(), stride).relu())
        x = (h + conv(beside, x, stride)).relu()
        number += 4
        for _ in range(repeats):
            x = (x + conv(number + 2, conv(number + 1, conv(number, x).relu()).relu())).relu()
            number += 3
    return conv(number, x).mean((2, 3)).sigmoid()


def test_convolutions_are_numbered_as_in_the_published_file() -> None:
    with torch.device("meta"):
        net = TagNet(TagNetConfig())
    keys = net.state_dict()
    assert len(keys) == 179 + 178  # the last has no bias
    for number, (shape, stride) in PUBLISHED.items():
        conv: Any = getattr(net, f"n_Conv_{number}")
        assert (tuple(conv.weight.shape), conv.stride[0]) == (shape, stride), number


def test_the_net_says_what_its_parts_say_one_by_one(folders: Folders, test_seed: int) -> None:
    weights = write(folders, test_seed)
    net, tags = load_tagger(folders.models / "torch_deepdanbooru" / "model-resnet_custom_v3.pt")
    assert tags == TAGS
    x = torch.rand(2, 3, 512, 512, generator=torch.Generator().manual_seed(test_seed))
    with torch.inference_mode():
        torch.testing.assert_close(net(x), told(weights, x), rtol=1e-4, atol=1e-5)


def test_likely_tags_are_written_into_the_prompt(folders: Folders, test_seed: int) -> None:
    weights = write(folders, test_seed)
    image = picture(test_seed, (96, 64))
    whole = image.resize((512, 341), Image.Resampling.LANCZOS)
    middle = np.asarray(whole, dtype=np.float32) / 255
    rows = np.concatenate([middle[:1].repeat(85, 0), middle, middle[-1:].repeat(86, 0)])
    with torch.inference_mode():
        sure = told(weights, torch.from_numpy(rows).permute(2, 0, 1)[None])[0]
    least = float(sure.median()) - 1e-3
    wanted = [tag for tag, share in zip(TAGS, sure.tolist()) if share >= least and tag != "rating:safe"]
    settings = Settings().with_options({"interrogate_deepbooru_score_threshold": least, "deepbooru_escape": False})
    out = io.BytesIO()
    image.save(out, "PNG")
    task = InterrogateTask(image=inputs.keep(folders.inputs, out.getvalue()), model="deepdanbooru")
    events: list[Any] = []
    Workshop(folders).run("task", task, settings, events.append, Hand())
    assert isinstance(events[-1], Progress)
    assert events[-1].text == ", ".join(tag.replace("_", " ") for tag in sorted(wanted))


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ({}, r"blue sky, house \(small\), night"),
        ({"deepbooru_sort_alpha": False}, r"night, house \(small\), blue sky"),
        ({"deepbooru_use_spaces": False, "deepbooru_escape": False}, "blue_sky, house_(small), night"),
        ({"deepbooru_filter_tags": "blue sky, night"}, r"house \(small\)"),
        ({"interrogate_return_ranks": True}, r"(blue sky:0.500), (house \(small\):0.600), (night:0.876)"),
        ({"interrogate_deepbooru_score_threshold": 0.55}, r"house \(small\), night"),
    ],
)
def test_the_settings_say_how(wish: dict[str, Any], text: str) -> None:
    sure = {"night": 0.8761, "rating:safe": 0.99, "tree": 0.4, "house_(small)": 0.6, "blue_sky": 0.5}
    assert written(sure, Settings().with_options(wish).interrogating) == text


def test_without_its_file_or_with_another_a_sentence_says_what_to_add(folders: Folders) -> None:
    with pytest.raises(NotFound, match="models/torch_deepdanbooru"):
        Tagger(folders).describe(Image.new("RGB", (8, 8)), Settings())
    path = folders.models / "torch_deepdanbooru" / "other.pt"
    for state in ({"a": torch.zeros(2)}, {"n_Conv_0.weight": torch.zeros(4, 3, 7, 7), "tags": ["a", "b"]}):
        torch.save(state, path)
        with pytest.raises(BadFile, match=r"other\.pt is no DeepDanbooru model"):
            load_tagger(path)
