"""The one sampling loop, for every medium, process, stepper and grid."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.posterior import Posterior
from fromnoise.rng import Rng
from fromnoise.stepper import Stepper
from fromnoise.types import Data, FromNoiseError, Time


@dataclass(frozen=True, kw_only=True)
class Step:
    """One move done: x at time s, the posterior it was made from (None for a move up), and the passes so far."""

    x: Data
    post: Posterior | None
    t: Time
    s: Time
    evaluations: int


class Counted:
    """A denoiser that counts the examples it was asked about."""

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise, self.process, self.asked = denoise, denoise.process, 0

    def __call__(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Posterior:
        self.asked += len(x_t)
        return self.denoise(x_t, t, cond, s)


def sample(
    denoise: Denoiser, stepper: Stepper, grid: Sequence[float | Tensor], x: Data, cond: Cond, rng: Rng
) -> Iterator[Step]:
    """Walks x from grid[0] to grid[-1], one `Step` a move.

    `x` is data at time grid[0], usually `denoise.process.prior(shape, grid[0], rng)`.  Grid entries are numbers, or
    tensors that broadcast against x for times per frame or per example; each element goes up, down or stays on its own.
    """
    if stepper.order > 1 and not denoise.process.continuous:
        raise FromNoiseError(
            f"{type(stepper).__name__} needs continuous data: sample discrete data with DDIM() or Unmask()."
        )
    counted = Counted(denoise)
    state = stepper.init(x)
    times = [as_time(t, x) for t in grid]
    for t, s in pairwise(times):
        x, post, state = _move(counted, stepper, x, t, s, cond, state, rng)
        yield Step(x=x, post=post, t=t, s=s, evaluations=counted.asked // len(x))


@torch.no_grad()
def _move(
    denoise: Denoiser, stepper: Stepper, x: Data, t: Time, s: Time, cond: Cond, state: Any, rng: Rng
) -> tuple[Data, Posterior | None, Any]:
    """Elements with s < t take a step, those with s > t get noise, the others stay."""
    moved, post = x, None
    if bool((s < t).any()):
        moved, post, state = stepper.step(denoise, x, t, torch.minimum(s, t), cond, state, rng)
    if bool((s > t).any()):
        moved = torch.where(s > t, denoise.process.forward(x, t, torch.maximum(s, t), rng), moved)
    return moved, post, state


def as_time(t: float | Tensor, x: Data) -> Time:
    """t as a tensor of x's rank with one entry per example (or the shape it has), in x's precision."""
    dtype = x.dtype if x.is_floating_point() else torch.float32
    if not isinstance(t, Tensor):
        return torch.full((len(x),) + (1,) * (x.ndim - 1), t, dtype=dtype, device=x.device)
    t = t.to(device=x.device, dtype=dtype)
    return t.reshape(-1, *(1,) * (x.ndim - 1)).expand(len(x), *(1,) * (x.ndim - 1)) if t.ndim < 2 else t


def last(steps: Iterator[Step]) -> Step:
    """The end of a walk, with no more than one step in memory."""
    (step,) = deque(steps, maxlen=1)
    return step


def finish(steps: Iterator[Step]) -> Data:
    """x at the end of a walk."""
    return last(steps).x
