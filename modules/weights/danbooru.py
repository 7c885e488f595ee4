"""DeepDanbooru's file as A1111's users have it: the net's weights, and the list of its tags among them."""

from __future__ import annotations

from pathlib import Path

import torch

from modules.nets.danbooru import TagNet, TagNetConfig
from modules.schema.errors import BadFile
from modules.weights import pickles
from modules.weights.reading import open_model


def load_tagger(path: Path) -> tuple[TagNet, tuple[str, ...]]:
    """The net, and the names of what it answers. BadFile where it is damaged or something else."""
    wrong = f"{path.name} is no DeepDanbooru model (resnet_custom_v3, converted for torch); put that in its place."
    tags = pickles.scan(path).words.get("tags", ())
    with open_model(path) as file:
        weights = {key: tensor.float() for key, tensor in file.tensors()}
    first = weights.get("n_Conv_0.weight")
    if first is None or not tags:
        raise BadFile(wrong)
    with torch.device("meta"):
        net = TagNet(TagNetConfig(first.shape[0], len(tags)))
    try:
        net.load_state_dict(weights, assign=True)
    except RuntimeError:
        raise BadFile(wrong) from None
    return net.eval(), tags
