"""The denoiser of Stable Diffusion 1, 2 and XL, in the key layout of the original checkpoints.

U-Net with timestep, cross-attention and (SDXL) vector conditioning: Rombach et al., arXiv:2112.10752; Podell et al.,
arXiv:2307.01952. Attribute names follow the checkpoint keys below `model.diffusion_model.` and are not free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nets.attention import Attention, ContextMap, sdp
from modules.nets.hypertile import Tiled, Tiles, Tiling
from modules.nets.layers import PLAIN, Linear, Ops, timestep_embedding
from modules.nets.merging import Match, Merging


@dataclass(frozen=True)
class UNetConfig:
    """Everything the architecture depends on. All but the head rule can be read off a checkpoint's tensor shapes.

    `input_depths`, `output_depths`: transformer blocks behind each residual block, in file order (0 = none).
    `middle_depth` is None where the middle is a single residual block (SSD-1B, Vega, small ControlNets), 0 where it is
    two with nothing between them.
    Heads: `num_heads` per attention if given, else channels // `head_dim`.
    """

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    input_depths: tuple[int, ...] = (1, 1, 1, 1, 1, 1, 0, 0)
    middle_depth: int | None = 1
    output_depths: tuple[int, ...] = (0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    context_dim: int = 768
    adm_channels: int | None = None
    linear_projection: bool = False
    num_heads: int | None = 8
    head_dim: int | None = None

    def heads(self, channels: int) -> int:
        return self.num_heads if self.num_heads is not None else channels // (self.head_dim or 64)


class ResBlock(nn.Module):
    """Residual block with the timestep embedding added between its two convolutions."""

    def __init__(self, channels: int, out_channels: int, emb_channels: int, ops: Ops) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            ops.GroupNorm(32, channels, 1e-5, silu=True),
            nn.Identity(),
            ops.Conv2d(channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), ops.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            ops.GroupNorm(32, out_channels, 1e-5, silu=True),
            nn.Identity(),
            nn.Identity(),
            ops.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else ops.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Prompted:
    """A context [B, M, D] with the keys and values that each cross-attention makes of it, made at the first call.

    They hold as long as the weights, and what maps the context, stay as they are.
    """

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self.made: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    @property
    def bytes(self) -> int:
        return self.tokens.nbytes + sum(k.nbytes + v.nbytes for k, v in self.made.values())


Context = Tensor | Prompted


SHALLOW = 1
"""So many blocks on either side are computed when the deep part is left out: those that see every pixel."""


@dataclass
class Deep:
    """A call that leaves the deep part of the net out and takes what it answered the last time (Ma et al.,
    arXiv:2312.00858): from one noise level to the next that changes little.

    `answer` is what the deep part gave; with `fresh`, or where there is none, it is computed and kept.
    """

    fresh: bool = True
    answer: Tensor | None = None


FIRST = 2
"""So many blocks of the file are asked by a `FirstBlock`: with the first alone it would see neither time nor prompt."""


@dataclass
class FirstBlock:
    """Calls that end after the first blocks where what these add has hardly changed since the whole net was last asked:
    then all that follows is taken to add what it added there ("first block cache", github.com/chengzeyi/ParaAttention).

    `threshold`: the mean change allowed, as a share of the mean. All rows of a call are taken or asked together, so a
    call should have one picture's. `asked`, `taken` count calls. Comparing reads a number off the device.
    """

    threshold: float
    asked: int = 0
    taken: int = 0
    _added: Tensor | None = field(default=None, repr=False)
    _rest: Tensor | None = field(default=None, repr=False)

    def rest(self, added: Tensor) -> Tensor | None:
        """What followed the last time, if the first blocks add the same [B, C, h, w] nearly; else they are kept."""
        if self._rest is not None and self._added is not None and self._added.shape == added.shape:
            change = (added - self._added).abs().mean(dim=(1, 2, 3), dtype=torch.float32)
            if bool((change <= self.threshold * self._added.abs().mean(dim=(1, 2, 3), dtype=torch.float32)).all()):
                self.taken += 1
                return self._rest
        self.asked += 1
        self._added, self._rest = added, None
        return None

    def keep(self, rest: Tensor) -> None:
        """What the rest of the net added [B, C, h, w]."""
        self._rest = rest


Cache = Deep | FirstBlock


class CrossAttention(nn.Module):
    """Attention to a context [B, M, context_dim], or to the tokens themselves.

    `fused` [3 * channels, channels]: where `fuse` has been called, the memory that queries', keys' and values' weights
    are parts of, as long as they are those `parts`.
    """

    fused: Tensor | None = None
    parts: tuple[nn.Parameter, ...] = ()

    def __init__(self, channels: int, context_dim: int, heads: int, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.heads = heads
        self.attention = attention
        self.to_q = ops.Linear(channels, channels, bias=False)
        self.to_k = ops.Linear(context_dim, channels, bias=False)
        self.to_v = ops.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(ops.Linear(channels, channels))

    def forward(self, x: Tensor, context: Context, context_map: ContextMap | None = None) -> Tensor:
        if self.fused is not None and context is x and context_map is None and self._whole():
            q, k, v = (self._split(part) for part in F.linear(x, self.fused).chunk(3, dim=-1))
            return self._joined(self.attention(q, k, v), x)
        q = self._split(self.to_q(x))
        if isinstance(context, Prompted):
            if self not in context.made:
                context.made[self] = self._of(context.tokens, context_map)
            k, v = context.made[self]
        else:
            k, v = self._of(context, context_map)
        return self._joined(self.attention(q, k, v), x)

    def fuse(self) -> None:
        """Of attention to the tokens themselves: make queries, keys and values by one product instead of three.

        The weights become parts of one piece of memory: a change written into them is heard, and with another weight in
        a part's place there are three products again. Layers that do more than multiply (packed, stored, streamed) stay
        as they are. The last bits may differ.
        """
        layers = [layer for layer in (self.to_q, self.to_k, self.to_v) if type(layer) is Linear]
        if len(layers) < 3 or len({layer.weight.shape for layer in layers}) > 1:
            return
        whole = torch.cat([layer.weight.detach() for layer in layers])
        self.fused, self.parts = whole, tuple(nn.Parameter(part, requires_grad=False) for part in whole.chunk(3))
        for layer, part in zip(layers, self.parts):
            layer.weight = part

    def _whole(self) -> bool:
        q, k, v = self.parts
        return self.to_q.weight is q and self.to_k.weight is k and self.to_v.weight is v

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CrossAttention:
        """Moved or converted: torch does that weight by weight. What stays where it is stays one."""
        fused, parts = self.fused, self.parts
        self.fused, self.parts = None, ()
        super()._apply(fn, recurse)
        if fused is not None:
            self.fused, self.parts = fused, parts
            first: Tensor = self.to_q.get_parameter("weight")
            same = (first.device, first.dtype, first.data_ptr()) == (fused.device, fused.dtype, fused.data_ptr())
            if not (same and self._whole()):
                self.fuse()
        return self

    def _joined(self, out: Tensor, x: Tensor) -> Tensor:
        return self.to_out(out.transpose(1, 2).reshape(x.shape))

    def _of(self, context: Tensor, context_map: ContextMap | None) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        of_keys, of_values = context_map(context) if context_map else (context, context)
        return self._split(self.to_k(of_keys)), self._split(self.to_v(of_values))

    def _split(self, t: Tensor) -> Tensor:
        batch, tokens, channels = t.shape
        return t.view(batch, tokens, self.heads, channels // self.heads).transpose(1, 2)


class GEGLU(nn.Module):
    """Gated linear unit with an exact GELU gate (Shazeer, arXiv:2002.05202)."""

    def __init__(self, channels: int, out_channels: int, ops: Ops) -> None:
        super().__init__()
        self.proj = ops.Linear(channels, out_channels * 2)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        gate = F.gelu(gate)
        return value * gate if torch.is_grad_enabled() else gate.mul_(value)


ROWS = 512
"""Tokens that a processor takes through both layers of a feed-forward net at once, where there are many: eight times
wider in between, they stay in a core's cache (docs/benchmarks.md). Of few, reading the weights takes longer."""


class FeedForward(nn.Module):
    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(channels, channels * 4, ops), nn.Identity(), ops.Linear(channels * 4, channels))

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.shape[1] < 4 * ROWS or torch.is_grad_enabled():
            return self.net(x)
        return torch.cat([self.net(some) for some in x.split(ROWS, dim=1)], dim=1)


class TransformerBlock(nn.Module):
    def __init__(self, channels: int, context_dim: int, heads: int, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.attn1 = CrossAttention(channels, channels, heads, ops, attention)
        self.attn2 = CrossAttention(channels, context_dim, heads, ops, attention)
        self.ff = FeedForward(channels, ops)
        self.norm1, self.norm2, self.norm3 = (ops.LayerNorm(channels) for _ in range(3))

    def forward(
        self,
        x: Tensor,
        context: Context,
        context_map: ContextMap | None = None,
        match: Match | Tiles | None = None,
    ) -> Tensor:
        h = self.norm1(x)
        if match is not None:
            h = match.merge(h)
        h = self.attn1(h, h, context_map)
        x = x + (h if match is None else match.unmerge(h))
        x = x + self.attn2(self.norm2(x), context, context_map)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map."""

    def __init__(self, channels: int, depth: int, config: UNetConfig, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.linear = config.linear_projection

        def projection() -> nn.Module:
            return ops.Linear(channels, channels) if self.linear else ops.Conv2d(channels, channels, 1)

        heads = config.heads(channels)
        self.norm = ops.GroupNorm(32, channels, 1e-6)
        self.proj_in = projection()
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, config.context_dim, heads, ops, attention) for _ in range(depth)
        )
        self.proj_out = projection()

    def forward(
        self,
        x: Tensor,
        context: Context,
        context_map: ContextMap | None = None,
        merging: Merging | Tiled | None = None,
    ) -> Tensor:
        batch, channels, height, width = x.shape
        h = self.norm(x)
        if self.linear:
            h = self.proj_in(h.permute(0, 2, 3, 1).reshape(batch, height * width, channels))
        else:
            h = self.proj_in(h).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        for block in self.transformer_blocks:
            h = block(h, context, context_map, merging.match(h, height, width) if merging else None)
        if self.linear:
            h = self.proj_out(h)
        h = h.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        return x + (h if self.linear else self.proj_out(h))


class Downsample(nn.Module):
    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.op = ops.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.UpConv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Stage(nn.Sequential):
    """One numbered block of the file: each child gets what it needs of the timestep embedding and the context."""

    def forward(
        self, x: Tensor, emb: Tensor, context: Context, context_map: ContextMap | None = None,
        merging: Merging | Tiled | None = None,
    ) -> Tensor:  # fmt: skip
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context, context_map, merging)
            else:
                x = layer(x)
        return x


@dataclass(frozen=True)
class Residuals:
    """What is added to a U-Net's feature maps (ControlNet): `skips` to those its first half hands to the second, in
    the order of the input blocks, `middle` to that between the halves."""

    skips: tuple[Tensor, ...]
    middle: Tensor

    def plus(self, other: Residuals) -> Residuals:
        return Residuals(tuple(a + b for a, b in zip(self.skips, other.skips)), self.middle + other.middle)


class Encoder(nn.Module):
    """The first half of a U-Net and its middle: timestep (and vector) embedding, input blocks, middle block.

    `skip_channels`: of what each input block hands on, in order; the last is also the middle's.
    """

    def __init__(self, config: UNetConfig, ops: Ops = PLAIN, attention: Attention = sdp) -> None:
        super().__init__()
        self.config = config
        mc = config.model_channels
        emb = mc * 4
        self.time_embed = nn.Sequential(ops.Linear(mc, emb), nn.SiLU(), ops.Linear(emb, emb))
        if config.adm_channels is not None:
            self.label_emb = nn.Sequential(
                nn.Sequential(ops.Linear(config.adm_channels, emb), nn.SiLU(), ops.Linear(emb, emb))
            )

        levels = len(config.channel_mult)
        channels = mc
        self.input_blocks = nn.ModuleList([Stage(ops.Conv2d(config.in_channels, mc, 3, padding=1))])
        skips = [mc]
        depths = iter(config.input_depths)
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(self._stage(channels, mc * mult, next(depths), ops, attention))
                channels = mc * mult
                skips.append(channels)
            if level < levels - 1:
                self.input_blocks.append(Stage(Downsample(channels, ops)))
                skips.append(channels)
        self.skip_channels = tuple(skips)

        middle: list[nn.Module] = [ResBlock(channels, channels, emb, ops)]
        if config.middle_depth is not None:
            depth = config.middle_depth
            middle.append(SpatialTransformer(channels, depth, config, ops, attention) if depth else nn.Identity())
            middle.append(ResBlock(channels, channels, emb, ops))
        self.middle_block = Stage(*middle)

    def _stage(self, channels: int, out: int, depth: int, ops: Ops, attention: Attention) -> Stage:
        layers: list[nn.Module] = [ResBlock(channels, out, self.config.model_channels * 4, ops)]
        if depth:
            layers.append(SpatialTransformer(out, depth, self.config, ops, attention))
        return Stage(*layers)

    def fuse(self) -> None:
        """One product instead of three in every self-attention (`CrossAttention.fuse`)."""
        for module in self.modules():
            if isinstance(module, TransformerBlock):
                module.attn1.fuse()

    def embedded(self, timesteps: Tensor, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        """timesteps [B] and, of nets that take one, the vector y [B, adm] as [B, 4 * model_channels]."""
        emb = self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(dtype))
        if self.config.adm_channels is None:
            return emb
        if y is None:
            raise ValueError(f"this net needs a vector y [B, {self.config.adm_channels}]")
        return emb + self.label_emb(y)


class UNet(Encoder):
    """forward(x [B, in, h, w], timesteps [B], context [B, T, D], y [B, adm] or None) -> [B, out, h, w].

    `context_map`, where given, says for every attention what its keys and what its values are made of (hypernetworks).
    `merging` is the share of tokens that self-attention takes together (`nets.merging`), `tiling` how it is tiled
    (`nets.hypertile`). `cache`: what this call may leave out. `control`: what is added between the halves.
    """

    def __init__(self, config: UNetConfig, ops: Ops = PLAIN, attention: Attention = sdp) -> None:
        super().__init__(config, ops, attention)
        mc, skips = config.model_channels, list(self.skip_channels)
        channels = skips[-1]
        self.output_blocks = nn.ModuleList()
        depths = iter(config.output_depths)
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                block = self._stage(channels + skips.pop(), mc * mult, next(depths), ops, attention)
                channels = mc * mult
                if level and i == config.num_res_blocks:
                    block.append(Upsample(channels, ops))
                self.output_blocks.append(block)
        self.out = nn.Sequential(
            ops.GroupNorm(32, channels, 1e-5, silu=True),
            nn.Identity(),
            ops.Conv2d(channels, config.out_channels, 3, padding=1),
        )

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Context,
        y: Tensor | None = None,
        context_map: ContextMap | None = None,
        merging: float = 0.0,
        cache: Cache | None = None,
        tiling: Tiling | None = None,
        control: Residuals | None = None,
    ) -> Tensor:
        emb = self.embedded(timesteps, y, x.dtype)
        merged = Merging(merging, x.shape[2] * x.shape[3]) if merging else None
        merge = merged if tiling is None else Tiled(tiling, x.shape[2], merged)
        h, skips = x, []
        deep = cache if isinstance(cache, Deep) else None
        first = cache if isinstance(cache, FirstBlock) else None
        after_first: Tensor | None = None
        left_out = deep is not None and not deep.fresh and deep.answer is not None
        for block in self.input_blocks[:SHALLOW] if left_out else self.input_blocks:
            h = block(h, emb, context, context_map, merge)
            skips.append(h)
            if first is not None and len(skips) == FIRST:
                rest = first.rest(h - skips[0])
                if rest is not None:
                    return self.out(h + rest)
                after_first = h
        if left_out and deep is not None and deep.answer is not None:
            h = deep.answer
        else:
            h = self.middle_block(h, emb, context, context_map, merge)
            if control is not None:
                h = h + control.middle
        if control is not None:
            skips = [skip + added for skip, added in zip(skips, control.skips)]
        for number, block in enumerate(self.output_blocks):
            outer = number >= len(self.output_blocks) - SHALLOW
            if left_out and not outer:
                continue
            if deep is not None and not left_out and number == len(self.output_blocks) - SHALLOW:
                deep.answer = h
            skip = skips.pop()
            if h.shape[-2:] != skip.shape[-2:]:  # a latent side that is not a multiple of 2^levels
                h = F.interpolate(h, size=skip.shape[-2:], mode="nearest")
            h = block(torch.cat([h, skip], dim=1), emb, context, context_map, merge)
        if first is not None and after_first is not None:
            first.keep(h - after_first)
        return self.out(h)
