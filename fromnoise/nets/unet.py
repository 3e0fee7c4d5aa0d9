"""A U-Net for data on 1 to 3 axes, shaped for processors with few strong cores.

Nearly all time goes into 3-wide convolutions at high arithmetic intensity; the rest is kept few and fused: the data
enters as patches, norms run over channels (see `patches.ModulatedNorm`), sizes halve by a strided 2-wide convolution
and grow by a linear map and a reshape.  One skip per level joins by a sum of two projections, which is what a
concatenation followed by a 1-wide convolution computes, without the copy and without doubling the next convolution
(one skip per level: Hoogeboom et al. 2024, "Simpler Diffusion").

Of video (`frames`) each frame is a picture of the same 2-D network, and frames meet in two places: the first
convolution of every block sees its place in the neighbouring frames too, a 3-D convolution that is whole in space and
2 or 3 long in time, and attention in space is followed by attention in time, of each place by itself (factorised as in
Ho et al. 2022, "Video diffusion models").  Both are entered through norms that a frame's own noise level modulates, so
that a clean neighbour counts for more than a noisy one.  And a frame may take over what another is (`Glance`): most of
a clip stays as it is, and where a frame is known a network of few features has no better way to draw the next.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fromnoise.nets.attend import attend
from fromnoise.nets.attention import Attention
from fromnoise.nets.condition import Encoded
from fromnoise.nets.embeddings import Place, Rotary, rotate
from fromnoise.nets.patches import CONV, Entry, Head, ModulatedNorm, crop, pad, patches, per_axis, unpatch
from fromnoise.types import FromNoiseError

Frames = Literal["past", "both"]
SEEN = {"past": 2, "both": 3}  # frames that a block's first convolution sees


class UNet(nn.Module):
    """x (b, channels, *d) of any size -> (b, out_channels, *d).

    widths      features per level, finest first; multiples of 32
    blocks      residual blocks per level on the way down, and as many on the way up
    attention   per level: whether its blocks are followed by attention, over all axes that share one time
    time_axes   spatial axes along which t may vary: they are neither cut into patches nor halved
    places      whether cells know where they lie, as where one axis is frequency: convolutions are the same everywhere
    masks       the answer is u + m·x, with one number m for all channels of a place: how much of what came in stays, as
                in a Wiener filter.  A patch of more values than `widths[0]` keeps or loses its noise by m alone, which
                is smooth where u is not; for spectrograms m is the mask of speech enhancement (Wang et al. 2014)
    frames      x is (b, channels, frames, *d), each frame with a time of its own; what it is told of others: "past", of
                those before it, which lets answers be given frame after frame, or "both", of all
    mid_head    a second, weaker answer, read where the decoder's first level begins: it has the details of the skip,
                so it errs where the network errs, but none of the work of the decoder
    """

    def __init__(
        self,
        *,
        channels: int,
        out_channels: int | None = None,
        space: int,
        widths: tuple[int, ...],
        blocks: int,
        patch: int | tuple[int, ...],
        attention: tuple[bool, ...],
        emb: int,
        map_channels: int = 0,
        places: bool = False,
        masks: bool = False,
        mid_head: bool = False,
        time_axes: tuple[int, ...] = (),
        frames: Frames | None = None,
    ) -> None:
        super().__init__()
        space, time_axes = (space, time_axes) if frames is None else (space - 1, ())
        self.frames = frames
        if len(attention) != len(widths) or any(w % 32 for w in widths):
            raise FromNoiseError(f"give each level a multiple of 32 and an attention flag, not {widths}, {attention}")
        patch, half = per_axis(patch, space, time_axes), per_axis(2, space, time_axes)
        depth, out = len(widths) - 1, out_channels or channels
        self.entry = Entry(
            channels=channels,
            map_channels=map_channels,
            width=widths[0],
            emb=emb,
            patch=patch,
            multiple=tuple(p * h**depth for p, h in zip(patch, half, strict=True)),
            time_axes=time_axes,
        )
        self.place = Place(space, widths[0]) if places else None
        times = [time_axes if attend else None for attend in attention]

        def stages() -> nn.ModuleList:
            return nn.ModuleList([Stage(w, blocks, space, emb, t, frames) for w, t in zip(widths, times, strict=True)])

        self.down, self.up = stages(), stages()
        self.shrink = nn.ModuleList([CONV[space](a, b, half, half) for a, b in pairwise(widths)])
        self.grow = nn.ModuleList([Grow(b, a, half) for a, b in pairwise(widths)])
        self.masks = masks
        self.glance = Glance(widths[0], emb, patch, frames) if frames is not None else None
        out += masks + (frames is not None)
        self.head = Head(widths[0], out, patch, emb)
        self.mid_level = max(depth - 1, 0)
        mid_patch = tuple(p * h**self.mid_level for p, h in zip(patch, half, strict=True))
        self.mid_head = Head(widths[self.mid_level], out, mid_patch, emb) if mid_head else None

    def forward(
        self, x: Float[Tensor, "b c *d"], t: Float[Tensor, "b 1 *#d"], s: Float[Tensor, "b 1 *#d"], cond: Encoded
    ) -> tuple[Float[Tensor, "b out *d"], Float[Tensor, "b out *d"] | None]:
        if self.frames is None:
            return self._pictures(x, t, s, cond, 1)
        n = x.shape[2]
        x_one, t_one, s_one = (pictures(z.expand(-1, -1, n, *z.shape[3:])) for z in (x, t, s))
        told = replace(cond.repeated(n), maps=None if cond.maps is None else pictures(cond.maps))
        answers = self._pictures(x_one, t_one, s_one, told, n)
        y, mid = (None if y is None else y.unflatten(0, (len(x), n)).movedim(1, 2) for y in answers)
        assert y is not None
        return y, mid

    def _pictures(self, x: Tensor, t: Tensor, s: Tensor, cond: Encoded, frames: int) -> tuple[Tensor, Tensor | None]:
        h, emb = self.entry(x, t, s, cond)
        if self.place is not None:
            h = h + self.place(tuple(h.shape[2:])).movedim(-1, 0)
        skips, mid = [], None
        for level, stage in enumerate(self.down):
            h = stage(self.shrink[level - 1](h) if level else h, emb, cond, frames)
            skips.append(h)
        kept = [x] if self.masks else []
        if self.glance is not None:
            kept.append(crop(self.glance(skips[0], emb, pad(x, self.entry.multiple), frames), tuple(x.shape[2:])))
        for level in reversed(range(len(self.up))):
            h = self.grow[level](h, skips[level]) if level < len(self.grow) else h
            if level == self.mid_level and self.mid_head is not None:
                mid = _answer(self.mid_head(h, emb, tuple(x.shape[2:])), kept)
            h = self.up[level](h, emb, cond, frames)
        return _answer(self.head(h, emb, tuple(x.shape[2:])), kept), mid

    @property
    def taps(self) -> dict[str, nn.Module]:
        """`level{i}.block{j}` and `level{i}.attention{j}`, j counting down the encoder then up the decoder; `mid`."""
        places: dict[str, nn.Module] = {"mid": self.down[-1]}
        for level, (down, up) in enumerate(zip(self.down, self.up, strict=True)):
            assert isinstance(down, Stage) and isinstance(up, Stage)
            places |= {f"level{level}.block{j}": block for j, block in enumerate([*down.blocks, *up.blocks])}
            attentions = [*down.attentions, *up.attentions]
            places |= {f"level{level}.attention{j}": block for j, block in enumerate(attentions)}
        return places


def _answer(y: Tensor, kept: list[Tensor]) -> Tensor:
    """The first channels of y plus what is kept, each times one of the last channels."""
    first, *shares = y.tensor_split([y.shape[1] - len(kept) + i for i in range(len(kept))], 1)
    return first + sum(share * x for share, x in zip(shares, kept, strict=True)) if kept else y


class Stage(nn.Module):
    """Residual blocks at one size, each followed by attention unless `time_axes` is None."""

    def __init__(
        self,
        width: int,
        blocks: int,
        space: int,
        emb: int,
        time_axes: tuple[int, ...] | None,
        frames: Frames | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ResBlock(width, space, emb, frames) for _ in range(blocks)])
        attend = [] if time_axes is None else [SpaceAttention(width, emb, space, time_axes) for _ in range(blocks)]
        self.attentions = nn.ModuleList(attend)
        self.times = nn.ModuleList([] if frames is None else [TimeAttention(width, emb, frames) for _ in attend])

    def forward(self, h: Float[Tensor, "b w *d"], emb: Tensor, cond: Encoded, frames: int) -> Float[Tensor, "b w *d"]:
        for j, block in enumerate(self.blocks):
            h = block(h, emb, frames)
            if len(self.attentions):
                h = self.attentions[j](h, cond)
            if len(self.times):
                h = self.times[j](h, emb, cond, frames)
        return h


class ResBlock(nn.Module):
    """h + conv(silu(modulated norm(conv(silu(norm(h)))))), the last convolution zero at first.

    The convolutions have no bias: the norms that follow shift every channel anyway, and on a CPU the bias alone is a
    seventh of a convolution's backward time.
    """

    def __init__(self, width: int, space: int, emb: int, frames: Frames | None = None) -> None:
        super().__init__()
        self.frames = frames
        self.norm1 = nn.LayerNorm(width) if frames is None else ModulatedNorm(width, emb)
        seen = width * (1 if frames is None else SEEN[frames])
        self.conv1 = CONV[space](seen, width, 3, padding=1, bias=False)
        self.norm2 = ModulatedNorm(width, emb)
        self.conv2 = CONV[space](width, width, 3, padding=1, bias=False)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, h: Float[Tensor, "b w *d"], emb: Tensor, frames: int) -> Float[Tensor, "b w *d"]:
        y = h.movedim(1, -1)
        if self.frames is None:
            y = F.silu(self.norm1(y))
        else:
            y = beside(F.silu(self.norm1(y, emb)), frames, SEEN[self.frames])
        y = self.conv1(y.movedim(-1, 1))
        return h + self.conv2(F.silu(self.norm2(y.movedim(1, -1), emb)).movedim(-1, 1))


def pictures(x: Float[Tensor, "b c f *d"]) -> Float[Tensor, "bf c *d"]:
    """Frames as examples, channels last in memory as convolutions like them."""
    x = x.movedim(2, 1).flatten(0, 1)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def beside(y: Float[Tensor, "bf *d w"], frames: int, seen: int) -> Float[Tensor, "bf *d seen_w"]:
    """Features of each frame after those of the frame before it and, where 3 are seen, before those of the next.

    There is nothing, zeros, before the first and after the last.
    """
    y = y.unflatten(0, (-1, frames))
    nothing = torch.zeros_like(y[:, :1])
    views = [torch.cat([nothing, y[:, :-1]], 1), y, torch.cat([y[:, 1:], nothing], 1)]
    return torch.cat(views[:seen], -1).flatten(0, 1)


def _in_time(y: Float[Tensor, "bf *d w"], frames: int) -> Float[Tensor, "b *d f w"]:
    """Features of frames as those of places, which have a course in time."""
    return y.unflatten(0, (-1, frames)).movedim(1, -2)


class TimeAttention(nn.Module):
    """Attention of each place among the frames, which know how far apart they are."""

    def __init__(self, width: int, emb: int, frames: Frames) -> None:
        super().__init__()
        heads = width // 32
        self.norm = ModulatedNorm(width, emb)
        self.rotary = Rotary(width // heads, 1)
        self.attention = Attention(width, heads, None, causal=frames == "past")
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)

    def forward(self, h: Float[Tensor, "bf w *d"], emb: Tensor, cond: Encoded, frames: int) -> Float[Tensor, "bf w *d"]:
        y = _in_time(self.norm(h.movedim(1, -1), emb), frames)
        shape = y.shape
        y = self.attention(y.flatten(0, -3), cond, self.rotary((frames,))).reshape(shape)
        return h + y.movedim(-2, 1).flatten(0, 1).movedim(-1, 1)


class Glance(nn.Module):
    """What a place is in the frames that a frame sees: x itself there, patch by patch, as attention weighs the frames.

    The answer takes of it as much as its last channel says.  (In burst denoising weights like these are predicted for
    each pixel: Mildenhall et al. 2018, "Kernel prediction networks".)
    """

    def __init__(self, width: int, emb: int, patch: tuple[int, ...], frames: Frames) -> None:
        super().__init__()
        self.patch, self.causal = patch, frames == "past"
        self.norm = ModulatedNorm(width, emb)
        self.query, self.key = (nn.Linear(width, 32, bias=False) for _ in range(2))
        self.sharpness = nn.Parameter(torch.ones(32))
        self.rotary = Rotary(32, 1)

    def forward(self, h: Float[Tensor, "bf w *g"], emb: Tensor, x: Float[Tensor, "bf c *d"], frames: int) -> Tensor:
        y = _in_time(self.norm(h.movedim(1, -1), emb), frames)
        values = _in_time(patches(x, self.patch), frames)
        q, k = (F.layer_norm(f(y), (32,)).flatten(0, -3)[:, :, None] for f in (self.query, self.key))
        turned = self.rotary((frames,))
        q, k = rotate(q * self.sharpness, turned)[:, :, 0], rotate(k, turned)[:, :, 0]
        v = values.flatten(0, -3).to(q.dtype)
        seen = attend(q, k.to(q.dtype), v, causal=self.causal).reshape(values.shape)
        return unpatch(seen.movedim(-2, 1).flatten(0, 1), self.patch).movedim(-1, 1)


class SpaceAttention(nn.Module):
    """Attention among the places that share one time (over all places where every axis has its own).

    The axes of `time_axes` are folded into the batch: frames talk through the convolutions.
    """

    def __init__(self, width: int, emb: int, space: int, time_axes: tuple[int, ...]) -> None:
        super().__init__()
        shared = [i for i in range(space) if i not in time_axes]
        folded = list(time_axes) if shared else []
        self.order = (0, *(1 + i for i in folded), *(1 + i for i in shared or range(space)), space + 1)
        self.folded = len(folded)
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, width // (64 if width % 64 == 0 else 32), emb)
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)

    def forward(self, h: Float[Tensor, "b w *d"], cond: Encoded) -> Float[Tensor, "b w *d"]:
        y = self.norm(h.movedim(1, -1)).permute(self.order)
        shape = y.shape
        frames = math.prod(shape[1 : 1 + self.folded])
        y = self.attention(y.reshape(len(h) * frames, -1, shape[-1]), cond.repeated(frames)).reshape(shape)
        back = sorted(range(len(shape)), key=self.order.__getitem__)
        return h + y.permute(back).movedim(-1, 1)


class Grow(nn.Module):
    """A coarse level made fine, plus the projected skip."""

    def __init__(self, coarse: int, fine: int, factor: tuple[int, ...]) -> None:
        super().__init__()
        self.factor = factor
        self.coarse = nn.Linear(coarse, fine * math.prod(factor), bias=False)
        self.skip = nn.Linear(fine, fine)

    def forward(self, h: Tensor, skip: Float[Tensor, "b w *d"]) -> Float[Tensor, "b w *d"]:
        grown = unpatch(self.coarse(h.movedim(1, -1)), self.factor)
        return (grown + self.skip(skip.movedim(1, -1))).movedim(-1, 1)
