"""Flow maps: a model that answers with its average velocity over a whole jump, so that a few steps suffice.

The probability flow carries x_t to x_s; its average velocity is u(x_t; t→s) = (x_t - x_s)/(t - s), and u(x_t; t→t) is
the velocity v of the flow itself.  A jump is its own first part and the rest: with m = t - k(t - s) between t and s,

    u(x_t; t→s) = k·v + (1-k)·u(x_m; m→s),    x_m = x_t - (t-m)·v,                                                (1)

up to the error of one step of Euler's method over t-m, a part k of the jump.  So the model is regressed on the right of
(1) with its own answer there held fixed: no derivative along time, unlike MeanFlow's (Geng et al. 2025), which is the
limit k → 0.  Written for the residual's rate ρ = (u - u*)/k, the loss of an example is

    k·mean(ρ²)·sg[(mean(ρ²) + c)^-p]                                                                              (2)

(SoFlow, Luo et al. 2025, with MeanFlow's adaptive weight).  Two answers that are nearly alike are subtracted and
divided by k: float32 leaves 1e-6 of that at k = .05, bfloat16 a tenth, which the mean over steps still forgives.

With k small what is learned of a jump reaches a longer one late, and the one from noise to data latest.  So once its
halves are known, that jump is their sum, both as the model itself makes them: eq. (1) with k = 1/2 and its own
u(x_t; t→m) for v, the self-consistency of shortcut models (Frans et al. 2024).  For shorter jumps as well this drifts
off, since then nothing but the model itself says where halves lead.

A young model knows little of what lies below t = .1, and to follow its flow there exactly makes worse samples than one
straight move from there to 0 (`gridsearch.py` ends every grid so).  A student learns the better way: a jump to 0 from
below `last` is the velocity where it begins.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.density import Density
from fromnoise.grid import Linear
from fromnoise.objectives.loss import Loss
from fromnoise.posterior import Mean
from fromnoise.process import add_noise, velocity
from fromnoise.rng import Rng
from fromnoise.sample import sample
from fromnoise.stepper import Multistep
from fromnoise.types import Data, Time

DESTINATIONS = 4  # strata of s for each stratum of t
LONGEST = 0.9  # jumps to 0 from here on are two halves,
HALVED_FROM = 0.3  # from this part of the run on
EARLIEST = 1e-3  # below, x_t and x0_hat are the same to float32, and their difference is divided by t
SOFT = 1e-3  # c of eq. (2)
REFERENCE_STEPS = 8  # of the teacher, for a held-out jump to 0


@dataclass(frozen=True, kw_only=True)
class FlowMap:
    """Draws (t, s), stratified jointly over the global batch, and measures eq. (2).

    teacher    whose flow is learned; any denoiser of continuous data, also a guided one
    density    of t; of these a share `at_start` is at `start`, where sampling begins
    at_end     share of jumps that go all the way to s = 0; the others end uniformly on (0, t)
    instant    share of examples with s = t and k = 1: plain flow matching, which a student of a teacher hardly needs
    last       below this time the way to s = 0 is straight
    k_first, k_last   k falls geometrically from one to the other over the run; at 1 nothing is learned of jumps
    power      p of eq. (2): 0 is the plain squared error, 1 counts every example alike
    from_data  v is eps - x0 of the pair that made x_t, right on average, instead of the teacher's velocity
    """

    teacher: Denoiser
    density: Density
    start: float = 1.0
    at_start: float = 0.2
    at_end: float = 0.5
    instant: float = 0.0
    last: float = 0.0
    k_first: float = 0.5
    k_last: float = 0.05
    power: float = 0.75
    from_data: bool = False
    references: dict[bytes, tuple[Data, Data]] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, denoise: Denoiser, x0: Data, cond: Cond, rng: Rng, progress: float) -> Loss:
        t, s, k = self.jumps(x0, rng, progress)
        eps = rng.normal(tuple(x0.shape), like=x0)
        x_t = add_noise(x0, eps, t)
        own = ((s == 0) & (t >= LONGEST)).flatten() & (progress >= HALVED_FROM)
        k[own] = 0.5
        v = self.first(denoise, x_t, eps - x0, t, t - k * (t - s), own, cond)
        return Loss(self.loss(denoise, x_t, v, t, s, k, cond), t.flatten(1).mean(1))

    @torch.no_grad()
    def first(
        self, denoise: Denoiser, x_t: Data, v: Data, t: Time, m: Time, own: Bool[Tensor, " b"], cond: Cond
    ) -> Data:
        """The velocity from t to m: the teacher's at t, or v as it is; for examples of `own` the model's own jump."""
        v = v.clone()
        for rows, model, end in ((own, denoise, m), (~own & (not self.from_data), self.teacher, t)):
            if bool(rows.any()):
                v[rows] = jump_velocity(model, x_t[rows], t[rows], end[rows], cond.rows(rows))
        return v

    def loss(self, denoise: Denoiser, x_t: Data, v: Data, t: Time, s: Time, k: Time, cond: Cond) -> Float[Tensor, " b"]:
        """Eq. (2) for one jump of each example."""
        m = t - k * (t - s)
        with torch.no_grad():
            # Where k = 1 nothing is left to jump, and at m = 0 there would be no velocity to ask for.
            rest = torch.where(k < 1, jump_velocity(denoise, x_t - (t - m) * v, m.clamp_min(EARLIEST), s, cond), v)
        rate = (jump_velocity(denoise, x_t, t, s, cond) - (k * v + (1 - k) * rest)) / k
        square = mean_square(rate)
        return k.flatten() * square * (square.detach() + SOFT) ** -self.power

    def jumps(self, x0: Data, rng: Rng, progress: float) -> tuple[Time, Time, Time]:
        """t, s and k of each example."""
        strata = max(1, rng.total // DESTINATIONS)
        both = rng.stratified() * strata
        # The whole part of a stratified number is the stratum of t and the rest is stratified in itself: the pair is
        # uniform on the square, with one example in each of its cells.
        u = (both.floor() + rng.uniform((len(rng),), like=both)) / strata
        w = both - both.floor()
        inner = (u / (1 - self.at_start)).clamp_max(1.0)
        t = torch.where(u < 1 - self.at_start, self.density.quantile(inner), self.start)
        t = t.clamp(EARLIEST, self.start)
        part = (w - self.instant) / (1 - self.instant)  # uniform on [0, 1) where there is a jump
        s = t * ((part - self.at_end) / (1 - self.at_end)).clamp_min(0.0)
        s = torch.where(w < self.instant, t, s)
        k = torch.full_like(t, self.k_first ** (1 - progress) * self.k_last**progress)
        k = torch.where((s == t) | ((s == 0) & (t < self.last)), 1.0, k)
        shape = (-1, *(1,) * (x0.ndim - 1))
        t, s, k = (z.reshape(shape).to(x0) for z in (t, s, k))
        return t, s, k

    @torch.no_grad()
    def at(self, denoise: Denoiser, x0: Data, cond: Cond, t: Time, rng: Rng) -> Float[Tensor, " b"]:
        """How far jumps from t to t/2 and to 0 land from where the teacher arrives in many steps: the mean squared
        distance of both.  The teacher's ends are remembered, since a run asks for the same ones at every moment."""
        x_t = add_noise(x0, rng.normal(tuple(x0.shape), like=x0), t)
        key = x_t.cpu().numpy().tobytes()
        if key not in self.references:
            self.references[key] = self.reference(x_t, t, cond)
        landed = [x_t - (t - s) * jump_velocity(denoise, x_t, t, s, cond) for s in (t / 2, t * 0)]
        far = [(x - goal) ** 2 for x, goal in zip(landed, self.references[key], strict=True)]
        return torch.stack(far, dim=1).flatten(1).mean(1)

    def reference(self, x_t: Data, t: Time, cond: Cond) -> tuple[Data, Data]:
        """The teacher's x at t/2 and at 0, in REFERENCE_STEPS steps of equal length, straight to 0 from `last` on."""
        grid = [t * part for part in Linear()(REFERENCE_STEPS)]
        way = list(sample(self.teacher, Multistep(), grid, x_t, cond, Rng([], [], 0)))
        end = x_t
        for i, step in enumerate(way):
            assert step.post is not None
            end = torch.where((step.t >= self.last) | (i == 0), step.post.point(), end)
        return way[REFERENCE_STEPS // 2 - 1].x, end


def jump_velocity(denoise: Denoiser, x_t: Data, t: Time, s: Time, cond: Cond) -> Data:
    """u(x_t; t→s), for t > 0; the velocity at t of a model that is no flow map, or where s = t."""
    post = denoise(x_t, t, cond, s)
    assert isinstance(post, Mean)
    return velocity(x_t, post, t)


def mean_square(x: Data) -> Float[Tensor, " b"]:
    return (x**2).flatten(1).mean(1)
