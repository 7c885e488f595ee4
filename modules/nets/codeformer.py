"""CodeFormer: a blurred face read as codes of a learned book of face parts (Zhou et al. 2022, arXiv:2206.11253).

An encoder, a transformer that guesses the codes, and a generator; the encoder's features are mixed in by `weight`.
Attribute names follow the keys of the published file (`codeformer-v0.1.0.pth`), whose blocks are numbered through.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 512
WIDTHS = (1, 2, 2, 4, 4, 8)  # of the levels from 512 to 16 pixels, times `width`
MIXED = (32, 64, 128, 256)  # sides at which the encoder's features are mixed in


@dataclass(frozen=True)
class CodeFormerConfig:
    """Widths and depths; all but `heads` are readable off tensor shapes."""

    width: int = 64
    code: int = 256
    codes: int = 1024
    model: int = 512
    mlp: int = 1024
    layers: int = 9
    heads: int = 8


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, 1e-6)


class Residual(nn.Module):
    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inside), nn.Conv2d(inside, out, 3, padding=1)
        self.norm2, self.conv2 = _norm(out), nn.Conv2d(out, out, 3, padding=1)
        if inside != out:
            self.conv_out = nn.Conv2d(inside, out, 1)
        self.changes = inside != out

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.conv_out(x) if self.changes else x)


class Look(nn.Module):
    """Single-head self-attention over all places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(out)


class Smaller(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Larger(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Encoder(nn.Module):
    """[B, 3, 512, 512] to [B, code, 16, 16], and the features at the sides MIXED on the way."""

    def __init__(self, config: CodeFormerConfig) -> None:
        super().__init__()
        channels = config.width
        blocks: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
        self.told: dict[int, int] = {}
        for level, times in enumerate(WIDTHS):
            for _ in range(2):
                blocks.append(Residual(channels, config.width * times))
                channels = config.width * times
                if level == len(WIDTHS) - 1:
                    blocks.append(Look(channels))
            if SIDE >> level in MIXED:
                self.told[len(blocks) - 1] = SIDE >> level
            if level < len(WIDTHS) - 1:
                blocks.append(Smaller(channels))
        blocks += [Residual(channels, channels), Look(channels), Residual(channels, channels), _norm(channels)]
        blocks.append(nn.Conv2d(channels, config.code, 3, padding=1))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        features: dict[int, Tensor] = {}
        for k, block in enumerate(self.blocks):
            x = block(x)
            if k in self.told:
                features[self.told[k]] = x
        return x, features


class Generator(nn.Module):
    """Codes [B, code, 16, 16] to a picture [B, 3, 512, 512]; `mixes` names the blocks after which features come in."""

    def __init__(self, config: CodeFormerConfig) -> None:
        super().__init__()
        channels = config.width * WIDTHS[-1]
        blocks: list[nn.Module] = [
            nn.Conv2d(config.code, channels, 3, padding=1), Residual(channels, channels), Look(channels),
            Residual(channels, channels),
        ]  # fmt: skip
        self.mixes: dict[int, int] = {}
        for level in range(len(WIDTHS) - 1, -1, -1):
            for part in range(2):
                blocks.append(Residual(channels, config.width * WIDTHS[level]))
                channels = config.width * WIDTHS[level]
                if part == 0 and SIDE >> level in MIXED:
                    self.mixes[len(blocks) - 1] = SIDE >> level
                if level == len(WIDTHS) - 1:
                    blocks.append(Look(channels))
            if level:
                blocks.append(Larger(channels))
        blocks += [_norm(channels), nn.Conv2d(channels, 3, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)


class Layer(nn.Module):
    def __init__(self, config: CodeFormerConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.model), nn.LayerNorm(config.model)
        self.self_attn = nn.MultiheadAttention(config.model, config.heads)
        self.linear1, self.linear2 = nn.Linear(config.model, config.mlp), nn.Linear(config.mlp, config.model)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.self_attn(h + places, h + places, h, need_weights=False)[0]
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class Mix(nn.Module):
    """The encoder's features, laid on the generator's as a scale and a shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode_enc = Residual(2 * channels, channels)
        self.scale, self.shift = (
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.2),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(2)
        )  # fmt: skip

    def forward(self, encoded: Tensor, x: Tensor, weight: float) -> Tensor:
        both = self.encode_enc(torch.cat([encoded, x], 1))
        return x + weight * (x * self.scale(both) + self.shift(both))


class CodeBook(nn.Module):
    def __init__(self, config: CodeFormerConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codes, config.code)


class CodeFormer(nn.Module):
    """A face [B, 3, 512, 512] in -1…1, upright and centred, to a clear one. `weight` 0 trusts the book alone, 1 keeps
    as much of the picture as there is."""

    def __init__(self, config: CodeFormerConfig) -> None:
        super().__init__()
        self.encoder, self.generator = Encoder(config), Generator(config)
        self.quantize = CodeBook(config)
        self.position_emb = nn.Parameter(torch.zeros((SIDE // 32) ** 2, config.model))
        self.feat_emb = nn.Linear(config.code, config.model)
        self.ft_layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.idx_pred_layer = nn.Sequential(
            nn.LayerNorm(config.model), nn.Linear(config.model, config.codes, bias=False)
        )
        widths = {SIDE >> level: config.width * times for level, times in enumerate(WIDTHS)}
        self.fuse_convs_dict = nn.ModuleDict({str(side): Mix(widths[side]) for side in MIXED})

    def forward(self, x: Tensor, weight: float = 0.5) -> Tensor:
        codes, features = self.encoder(x)
        h = self.feat_emb(codes.flatten(2).permute(2, 0, 1))
        for layer in self.ft_layers:
            h = layer(h, self.position_emb[:, None])
        guessed = self.idx_pred_layer(h).argmax(-1).transpose(0, 1)
        x = self.quantize.embedding(guessed).transpose(1, 2).reshape(codes.shape)
        x = _spread_as(x, codes)
        for k, block in enumerate(self.generator.blocks):
            x = block(x)
            side = self.generator.mixes.get(k)
            if side is not None and weight > 0:
                x = self.fuse_convs_dict[str(side)](features[side], x, weight)
        return x


def _spread_as(x: Tensor, like: Tensor) -> Tensor:
    """Each channel of x with the mean and spread of the other's (Huang and Belongie, arXiv:1703.06868)."""
    (mean, spread), (own, spread_own) = (
        (t.mean((2, 3), keepdim=True), (t.var((2, 3), keepdim=True) + 1e-5).sqrt()) for t in (like, x)
    )
    return (x - own) / spread_own * spread + mean
