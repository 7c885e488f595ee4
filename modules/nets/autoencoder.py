"""The autoencoder of Stable Diffusion (AutoencoderKL), in the key layout of the original checkpoints.

Rombach et al., arXiv:2112.10752, appendix G. Pictures are [B, 3, H, W] in [-1, 1]; latents are unscaled: a family's
scale factor is applied outside. Attribute names follow the keys below `first_stage_model.`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nets.attention import Attention, sdp
from modules.nets.hypertile import Tiling
from modules.nets.layers import PLAIN, Ops


@dataclass(frozen=True)
class AutoencoderConfig:
    """Widths and depths; all are readable off tensor shapes. The picture is 2^(levels - 1) times the latent's side."""

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    embed_dim: int = 4
    in_channels: int = 3

    @property
    def downscale(self) -> int:
        return 2 ** (len(self.ch_mult) - 1)


class ResnetBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, ops: Ops) -> None:
        super().__init__()
        self.norm1 = ops.GroupNorm(32, channels, 1e-6, silu=True)
        self.conv1 = ops.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = ops.GroupNorm(32, out_channels, 1e-6, silu=True)
        self.conv2 = ops.Conv2d(out_channels, out_channels, 3, padding=1)
        if channels != out_channels:
            self.nin_shortcut = ops.Conv2d(channels, out_channels, 1)
        self.shortcut = channels != out_channels

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        x = self.nin_shortcut(x) if self.shortcut else x
        return x + h if torch.is_grad_enabled() else h.add_(x)


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions."""

    def __init__(self, channels: int, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.norm = ops.GroupNorm(32, channels, 1e-6)
        self.q, self.k, self.v, self.proj_out = (ops.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor, tiling: Tiling | None = None) -> Tensor:
        batch, channels, height, width = x.shape
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))
        tiles = tiling.tiles(height, width) if tiling else None
        if tiles is not None:
            q, k, v = (tiles.merge(t) for t in (q, k, v))
        out = self.attention(q[:, None], k[:, None], v[:, None])[:, 0]
        if tiles is not None:
            out = tiles.unmerge(out)
        return x + self.proj_out(out.transpose(1, 2).reshape(batch, channels, height, width))


class Downsample(nn.Module):
    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.UpConv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Middle(nn.Module):
    def __init__(self, channels: int, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, ops)
        self.attn_1 = AttnBlock(channels, ops, attention)
        self.block_2 = ResnetBlock(channels, channels, ops)

    def forward(self, x: Tensor, tiling: Tiling | None = None) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x), tiling))


class Level(nn.Module):
    """Residual blocks at one resolution, then an optional change of resolution (named as in the file)."""

    def __init__(self, blocks: list[ResnetBlock], resample: tuple[str, nn.Module] | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.resample_name = resample[0] if resample else None
        if resample:
            self.add_module(*resample)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return getattr(self, self.resample_name)(x) if self.resample_name else x


class Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.conv_in = ops.Conv2d(config.in_channels, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        channels = config.ch
        for level, mult in enumerate(config.ch_mult):
            blocks = []
            for _ in range(config.num_res_blocks):
                blocks.append(ResnetBlock(channels, config.ch * mult, ops))
                channels = config.ch * mult
            last = level == len(config.ch_mult) - 1
            self.down.append(Level(blocks, None if last else ("downsample", Downsample(channels, ops))))
        self.mid = Middle(channels, ops, attention)
        self.norm_out = ops.GroupNorm(32, channels, 1e-6, silu=True)
        self.conv_out = ops.Conv2d(channels, config.z_channels * 2, 3, padding=1)

    def forward(self, x: Tensor, tiling: Tiling | None = None) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(self.norm_out(self.mid(h, tiling)))


class Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig, ops: Ops, attention: Attention) -> None:
        super().__init__()
        channels = config.ch * config.ch_mult[-1]
        self.conv_in = ops.Conv2d(config.z_channels, channels, 3, padding=1)
        self.mid = Middle(channels, ops, attention)
        levels: list[Level] = []
        for level, mult in reversed(list(enumerate(config.ch_mult))):
            blocks = []
            for _ in range(config.num_res_blocks + 1):
                blocks.append(ResnetBlock(channels, config.ch * mult, ops))
                channels = config.ch * mult
            levels.append(Level(blocks, ("upsample", Upsample(channels, ops)) if level else None))
        self.up = nn.ModuleList(reversed(levels))  # the file counts from full resolution, the decoder runs towards it
        self.norm_out = ops.GroupNorm(32, channels, 1e-6, silu=True)
        self.conv_out = ops.Conv2d(channels, config.in_channels, 3, padding=1)

    def forward(self, z: Tensor, tiling: Tiling | None = None) -> Tensor:
        h = self.mid(self.conv_in(z), tiling)
        for level in range(len(self.up) - 1, -1, -1):
            h = self.up[level](h)
        return self.conv_out(self.norm_out(h))


def decode_tiled(vae: Autoencoder, z: Tensor, tile: int, overlap: int = 12) -> Tensor:
    """`vae.decode` in overlapping tiles of `tile` latents a side, [B, C, h, w] -> [B, 3, f·h, f·w] float32 on the CPU.

    Memory is that of one tile. Each tile has its own group statistics and a shorter sight, so the picture differs a
    little from the whole one's; over the overlap one fades into the next.
    """
    batch, _, height, width = z.shape
    f = vae.config.downscale
    total = torch.zeros(batch, vae.config.in_channels, height * f, width * f)
    weight = torch.zeros(1, 1, height * f, width * f)
    for top in _starts(height, tile, overlap):
        for left in _starts(width, tile, overlap):
            part = vae.decode(z[:, :, top : top + tile, left : left + tile]).float().cpu()
            y, x = top * f, left * f
            down = _ramp(part.shape[2], y > 0, y + part.shape[2] < height * f, overlap * f)
            across = _ramp(part.shape[3], x > 0, x + part.shape[3] < width * f, overlap * f)
            share = down[:, None] * across[None]
            total[:, :, y : y + part.shape[2], x : x + part.shape[3]] += part * share
            weight[:, :, y : y + part.shape[2], x : x + part.shape[3]] += share
    return total.div_(weight)


def encode_tiled(vae: Autoencoder, x: Tensor, tile: int, overlap: int = 12) -> tuple[Tensor, Tensor]:
    """`vae.encode_moments` in overlapping tiles of `tile` latents a side, [B, 3, H, W] -> two [B, C, H/f, W/f], float32
    on the CPU; as `decode_tiled`."""
    f = vae.config.downscale
    batch, height, width = x.shape[0], x.shape[2] // f, x.shape[3] // f
    total = torch.zeros(batch, 2 * vae.config.embed_dim, height, width)
    weight = torch.zeros(1, 1, height, width)
    for top in _starts(height, tile, overlap):
        for left in _starts(width, tile, overlap):
            part = x[:, :, top * f : (top + tile) * f, left * f : (left + tile) * f]
            found = torch.cat(vae.encode_moments(part), 1).float().cpu()
            down = _ramp(found.shape[2], top > 0, top + found.shape[2] < height, overlap)
            across = _ramp(found.shape[3], left > 0, left + found.shape[3] < width, overlap)
            share = down[:, None] * across[None]
            place = (..., slice(top, top + found.shape[2]), slice(left, left + found.shape[3]))
            total[place] += found * share
            weight[place] += share
    mean, logvar = (total / weight).chunk(2, 1)
    return mean, logvar


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin so that they cover a side and overlap by at least so much; spread evenly."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _ramp(length: int, rises: bool, falls: bool, over: int) -> Tensor:
    """Weights along a tile's side: up over its overlap with the one before, down over that with the one after."""
    ramp = torch.ones(length)
    slope = (torch.arange(over) + 0.5) / over
    if rises:
        ramp[:over] *= slope
    if falls:
        ramp[-over:] *= slope.flip(0)
    return ramp


class Autoencoder(nn.Module):
    """Pictures to the moments of a Gaussian over latents, and latents to pictures. `tiling`: of its one attention."""

    def __init__(self, config: AutoencoderConfig, ops: Ops = PLAIN, attention: Attention = sdp) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, ops, attention)
        self.decoder = Decoder(config, ops, attention)
        self.quant_conv = ops.Conv2d(config.z_channels * 2, config.embed_dim * 2, 1)
        self.post_quant_conv = ops.Conv2d(config.embed_dim, config.z_channels, 1)

    def encode_moments(self, x: Tensor, tiling: Tiling | None = None) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in [-1, 1] -> mean and log-variance, [B, embed_dim, H/f, W/f] each."""
        # A permuted [H, W, C] picture would take torch's channels-last GroupNorm, which is a hundred times less exact.
        mean, logvar = self.quant_conv(self.encoder(x.contiguous(), tiling)).chunk(2, dim=1)
        return mean, torch.clamp(logvar, -30.0, 20.0)

    def decode(self, z: Tensor, tiling: Tiling | None = None) -> Tensor:
        """Unscaled latents [B, embed_dim, h, w] -> pictures [B, 3, f·h, f·w], about [-1, 1]."""
        return self.decoder(self.post_quant_conv(z), tiling)
