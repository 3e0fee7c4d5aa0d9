"""Distribution matching on laws whose scores are known exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fromnoise.cond import Cond
from fromnoise.grid import Known, Linear
from fromnoise.objectives import Matching, Walks
from fromnoise.objectives.matching import JUMPS, WALK_EVERY
from fromnoise.objectives.walks import STRIDES, student_grids
from fromnoise.posterior import Mean
from fromnoise.process import Gaussian
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.stepper import DDIM

MEAN, STD = 0.7, 0.4  # of the data, N(MEAN, STD²)


class OfNormal(nn.Module):
    """The exact denoiser of N(mean, std²), both of which can be trained; it knows no destination."""

    process = Gaussian()

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.std = nn.Parameter(torch.tensor(std, dtype=torch.float64))

    def forward(self, x_t, t, cond, s=None):
        known = (1 - t) * self.std**2 / ((1 - t) ** 2 * self.std**2 + t**2)
        return Mean(self.mean + known * (x_t - (1 - t) * self.mean))


class Student(nn.Module):
    """A flow map whose every jump to 0 lands on mean + std·eps, by noise that it finds in x_t exactly."""

    process = Gaussian()

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.std = nn.Parameter(torch.tensor(std, dtype=torch.float64))
        self.asked: list[tuple[float, float, int]] = []

    def forward(self, x_t, t, cond, s=None):
        s = t if s is None else s
        self.asked += zip(t.flatten().tolist(), s.flatten().tolist(), [len(x_t)] * len(x_t), strict=True)
        # x_s = (1-s)·x0 + s·eps with x0 = mean + std·eps, so eps = (x_t - (1-t)·mean)/((1-t)·std + t).
        eps = (x_t - (1 - t) * self.mean) / ((1 - t) * self.std + t)
        x_s = (1 - s) * (self.mean + self.std * eps) + s * eps
        moved = torch.where(t > s, (x_t - x_s) / torch.where(t > s, t - s, 1.0), eps - self.mean - self.std * eps)
        return Mean(x_t - t * moved)


def objective(companion, **more) -> Matching:
    walks = Walks(teacher=OfNormal(MEAN, STD), stops=Linear()(STRIDES))
    return Matching(
        **{
            "walks": walks,
            "guided": lambda times: walks.teacher,
            "companion": companion,
            "begin": 0.0,
            "share": 0.0,
            **more,
        }
    )


def loss(goal: Matching, student: Student, x0: torch.Tensor, rng: Rng, progress: float = 1.0) -> torch.Tensor:
    cond = Cond.empty(len(x0))
    goal.prepare(x0, cond, rng)
    return goal(student, x0, cond, rng, progress).value.mean()


def jumps(n: int) -> torch.Tensor:
    return torch.tensor([JUMPS[i % len(JUMPS)] for i in range(n)])


def batch(n: int, seed: int = 0) -> tuple[torch.Tensor, Rng]:
    return torch.zeros(n, 3, dtype=torch.float64), Rng.of(seed, range(n))


@settings(max_examples=20)
@given(
    st.floats(-1, 2).filter(lambda mean: abs(mean - MEAN) > 0.1),
    st.floats(0.2, 0.8).filter(lambda std: abs(std - STD) > 0.05),
)
def test_the_pull_is_towards_the_teachers_law(mean, std):
    """With a companion that knows the student exactly, a wrong mean or a wrong deviation is pulled the right way."""
    for law, wrong in (((mean, STD), mean - MEAN), ((MEAN, std), std - STD)):
        student, (x0, rng) = Student(*law), batch(128)
        loss(objective(OfNormal(*law)), student, x0, rng).backward()
        grad = student.mean.grad if law[1] == STD else student.std.grad
        assert grad is not None and float(grad) * wrong > 0


def test_at_the_teachers_law_nothing_pulls():
    student = Student(MEAN, STD)
    x0, rng = batch(256)
    goal = objective(OfNormal(MEAN, STD))
    x = goal.samples(student, rng.normal((256, 3), like=x0), Cond.empty(256), goal.times(jumps(256)))
    t = torch.full((256, 1), 0.5, dtype=torch.float64)
    pull, _ = goal.pull(x, rng.normal((256, 3), like=x0), t, jumps(256), Cond.empty(256), goal.teachers(1.0))
    assert float(pull.detach().abs().max()) < 1e-20


def test_samples_of_one_jump_are_drawn_to_a_teacher_of_their_own():
    x0, rng = batch(64)
    goal, student, cond = objective(OfNormal(MEAN, STD)), Student(MEAN, STD), Cond.empty(64)
    x = goal.samples(student, rng.normal((64, 3), like=x0), cond, goal.times(jumps(64))).detach()
    eps, t = rng.normal((64, 3), like=x0), torch.full((64, 1), 0.5, dtype=torch.float64)
    same, other = (
        goal.pull(x, eps, t, jumps(64), cond, (lone, OfNormal(MEAN, STD)))[0]
        for lone in (OfNormal(MEAN, STD), OfNormal(MEAN + 1, STD))
    )
    assert bool(((same - other).abs() > 1e-3).eq(jumps(64) == 1).all())


@given(st.floats(0, 0.9), st.floats(0, 1))
def test_what_samples_of_one_jump_are_drawn_to_is_guided_less_and_less(begin, part):
    goal = objective(OfNormal(MEAN, STD), begin=begin, guided=lambda times: OfNormal(times, STD), lone=(3.0, 1.0))
    lone, others = goal.teachers(begin + part * (1 - begin))
    assert lone.mean.item() == pytest.approx(3 - 2 * part, abs=1e-6) and others.mean.item() == goal.others


def test_each_of_the_two_is_trained_by_its_own_loss_alone():
    student, companion = Student(0.2, 0.3), OfNormal(0.4, 0.5)
    x0, rng = batch(64)
    goal, cond, t = objective(companion), Cond.empty(64), torch.full((64, 1), 0.5, dtype=torch.float64)
    x = goal.samples(student, rng.normal((64, 3), like=x0), cond, goal.times(jumps(64)))
    pull, follow = goal.pull(x, rng.normal((64, 3), like=x0), t, jumps(64), cond, goal.teachers(1.0))
    everything = [student.mean, student.std, companion.mean, companion.std]
    pulled = torch.autograd.grad(pull.mean(), everything, allow_unused=True, retain_graph=True)
    followed = torch.autograd.grad(follow.mean(), everything, allow_unused=True)
    assert [g is None for g in pulled] == [False, False, True, True]
    assert [g is None for g in followed] == [True, True, False, False]
    assert bool((follow > 0).all()) and bool((pull > 0).all())


def noise(n: int) -> torch.Tensor:
    return Rng.of(3, range(n)).normal((n, 3), like=torch.zeros(0, dtype=torch.float64))


def test_samples_take_their_own_number_of_jumps_wherever_a_batch_is_cut():
    student, eps = Student(0.2, 0.3), noise(8)
    goal = objective(OfNormal(MEAN, STD))
    whole = goal.samples(student, eps, Cond.empty(8), goal.times(jumps(8)))
    assert len(student.asked) == int(jumps(8).sum())
    assert {round(t, 2) for t, s, _ in student.asked if s == 0} == {1.0, 0.5, 0.25}
    for part in (slice(0, 3), slice(3, 8)):
        cut = goal.samples(student, eps[part], Cond.empty(len(eps[part])), goal.times(jumps(8)[part]))
        torch.testing.assert_close(cut, whole[part])


STOPS = (0.87, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2, 0.1, 0.0)


@pytest.mark.parametrize("grid", [Linear(), Linear(shift=0.7, start=0.9), Known(student_grids(STOPS))])
def test_what_is_matched_is_what_the_sampler_makes_of_the_same_noise(grid):
    """Wherever jumps begin: each from noise scaled to its first time, along the grid that sampling takes."""
    student = Student(0.2, 0.3)
    goal = objective(OfNormal(MEAN, STD), grid=grid)
    times = goal.times(jumps(8))
    made = goal.samples(student, times[0][:, None] * noise(8), Cond.empty(8), times).detach()
    for k in set(JUMPS):
        rng = Rng.of(3, range(8))
        x = student.process.prior((8, 3), grid(k)[0], rng, dtype=torch.float64)
        sampled = finish(sample(student, DDIM(), grid(k), x, Cond.empty(8), rng))
        torch.testing.assert_close(made[jumps(8) == k], sampled[jumps(8) == k])


def test_a_quarter_of_a_batch_walks_and_the_others_take_their_numbers_of_jumps_wherever_it_is_cut():
    grid = Known(student_grids(STOPS))
    lasts = {k: grid(k)[-2] for k in JUMPS}
    for size in (32, 8, 4, 1):
        student, companion = Student(0.2, 0.3), OfNormal(0.2, 0.3)
        walks = Walks(teacher=OfNormal(MEAN, STD), stops=STOPS)
        goal = objective(companion, walks=walks, grid=grid, share=1.0)
        values = []
        for first in range(0, 32, size):
            rng, x0 = Rng.of(0, range(32))[first : first + size], torch.zeros(size, 3, dtype=torch.float64)
            goal.prepare(x0, Cond.empty(size), rng)
            values.append(goal(student, x0, Cond.empty(size), rng, 1.0).value.detach())
        ended = [t for t, s, _ in student.asked if s == 0]
        walking = sum(len(batch.x) // WALK_EVERY or 1 for batch in walks.batches.values() if batch.walked)
        assert walking == 8, "each from its own noise"
        of = {k: 24 // len(JUMPS) * JUMPS.count(k) for k in JUMPS}
        assert all(ended.count(lasts[k]) == of[k] for k in (1, 2)) and of[4] <= ended.count(lasts[4]) <= of[4] + 8
        whole = values[0] if size == 32 else whole
        torch.testing.assert_close(torch.cat(values), whole)


def test_nothing_is_matched_before_its_time_and_nobody_listens_to_a_new_companion():
    student, companion = Student(0.2, 0.3), OfNormal(0.2, 0.3)
    goal = objective(companion, begin=0.5)

    def grads(progress: float) -> tuple[bool, float]:
        student.zero_grad()
        companion.zero_grad()
        loss(goal, student, *batch(32), progress).backward()
        return companion.mean.grad is not None, 0.0 if student.mean.grad is None else student.mean.grad.item()

    before, lead, after = grads(0.49), grads(0.52), grads(0.6)
    assert (before[0], lead[0], after[0]) == (False, True, True)
    assert before[1] != 0 and lead[1] == 0 and after[1] != 0, "walks, companion alone, matching"


@pytest.mark.parametrize("start", [(0.0, 0.2), (1.2, 0.8)])
def test_student_and_companion_trained_together_come_to_the_data(start):
    """From another law, with a companion that begins as the teacher's twin and knows of the student what it sees."""
    student, companion = Student(*start), OfNormal(MEAN, STD)
    goal = objective(companion)
    parameters = [{"params": student.parameters(), "lr": 1.5e-2}, {"params": companion.parameters(), "lr": 6e-2}]
    optimizer, steps = torch.optim.Adam(parameters, betas=(0.5, 0.9)), 200
    for step in range(steps):
        x0 = torch.zeros(64, 4, dtype=torch.float64)
        optimizer.zero_grad()
        loss(goal, student, x0, Rng.of(1, range(64), step)).backward()
        optimizer.step()
    assert student.mean.item() == pytest.approx(MEAN, abs=0.06)
    assert abs(student.std.item()) == pytest.approx(STD, abs=0.06)
