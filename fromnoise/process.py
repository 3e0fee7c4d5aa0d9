"""The noising processes: how data becomes noise, and one step of the way back given a posterior.

Gaussian, on the line (see `path.py`); with eps_hat = (x_t - (1-t)·x0_hat)/t,

    x_s = (1-s)·x0_hat + s·(√(1-κ)·eps_hat + √κ·z),    κ = churn·(1 - ((1-t)·s / ((1-s)·t))²).

Churn 0 is DDIM (Song et al. 2021a), which on this line is Euler's method for dx/dt = eps_hat - x0_hat; churn 1 is
ancestral sampling (Ho et al. 2020).  The step returns x_t exactly where s = t, so it may be asked per element.

Masked (Sahoo et al. 2024, MDLM; Shi et al. 2024): each token is replaced by the mask symbol independently with
probability t, and going back from t to s each masked token is revealed with probability (t-s)/t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.posterior import Logits, Mean, Posterior
from fromnoise.prior import Expected
from fromnoise.rng import Rng
from fromnoise.types import Data, FromNoiseError, Shape, Time


@runtime_checkable
class Process(Protocol):
    @property
    def continuous(self) -> bool:
        """Whether x is continuous, so that steppers may extrapolate."""
        ...

    def prior(
        self, shape: Shape, t: float | Time, rng: Rng, dtype: torch.dtype = torch.float32, cond: Cond | None = None
    ) -> Data:
        """A start of the way back: what data looks like at time t when nothing but conditions is known about it."""
        ...

    def forward(self, x_s: Data, s: Time, t: Time, rng: Rng) -> Data:
        """x_t given x_s for s <= t; s = 0 corrupts data."""
        ...

    def reverse(self, x_t: Data, post: Posterior, t: Time, s: Time, rng: Rng, churn: float = 0.0) -> Data:
        """x_s given x_t and the posterior of x0, for s <= t."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """Where nothing is `expected` of data, starts are noise alone, which is right at t = 1."""

    expected: Expected | None = None
    continuous = True

    def prior(
        self, shape: Shape, t: float | Time, rng: Rng, dtype: torch.dtype = torch.float32, cond: Cond | None = None
    ) -> Data:
        eps = rng.normal(shape, like=torch.empty(0, dtype=dtype))
        return t * eps if self.expected is None else self.expected.flow(eps, t, cond)

    def forward(self, x_s: Data, s: Time, t: Time, rng: Rng) -> Data:
        # x_t = a·x_s + b·z with a·(1-s) = 1-t and (a·s)² + b² = t².  At s = 1 there is nothing left to add.
        a = torch.where(s < 1, (1 - t) / (1 - s).clamp_min(torch.finfo(s.dtype).tiny), 1.0)
        b = (t**2 - (a * s) ** 2).clamp_min(0).sqrt()
        return torch.where(s == t, x_s, a * x_s + b * rng.normal(tuple(x_s.shape), like=x_s))

    def reverse(self, x_t: Data, post: Posterior, t: Time, s: Time, rng: Rng, churn: float = 0.0) -> Data:
        x0 = post.point()
        ratio = torch.where(t > 0, s / torch.where(t > 0, t, 1.0), 0.0)
        s_eps = ratio * (x_t - (1 - t) * x0)  # s·eps_hat, finite at t = 0
        if churn > 0:
            known = torch.where(s < 1, (1 - t) * ratio / torch.where(s < 1, 1 - s, 1.0), 1.0)
            kappa = churn * (1 - known**2).clamp_min(0)
            noise = rng.normal(tuple(x_t.shape), like=x_t)
            s_eps = (1 - kappa).clamp_min(0).sqrt() * s_eps + s * kappa.sqrt() * noise
        return torch.where(s == t, x_t, (1 - s) * x0 + s_eps)


@dataclass(frozen=True)
class Masked:
    """Tokens 0 … vocab-1; the mask symbol is `vocab`."""

    vocab: int
    continuous = False

    def prior(
        self, shape: Shape, t: float | Time, rng: Rng, dtype: torch.dtype = torch.int64, cond: Cond | None = None
    ) -> Data:
        return torch.full(shape, self.vocab, dtype=torch.int64)

    def forward(self, x_s: Data, s: Time, t: Time, rng: Rng) -> Data:
        hide = (t - s) / (1 - s).clamp_min(torch.finfo(s.dtype).tiny)
        return torch.where(rng.uniform(tuple(x_s.shape)).to(x_s.device) < hide, self.vocab, x_s)

    def reverse(self, x_t: Data, post: Posterior, t: Time, s: Time, rng: Rng, churn: float = 0.0) -> Data:
        if churn:
            raise FromNoiseError("Masked diffusion has no churn: use the plain sampler, or restarts in the grid.")
        assert isinstance(post, Logits)
        reveal = (t - s) / torch.where(t > 0, t, 1.0)
        shown = (x_t == self.vocab) & (rng.uniform(tuple(x_t.shape)).to(x_t.device) < reveal)
        uniform = rng.uniform(tuple(x_t.shape), like=torch.empty(0, dtype=torch.float64)).to(x_t.device)
        return x_t.masked_scatter(shown, draw_tokens(post.logits[shown], uniform[shown]))


def draw_tokens(logits: Float[Tensor, "k vocab"], uniform: Float[Tensor, " k"]) -> Int[Tensor, " k"]:
    """Where the cumulated law of each row passes a uniform number.

    In float64, as float32 truncates the tail and sharpens the law (Zheng et al. 2024).
    """
    law = torch.softmax(logits.to(torch.float64), dim=-1).cumsum(-1)
    total = law[:, -1:]
    # Below the total also after rounding, lest a last token of no probability be drawn.
    place = torch.minimum(uniform.to(law)[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(law, place, right=True)[:, 0]


def add_noise(x0: Data, eps: Data, t: Time) -> Data:
    """(1-t)·x0 + t·eps, for objectives that choose their own noise."""
    return (1 - t) * x0 + t * eps


def velocity(x_t: Data, post: Mean, t: Time) -> Data:
    """dx/dt = eps_hat - x0_hat = (x_t - x0_hat)/t, for t > 0."""
    return (x_t - post.x0) / t
