"""Augmentation of images that does not leak: what was done to an example is an input of the network.

A small set is enlarged by mirrored, shifted, scaled, turned and stretched copies.  The network is told by a label which
copy it sees, the label is absent at sampling, and so it samples what was not augmented (Karras et al. 2020, 2022, table
6 and appendix F.2).  Each change happens with probability p on its own:

flip        left and right, only where asked: text and flags have a right way round
shift       by whole pixels, uniform within an eighth of each side
translate   by fractions of pixels, N(0, 1/8²) of each side
scale       by 2^N(0, 0.2²)
rotate      by an angle uniform on (-π, π]
stretch     by 2^N(0, 0.2²) along an axis of uniform direction, and by its inverse across it

What comes in from outside the picture is its mirror image.  Flips and shifts move pixels; the others together are one
bicubic resampling.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fromnoise.cond import Column, Cond
from fromnoise.rng import Rng

# A name that no column of a table has by accident; hidden from users, and absent whenever a model is sampled.
COLUMN = Column(name="(augmentation)", kind="vector", size=10)
_REACH, _OCTAVES = 0.125, 0.2


def augmented(
    x0: Float[Tensor, "b c h w"], cond: Cond, p: float, rng: Rng, flip: bool = False
) -> tuple[Float[Tensor, "b c h w"], Cond]:
    """`augment`, of maps too, with the label as the column `COLUMN` of `cond`, present where something was done."""
    maps = {name: value for name, value in cond.values.items() if value.ndim == x0.ndim}
    moved, label = augment(torch.cat([x0, *maps.values()], 1), p, rng, flip)
    x0, *others = moved.split([x0.shape[1], *(value.shape[1] for value in maps.values())], 1)
    touched = (label != 0).any(1)
    values = {**cond.values, **dict(zip(maps, others, strict=True)), COLUMN.name: label}
    present = {**cond.present, COLUMN.name: touched}
    return x0, Cond(values, present, cond.batch)


def augment(
    x0: Float[Tensor, "b c h w"], p: float, rng: Rng, flip: bool = False
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 10"]]:
    """x0 on the CPU with every change at probability p, and what was done, of order 1; 0 means untouched.

    The label is (flip, shift y, x, translate y, x, log2 scale, cos - 1 and sin of the turn, log2 stretch · cos and sin
    of twice its direction), with log2 in units of its spread and lengths in those of the side times 1/8.
    """
    u = rng.uniform((len(x0), 10))
    z = rng.normal((len(x0), 4))
    on = (u[:, :6] < p).float()
    size = torch.tensor(x0.shape[-2:])
    mirrored = on[:, 0] * flip
    shift = (on[:, 1:2] * (2 * u[:, 6:8] - 1) * _REACH * size).round()
    moved = on[:, 2:3] * z[:, :2]
    octaves = on[:, 3] * z[:, 2]
    angle = on[:, 4] * math.pi * (2 * u[:, 8] - 1)
    stretch, axis = on[:, 5] * z[:, 3], 2 * math.pi * u[:, 9]
    label = torch.stack(
        [
            mirrored,
            *(shift / (_REACH * size)).T,
            *moved.T,
            octaves,
            angle.cos() - 1,
            angle.sin(),
            stretch * axis.cos(),
            stretch * axis.sin(),
        ],
        dim=1,
    )
    x = _moved(x0, mirrored.bool(), shift.long())
    return _resampled(x, _inverse(angle, octaves, stretch, axis / 2), moved * _REACH, label[:, 3:].any(1)), label


def _moved(x: Tensor, mirrored: Bool[Tensor, " b"], shift: Tensor) -> Tensor:
    """The pixels themselves at other places; x itself where no example moves."""
    which = (mirrored | shift.any(1)).nonzero().flatten()
    if len(which) == 0:
        return x
    height, width = x.shape[-2:]
    rows = _reflected(torch.arange(height) - shift[which, :1], height)
    columns = _reflected(torch.arange(width) - shift[which, 1:], width)
    columns = torch.where(mirrored[which, None], width - 1 - columns, columns)
    found = x[which[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    out = x.clone()
    out[which] = found.movedim(-1, 1)
    return out


def _reflected(place: Tensor, n: int) -> Tensor:
    """Places beyond the ends of 0 … n-1 mirrored at the edges of the outermost pixels."""
    place = place % (2 * n)
    return torch.minimum(place, 2 * n - 1 - place)


def _inverse(angle: Tensor, octaves: Tensor, stretch: Tensor, direction: Tensor) -> Float[Tensor, "b 2 2"]:
    """From a place of the result to what stands there in the source: (x, y) in pixels from the centre."""
    cos, sin = direction.cos(), direction.sin()
    axes = torch.stack([cos, -sin, sin, cos], 1).reshape(-1, 2, 2)
    # Not 2 ** x, whose last bit depends on where in the batch x stands.
    widen = (math.log(2) * _OCTAVES * torch.stack([octaves + stretch, octaves - stretch], 1)).exp()
    back = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], 1).reshape(-1, 2, 2)
    return _times(_times(axes, axes.mT / widen[:, :, None]), back)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, whose last bit does not depend on how many matrices there are."""
    return (a[:, :, :, None] * b[:, None]).sum(2)


def _resampled(x: Tensor, inverse: Tensor, moved: Tensor, touched: Bool[Tensor, " b"]) -> Tensor:
    which = touched.nonzero().flatten()
    if len(which) == 0:
        return x
    # grid_sample measures places in half sides, and x before y.
    half = torch.tensor([x.shape[-1], x.shape[-2]]) / 2
    linear = inverse[which] * half / half[:, None]
    x_, y = ((torch.arange(n) + 0.5) / n * 2 - 1 for n in (x.shape[-1], x.shape[-2]))
    moved_x, moved_y = (2 * moved[which].flip(1)).T[:, :, None, None]
    at = torch.stack(torch.broadcast_tensors(x_ - moved_x, y[:, None] - moved_y), -1)
    grid = (linear[:, None, None] * at[..., None, :]).sum(-1)
    found = F.grid_sample(x[which], grid.to(x.dtype), mode="bicubic", padding_mode="reflection", align_corners=False)
    out = x.clone()
    out[which] = found.clamp(-1, 1)  # bicubic weights overshoot at edges
    return out
