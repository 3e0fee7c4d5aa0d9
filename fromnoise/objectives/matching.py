"""Distribution matching: a student's own samples are moved to where the teacher finds them likelier than they are.

Whatever a student of few steps makes has a law of its own.  Noised to x_t, that law's score is known to a denoiser that
has only ever seen the student's samples: the companion, trained along, which knows one law for each number of jumps.
With the teacher's score of the data,

    the KL divergence of both laws of x_t falls fastest along   x0_hat(teacher) - x0_hat(companion)                 (1)

(Yin et al. 2024, "One-step diffusion with distribution matching distillation", eq. 7), so each sample x is drawn to

    x + (x0_hat(teacher) - x0_hat(companion)) / mean|x - x0_hat(teacher)|                                          (2)

with the right side held fixed (their eq. 8).  What is learned of the teacher's walks is where they go on average, which
is a blur where jumps are long; what this adds is that samples must look like the teacher's to the teacher.  The
companion learns from the very x_t that (2) is measured on, so it costs one pass and nothing else.

The last of k jumps begins at time 1/k or so and can change no more than what the noise there hides.  Far beyond, both
scores speak of what is settled already, and a jump could follow them only by a shift of all samples alike; but they are
also all that says when samples as a whole drift away, and without them they do.  So t stays below REACH times that.

Guidance beyond that of the teacher's walks brings samples to their places sooner.  Those of one jump need most of it,
and drift from the law's mean and lose its width if it stays, so that it falls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.grid import Grid, Linear
from fromnoise.objectives.loss import Loss
from fromnoise.objectives.walks import FOUR, Walks, jump_velocity, mean_square
from fromnoise.process import add_noise
from fromnoise.rng import Rng
from fromnoise.sample import as_time
from fromnoise.types import Data, Time

WALK_EVERY = 4  # of so many examples one is learned from the teacher's walks in four steps
JUMPS = (1, 2, 4, 4)  # of the other samples, in turn
LOW, HIGH = 0.03, 0.95  # t of x_t: at the ends the two scores agree, or differ by what nobody sees
REACH = 2.5  # times where the last jump begins
LEAD = 0.05  # part of the run in which the companion learns before anybody listens to it
SMALL = 1e-3  # at least, the denominator of eq. (2)


@dataclass(frozen=True, kw_only=True)
class Matching:
    """The loss of `walks`; from part `begin` of the run on, beside it, the squared distance to eq. (2) of own samples.

    guided     the teacher, guided so many times as strongly as that of the walks
    lone       times for samples in one jump, at first and at last
    others     times for other samples
    companion  a denoiser of its own parameters, trained along by the same optimiser: first the teacher's twin, at last
               the denoiser of what the student makes
    grid       where a number of jumps begin and end: that of sampling
    share      weight of the loss of walks then, which hold jumps on the way where they are
    """

    walks: Walks
    guided: Callable[[float], Denoiser]
    companion: Denoiser
    grid: Grid = field(default_factory=Linear)
    lone: tuple[float, float] = (2.0, 1.0)
    others: float = 1.5
    begin: float = 0.5
    share: float = 0.1

    @property
    def lasts(self) -> int:
        return self.walks.lasts

    def prepare(self, x0: Data, cond: Cond, rng: Rng) -> None:
        self.walks.prepare(x0, cond, rng)

    def __call__(self, denoise: Denoiser, x0: Data, cond: Cond, rng: Rng, progress: float) -> Loss:
        if progress < self.begin:
            return self.walks(denoise, x0, cond, rng, progress)
        place = torch.tensor(rng.positions)
        walking = place % WALK_EVERY == 0
        jumps = torch.tensor(JUMPS)[(place - place // WALK_EVERY - 1) % len(JUMPS)]
        times = self.times(jumps)
        t = LOW + (HIGH * (REACH * last(times)).clamp_max(1.0) - LOW) * rng.stratified()
        prior = denoise.process.prior(tuple(x0.shape), as_time(times[0], x0).cpu(), rng, x0.dtype, cond).to(x0.device)
        eps = rng.normal(tuple(x0.shape), like=x0)
        value = torch.empty(len(x0), dtype=x0.dtype, device=x0.device)
        if bool(walking.any()):
            walked = self.walks.jumps(rng, WALK_EVERY, (FOUR,))
            value[walking], t[walking] = self.share * self.walks.loss(denoise, walked), walked.t.flatten().to(t)
        rows = ~walking
        if bool(rows.any()):
            told = cond.rows(rows.to(x0.device))
            x = self.samples(denoise, prior[rows], told, times[:, rows])
            pull, follow = self.pull(x, eps[rows], as_time(t[rows], x), jumps[rows], told, self.teachers(progress))
            value[rows] = float(progress >= self.begin + LEAD) * pull + follow
        return Loss(value, t)

    def at(self, denoise: Denoiser, x0: Data, cond: Cond, t: Time, rng: Rng) -> Float[Tensor, " b"]:
        """That of the walks: how far from where the teacher came to, which matching gives up to look like it."""
        return self.walks.at(denoise, x0, cond, t, rng)

    def times(self, jumps: Int[Tensor, " b"]) -> Float[Tensor, "k b"]:
        """Row n is where jump n of each sample begins; 0 once all of its jumps are done."""
        grids = {k: self.grid(k) + (0.0,) * (max(JUMPS) - k) for k in JUMPS}
        return torch.tensor([grids[k] for k in jumps.tolist()], dtype=torch.float64).T

    def samples(self, denoise: Denoiser, prior: Data, cond: Cond, times: Float[Tensor, "k b"]) -> Data:
        """What the student makes of the process's draws at times[0] by jumps at `times`; the gradient is that of the
        last jump alone."""
        x = prior.clone()
        for begin, end in pairwise(times):
            going = end > 0
            if bool(going.any()):
                here = x[going]
                t, s = as_time(begin[going], here), as_time(end[going], here)
                with torch.no_grad():
                    x[going] = here - (t - s) * jump_velocity(denoise, here, t, s, cond.rows(going))
        t = as_time(last(times), x)
        return x - t * jump_velocity(denoise, x, t, torch.zeros_like(t), cond)

    def teachers(self, progress: float) -> tuple[Denoiser, Denoiser]:
        """Of samples in one jump, and of others."""
        first, last = self.lone
        done = (progress - self.begin) / (1 - self.begin)
        return self.guided(first + done * (last - first)), self.guided(self.others)

    def pull(
        self,
        x: Data,
        eps: Data,
        t: Time,
        jumps: Int[Tensor, " b"],
        cond: Cond,
        teachers: tuple[Denoiser, Denoiser],
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Half the mean squared distance of samples x to eq. (2), whose gradient is theirs alone; and the companion's
        own loss, plain flow matching of them, whose gradient is its alone."""
        made = x.detach()
        x_t = add_noise(made, eps, t)
        # Told how many jumps made x, it knows as many laws; the gap of its times says so.
        s = t - t / as_time(jumps, x_t)
        theirs = jump_velocity(self.companion, x_t, t, s, cond)
        with torch.no_grad():
            v = torch.empty_like(x_t)
            for rows, teacher in zip((jumps == 1, jumps > 1), teachers, strict=True):
                if bool(rows.any()):
                    v[rows] = jump_velocity(teacher, x_t[rows], t[rows], t[rows], cond.rows(rows))
            size = (made - (x_t - t * v)).abs().flatten(1).mean(1).clamp_min(SMALL)
            goal = made + t * (theirs - v) / as_time(size, made)  # eq. (2): x0_hat = x_t - t·v
        return mean_square(x - goal) / 2, mean_square(theirs - (eps - made))


def last(times: Float[Tensor, "k b"]) -> Float[Tensor, " b"]:
    """Where the jump to 0 begins."""
    return times.where(times > 0, torch.inf).amin(0)
