"""Flow maps whose exact answer is known: what a student of a teacher is trained by."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fromnoise.build import build_denoiser
from fromnoise.cond import Cond
from fromnoise.config import Config, ModelConfig, RunConfig, UNetConfig
from fromnoise.density import LogitNormal, Uniform
from fromnoise.grid import Linear
from fromnoise.objectives import FlowMap, Regression, UniformWeight
from fromnoise.objectives.flowmap import jump_velocity
from fromnoise.posterior import Mean
from fromnoise.process import Gaussian, add_noise
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.stepper import DDIM, Multistep

STD = 0.4  # of the Gaussian data N(MEAN, STD²)
MEAN = 0.7


# ---- Gaussian data, whose flow map is known -------------------------------------------------------------------------
# The flow keeps (x_t - (1-t)·MEAN)/√n(t) fixed, n(t) = (1-t)²·STD² + t² being the variance of x_t.


def deviation(t):
    return ((1 - t) ** 2 * STD**2 + t**2).sqrt()


class Exact:
    """The flow map of the Gaussian; with `gain` ≠ 1 its jumps are too long or too short."""

    process = Gaussian()

    def __init__(self, gain: float | torch.Tensor = 1.0) -> None:
        self.gain = gain

    def __call__(self, x_t, t, cond, s=None):
        s = t if s is None else s
        z = (x_t - (1 - t) * MEAN) / deviation(t)
        # The limit s → t: d(deviation)/dt = (t - (1-t)·STD²)/deviation.
        v = -MEAN + z * (t - (1 - t) * STD**2) / deviation(t)
        gap = torch.where(s < t, t - s, 1.0)
        u = torch.where(s < t, (x_t - (1 - s) * MEAN - z * deviation(s)) / gap, v)
        return Mean(x_t - t * self.gain * u)


def gaussian(n: int, seed: int = 0) -> tuple[torch.Tensor, Rng]:
    rng = Rng.of(seed, range(n))
    return MEAN + STD * rng.normal((n, 3), like=torch.empty(0, dtype=torch.float64)), rng


def objective(**more) -> FlowMap:
    return FlowMap(**{"teacher": Exact(), "density": Uniform(), **more})


def column(n: int, value: float) -> torch.Tensor:
    return torch.full((n, 1), value, dtype=torch.float64)


times = st.floats(0.05, 1.0)
parts = st.floats(0.0, 0.95)


@given(times, parts, parts)
def test_two_exact_jumps_are_one(t, first, second):
    x, _ = gaussian(16)
    a, cond = column(16, t), Cond.empty(16)
    b, c = a * first, a * first * second
    there = x - (a - b) * jump_velocity(Exact(), x, a, b, cond)
    onwards = there if first == 0 else there - (b - c) * jump_velocity(Exact(), there, b, c, cond)
    torch.testing.assert_close(onwards, x - (a - c) * jump_velocity(Exact(), x, a, c, cond))


def test_a_ddim_step_of_a_flow_map_is_its_jump_and_one_step_samples_exactly():
    x, rng = gaussian(64)
    cond = Cond.empty(64)
    noise = (x - MEAN) / STD
    for steps in (1, 2, 7):
        end = finish(sample(Exact(), DDIM(), Linear()(steps), noise, cond, rng))
        torch.testing.assert_close(end, MEAN + STD * noise)


@given(times, parts, st.floats(0.05, 0.95) | st.just(1.0))
def test_the_loss_is_least_at_the_exact_map_up_to_the_error_of_the_first_step(t, part, k):
    """With the exact first part as v, eq. (1) holds exactly, so the loss vanishes, and with it its gradient."""
    x, _ = gaussian(16)
    cond, t_, k_ = Cond.empty(16), column(16, t), column(16, k)
    s_ = t_ * part
    first = jump_velocity(Exact(), x, t_, t_ - k_ * (t_ - s_), cond)
    gain = torch.ones(1, dtype=torch.float64, requires_grad=True)
    loss = objective().loss(Exact(gain), x, first, t_, s_, k_, cond).mean()
    (slope,) = torch.autograd.grad(loss, gain)
    assert loss.item() < 1e-18 and abs(slope.item()) < 1e-8
    for wrong in (0.9, 1.1):
        assert float(objective().loss(Exact(wrong), x, first, t_, s_, k_, cond).mean()) > 1e-6


@pytest.mark.parametrize("gap", [0.5, 0.9])
def test_with_the_velocity_at_t_the_error_vanishes_in_first_order_of_k(gap):
    x, _ = gaussian(64)
    cond, t, s = Cond.empty(64), column(64, 0.9), column(64, 0.9 - gap)
    v = jump_velocity(Exact(), x, t, t, cond)

    def residual(k: float) -> float:
        return float(objective(power=0.0).loss(Exact(), x, v, t, s, column(64, k), cond).mean() / k) ** 0.5

    assert residual(0.01) == pytest.approx(residual(0.02) / 2, rel=0.1)
    assert residual(0.01) < 0.02


@given(st.integers(0, 50))
def test_plain_flow_matching_is_the_case_k_of_one(seed):
    """s = t, k = 1, v = eps - x0: the squared error of the velocity, i.e. ‖x0_hat - x0‖²/t²."""
    x0, rng = gaussian(8, seed)
    eps = rng.normal((8, 3), like=x0)
    t, cond = column(8, 0.6), Cond.empty(8)
    x_t = add_noise(x0, eps, t)
    ours = objective(power=0.0).loss(Exact(0.8), x_t, eps - x0, t, t, column(8, 1.0), cond)
    plain = Regression(density=Uniform(), weight=UniformWeight()).error(Exact(0.8)(x_t, t, cond).x0, x0, t) / 0.6**2
    torch.testing.assert_close(ours, plain)


def test_the_gradient_does_not_flow_through_the_target():
    x, _ = gaussian(8)
    cond, t, s, k = Cond.empty(8), column(8, 0.8), column(8, 0.2), column(8, 0.25)
    gain = torch.full((1,), 1.1, dtype=torch.float64, requires_grad=True)
    v = jump_velocity(Exact(), x, t, t, cond)
    (slope,) = torch.autograd.grad(objective(power=0.0).loss(Exact(gain), x, v, t, s, k, cond).mean(), gain)
    u = jump_velocity(Exact(), x, t, s, cond)
    m = t - k * (t - s)
    rest = 1.1 * jump_velocity(Exact(), x - (t - m) * v, m, s, cond)
    by_hand = (2 * (1.1 * u - k * v - (1 - k) * rest) * u / k).mean()
    assert float(slope) == pytest.approx(float(by_hand))


def test_jumps_are_spread_evenly_and_have_their_explicit_shares():
    goal = objective(at_start=0.125, at_end=0.25, instant=0.25, k_first=0.5, k_last=0.05)
    batches = [goal.jumps(torch.zeros(32, 3), Rng.of(0, range(32), step), 0.5) for step in range(200)]
    t, s, k = (torch.cat([b[i] for b in batches]).flatten() for i in range(3))
    assert bool((s <= t).all()) and bool((s >= 0).all())
    assert float((t == 1).float().mean()) == pytest.approx(0.125, abs=0.01)
    for one, _, _ in batches:
        assert int((one == 1).sum()) == 4, "a share of a batch, not of the run"
    for one_t, one_s, one_k in batches:
        assert int((one_s == one_t).sum()) == 8 and bool(((one_k == 1) == (one_s == one_t)).all())
    jumping = s < t
    assert float((s[jumping] == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(k[jumping][0]) == pytest.approx((0.5 * 0.05) ** 0.5, rel=1e-3)
    # The two are independent: where s ends, as a part of t, says nothing about t.
    inside = jumping & (s > 0) & (t < 1)
    assert abs(float(torch.corrcoef(torch.stack([t[inside], s[inside] / t[inside]]))[0, 1])) < 0.05


def test_the_held_out_loss_is_nought_for_the_teachers_own_ends_and_the_same_at_any_moment():
    x0, _ = gaussian(32)
    goal, t, cond = objective(), column(32, 0.9), Cond.empty(32)
    held = [float(goal.at(Exact(gain), x0, cond, t, Rng.of(0, range(32), "held")).mean()) for gain in (1.0, 0.9, 1.0)]
    assert held[0] == held[2] and held[0] < 0.05 * held[1]
    assert len(goal.references) == 1, "the teacher is asked once"


def test_below_the_last_time_the_way_to_the_data_is_straight():
    x0, rng = gaussian(4096)
    goal, cond = objective(last=0.3, instant=0.25, k_first=0.1, k_last=0.1), Cond.empty(4096)
    t, s, k = goal.jumps(x0, rng, 0.5)
    whole = (s == t) | ((s == 0) & (t < 0.3))
    assert bool(((k == 1) == whole).all()) and bool(((s == 0) & (t < 0.3)).any()) and bool((k < 1).any())
    x_t = add_noise(x0, rng.normal((4096, 3), like=x0), column(4096, 0.2))
    half, end = goal.reference(x_t, column(4096, 0.2), cond)
    v = jump_velocity(Exact(), x_t, column(4096, 0.2), column(4096, 0.2), cond)
    torch.testing.assert_close(end, x_t - 0.2 * v)
    torch.testing.assert_close(half, objective().reference(x_t, column(4096, 0.2), cond)[0])
    flowed = objective().reference(x_t, column(4096, 0.2), cond)[1]
    assert (end - flowed).abs().mean() > 1e-3


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


def test_a_network_learns_the_flow_map_of_a_mixture_of_two_points():
    """From a plain denoiser's weights to one-step sampling, by nothing but the objective."""

    class Points:
        """The posterior mean of x0 = ±1 with equal chances: tanh."""

        process = Gaussian()

        def __call__(self, x_t, t, cond, s=None):
            return Mean(torch.tanh(x_t * (1 - t) / t.clamp_min(1e-3) ** 2))

    class Small(nn.Module):
        process = Gaussian()

        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(3, 64),
                nn.SiLU(),
                nn.Linear(64, 64),
                nn.SiLU(),
                nn.Linear(64, 1),
            )

        def forward(self, x_t, t, cond, s=None):
            return Mean(x_t - t * self.layers(torch.cat([x_t, t, t if s is None else s], 1)))

    net = Small()
    goal = FlowMap(teacher=Points(), density=LogitNormal(std=1.6), k_first=0.5, k_last=0.05, instant=0, at_end=0.5)
    optimizer, steps = torch.optim.Adam(net.parameters(), 1e-2), 800
    for step in range(steps):
        rng = Rng.of(0, range(32), step)
        x0 = torch.sign(rng.normal((32, 1)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        optimizer.zero_grad()
        goal(net, x0, Cond.empty(32), rng, step / steps).value.mean().backward()
        optimizer.step()
    x, cond = torch.randn(256, 1), Cond.empty(256)
    truth = finish(sample(Points(), Multistep(), Linear(shift=2.0)(100), x, cond, Rng.of(0, range(256))))
    one = finish(sample(net, DDIM(), Linear()(1), x, cond, Rng.of(0, range(256))))
    plain = finish(sample(Points(), DDIM(), Linear()(1), x, cond, Rng.of(0, range(256))))
    assert (one - truth).square().mean() < 0.25 * (plain - truth).square().mean()
