"""Which noise levels to train on: laws of t on (0, 1), given by their quantile functions.

Quantiles rather than draws, so that one stratified uniform per example (`Rng.stratified`) spreads a batch evenly over
the law: the loss of a batch has less variance for the same cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fromnoise.path import VE, line_time


@runtime_checkable
class Density(Protocol):
    def quantile(self, u: Tensor) -> Tensor:
        """t in (0, 1) below which the law has mass u."""
        ...


@dataclass(frozen=True)
class Uniform:
    def quantile(self, u: Tensor) -> Tensor:
        return u


@dataclass(frozen=True, kw_only=True)
class LogitNormal:
    """logit(t) ~ N(mean, std²), i.e. log-SNR ~ N(-2·mean, 4·std²) (Esser et al. 2024).  Above 0: more noise."""

    mean: float = 0.0
    std: float = 1.0

    def quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(inside(u)))


@dataclass(frozen=True, kw_only=True)
class EDMLogNormal:
    """log(sigma) ~ N(mean, std²) on the VE path (Karras et al. 2022, table 1), read as times on the line."""

    mean: float = -1.2
    std: float = 1.2

    def quantile(self, u: Tensor) -> Tensor:
        return line_time(VE(), torch.exp(self.mean + self.std * torch.special.ndtri(inside(u))))


def inside(u: Tensor) -> Tensor:
    """u away from 0 and 1, where normal quantiles are infinite."""
    return u.clamp(1e-7, 1 - 1e-7)
