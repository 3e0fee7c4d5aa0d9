"""Numbers the trunks are told besides the data: noise level, destination, place.

A time t in [0, 1] is described twice, by t itself and by its log-SNR made finite,

    u(t) = log((1 - t + d) / (t + d)) / log((1 + d) / d)   in [-1, 1],   d = 1e-3,

because a network must tell t = 0.001 from t = 0.01 (the last details) as surely as 0.4 from 0.6.  The gap g = t - s to
the destination enters through features that vanish at g = 0 and a projection that starts at zero: a plain model
(s = t) and a flow map are one network, and turning the first into the second changes nothing at the first step.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FLOOR = 1e-3
WAVES = 16
SILU_MOMENT = 0.3557  # E[silu(z)^2] for z ~ N(0, 1)


def fourier(x: Float[Tensor, "*b"], freqs: Float[Tensor, " f"]) -> Float[Tensor, "*b 2*f"]:
    """(sin(w x), 1 - cos(w x)) for every angular frequency w: smooth, bounded, and zero at x = 0."""
    phase = x.unsqueeze(-1) * freqs
    return torch.cat([phase.sin(), 1 - phase.cos()], dim=-1)


def unit_linear(inputs: int, outputs: int, moment: float = 1.0) -> nn.Linear:
    """A linear map whose outputs have unit variance at first, for inputs of second moment `moment`.

    Codes are added up (time, columns, place), so they must start at one size, lest a class drown the noise level.
    """
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=(inputs * moment) ** -0.5)
    nn.init.zeros_(linear.bias)
    return linear


class TimeEmbedding(nn.Module):
    """t and s of any one broadcast shape -> (*shape, width): `W2 silu(W1 f(t) + Wg f(t - s))`, Wg zero at first."""

    freqs: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", math.pi * 2 ** torch.linspace(-1, 4, WAVES), persistent=False)
        self.time = unit_linear(4 * WAVES, width)
        self.gap = nn.Linear(4 * WAVES, width, bias=False)
        self.out = unit_linear(width, width, SILU_MOMENT)
        nn.init.zeros_(self.gap.weight)

    def forward(self, t: Tensor, s: Tensor) -> Tensor:
        dtype = self.freqs.dtype
        gap = (t - s).to(dtype)  # subtracted before the cast: near t the gap is much smaller than an ulp of t
        t = t.to(dtype)
        snr = torch.log((1 - t + FLOOR) / (t + FLOOR)) / math.log((1 + FLOOR) / FLOOR)
        near = torch.asinh(gap / FLOOR) / math.asinh(1 / FLOOR)
        hidden = self.time(self._features(t, snr)) + self.gap(self._features(gap, near))
        return self.out(F.silu(hidden))

    def _features(self, *views: Tensor) -> Tensor:
        return torch.cat([fourier(v, self.freqs) for v in views], dim=-1)


class Rotary(nn.Module):
    """Axial rotary positions (Su et al. 2021): pair j of a head turns with the coordinate along axis j mod `axes`.

    The product of a turned query and a turned key depends on the difference of their places alone, for any grid size.
    """

    freqs: Tensor

    def __init__(self, head: int, axes: int) -> None:
        super().__init__()
        pairs = head // 2
        turns = -(-pairs // axes)
        # Sequences run to thousands of places, sides of pictures to tens: the slowest wave should span either once.
        base = 10_000.0 if axes == 1 else 100.0
        freqs = torch.zeros(axes, pairs)
        for j in range(pairs):
            freqs[j % axes, j] = base ** -(j // axes / turns)
        self.register_buffer("freqs", freqs, persistent=False)

    def forward(self, grid: tuple[int, ...]) -> Float[Tensor, "n pairs 2"]:
        """cos and sin of the angles of the flattened grid."""
        places = _places([torch.arange(n).to(self.freqs) for n in grid]).flatten(0, -2)
        angles = (places.unsqueeze(-1) * self.freqs).sum(1)
        return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Float[Tensor, "b n h d"], rotation: Float[Tensor, "n pairs 2"]) -> Float[Tensor, "b n h d"]:
    """Turns the pairs (x_j, x_{j + d/2}) of every head by the angles of their place."""
    cos, sin = rotation[:, None].unbind(-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


class Place(nn.Module):
    """Where a cell lies in its grid, (*grid, width), from Fourier features of coordinates in [-1, 1].

    Rotary attention knows differences only; this tells a corner from the centre, at any size.
    """

    freqs: Tensor

    def __init__(self, axes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", math.pi / 2 * torch.arange(1.0, WAVES // 2 + 1), persistent=False)
        self.project = unit_linear(axes * WAVES, width)

    def forward(self, grid: tuple[int, ...]) -> Tensor:
        places = _places([(torch.arange(n).to(self.freqs) + 0.5) * (2 / n) - 1 for n in grid])
        return self.project(fourier(places, self.freqs).flatten(-2))


def _places(ticks: list[Tensor]) -> Float[Tensor, "*grid axes"]:
    return torch.stack(torch.meshgrid(*ticks, indexing="ij"), dim=-1)
