"""Distribution matching: a student's own samples are moved to where the teacher finds them likelier than they are.

Whatever a student of few steps makes has a law of its own.  Noised to x_t, that law's score is known to a denoiser that
has only ever seen the student's samples: the companion, trained along, which knows one law for each number of jumps.
With the teacher's score of the data,

    the KL divergence of both laws of x_t falls fastest along   x0_hat(teacher) - x0_hat(companion)                 (1)

(Yin et al. 2024, "One-step diffusion with distribution matching distillation", eq. 7), so each sample x is drawn to

    x + (x0_hat(teacher) - x0_hat(companion)) / mean|x - x0_hat(teacher)|                                          (2)

with the right side held fixed (their eq. 8).  A flow map alone copies where the teacher goes and, having too little
time, blurs it; what this adds is that the samples must look like the teacher's to the teacher.  The companion learns
from half of the very x_t that (2) is measured on, so it costs one pass, half of it with gradient, and nothing else.

The last of k jumps begins at time 1/k, and can change no more than what the noise there hides.  Beyond, both scores
speak of what is settled already, and a jump could follow them only by a shift of all samples alike; so t stays below
REACH/k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.objectives.flowmap import FlowMap, jump_velocity, mean_square
from fromnoise.objectives.loss import Loss
from fromnoise.process import add_noise
from fromnoise.rng import Rng
from fromnoise.sample import as_time
from fromnoise.types import Data, Time

JUMPS = (1, 2, 1, 4)  # of samples, by their place in the global batch
LOW, HIGH = 0.03, 0.95  # t of x_t: at the ends the two scores agree, or differ by what nobody sees
REACH = 1.2
LEAD = 0.05  # part of the run in which the companion learns before anybody listens to it
FLOW_EVERY = 8  # of so many examples one keeps jumps consistent, which needs little by then
TOLD_EVERY = 2  # of so many samples one teaches the companion
SMALL = 1e-3  # at least, the denominator of eq. (2)


@dataclass(frozen=True, kw_only=True)
class Matching:
    """A flow map's loss; from part `begin` of the run on, beside it, the squared distance to eq. (2) of own samples.

    For the flow map the run is over at `begin`: its k has fallen by then.

    companion  a denoiser of its own parameters, trained along by the same optimiser: first the teacher's twin, at last
               the denoiser of what the student makes
    flow_share weight of the flow map's loss then, which keeps jumps consistent that no sample ends with; an eighth of
               the batch measures it
    likeness   to data, of samples, their noise, conditions and jumps, all together (`likeness.py`), where there is any
    like_share its weight, for data of one value; a pull by (2) is the shorter the more values there are, and so is this
    """

    flow: FlowMap
    companion: Denoiser
    begin: float = 0.5
    flow_share: float = 0.025
    likeness: Callable[[Data, Data, Cond, Int[Tensor, " b"]], Float[Tensor, " b"]] | None = None
    like_share: float = 0.15

    def __call__(self, denoise: Denoiser, x0: Data, cond: Cond, rng: Rng, progress: float) -> Loss:
        if progress < self.begin:
            return self.flow(denoise, x0, cond, rng, progress / self.begin)
        place = torch.tensor(rng.positions, device=x0.device)
        jumps = torch.tensor(JUMPS, device=x0.device)[place % len(JUMPS)]
        x = self.samples(denoise, x0, cond, jumps, rng)
        high = HIGH * (REACH / jumps).clamp_max(1.0)
        t = as_time(LOW + (high - LOW) * rng.stratified().to(x0.device), x0)
        eps = rng.normal(tuple(x.shape), like=x)
        # By whole rounds of jumps, so that the companion learns as much of each kind.
        rounds = TOLD_EVERY if rng.total >= TOLD_EVERY * len(JUMPS) else 1
        pull, follow = self.pull(x, eps, t, jumps, cond, place // len(JUMPS) % rounds == 0)
        heard = float(progress >= self.begin + LEAD)
        value = heard * pull + rounds * follow
        some = place % FLOW_EVERY == 0
        if bool(some.any()):
            flow = self.flow(denoise, x0[some], cond.rows(some), rng.every(FLOW_EVERY), 1.0).value
            value[some] += self.flow_share * FLOW_EVERY * flow
        if self.likeness is not None:
            value = value + self.like_share * x[0].numel() ** -0.5 * self.likeness(x, eps, cond, jumps)
        return Loss(value, t.flatten())

    def at(self, denoise: Denoiser, x0: Data, cond: Cond, t: Time, rng: Rng) -> Float[Tensor, " b"]:
        """The flow map's measure: how far from the teacher's ends, which matching gives up for likeness."""
        return self.flow.at(denoise, x0, cond, t, rng)

    def samples(self, denoise: Denoiser, like: Data, cond: Cond, jumps: Int[Tensor, " b"], rng: Rng) -> Data:
        """What the student makes of noise in `jumps` equal jumps; the gradient is that of the last one alone."""
        x = torch.empty_like(like).copy_(denoise.process.prior(tuple(like.shape), self.flow.start, rng))
        for done in range(max(JUMPS) - 1):
            going = jumps > done + 1
            if bool(going.any()):
                here, count = x[going], jumps[going]
                t, s = (as_time(self.flow.start * (1 - n / count), here) for n in (done, done + 1))
                with torch.no_grad():
                    x[going] = here - (t - s) * jump_velocity(denoise, here, t, s, cond.rows(going))
        t = as_time(self.flow.start / jumps, x)
        return x - t * jump_velocity(denoise, x, t, torch.zeros_like(t), cond)

    def pull(
        self, x: Data, eps: Data, t: Time, jumps: Int[Tensor, " b"], cond: Cond, told: Bool[Tensor, " b"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Half the mean squared distance of samples x to eq. (2), whose gradient is theirs alone; and the companion's
        own loss, plain flow matching of those it is `told`, whose gradient is its alone; 0 of the others."""
        made = x.detach()
        x_t = add_noise(made, eps, t)
        # Told how many jumps made x, it knows as many laws; the gap of its times says so.
        s = t - t / as_time(jumps, x_t)
        theirs, follow = torch.empty_like(x_t), x_t.new_zeros(len(x_t))
        for rows, learns in ((told, True), (~told, False)):
            if bool(rows.any()):
                with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                    answer = jump_velocity(self.companion, x_t[rows], t[rows], s[rows], cond.rows(rows))
                theirs[rows] = answer.detach()
                if learns:
                    follow[rows] = mean_square(answer - (eps - made)[rows])
        with torch.no_grad():
            v = jump_velocity(self.flow.teacher, x_t, t, t, cond)
            size = (made - (x_t - t * v)).abs().flatten(1).mean(1).clamp_min(SMALL)
            goal = made + t * (theirs - v) / as_time(size, made)  # eq. (2): x0_hat = x_t - t·v
        return mean_square(x - goal) / 2, follow
