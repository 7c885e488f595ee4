"""Faces: found by RetinaFace, made clear by small random restorers in the layouts these are published in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import nn

from modules.imaging import faces as place
from modules.nets import retinaface
from modules.nets.codeformer import CodeFormer, CodeFormerConfig
from modules.nets.retinaface import RetinaFace, RetinaFaceConfig
from modules.nets.torchvision_fit import fit_torchvision
from modules.pipeline.faces import Faces
from modules.schema.errors import BadFile, NotFound
from modules.schema.events import Warned
from modules.schema.request import Extras, Source
from modules.weights.faces import LICENCES, Restorer, load_detector, load_restorer, restorer_files
from tests.pipeline.conftest import Studio
from tests.pipeline.test_img2img import array, keep, picture

CPU = torch.device("cpu")
CENTRE = (60, 60)


def shuffled(net: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Weights of any kind of net, at random but of a size that numbers stay in range."""
    random = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in net.state_dict().items():
        if tensor.ndim > 1:
            tensor = torch.randn(tensor.shape, generator=random) / tensor[0].numel() ** 0.5
        elif name.endswith(("bias", "running_mean")):
            tensor = torch.randn(tensor.shape, generator=random) * 0.05
        found[name] = tensor.contiguous()
    return found


def tiny_detector() -> RetinaFace:
    return RetinaFace(RetinaFaceConfig(width=8, blocks=(1, 1, 1, 1), features=16))


def restoreformer() -> nn.Module:
    fit_torchvision()
    pytest.importorskip("spandrel")
    from spandrel.architectures.RestoreFormer import RestoreFormer

    return RestoreFormer(
        n_embed=16, embed_dim=32, ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, z_channels=32, double_z=False
    )


@pytest.fixture(scope="module")
def shelf(studio: Studio, test_seed: int) -> Iterator[Path]:
    """Restorers and a detector where A1111 keeps them, and an engine that sees a face at CENTRE of larger pictures and
    makes it clear by inverting it."""
    folder = studio.folders.models / "GFPGAN"
    folder.mkdir(parents=True)
    torch.save({"params_ema": shuffled(restoreformer(), test_seed)}, folder / "RestoreFormer.pth")
    torch.save(shuffled(tiny_detector(), test_seed), folder / "detection_Resnet50_Final.pth")
    (folder / "broken.pth").write_bytes(b"nothing")
    other = studio.folders.models / "Codeformer"
    other.mkdir()
    small = CodeFormer(CodeFormerConfig(width=32, code=32, codes=16, model=64, mlp=64, layers=1))
    torch.save({"params_ema": shuffled(small, test_seed)}, other / "codeformer-v0.1.0.pth")

    class Sees(Faces):
        def find(self, image: Image.Image) -> list[np.ndarray]:
            return [face_at(CENTRE, 40)] if image.width >= 64 else []

        def _net(self, what: str, path: Path, load: Any) -> Any:
            return Restorer("RestoreFormer", lambda face, weight: 1 - face)  # a real one takes seconds for each face

    usual, studio.engine.faces = studio.engine.faces, Sees(studio.folders, studio.engine.facts)
    yield folder
    studio.engine.faces = usual


def face_at(centre: tuple[int, int], side: float) -> np.ndarray:
    """Landmarks of an upright face."""
    return (place.TEMPLATE - place.SIDE / 2) * side / place.SIDE + centre


def drawn_face() -> Image.Image:
    image = Image.new("RGB", (256, 192), "#7aa")
    pen = ImageDraw.Draw(image)
    pen.ellipse((80, 40, 176, 168), fill="#fca")
    for x in (108, 148):
        pen.ellipse((x - 7, 84, x + 7, 96), fill="#fff")
        pen.ellipse((x - 3, 86, x + 3, 94), fill="#123")
    pen.arc((108, 110, 148, 146), 20, 160, fill="#a22", width=4)
    return image


# Finding


def test_what_the_net_says_becomes_faces_the_surest_first(test_seed: int) -> None:
    height, width = 100, 140
    anchors = retinaface.anchors(height, width)
    random = np.random.default_rng(test_seed)
    chosen = [int(k) for k in np.nonzero((anchors[:, 2] == 32).numpy())[0][[40, 120]]]
    boxes, points = torch.zeros(len(anchors), 4), torch.zeros(len(anchors), 10)
    classes = torch.tensor([[5.0, -5.0]]).repeat(len(anchors), 1)
    wanted = []
    for k, sure in zip(chosen, (6.0, 9.0)):
        x, y, side = anchors[k].tolist()
        spots = torch.tensor(random.uniform(-8, 8, (5, 2)), dtype=torch.float32) + torch.tensor([x, y])
        classes[k] = torch.tensor([0.0, sure])
        boxes[k] = torch.tensor([3 / (0.1 * side), -2 / (0.1 * side), np.log(20 / side) / 0.2, np.log(30 / side) / 0.2])
        points[k] = ((spots - anchors[k, :2]) / (0.1 * side)).reshape(-1)
        wanted.append((torch.tensor([x + 3 - 10, y - 2 - 15, x + 3 + 10, y - 2 + 15]), spots))
        # The anchor beside it sees the same face, less surely; and another sees none surely enough.
        classes[k + 2] = torch.tensor([0.0, sure - 1])
        boxes[k + 2] = boxes[k] - torch.tensor([8 / (0.1 * side), 0, 0, 0])
        classes[k + 30] = torch.tensor([0.0, 3.0])
    found = retinaface.read(boxes, classes, points, (height, width))
    assert len(found) == 2
    for (sure, box, spots), (its_box, its_spots) in zip(found, reversed(wanted)):
        assert sure > 0.97
        torch.testing.assert_close(box, its_box, atol=1e-3, rtol=0)
        torch.testing.assert_close(spots, its_spots, atol=1e-3, rtol=0)


def test_a_detector_is_built_from_its_file_and_looks_at_any_picture(tmp_path: Path, test_seed: int) -> None:
    path = tmp_path / "detection_Resnet50_Final.pth"
    weights = shuffled(tiny_detector(), test_seed)
    torch.save({f"module.{key}": value for key, value in weights.items()}, path)
    net = load_detector(path, CPU)
    own = tiny_detector().eval()
    own.load_state_dict(weights)
    for size in ((64, 64), (97, 33)):
        pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(test_seed)) * 255
        with torch.no_grad():
            said, expected = net(pixels), own(pixels)
        assert said[0].shape[1] == len(retinaface.anchors(*size))
        for a, b in zip(said, expected):
            torch.testing.assert_close(a, b)
    full = {f"body.layer{stage}" for stage in range(1, 5)} | {"fpn.output1.0.weight", "ssh1.conv7x7_3.1.running_mean"}
    keys = RetinaFace(RetinaFaceConfig()).state_dict()
    assert len(keys) == 456, "as many parts as the published file"
    assert all(any(key.startswith(name) for key in keys) for name in full)
    torch.save({key: value for key, value in weights.items() if "ssh2" not in key}, path)
    with pytest.raises(BadFile, match="does not fit together"):
        load_detector(path, CPU)
    torch.save({"x": torch.zeros(3)}, path)
    with pytest.raises(BadFile, match="no RetinaFace"):
        load_detector(path, CPU)


# Cutting out and putting back


def test_a_face_is_turned_upright_and_put_back_where_it_was() -> None:
    image = drawn_face()
    points = np.array([[108, 90], [148, 90], [128, 112], [114, 138], [142, 138]], dtype=float)
    turned = image.rotate(30, Image.Resampling.BICUBIC, center=(128, 96))
    radians = np.deg2rad(-30)
    spin = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    upright, tilted = place.similarity(points), place.similarity((points - (128, 96)) @ spin.T + (128, 96))
    straight = np.asarray(place.cut_out(image, upright)).astype(int)[100:400, 100:400]
    again = np.asarray(place.cut_out(turned, tilted)).astype(int)[100:400, 100:400]
    assert np.abs(straight - again).mean() < 6
    matrix = upright
    back = place.put_back(image, place.cut_out(image, matrix), matrix)
    assert np.abs(np.asarray(back).astype(int) - np.asarray(image)).mean() < 1
    white = np.asarray(place.put_back(image, Image.new("RGB", (512, 512), "#fff"), matrix))
    changed = (white != np.asarray(image)).any(axis=2)
    assert white[96, 128].tolist() == [255, 255, 255]
    corners = np.array([[0, 0], [512, 512]]) @ np.linalg.inv(matrix[:, :2]).T + (
        -np.linalg.inv(matrix[:, :2]) @ matrix[:, 2]
    )
    (left, top), (right, bottom) = corners.round().astype(int)
    outside = np.ones_like(changed)
    outside[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = False
    assert not changed[outside].any()


def test_a_face_at_the_edge_of_the_picture_stays_within_it() -> None:
    image = drawn_face()
    matrix = place.similarity(face_at((250, 4), 60))
    result = place.put_back(image, Image.new("RGB", (512, 512), "#f00"), matrix)
    assert result.size == image.size
    assert result.getpixel((250, 4)) == (255, 0, 0)
    gone = place.similarity(face_at((900, 900), 60))
    assert place.put_back(image, Image.new("RGB", (512, 512)), gone).tobytes() == image.tobytes()


# Restoring


def test_restoreformer_goes_through_spandrel(shelf: Path, test_seed: int) -> None:
    restorer = load_restorer(shelf / "RestoreFormer.pth", CPU)
    face = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(test_seed))
    with torch.inference_mode():
        clear = restorer.restore(face, 0.5)
    assert restorer.kind == "RestoreFormer"
    assert clear.shape == face.shape
    assert 0 <= float(clear.min()) < float(clear.max()) <= 1


def test_restorers_are_told_by_what_the_files_hold(shelf: Path, studio: Studio) -> None:
    assert list(restorer_files(studio.folders)) == ["CodeFormer", "RestoreFormer"]
    (shelf / "GFPGANv1.3.safetensors").touch()
    save_file({"stylegan_decoder.style_mlp.1.weight": torch.zeros(4)}, shelf / "GFPGANv1.4.safetensors")
    try:
        known = restorer_files(studio.folders)
        assert known["GFPGAN"].name == "GFPGANv1.4.safetensors", "an empty file is none"
        with pytest.raises(BadFile):
            load_restorer(known["GFPGAN"], CPU)
    finally:
        for name in ("GFPGANv1.3", "GFPGANv1.4"):
            (shelf / f"{name}.safetensors").unlink()


def test_codeformers_weight_says_how_much_of_the_face_is_kept(shelf: Path, studio: Studio, test_seed: int) -> None:
    restorer = load_restorer(restorer_files(studio.folders)["CodeFormer"], CPU)
    face = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(test_seed))
    with torch.inference_mode():
        book, mixed = restorer.restore(face, 0.0), restorer.restore(face, 1.0)
    assert restorer.kind == "CodeFormer"
    assert book.shape == mixed.shape == face.shape
    assert 0 <= float(mixed.min()) < float(mixed.max()) <= 1
    assert not torch.equal(book, mixed)
    assert len(CodeFormer(CodeFormerConfig()).state_dict()) == 515, "as many parts as the published file"


def test_a_drawn_picture_gets_its_face_restored_and_nothing_else(shelf: Path, studio: Studio) -> None:
    asked: dict[str, Any] = {"width": 120, "height": 120, "seed": 4}
    faces = {"face_restoration": True, "face_restoration_model": "RestoreFormer"}
    (plain,) = studio.draw(**asked)
    (restored,) = studio.draw(**asked, override_settings=faces)
    told = [event.message for event in studio.events if isinstance(event, Warned)]
    assert told == [LICENCES["RestoreFormer"], LICENCES["detector"]]
    changed = (array(studio, plain) != array(studio, restored)).any(axis=2)
    assert changed[50:70, 50:70].mean() > 0.9
    changed[38:82, 38:82] = False
    assert not changed.any()
    assert "Face restoration: RestoreFormer" in restored.record.infotext
    assert "Face restoration" not in plain.record.infotext
    (again,) = studio.draw(**asked, override_settings=faces)
    assert np.array_equal(array(studio, again), array(studio, restored))
    assert not [event for event in studio.events if isinstance(event, Warned)], "licences are told once"


def test_extras_mix_restored_faces_by_their_visibility(shelf: Path, studio: Studio, test_seed: int) -> None:
    os.link(shelf / "RestoreFormer.pth", shelf / "GFPGAN-stand-in.pth")
    try:
        image = picture(test_seed, (120, 120))
        name = keep(studio, image)

        def extras(**asked: Any) -> np.ndarray:
            (one,) = studio.draw(source=Source(images=(name,), extras=Extras(**asked)))
            return array(studio, one)

        full, half = extras(gfpgan_visibility=1.0), extras(gfpgan_visibility=0.5)
        before = np.asarray(image).astype(int)
        assert np.abs(full - before)[50:70, 50:70].mean() > 5
        assert np.abs(half - (full + before) / 2).max() <= 1
        assert "GFPGAN visibility: 0.5" in studio.pictures[0].record.infotext
        first = extras(gfpgan_visibility=1.0, upscaler_1="Nearest", upscaling_resize=2, upscale_first=True)
        after = extras(gfpgan_visibility=1.0, upscaler_1="Nearest", upscaling_resize=2, upscale_first=False)
        assert first.shape == after.shape == (240, 240, 3)
        assert np.array_equal(after, full.repeat(2, 0).repeat(2, 1))
        assert not np.array_equal(first, after)
    finally:
        (shelf / "GFPGAN-stand-in.pth").unlink()


def test_what_is_missing_is_said_before_anything_is_drawn(shelf: Path, studio: Studio, test_seed: int) -> None:
    with pytest.raises(NotFound, match=r"No face restorer is called 'GFPGAN': there are CodeFormer, RestoreFormer"):
        studio.draw(override_settings={"face_restoration": True, "face_restoration_model": "GFPGAN"})
    assert not studio.events
    detector = shelf / "detection_Resnet50_Final.pth"
    detector.rename(shelf / "elsewhere.pth")
    try:
        with pytest.raises(NotFound, match=r"detection_Resnet50_Final\.pth into models/GFPGAN"):
            studio.draw(override_settings={"face_restoration": True})
        source = Source(images=(keep(studio, picture(test_seed)),), extras=Extras(codeformer_visibility=1.0))
        with pytest.raises(NotFound) as caught:
            studio.draw(source=source)
        assert caught.value.field == "codeformer_visibility"
    finally:
        (shelf / "elsewhere.pth").rename(detector)


def test_without_a_face_the_picture_stays_as_it_is(shelf: Path, studio: Studio, test_seed: int) -> None:
    image = picture(test_seed, (40, 40)).convert("RGBA")
    image.putalpha(100)
    warned: list[str] = []
    result = studio.engine.faces.restore(image, "RestoreFormer", 0.5, warned.append)
    assert result.tobytes() == image.tobytes()
    # The real finder, on random weights: whatever it sees has five landmarks in the picture's own pixels.
    for points in Faces(studio.folders, studio.engine.facts).find(picture(test_seed, (80, 64))):
        assert points.shape == (5, 2)
        assert np.isfinite(points).all()


@pytest.mark.skipif(not os.environ.get("TEST_FULL"), reason="a file of 350 MB and 40 s")
def test_gfpgan_of_full_size_goes_through_spandrel(tmp_path: Path, test_seed: int) -> None:
    fit_torchvision()
    pytest.importorskip("spandrel")
    from spandrel.architectures.GFPGAN import GFPGAN

    torch.manual_seed(test_seed)
    net = GFPGAN(
        out_size=512, num_style_feat=512, channel_multiplier=2, fix_decoder=False, num_mlp=8, input_is_latent=True,
        different_w=True, narrow=1, sft_half=True,
    )  # fmt: skip
    torch.save({"params_ema": net.state_dict()}, tmp_path / "GFPGANv1.4.pth")
    del net
    restorer = load_restorer(tmp_path / "GFPGANv1.4.pth", CPU)
    face = torch.rand(1, 3, 512, 512)
    with torch.inference_mode():
        first, second = restorer.restore(face, 0.5), restorer.restore(face, 0.5)
    assert restorer.kind == "GFPGAN"
    assert first.shape == face.shape
    assert torch.equal(first, second), "its noise is the file's own"
    assert 0 <= float(first.min()) < float(first.max()) <= 1
