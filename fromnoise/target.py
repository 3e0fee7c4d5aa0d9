"""What a network regresses, as a row (p, q): `y = p(t)·x0 + q(t)·eps`.

With `x_t = (1-t)·x0 + t·eps` the pair (x_t, y) is a linear system in (x0, eps), solved for x0 by the one readout

    x0_hat = A·y + B·x_t,    A = t / (t·p - q·(1-t)),    B = -q / (t·p - q·(1-t)).

A new target is a new row; nothing else in the library changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fromnoise.types import Data, Time


@runtime_checkable
class Target(Protocol):
    def row(self, t: Time) -> tuple[Time, Time]:
        """(p, q) at times t in [0, 1]."""
        ...


@dataclass(frozen=True)
class X0:
    """The clean example itself."""

    def row(self, t: Time) -> tuple[Time, Time]:
        return torch.ones_like(t), torch.zeros_like(t)


@dataclass(frozen=True)
class Eps:
    """The noise (Ho et al. 2020).  Says nothing about x0 at t = 1: start its grid just below."""

    def row(self, t: Time) -> tuple[Time, Time]:
        return torch.zeros_like(t), torch.ones_like(t)


@dataclass(frozen=True)
class Velocity:
    """The line's direction, eps - x0 (Liu et al. 2023; Lipman et al. 2023)."""

    def row(self, t: Time) -> tuple[Time, Time]:
        return -torch.ones_like(t), torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class EDM:
    """EDM's preconditioned residual (Karras et al. 2022, table 1) in the line's coordinates.

    A is their c_out and B their c_skip·(alpha+sigma), finite for every t.  At sigma_data = 1 the row is the negative
    of the v-prediction `alpha·eps - sigma·x0` on a variance-preserving path (Salimans & Ho 2022).
    """

    sigma_data: float = 0.5

    def row(self, t: Time) -> tuple[Time, Time]:
        root = input_variance(t, self.sigma_data).sqrt()
        return t / (self.sigma_data * root), -(1 - t) * self.sigma_data / root


def input_variance(t: Time, sigma_data: float) -> Time:
    """Variance of x_t when the data has standard deviation `sigma_data`."""
    return (1 - t) ** 2 * sigma_data**2 + t**2


def readout(target: Target, t: Time) -> tuple[Time, Time]:
    """(A, B) of `x0_hat = A·y + B·x_t`.

    Where the system is singular at t = 0, because x_t and y both show x0 alone (q = 0), the limit is A = 1/p, B = 0.
    Eps at t = 1 has no limit and gives infinity.
    """
    p, q = target.row(t)
    det = t * p - q * (1 - t)
    limit = (t == 0) & (q == 0)
    safe = torch.where(limit, torch.ones_like(det), det)
    return torch.where(limit, 1 / torch.where(limit, p, 1.0), t / safe), torch.where(limit, 0.0, -q / safe)


def regressand(target: Target, t: Time, x0: Data, eps: Data) -> Tensor:
    """y, what a perfect network of this target would answer for the pair (x0, eps)."""
    p, q = target.row(t)
    return p * x0 + q * eps
