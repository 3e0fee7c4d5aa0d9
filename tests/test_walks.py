"""What a student learns from walks, on flows that are known exactly."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fromnoise.build import build_denoiser
from fromnoise.cond import Cond
from fromnoise.config import Config, ModelConfig, RunConfig, UNetConfig
from fromnoise.grid import Linear
from fromnoise.objectives import Lasting, Walks
from fromnoise.objectives.walks import (
    FOUR,
    LONE,
    LONE_EVERY,
    ONE,
    STRIDES,
    TWO,
    VISITED,
    jump_velocity,
    student_grids,
)
from fromnoise.posterior import Mean
from fromnoise.prior import Expected
from fromnoise.process import Gaussian, add_noise
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.stepper import DDIM, Multistep

STOPS = (0.87, 0.81, 0.73, 0.64, 0.52, 0.37, 0.22, 0.1, 0.0)
POINT = 0.7  # all data, so that every stepper is exact, whatever its order


class ToPoint:
    """The exact denoiser of data that are one point; with `gain` ≠ 1 its jumps are too long or too short."""

    process = Gaussian()

    def __init__(self, gain: float | torch.Tensor = 1.0) -> None:
        self.gain, self.asked = gain, 0

    def __call__(self, x_t, t, cond, s=None):
        self.asked += len(x_t)
        return Mean(x_t - self.gain * (x_t - POINT))


class Normal:
    """The flow map of data N(POINT, STD²), which keeps (x_t - (1-t)·POINT)/√n(t) fixed; without s its denoiser."""

    STD = 0.4
    process = Gaussian()

    def deviation(self, t):
        return ((1 - t) ** 2 * self.STD**2 + t**2).sqrt()

    def __call__(self, x_t, t, cond, s=None):
        s = t if s is None else s
        z = (x_t - (1 - t) * POINT) / self.deviation(t)
        v = -POINT + z * (t - (1 - t) * self.STD**2) / self.deviation(t)  # the limit s → t
        gap = torch.where(s < t, t - s, 1.0)
        u = torch.where(s < t, (x_t - (1 - s) * POINT - z * self.deviation(s)) / gap, v)
        return Mean(x_t - t * u)


def around_point(size: int, *axes: list[float]) -> Gaussian:
    """The process of data that are expected to be POINT, and to differ from it along these axes."""
    none, basis = torch.zeros(0, size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
    offset, axis = torch.full((size,), POINT, dtype=torch.float64), torch.tensor(axes, dtype=torch.float64)
    return Gaussian(Expected((), offset, none, basis, none, axis.reshape(1, -1, size)))


def walks(teacher=None, **more) -> Walks:
    return Walks(**{"teacher": teacher or ToPoint(), "stops": STOPS, "process": around_point(3), **more})


def column(n: int, value: float) -> torch.Tensor:
    return torch.full((n, 1), value, dtype=torch.float64)


def batch(n: int, step: int = 0) -> tuple[torch.Tensor, Cond, Rng]:
    return torch.full((n, 3), POINT, dtype=torch.float64), Cond.empty(n), Rng.of(0, range(n), step)


def prepared(goal: Walks, n: int = 32) -> tuple[torch.Tensor, Cond, Rng]:
    goal.prepare(*batch(n))
    return batch(n, step=1)


# ---- jumps ----------------------------------------------------------------------------------------------------------


@given(st.floats(0.05, 1.0), st.floats(0.0, 0.95), st.floats(0.0, 0.95))
def test_two_exact_jumps_are_one(t, first, second):
    x, cond, map_ = Rng.of(0, range(16)).normal((16, 3)).double(), Cond.empty(16), Normal()
    a = column(16, t)
    b, c = a * first, a * first * second
    there = x - (a - b) * jump_velocity(map_, x, a, b, cond)
    onwards = there if first == 0 else there - (b - c) * jump_velocity(map_, there, b, c, cond)
    torch.testing.assert_close(onwards, x - (a - c) * jump_velocity(map_, x, a, c, cond))


def test_a_ddim_step_of_a_flow_map_is_its_jump_and_one_step_samples_exactly():
    noise, cond = Rng.of(0, range(64)).normal((64, 3)).double(), Cond.empty(64)
    for steps in (1, 2, 7):
        end = finish(sample(Normal(), DDIM(), Linear()(steps), noise, cond, Rng.of(0, range(64))))
        torch.testing.assert_close(end, POINT + Normal.STD * noise)


@pytest.mark.parametrize("target", ["edm", "velocity", "x0", "eps"])
def test_every_target_reads_out_a_velocity_and_ddim_jumps_by_it(target):
    """x0_hat = x_t - t·u whatever the row, so a jump of the kernel is x_t - (t-s)·u to rounding."""
    net = UNetConfig(widths=(32,), blocks=1, patch=1, attention=(False,), emb=32)
    config = Config(run=RunConfig(steps=1), net=net, model=ModelConfig(target=target, flow_map=True))
    denoiser = build_denoiser(config, (), 1).eval()
    for weight in denoiser.parameters():
        nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(weight.numel()))
    x, cond = torch.randn(4, 1, 4, 4), Cond.empty(4)
    t, s = torch.full((4, 1, 1, 1), 0.7), torch.full((4, 1, 1, 1), 0.2)
    with torch.no_grad():
        u, plain = jump_velocity(denoiser, x, t, s, cond), jump_velocity(denoiser, x, t, t, cond)
        moved, _, _ = DDIM().step(denoiser, x, t, s, cond, None, Rng.of(0, range(4)))
    torch.testing.assert_close(moved, x - 0.5 * u, rtol=1e-4, atol=1e-4)
    assert (u - plain).abs().max() > 1e-3, "the network sees where the jump leads"


# ---- lessons --------------------------------------------------------------------------------------------------------


def test_the_loss_is_least_where_every_jump_lands_with_the_teacher():
    goal, gain = walks(), torch.ones(1, dtype=torch.float64, requires_grad=True)
    asked = prepared(goal)
    right = goal(ToPoint(gain), *asked, 0.0).value
    (slope,) = torch.autograd.grad(right.mean(), gain)
    assert float(right.detach().max()) < 1e-20 and abs(slope.item()) < 1e-8
    for wrong in (0.9, 1.1):
        assert float(goal(ToPoint(wrong), *asked, 0.0).value.min()) > 1e-4


def test_of_a_curved_flow_the_average_velocity_is_learned_and_not_that_where_a_jump_begins():
    goal, exact = walks(Normal()), Normal()
    asked = prepared(goal, 64)
    plain = type("Plain", (), {"process": Gaussian(), "__call__": lambda self, x, t, c, s=None: exact(x, t, c)})()
    assert float(goal(exact, *asked, 0.0).value.mean()) < 0.5 * float(goal(plain, *asked, 0.0).value.mean())


def test_every_jump_has_its_share_and_leads_where_the_teacher_goes_from_what_is_expected():
    goal, met = walks(), Counter()
    for step in range(300):
        x0, cond, rng = batch(32, step)
        goal.prepare(x0, cond, rng)
        jumps = goal.jumps(batch(32, step + 1000)[2])
        # All that is known of a point is where it lies, so each x_t is on the line from it to the noise of its example.
        rng = batch(32, step)[2]
        hidden, drawn = (rng.normal((32, 3), like=x0) for _ in range(2))
        eps = torch.where((torch.arange(32) % LONE_EVERY == LONE_EVERY - 1)[:, None], drawn, hidden)
        torch.testing.assert_close(jumps.x_t, add_noise(x0, eps, jumps.t))
        met.update(zip(jumps.t.flatten().tolist(), jumps.s.flatten().tolist(), strict=True))
    total = sum(met.values())
    assert total == 300 * 32 and len(met) == (STRIDES + 1) * STRIDES / 2, "some go between any two stops"
    shares = Counter()  # two and four steps may begin with the same jump
    for lessons, part in ((ONE, 1 / 4), (TWO, 1 / 8), (FOUR, 3 / 32)):
        shares.update(dict.fromkeys(lessons, part))
    for (begin, end), part in shares.items():
        assert met[STOPS[begin], STOPS[end]] / total == pytest.approx(part + 1 / 288, abs=0.02)


def test_a_walk_is_asked_of_the_teacher_once_for_all_the_steps_that_it_lasts():
    teacher = ToPoint()
    goal = walks(teacher)
    assert isinstance(goal, Lasting)
    seen = []
    goal.prepare(*batch(32))
    for step in range(goal.lasts):
        seen.append(goal(ToPoint(), *batch(32, step), 0.0).t)
        assert teacher.asked == 24 * STRIDES + 8 * (STRIDES - LONE), "of four walks one begins later"
    assert len({tuple(t.tolist()) for t in seen}) == goal.lasts, "another jump of it at each step"
    goal.prepare(*batch(32, 99))
    goal(ToPoint(), *batch(32, 100), 0.0)
    assert teacher.asked == 2 * (24 * STRIDES + 8 * (STRIDES - LONE))


@given(st.integers(1, 15))
def test_an_example_learns_the_same_wherever_its_batch_is_cut(cut):
    goal, wrong = walks(), ToPoint(0.9)
    x0, cond, rng = prepared(goal, 16)
    whole = goal(wrong, x0, cond, rng, 0.0)
    parts = []
    for part in (slice(0, cut), slice(cut, 16)):
        goal, (x0, cond, first), (_, _, rng) = walks(), batch(16), batch(16, step=1)
        goal.prepare(x0[part], cond[part], first[part])
        parts.append(goal(wrong, x0[part], cond[part], rng[part], 0.0))
    torch.testing.assert_close(torch.cat([p.value for p in parts]), whole.value)
    torch.testing.assert_close(torch.cat([p.t for p in parts]), whole.t)


def test_the_held_out_loss_is_nought_for_the_teachers_own_ends_and_the_same_at_any_moment():
    teacher = ToPoint()
    goal = walks(teacher)
    held = [
        float(goal.at(ToPoint(gain), *batch(32)[:2], column(32, 0.5), Rng.of(0, range(32), "held")).mean())
        for gain in (1.0, 0.9, 1.0)
    ]
    assert held[0] == held[2] < 1e-20 and held[1] > 1e-4
    assert teacher.asked == 32 * STRIDES, "the teacher is asked once"
    for level in (0.1, 0.3, 0.7, 0.9):
        far = [abs(STOPS[begin] - level) for begin, _ in FOUR]
        goal.at(teacher, *batch(4)[:2], column(4, level), Rng.of(0, range(4), str(level)))
        assert float((list(goal.references.values())[-1].t - level).abs().max()) == pytest.approx(min(far))


def test_a_students_grids_lead_from_one_of_the_first_stops_to_the_data_by_jumps_that_it_learned():
    grids = student_grids(STOPS)
    assert [len(grid) - 1 for grid in grids] == list(range(1, STRIDES + 1))
    for steps, visited in VISITED.items():
        assert grids[steps - 1] == tuple(STOPS[i] for i in visited)
        assert visited[-1] == STRIDES and all(a < b for a, b in pairwise(visited))
    begins = [visited[0] for visited in VISITED.values()]
    assert begins == sorted(begins, reverse=True) and begins[0] == LONE and set(begins) <= {0, 1, 2}


def test_a_network_learns_to_land_where_its_teacher_does():
    """From scratch, by nothing but the objective, on the flow to N(POINT, STD²)."""

    class Small(nn.Module):
        process = Gaussian()

        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

        def forward(self, x_t, t, cond, s=None):
            return Mean(x_t - t * self.layers(torch.cat([x_t, t, t if s is None else s], 1)))

    torch.manual_seed(0)
    process = around_point(1, [Normal.STD])
    net, goal, cond, steps = Small(), walks(Normal(), process=process), Cond.empty(32), 800
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(steps):
        rng = Rng.of(0, range(32), step)
        x0 = torch.zeros(32, 1)  # of which a student of walks learns nothing
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        if step % goal.lasts == 0:
            goal.prepare(x0, cond, rng)
        optimizer.zero_grad()
        goal(net, x0, cond, rng, step / steps).value.mean().backward()
        optimizer.step()

    def far(model, grid) -> float:
        x, told = process.prior((256, 1), grid[0], Rng.of(7, range(256))), Cond.empty(256)
        walked = STOPS[STOPS.index(grid[0]) :]
        truth = finish(sample(Normal(), Multistep(), walked, x, told, Rng([], [], 0)))
        return float((finish(sample(model, DDIM(), grid, x, told, Rng([], [], 0))) - truth).square().mean())

    plain = type("Plain", (), {"process": Gaussian(), "__call__": lambda self, x, t, c, s=None: Normal()(x, t, c)})()
    for steps in (1, 2, 4):
        grid = student_grids(STOPS)[steps - 1]
        assert far(net, grid) < far(plain, grid) / 2
