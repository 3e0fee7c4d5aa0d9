"""Regression of the posterior mean: `weight(t)·‖x0_hat - x0‖²`, averaged over the elements of an example.

The weight is separate from what the network predicts.  Regressing a target's own y is the weight 1/A² (`readout`);
x-prediction with the velocity's loss is the x0 row with 1/max(t, .05)² (Li & He 2025, JiT).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.density import Density
from fromnoise.objectives.loss import Loss
from fromnoise.posterior import Mean
from fromnoise.process import add_noise
from fromnoise.rng import Rng
from fromnoise.target import Target, readout
from fromnoise.types import Data, Shape, Time

TOGETHER, APART = 0.4, 0.3  # of all examples
BEGUN, BOUND = 0.4, 0.4  # of those with known ends


@runtime_checkable
class Weight(Protocol):
    def __call__(self, t: Time) -> Time: ...


@dataclass(frozen=True)
class UniformWeight:
    def __call__(self, t: Time) -> Time:
        return torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class VelocityWeight:
    """1/max(t, floor)²: the error of the velocity, but bounded near the data."""

    floor: float = 0.05

    def __call__(self, t: Time) -> Time:
        return t.clamp_min(self.floor) ** -2


@dataclass(frozen=True)
class TargetWeight:
    """1/A²: the plain squared error of the network's own output."""

    target: Target

    def __call__(self, t: Time) -> Time:
        return readout(self.target, t)[0] ** -2


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Draws t from `density` (stratified over the global batch) and noise, and measures the denoiser's error.

    noise_choices  of so many draws the noise nearest to x0 is kept: straighter couplings (KNN-immiscible diffusion, Li
                   et al. 2024).  Only for unconditional models, whose noise may depend on what is generated.
    mid_share      weight of the same loss on the network's mid-depth output.
    time_axes      spatial axes along which noise levels may differ, as `levels_apart` draws them.
    """

    density: Density
    weight: Weight
    noise_choices: int = 1
    mid_share: float = 0.25
    time_axes: tuple[int, ...] = ()

    def __call__(self, denoise: Denoiser, x0: Data, cond: Cond, rng: Rng, progress: float = 0.0) -> Loss:
        t = self.times(x0, rng)
        post = self.posterior(denoise, x0, cond, t, rng)
        value = self.error(post.x0, x0, t)
        if post.mid is not None:
            value = value + self.mid_share * self.error(post.mid, x0, t)
        return Loss(value, t.flatten(1).mean(1))

    def at(self, denoise: Denoiser, x0: Data, cond: Cond, t: Time, rng: Rng) -> Float[Tensor, " b"]:
        return self.error(self.posterior(denoise, x0, cond, t, rng).x0, x0, t)

    def posterior(self, denoise: Denoiser, x0: Data, cond: Cond, t: Time, rng: Rng) -> Mean:
        eps = nearest_noise(x0, rng, self.noise_choices)
        post = denoise(add_noise(x0, eps, t), t, cond)
        assert isinstance(post, Mean)
        return post

    def times(self, x0: Data, rng: Rng) -> Time:
        u = rng.stratified().reshape(-1, *(1,) * (x0.ndim - 1))
        t = self.density.quantile(u)
        if self.time_axes:
            t = levels_apart(self.density, t, tuple(x0.shape), self.time_axes, rng)
        return t.to(device=x0.device, dtype=x0.dtype)

    def error(self, x0_hat: Tensor, x0: Tensor, t: Time) -> Tensor:
        return (self.weight(t) * (x0_hat - x0) ** 2).flatten(1).mean(1)


def levels_apart(density: Density, t: Time, shape: Shape, axes: tuple[int, ...], rng: Rng) -> Time:
    """Noise levels along `axes` of data of `shape`, for a model of the whole, of what goes on and of what lies between.

    Of the examples `TOGETHER` keep their one level t; `APART` have one each index, independently (diffusion forcing,
    Chen et al. 2024).  Of the others some indices of the first of the axes are known, t = 0, and the rest is at t: in
    `BEGUN` of them the first ones, in `BOUND` the first and the last, in what is left the last ones alone.
    """
    size = tuple(n if i - 2 in axes or i == 0 else 1 for i, n in enumerate(shape))
    n, one = shape[2 + axes[0]], (len(t), *(1,) * (len(shape) - 1))
    each = density.quantile(rng.uniform(size, like=t))
    kind, first, which, last = (u.reshape(one) for u in rng.uniform((len(t), 4), like=t).unbind(1))
    place = torch.arange(n).reshape(-1, *(1,) * (len(shape) - 3 - axes[0]))
    alone = (which >= BEGUN + BOUND).to(t)
    begun = (1 - alone) * (1 + (first * (n - 1)).floor())
    # So that one index is unknown in any case.
    ended = (which >= BEGUN) * (alone + (last * (n - begun - alone)).floor())
    known = torch.where((place < begun) | (place >= n - ended), 0.0, t)
    return torch.where(kind < TOGETHER, t, torch.where(kind < TOGETHER + APART, each, known))


def nearest_noise(x0: Data, rng: Rng, choices: int) -> Tensor:
    """Standard normal noise, the draw nearest to x0 of `choices`."""
    if choices == 1:
        return rng.normal(tuple(x0.shape), like=x0)
    draws = rng.normal((len(x0), choices, *x0.shape[1:]), like=x0)
    # ‖eps - x0‖² differs between draws by ‖eps‖² - 2·eps·x0 alone.
    flat = draws.flatten(2)
    score = (flat**2).sum(2) - 2 * torch.einsum("bkd,bd->bk", flat, x0.flatten(1))
    return draws[torch.arange(len(x0), device=x0.device), score.argmin(1)]
