"""Steppers: one move from t to s < t.  They are pure; what a method remembers is passed in and handed back.

order  stepper                  evaluations a step
1      DDIM (churn 0 … 1)       1
2      Heun                     2
2      Multistep                1

Steps may differ per element of the data; where s = t nothing changes, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.path import logsnr
from fromnoise.posterior import Mean, Posterior
from fromnoise.process import velocity
from fromnoise.rng import Rng
from fromnoise.types import Data, Time

State = TypeVar("State")


@runtime_checkable
class Stepper(Protocol, Generic[State]):
    order: int

    def init(self, x: Data) -> State: ...

    def step(
        self, denoise: Denoiser, x_t: Data, t: Time, s: Time, cond: Cond, state: State, rng: Rng
    ) -> tuple[Data, Posterior, State]:
        """(x_s, the posterior at x_t, what to remember), for s <= t."""
        ...


@dataclass(frozen=True, kw_only=True)
class DDIM:
    """The kernel with the posterior as it is.  The only stepper that takes flow maps; it takes discrete data too, as
    does `unmask.py`.

    churn 0 is DDIM, i.e. Euler on the line; churn 1 is ancestral sampling.
    """

    churn: float = 0.0
    order = 1

    def init(self, x: Data) -> None:
        return None

    def step(
        self, denoise: Denoiser, x_t: Data, t: Time, s: Time, cond: Cond, state: None, rng: Rng
    ) -> tuple[Data, Posterior, None]:
        post = denoise(x_t, t, cond, s)
        return denoise.process.reverse(x_t, post, t, s, rng, self.churn), post, None


@dataclass(frozen=True)
class Heun:
    """The trapezoidal rule on dx/dt = eps_hat - x0_hat (Karras et al. 2022, algorithm 1, on the line).

    A move to s = 0 is DDIM's, since the direction is not defined by a posterior there.
    """

    order = 2

    def init(self, x: Data) -> None:
        return None

    def step(
        self, denoise: Denoiser, x_t: Data, t: Time, s: Time, cond: Cond, state: None, rng: Rng
    ) -> tuple[Data, Posterior, None]:
        post = mean(denoise(x_t, t, cond))
        euler = denoise.process.reverse(x_t, post, t, s, rng)
        inner = (s > 0) & (s < t)
        if not bool(inner.any()):
            return euler, post, None
        s_safe = torch.where(inner, s, t)  # elements that do not need the second slope must not divide by zero
        slopes = velocity(x_t, post, t) + velocity(euler, mean(denoise(euler, s_safe, cond)), s_safe)
        return torch.where(inner, x_t + (s - t) * slopes / 2, euler), post, None


@dataclass(frozen=True)
class History:
    """The last posterior of each element, the half log-SNR it was made at, and the time it was stepped to."""

    post: Mean
    level: Time
    reached: Time


@dataclass(frozen=True, kw_only=True)
class Multistep:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): the kernel with the posterior extrapolated in half log-SNR λ,

        x0_hat + h/(2·h_prev)·(x0_hat - x0_hat_prev),    h = λ_s - λ_t,  h_prev = λ_t - λ_prev.

    First order where there is no usable past (the first step, after noise was added) and into s = 0, where h = ∞.
    """

    churn: float = 0.0
    order = 2

    def init(self, x: Data) -> History | None:
        return None

    def step(
        self, denoise: Denoiser, x_t: Data, t: Time, s: Time, cond: Cond, state: History | None, rng: Rng
    ) -> tuple[Data, Posterior, History | None]:
        post = mean(denoise(x_t, t, cond))
        level, moved = logsnr(t) / 2, s < t
        best = kept_post = post
        if state is not None:
            usable = moved & (state.reached == t)
            best = state.post.lerp(post, 1 + torch.where(usable, extrapolation(state.level, level, logsnr(s) / 2), 0.0))
            # An element that stays keeps its past.
            kept = ~moved & (state.reached == t)
            kept_post, level = post.pin(state.post.x0, kept), torch.where(kept, state.level, level)
        x_s = denoise.process.reverse(x_t, best, t, s, rng, self.churn)
        return x_s, post, History(kept_post, level, s)


def extrapolation(prev: Tensor, level: Tensor, to: Tensor) -> Tensor:
    """h/(2·h_prev) of the multistep move between half log-SNRs; 0 where there is no past to use or h = ∞."""
    h, h_prev = to - level, level - prev
    return torch.where(torch.isfinite(h) & (h_prev > 0), h / (2 * h_prev), 0.0)


def mean(post: Posterior) -> Mean:
    """The posterior of continuous data, the only kind that steppers of higher order take (`sample` sees to it)."""
    assert isinstance(post, Mean)
    return post
