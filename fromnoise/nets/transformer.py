"""A diffusion transformer (Peebles & Xie 2023) for data on 1 to 3 axes, and its block, shared with `tokens`.

Features stay in their grid, (b, *grid, width): norms, linear maps and modulations that broadcast over some axes (one
time per frame) need nothing else, and only attention flattens it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fromnoise.nets.attention import Attention
from fromnoise.nets.condition import Encoded
from fromnoise.nets.embeddings import Place, Rotary
from fromnoise.nets.patches import Entry, Head, modulate, per_axis
from fromnoise.types import FromNoiseError


class Transformer(nn.Module):
    """x (b, channels, *d) of any size -> (b, out_channels, *d).

    patch       cells of this size become one token, 1 along `time_axes`
    bottleneck  patches pass through this few features first, which helps where a patch holds hundreds of numbers that
                lie near a small manifold (Li & He 2025, "Back to Basics")
    mid_head    a second, weaker answer, read at half depth
    """

    def __init__(
        self,
        *,
        channels: int,
        out_channels: int | None = None,
        space: int,
        patch: int | tuple[int, ...],
        width: int,
        depth: int,
        heads: int,
        emb: int,
        map_channels: int = 0,
        mid_head: bool = False,
        time_axes: tuple[int, ...] = (),
        bottleneck: int | None = None,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise FromNoiseError(f"width {width} must split into {heads} heads of even size")
        patch, out = per_axis(patch, space, time_axes), out_channels or channels
        self.entry = Entry(
            channels=channels,
            map_channels=map_channels,
            width=bottleneck or width,
            emb=emb,
            patch=patch,
            multiple=patch,
            time_axes=time_axes,
        )
        self.widen = nn.Linear(bottleneck, width) if bottleneck else nn.Identity()
        self.place = Place(space, width)
        self.rotary = Rotary(width // heads, space)
        self.modulation = zero_modulation(emb, width)
        self.blocks = nn.ModuleList([Block(width, heads, emb) for _ in range(depth)])
        self.head = Head(width, out, patch, emb)
        self.mid_head = Head(width, out, patch, emb) if mid_head else None

    def forward(
        self, x: Float[Tensor, "b c *d"], t: Float[Tensor, "b 1 *#d"], s: Float[Tensor, "b 1 *#d"], cond: Encoded
    ) -> tuple[Float[Tensor, "b out *d"], Float[Tensor, "b out *d"] | None]:
        size, mid = tuple(x.shape[2:]), None
        h, emb = self.entry(x, t, s, cond)
        grid = tuple(h.shape[2:])
        h = self.widen(h.movedim(1, -1)) + self.place(grid)
        modulation, rotation = self.modulation(emb), self.rotary(grid)
        for i, block in enumerate(self.blocks):
            if self.mid_head is not None and i == len(self.blocks) // 2:
                mid = self.mid_head(h.movedim(-1, 1), emb, size)
            h = block(h, modulation, cond, rotation)
        return self.head(h.movedim(-1, 1), emb, size), mid

    @property
    def taps(self) -> dict[str, nn.Module]:
        """`block{i}`, its `block{i}.attention`, and `mid`, the last block of the first half."""
        return block_taps(self.blocks)


class Block(nn.Module):
    """Attention, then SwiGLU, each entered through a modulated norm and left through a gate (adaLN-zero).

    The modulation is one projection shared by all blocks, plus this block's own bias (Chen et al. 2023, PixArt-alpha):
    projections of their own would be a third of all parameters.
    """

    def __init__(self, width: int, heads: int, emb: int) -> None:
        super().__init__()
        hidden = -(-width * 8 // 3 // 32) * 32
        self.bias = nn.Parameter(torch.zeros(6 * width))
        self.attention = Attention(width, heads, emb)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.value = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, width)

    def forward(
        self, h: Float[Tensor, "b *grid w"], modulation: Float[Tensor, "b *#grid w6"], cond: Encoded, rotation: Tensor
    ) -> Float[Tensor, "b *grid w"]:
        scale1, shift1, gate1, scale2, shift2, gate2 = (modulation + self.bias).chunk(6, -1)
        y = modulate(h, scale1, shift1).flatten(1, -2)
        h = h + gate1 * self.attention(y, cond, rotation).view_as(h)
        y = modulate(h, scale2, shift2)
        return h + gate2 * self.out(F.silu(self.gate(y)) * self.value(y))


def zero_modulation(emb: int, width: int) -> nn.Linear:
    """The shared projection of the embedding to every block's scales, shifts and gates: all zero at first."""
    linear = nn.Linear(emb, 6 * width)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def block_taps(blocks: nn.ModuleList) -> dict[str, nn.Module]:
    places: dict[str, nn.Module] = {"mid": blocks[max(len(blocks) // 2 - 1, 0)]}
    for i, block in enumerate(blocks):
        assert isinstance(block, Block)
        places |= {f"block{i}": block, f"block{i}.attention": block.attention}
    return places
