"""Grids of times: where the way from noise to data stops to ask the denoiser.

A grid is a tuple of times from the start (1, or just below for models that know nothing at 1) to exactly 0; `steps`
counts its moves.  It may go up: a move from t to s > t adds noise, which is all there is to Restart sampling (Xu et al.
2023), RePaint's resampling and multistep consistency sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from fromnoise.path import VE, line_time, logsnr, time_of_logsnr
from fromnoise.types import FromNoiseError

Times = tuple[float, ...]


@runtime_checkable
class Grid(Protocol):
    def __call__(self, steps: int) -> Times:
        """`steps` + 1 times (restarts add their own), the last exactly 0."""
        ...


@dataclass(frozen=True, kw_only=True)
class LogSNR:
    """Uniform in log-SNR between `low` and `high` (cell boundaries), with jumps from `start` and to 0."""

    low: float = -10.0
    high: float = 14.0
    start: float = 1.0

    def __call__(self, steps: int) -> Times:
        check_steps(steps)
        low = self.low if self.start == 1 else float(logsnr(torch.tensor(self.start, dtype=torch.float64)))
        inside = low + (self.high - low) * torch.arange(1, steps, dtype=torch.float64) / steps
        return (self.start, *time_of_logsnr(inside).tolist(), 0.0)


@dataclass(frozen=True, kw_only=True)
class Karras:
    """EDM's grid: sigma^(1/rho) uniform, then 0 (Karras et al. 2022, eq. 5), read as times on the line."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __call__(self, steps: int) -> Times:
        check_steps(steps)
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        ends = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        sigma = (ends[0] + ramp * (ends[1] - ends[0])) ** self.rho
        return (*line_time(VE(), sigma).tolist(), 0.0)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Uniform in t, then shifted by `shift·t / (1 + (shift-1)·t)`: above 1, more of the steps go to the noisy end
    (Esser et al. 2024, eq. 23)."""

    shift: float = 1.0
    start: float = 1.0

    def __call__(self, steps: int) -> Times:
        check_steps(steps)
        t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        t = self.start * self.shift * t / (1 + (self.shift - 1) * t)
        return (*t[:-1].tolist(), 0.0)


@dataclass(frozen=True)
class Listed:
    """Times written down, one more than the steps: searched grids and grids from papers."""

    times: Times

    def __call__(self, steps: int) -> Times:
        if steps != len(self.times) - 1:
            raise FromNoiseError(f"This grid has {len(self.times) - 1} steps, not {steps}: ask for that many.")
        return self.times


@dataclass(frozen=True)
class Known:
    """The grids of 1, 2, … steps that a student was made for."""

    grids: tuple[Times, ...]

    def __call__(self, steps: int) -> Times:
        check_steps(steps)
        if steps > len(self.grids):
            raise FromNoiseError(
                f"This student jumps in 1 to {len(self.grids)} steps, not {steps}: take fewer, or sample its teacher."
            )
        return self.grids[steps - 1]


@dataclass(frozen=True, kw_only=True)
class Restart:
    """`grid` with its stretch between `high` and `low` walked `repeats` more times, noise added before each."""

    grid: Grid
    high: float
    low: float
    repeats: int = 1

    def __call__(self, steps: int) -> Times:
        times = self.grid(steps)
        stretch = tuple(t for t in times if self.low <= t <= self.high)
        if len(stretch) < 2:
            raise FromNoiseError(
                f"No two of the grid's times lie between {self.low} and {self.high}: widen the restart interval or "
                "take more steps."
            )
        after = times.index(stretch[-1]) + 1
        return times[:after] + stretch * self.repeats + times[after:]


def check_steps(steps: int) -> None:
    if steps < 1:
        raise FromNoiseError(f"Sampling takes at least 1 step, not {steps}.")
