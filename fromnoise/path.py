"""The straight line from data to noise, and every other Gaussian path as a change of coordinates.

On the line, `x_t = (1-t)·x0 + t·eps` with t = 0 data and t = 1 noise.  A path `x = alpha·x0 + sigma·eps` is this line
read in other coordinates: with

    t = sigma / (alpha + sigma)        x_t = x / (alpha + sigma)

both have the same signal-to-noise ratio and the same posterior.  So samplers, grids and guidance know one path; this
file is used only where a foreign model comes in or goes out, and where a published noise-level law is quoted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


def logsnr(t: Tensor) -> Tensor:
    """2·log((1-t)/t): +inf at the data, -inf at the noise."""
    return 2 * (torch.log1p(-t) - torch.log(t))


def time_of_logsnr(value: Tensor) -> Tensor:
    """The inverse of `logsnr`."""
    return torch.sigmoid(-value / 2)


@runtime_checkable
class Path(Protocol):
    """A Gaussian path in its own time u: `x_u = alpha(u)·x0 + sigma(u)·eps`."""

    def alpha(self, u: Tensor) -> Tensor: ...
    def sigma(self, u: Tensor) -> Tensor: ...

    def own_time(self, t: Tensor) -> Tensor:
        """u with sigma(u)/(alpha(u)+sigma(u)) = t: where the line's time t lies on this path."""
        ...


def line_time(path: Path, u: Tensor) -> Tensor:
    """t on the line for the path's own time u."""
    alpha, sigma = path.alpha(u), path.sigma(u)
    return sigma / (alpha + sigma)


def scale(path: Path, u: Tensor) -> Tensor:
    """alpha + sigma: what an x_t on the line is multiplied by to lie on the path."""
    return path.alpha(u) + path.sigma(u)


@dataclass(frozen=True)
class Line:
    """Rectified flow and flow matching: the coordinates used everywhere else."""

    def alpha(self, u: Tensor) -> Tensor:
        return 1 - u

    def sigma(self, u: Tensor) -> Tensor:
        return u

    def own_time(self, t: Tensor) -> Tensor:
        return t


@dataclass(frozen=True)
class Cosine:
    """alpha = cos(pi·u/2), sigma = sin(pi·u/2) (Nichol & Dhariwal 2021, without their offset)."""

    def alpha(self, u: Tensor) -> Tensor:
        return torch.cos(u * math.pi / 2)

    def sigma(self, u: Tensor) -> Tensor:
        return torch.sin(u * math.pi / 2)

    def own_time(self, t: Tensor) -> Tensor:
        return torch.atan2(t, 1 - t) * 2 / math.pi


@dataclass(frozen=True, kw_only=True)
class LinearVP:
    """DDPM's schedule in continuous time: beta(u) = low + (high-low)·u (Song et al. 2021, eq. 32-33)."""

    low: float = 0.1
    high: float = 20.0

    def alpha(self, u: Tensor) -> Tensor:
        return torch.exp(-self._integral(u) / 2)

    def sigma(self, u: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(u)))

    def own_time(self, t: Tensor) -> Tensor:
        # sigma²/alpha² = expm1(B) with B = ∫beta; a quadratic in u, solved without cancellation at small B.
        integral = torch.log1p((t / (1 - t)) ** 2)
        slope = self.high - self.low
        return 2 * integral / (self.low + torch.sqrt(self.low**2 + 2 * slope * integral))

    def _integral(self, u: Tensor) -> Tensor:
        return self.low * u + (self.high - self.low) * u**2 / 2


@dataclass(frozen=True)
class VE:
    """alpha = 1, sigma = u: EDM's coordinates, where the own time is the noise's standard deviation."""

    def alpha(self, u: Tensor) -> Tensor:
        return torch.ones_like(u)

    def sigma(self, u: Tensor) -> Tensor:
        return u

    def own_time(self, t: Tensor) -> Tensor:
        return t / (1 - t)
