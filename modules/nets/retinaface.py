"""RetinaFace: where faces are in a picture, each with five landmarks (Deng et al. 2019, arXiv:1905.00641).

A ResNet (He et al., arXiv:1512.03385) with a feature pyramid, a context module per level and three heads over anchors.
Attribute names follow the keys of the file that facexlib publishes (`detection_Resnet50_Final.pth`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)
ANCHOR_SIDES = ((16, 32), (64, 128), (256, 512))  # pixels, of the square anchors at each place of a level
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
BGR_MEAN = (104.0, 117.0, 123.0)
MOST = 500  # anchors that are looked at further; a sound net is sure of some dozens
LANDMARKS = 5  # eyes, nose, corners of the mouth


@dataclass(frozen=True)
class RetinaFaceConfig:
    """Widths and depths; all are readable off tensor shapes."""

    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    features: int = 256


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * 4
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            if stride != 1 or inside != out
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + (x if self.downsample is None else self.downsample(x)))


class Body(nn.Module):
    """The ResNet without its classifier; gives the features of its last three stages."""

    def __init__(self, config: RetinaFaceConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, config.width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        channels = config.width
        for stage, count in enumerate(config.blocks):
            width, blocks = config.width * 2**stage, []
            for k in range(count):
                blocks.append(Bottleneck(channels, width, 2 if stage and k == 0 else 1))
                channels = width * 4
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        found = []
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            found.append(x)
        return found[1:]


def _conv(inside: int, out: int, size: int, leak: float | None) -> nn.Sequential:
    """Convolution and norm, then an activation unless `leak` is None."""
    parts = [nn.Conv2d(inside, out, size, padding=size // 2, bias=False), nn.BatchNorm2d(out)]
    return nn.Sequential(*parts, *([] if leak is None else [nn.LeakyReLU(leak)]))


class Pyramid(nn.Module):
    def __init__(self, inside: tuple[int, ...], out: int, leak: float) -> None:
        super().__init__()
        self.output1, self.output2, self.output3 = (_conv(channels, out, 1, leak) for channels in inside)
        self.merge1, self.merge2 = _conv(out, out, 3, leak), _conv(out, out, 3, leak)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = self.output1(features[0]), self.output2(features[1]), self.output3(features[2])
        middle = self.merge2(middle + F.interpolate(coarse, size=middle.shape[2:], mode="nearest"))
        fine = self.merge1(fine + F.interpolate(middle, size=fine.shape[2:], mode="nearest"))
        return [fine, middle, coarse]


class Context(nn.Module):
    """Three sights of growing width, side by side (SSH, Najibi et al., arXiv:1708.03979)."""

    def __init__(self, channels: int, leak: float) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.conv3X3 = _conv(channels, half, 3, None)
        self.conv5X5_1, self.conv5X5_2 = _conv(channels, quarter, 3, leak), _conv(quarter, quarter, 3, None)
        self.conv7X7_2, self.conv7x7_3 = _conv(quarter, quarter, 3, leak), _conv(quarter, quarter, 3, None)

    def forward(self, x: Tensor) -> Tensor:
        five = self.conv5X5_1(x)
        seven = self.conv7x7_3(self.conv7X7_2(five))
        return F.relu(torch.cat([self.conv3X3(x), self.conv5X5_2(five), seven], 1))


class Head(nn.Module):
    """`values` numbers for each anchor, [B, anchors, values]."""

    def __init__(self, channels: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(channels, len(ANCHOR_SIDES[0]) * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1x1(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)


class RetinaFace(nn.Module):
    """Pictures [B, 3, H, W] in BGR, 0…255 less BGR_MEAN, to what each anchor says: offsets of its box [B, N, 4], logits
    of "nothing" and "face" [B, N, 2], offsets of five points [B, N, 10]."""

    def __init__(self, config: RetinaFaceConfig) -> None:
        super().__init__()
        out, levels = config.features, range(len(STRIDES))
        leak = 0.1 if out <= 64 else 0.0
        self.body = Body(config)
        self.fpn = Pyramid(tuple(config.width * 4 * 2**stage for stage in (1, 2, 3)), out, leak)
        self.ssh1, self.ssh2, self.ssh3 = (Context(out, leak) for _ in levels)
        self.ClassHead = nn.ModuleList(Head(out, 2) for _ in levels)
        self.BboxHead = nn.ModuleList(Head(out, 4) for _ in levels)
        self.LandmarkHead = nn.ModuleList(Head(out, 2 * LANDMARKS) for _ in levels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels = [ssh(f) for ssh, f in zip((self.ssh1, self.ssh2, self.ssh3), self.fpn(self.body(x)))]
        boxes, classes, points = (
            torch.cat([head(f) for head, f in zip(heads, levels)], 1)
            for heads in (self.BboxHead, self.ClassHead, self.LandmarkHead)
        )
        return boxes, classes, points


def anchors(height: int, width: int) -> Tensor:
    """Centre and side of every anchor of a picture, [N, 3] in pixels, in the order the heads speak of them."""
    found = []
    for stride, sides in zip(STRIDES, ANCHOR_SIDES):
        y, x = torch.meshgrid(
            (torch.arange(-(-height // stride)) + 0.5) * stride, (torch.arange(-(-width // stride)) + 0.5) * stride,
            indexing="ij",
        )  # fmt: skip
        level = torch.stack([torch.stack([x, y, torch.full_like(x, side)], -1) for side in sides], 2)
        found.append(level.reshape(-1, 3))
    return torch.cat(found)


def read(
    boxes: Tensor, classes: Tensor, points: Tensor, size: tuple[int, int], sure: float = 0.97, overlap: float = 0.4
) -> list[tuple[float, Tensor, Tensor]]:
    """What the net says of one picture of (height, width), [N, 4], [N, 2], [N, 10], as faces, the surest first:
    (how sure, box [4] left top right bottom, landmarks [5, 2]) in pixels. Of boxes that share more than `overlap` of
    their common area the surest stays."""
    certain = classes.float().softmax(-1)[:, 1]
    chosen = torch.nonzero(certain > sure)[:, 0]
    chosen = chosen[certain[chosen].argsort(descending=True)][:MOST]
    places = anchors(*size)[chosen.cpu()]
    centre, side = places[:, :2], places[:, 2:]
    moved = boxes[chosen].float().cpu()
    middle = centre + moved[:, :2] * CENTRE_VARIANCE * side
    half = side * torch.exp(moved[:, 2:] * SIZE_VARIANCE) / 2
    corners = torch.cat([middle - half, middle + half], 1)
    spots = points[chosen].float().cpu().reshape(-1, LANDMARKS, 2)
    spots = centre[:, None] + spots * CENTRE_VARIANCE * side[:, None]
    kept, left = [], torch.arange(len(chosen))
    while len(left):
        k, left = int(left[0]), left[1:]
        kept.append(k)
        left = left[_shared(corners[k], corners[left]) <= overlap]
    return [(float(certain[chosen[k]]), corners[k], spots[k]) for k in kept]


def _shared(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of a box [4] with each of others [N, 4]."""
    inside = (torch.minimum(a[2:], b[:, 2:]) - torch.maximum(a[:2], b[:, :2])).clamp(min=0).prod(1)
    return inside / ((a[2:] - a[:2]).prod() + (b[:, 2:] - b[:, :2]).prod(1) - inside)
