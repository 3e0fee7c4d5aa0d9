"""Exact denoisers: the posterior of a Gaussian mixture, in closed form, on the line and on any other path."""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.path import Path
from fromnoise.posterior import Mean
from fromnoise.process import Gaussian
from fromnoise.target import Target

MEANS = torch.tensor([[-1.0, 0.5], [0.8, -0.6], [0.2, 1.1]], dtype=torch.float64)
STDS = torch.tensor([0.25, 0.4, 0.3], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)


def posterior_mean(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | alpha·x0 + sigma·eps = x] for x (b, 2), alpha and sigma (b, 1)."""
    variance = alpha**2 * STDS**2 + sigma**2  # (b, k)
    away = x[:, None] - alpha[..., None] * MEANS  # (b, k, 2)
    log = WEIGHTS.log() - variance.log() - (away**2).sum(-1) / (2 * variance)
    share = torch.softmax(log, dim=1)
    gain = alpha * STDS**2 / variance
    return (share[..., None] * (MEANS + gain[..., None] * away)).sum(1)


class Exact:
    """The mixture's posterior on the line."""

    process = Gaussian()

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None) -> Mean:
        return Mean(posterior_mean(x_t, 1 - t, t))


def foreign_net(path: Path, target: Target):
    """A perfect network of `target` in the coordinates of `path`."""

    def net(x: Tensor, u: Tensor) -> Tensor:
        alpha, sigma = path.alpha(u), path.sigma(u)
        x0 = posterior_mean(x, alpha, sigma)
        eps = (x - alpha * x0) / sigma
        p, q = target.row(sigma / (alpha + sigma))
        return p * x0 + q * eps

    return net


def draw_mixture(n: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    k = torch.multinomial(WEIGHTS, n, replacement=True, generator=g)
    return MEANS[k] + STDS[k, None] * torch.randn(n, 2, generator=g, dtype=torch.float64)
