"""Jumps learned from the teacher's own walks: a student lands in one jump where its teacher arrives in several steps.

A teacher walks from data all but hidden in noise back to data in STRIDES steps, and the times where it stops are the
only ones between which a student is ever asked to jump.  From stop t to stop s the average velocity is known, since
both ends are:

    u(x_t; t→s) = (x_t - x_s)/(t - s),                                                                             (1)

and the student is regressed on it (Luhman and Luhman 2021, "Knowledge distillation in iterative generative models", for
the one jump from noise to data).  No target is the student's own answer, unlike those of maps that are taught by
themselves (consistency models, MeanFlow, shortcut models), so nothing drifts, and short jumps are learned first.  A
walk is asked of the teacher once and lasts for LASTS steps of training, one of its jumps being learned in each.

Samples begin without a step, with a draw of what is expected of data (`prior.py`).  The fewer the steps, the later they
do so, where that is less exact and jumps are shorter; as one jump cannot mend what several do, it is learned from walks
that begin with such draws, too.

With q the mean square of what is left of (1), the loss is q·sg[(q + c)^-p] (Geng et al. 2025, "MeanFlow", eq. 22).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.grid import Times
from fromnoise.objectives.loss import Loss
from fromnoise.posterior import Mean
from fromnoise.process import Gaussian, Process, add_noise, velocity
from fromnoise.rng import Rng
from fromnoise.sample import as_time, sample
from fromnoise.stepper import Multistep
from fromnoise.types import Data, Time

STRIDES = 8
# The stops of a student of so many steps.
VISITED = {
    1: (2, 8),
    2: (1, 3, 8),
    3: (0, 3, 5, 8),
    4: (0, 2, 4, 6, 8),
    5: (0, 2, 3, 4, 6, 8),
    6: (0, 2, 3, 4, 5, 6, 8),
    7: (0, 2, 3, 4, 5, 6, 7, 8),
    8: tuple(range(STRIDES + 1)),
}
LONE = VISITED[1][0]
ONE, TWO, FOUR = (tuple(pairwise(VISITED[steps])) for steps in (1, 2, 4))
# What is learned of walks from the first stop, and of those of one step.  Of all jumps two eighths are those of one
# step and of two, three those of four, and one lies between any two stops.
LESSONS = ((*(36 * TWO), *(27 * FOUR), *combinations(range(STRIDES + 1), 2)), ONE)
LONE_EVERY = 4  # of so many walks one is of one step
LASTS = 8
SOFT = 1e-3  # c of the loss


def student_grids(stops: Times) -> tuple[Times, ...]:
    """Where jumps of 1, 2, … STRIDES steps begin and end."""
    return tuple(tuple(stops[i] for i in visited) for visited in VISITED.values())


@dataclass(frozen=True)
class Batch:
    """What walks begin with at these stops, and where those of some rows came to: x (stops, rows, c, *d)."""

    x: Data
    begin: Int[Tensor, " b"]
    cond: Cond
    walked: dict[tuple[int, ...], Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Jumps:
    """A jump for each of these examples, from x_t to the x_s that the teacher came to."""

    x_t: Data
    x_s: Data
    t: Time
    s: Time
    cond: Cond


@dataclass(frozen=True, kw_only=True)
class Walks:
    """The squared error of eq. (1), for walks of `teacher`, which may be any denoiser of continuous data, guided too.

    stops   STRIDES + 1 times, the last 0
    process that of the student, by whose prior walks of one step begin
    power   p of the loss: 0 is the plain squared error, 1 counts every example alike
    lasts   steps of training for which walks begin at the examples of the first
    """

    teacher: Denoiser
    stops: Times
    process: Process = field(default_factory=Gaussian)
    power: float = 0.75
    lasts: int = LASTS
    batches: dict[tuple[int, ...], Batch] = field(default_factory=dict, repr=False, compare=False)
    references: dict[bytes, Jumps] = field(default_factory=dict, repr=False, compare=False)

    def prepare(self, x0: Data, cond: Cond, rng: Rng) -> None:
        """Where walks at these places of the global batch begin until told otherwise."""
        begin = LONE * (torch.tensor(rng.positions) % LONE_EVERY == LONE_EVERY - 1).long()
        hidden = add_noise(x0, rng.normal(tuple(x0.shape), like=x0), as_time(self.stops[0], x0))
        drawn = self.process.prior(tuple(x0.shape), self.stops[LONE], rng, x0.dtype, cond).to(x0)
        x = torch.where(as_time(begin, x0) > 0, drawn, hidden)
        self.batches[tuple(rng.positions)] = Batch(x, begin, cond)

    def __call__(self, denoise: Denoiser, x0: Data, cond: Cond, rng: Rng, progress: float) -> Loss:
        jumps = self.jumps(rng)
        return Loss(self.loss(denoise, jumps), jumps.t.flatten())

    def loss(self, denoise: Denoiser, jumps: Jumps) -> Float[Tensor, " b"]:
        goal = (jumps.x_t - jumps.x_s) / (jumps.t - jumps.s)
        square = mean_square(jump_velocity(denoise, jumps.x_t, jumps.t, jumps.s, jumps.cond) - goal)
        return square * (square.detach() + SOFT) ** -self.power

    def jumps(self, rng: Rng, every: int = 1, lessons: Sequence[Sequence[tuple[int, int]]] = LESSONS) -> Jumps:
        """For every so-manieth place of the global batch a jump of its walk, by where that begins one of these."""
        batch, place = self.batches[tuple(rng.positions)], torch.tensor(rng.positions)
        rows = (place % every == 0).nonzero().flatten()
        key = tuple(rows.tolist())
        if key not in batch.walked:
            batch.walked[key] = self.walk(batch.x[rows], batch.begin[rows], batch.cond.rows(rows))
        x, cond = batch.walked[key], batch.cond.rows(rows)
        chosen = zip(batch.begin[rows].tolist(), rng.uniform((len(rng),))[rows].tolist(), strict=True)
        begin, end = torch.tensor([(of := lessons[b > 0])[int(u * len(of))] for b, u in chosen]).T
        return self.between(x, begin, end, cond)

    def between(
        self, walks: Float[Tensor, "stop b ..."], begin: Int[Tensor, " b"], end: Int[Tensor, " b"], cond: Cond
    ) -> Jumps:
        """Of each walk the jump between the stops of these numbers."""
        row, times = torch.arange(len(begin)), self._times()
        x_t, x_s = walks[begin, row], walks[end, row]
        return Jumps(x_t, x_s, as_time(times[begin], x_t), as_time(times[end], x_t), cond)

    def walk(self, x: Data, begin: Int[Tensor, " b"], cond: Cond) -> Float[Tensor, "stop b ..."]:
        """Where the teacher comes to from x at these stops, by each later one; before them there is x itself."""
        walked = x.repeat(len(self.stops), *(1,) * x.ndim)
        for first in begin.unique().tolist():
            rows = (begin == first).nonzero().flatten()
            steps = sample(self.teacher, Multistep(), self.stops[first:], x[rows], cond.rows(rows), Rng([], [], 0))
            for stop, step in enumerate(steps, start=first + 1):
                walked[stop, rows] = step.x
        return walked

    def _times(self) -> Float[Tensor, " stop"]:
        return torch.tensor(self.stops, dtype=torch.float64)

    @torch.no_grad()
    def at(self, denoise: Denoiser, x0: Data, cond: Cond, t: Time, rng: Rng) -> Float[Tensor, " b"]:
        """How far a jump of four steps lands from where the teacher came to, the mean squared distance: of those four
        the one that begins nearest to t.  What the teacher does is remembered, since a run asks for the same at every
        moment."""
        eps = rng.normal(tuple(x0.shape), like=x0)
        key = eps.cpu().numpy().tobytes()
        if key not in self.references:
            begin, end = torch.tensor(FOUR).T
            nearest = (t.flatten(1)[:, :1].cpu() - self._times()[begin]).abs().argmin(1)
            x = add_noise(x0, eps, as_time(self.stops[0], x0))
            walks = self.walk(x, torch.zeros(len(x), dtype=torch.long), cond)
            self.references[key] = self.between(walks, begin[nearest], end[nearest], cond)
        known = self.references[key]
        moved = (known.t - known.s) * jump_velocity(denoise, known.x_t, known.t, known.s, known.cond)
        return mean_square(known.x_t - moved - known.x_s)


def mean_square(x: Data) -> Float[Tensor, " b"]:
    return (x**2).flatten(1).mean(1)


def jump_velocity(denoise: Denoiser, x_t: Data, t: Time, s: Time, cond: Cond) -> Data:
    """u(x_t; t→s), for t > 0; the velocity at t of a model that is no flow map, or where s = t."""
    post = denoise(x_t, t, cond, s)
    assert isinstance(post, Mean)
    return velocity(x_t, post, t)
