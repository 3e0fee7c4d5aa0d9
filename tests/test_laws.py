"""Laws of the core, on exact denoisers."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from exact import MEANS, STDS, WEIGHTS, Exact, draw_mixture, foreign_net
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.cond import Cond
from fromnoise.denoise import Foreign
from fromnoise.grid import Karras, Linear, Listed, LogSNR, Restart
from fromnoise.guide import Guided, Internal, Interval
from fromnoise.observe import Pinned
from fromnoise.path import VE, Cosine, Line, LinearVP, line_time, logsnr, scale, time_of_logsnr
from fromnoise.posterior import Logits, Mean
from fromnoise.process import Gaussian, Masked
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.stepper import DDIM, Heun, Multistep
from fromnoise.target import EDM, X0, Eps, Velocity, readout, regressand
from fromnoise.types import FromNoiseError

PATHS = {"line": Line(), "cosine": Cosine(), "vp": LinearVP(), "ve": VE()}
TARGETS = {"x0": X0(), "eps": Eps(), "velocity": Velocity(), "edm": EDM(sigma_data=0.5)}
inner_times = st.floats(1e-4, 1 - 1e-4)


def start(n: int, t: float, seed: int = 0) -> torch.Tensor:
    return Gaussian().prior((n, 2), t, Rng.of(seed, range(n)), dtype=torch.float64)


def solve(denoise, stepper, grid, n: int = 64, seed: int = 0) -> torch.Tensor:
    x = start(n, grid[0], seed)
    return finish(sample(denoise, stepper, grid, x, Cond.empty(n), Rng.of(seed, range(n), "steps")))


# ---- paths and targets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@given(t=inner_times)
def test_a_path_is_the_line_in_other_coordinates(path, t):
    t = torch.tensor([t], dtype=torch.float64)
    u = path.own_time(t)
    assert torch.allclose(line_time(path, u), t, rtol=1e-9)
    snr = 2 * torch.log(path.alpha(u) / path.sigma(u))
    assert torch.allclose(snr, logsnr(t), atol=1e-6)
    assert torch.allclose(path.alpha(u) / scale(path, u), 1 - t, rtol=1e-9)
    assert torch.allclose(time_of_logsnr(logsnr(t)), t)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@given(t=inner_times, seed=st.integers(0, 1000))
def test_every_target_is_read_out_exactly(target, t, seed):
    g = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 5, 3, generator=g, dtype=torch.float64)
    time = torch.full((5, 1), t, dtype=torch.float64)
    x_t = (1 - time) * x0 + time * eps
    a, b = readout(target, time)
    assert torch.allclose(a * regressand(target, time, x0, eps) + b * x_t, x0, atol=1e-8)


@pytest.mark.parametrize("name", ["x0", "velocity", "edm"])
def test_readout_is_finite_at_both_ends(name):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    a, b = readout(TARGETS[name], t)
    assert torch.isfinite(a).all() and torch.isfinite(b).all()
    x0, eps = torch.randn(2, 2, dtype=torch.float64)
    x_t = (1 - t) * x0 + t * eps
    assert torch.allclose(a * regressand(TARGETS[name], t, x0, eps) + b * x_t, x0)


@given(t=inner_times)
def test_edm_at_unit_variance_is_minus_the_velocity_of_a_variance_preserving_path(t):
    t = torch.tensor([t], dtype=torch.float64)
    alpha, sigma = Cosine().alpha(Cosine().own_time(t)), Cosine().sigma(Cosine().own_time(t))
    p, q = EDM(sigma_data=1.0).row(t)
    assert torch.allclose(p, sigma) and torch.allclose(q, -alpha)  # v = alpha·eps - sigma·x0


def test_edm_row_is_the_published_preconditioning():
    sigma = torch.logspace(-2, 2, 9, dtype=torch.float64)
    t = sigma / (1 + sigma)
    a, b = readout(EDM(sigma_data=0.5), t)
    root = (sigma**2 + 0.25).sqrt()
    assert torch.allclose(a, sigma * 0.5 / root)  # c_out
    assert torch.allclose(b / (1 + sigma), 0.25 / root**2)  # c_skip, applied to x = (1+sigma)·x_t


# ---- samplers -------------------------------------------------------------------------------------------------------

HIGH, LOW = 0.985, 0.02


def smooth_grid(steps: int) -> tuple[float, ...]:
    """Uniform in log-SNR between two inner times: no jump from 1 or to 0, whose error does not shrink with the step."""
    ends = logsnr(torch.tensor([HIGH, LOW], dtype=torch.float64))
    return tuple(time_of_logsnr(torch.linspace(*ends.tolist(), steps + 1, dtype=torch.float64)).tolist())


def denoisers():
    yield "line", Exact()
    for (name, path), target in zip(PATHS.items(), [X0(), Velocity(), Eps(), EDM(sigma_data=1.0)], strict=True):
        yield f"foreign-{name}", Foreign(foreign_net(path, target), path, target)


@cache
def truth() -> torch.Tensor:
    return solve(Exact(), Heun(), smooth_grid(1500), n=32)


@pytest.mark.parametrize("stepper,order", [(DDIM(), 1), (Heun(), 2), (Multistep(), 2)], ids=["ddim", "heun", "multi"])
@pytest.mark.parametrize("denoise", [pytest.param(d, id=name) for name, d in denoisers()])
def test_order_of_convergence(denoise, stepper, order):
    errors = [(solve(denoise, stepper, smooth_grid(n), n=32) - truth()).norm(dim=1).mean() for n in (32, 64, 128)]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] == pytest.approx(order, abs=0.15), f"{errors=}"


@pytest.mark.parametrize("stepper", [DDIM(), DDIM(churn=1.0), Heun(), Multistep()], ids=str)
def test_samples_are_equal_across_paths(stepper):
    results = [solve(d, stepper, LogSNR(start=0.999)(24)) for _, d in denoisers()]
    for other in results[1:]:
        assert (other - results[0]).abs().max() < 1e-10


SAMPLERS = {
    "ddim": (DDIM(), LogSNR()(200)),
    "ancestral": (DDIM(churn=1.0), LogSNR()(400)),
    "half churn": (DDIM(churn=0.5), LogSNR()(400)),
    "heun": (Heun(), LogSNR()(60)),
    "multistep": (Multistep(), LogSNR()(80)),
    "heun, shifted": (Heun(), Linear(shift=1.6)(100)),
    "heun, karras": (Heun(), Karras()(60)),
    "restart": (DDIM(churn=1.0), Restart(grid=LogSNR(), high=0.7, low=0.3, repeats=2)(200)),
}


@pytest.mark.parametrize("stepper,grid", SAMPLERS.values(), ids=SAMPLERS)
def test_samples_have_the_moments_of_the_data(stepper, grid):
    n = 4000
    x = solve(Exact(), stepper, grid, n=n)
    mean = WEIGHTS @ MEANS
    second = torch.einsum("k,ki,kj->ij", WEIGHTS, MEANS, MEANS) + (WEIGHTS @ STDS**2) * torch.eye(2)
    covariance = second - torch.outer(mean, mean)
    assert torch.allclose(x.mean(0), mean, atol=4 / math.sqrt(n))
    assert torch.allclose(torch.cov(x.T), covariance, atol=0.06)
    # The mixture itself, not only two moments: the share of each component.
    share = (torch.cdist(x, MEANS) < 0.35).double().mean(0)
    truth = (torch.cdist(draw_mixture(40000), MEANS) < 0.35).double().mean(0)
    assert torch.allclose(share, truth, atol=0.03)


@pytest.mark.parametrize("grid", [LogSNR(), Karras(), Linear(), Linear(shift=3.0), LogSNR(start=0.9)], ids=str)
@given(steps=st.integers(1, 40))
def test_grids_start_high_fall_and_end_at_exactly_zero(grid, steps):
    times = grid(steps)
    assert len(times) == steps + 1 and times[-1] == 0.0
    assert all(a > b for a, b in pairwise(times))


def test_sampling_ends_at_exactly_zero():
    steps = list(sample(Exact(), Heun(), LogSNR()(5), start(3, 1.0), Cond.empty(3), Rng.of(0, range(3))))
    assert torch.equal(steps[-1].s, torch.zeros(3, 1, dtype=torch.float64))
    assert steps[-1].evaluations == 9  # two a step, one for the last
    assert torch.equal(steps[-1].x, steps[-1].post.point())


def test_a_listed_grid_is_taken_as_it_is_and_a_wrong_number_of_steps_is_refused():
    assert Listed((1.0, 0.4, 0.0))(2) == (1.0, 0.4, 0.0)
    with pytest.raises(FromNoiseError, match="2 steps, not 3"):
        Listed((1.0, 0.4, 0.0))(3)
    with pytest.raises(FromNoiseError, match="at least 1"):
        Linear()(0)


@pytest.mark.parametrize("stepper", [DDIM(), DDIM(churn=1.0), Heun(), Multistep()], ids=str)
def test_an_element_that_stays_does_not_change_and_elements_do_not_wait_for_each_other(stepper):
    """Three examples on three grids of their own, in one batch, as if each were alone."""
    own = [(0.9, 0.9, 0.5, 0.2, 0.0), (0.9, 0.6, 0.6, 0.3, 0.0), (0.9, 0.7, 0.4, 0.4, 0.0)]
    together = [torch.tensor(column, dtype=torch.float64) for column in zip(*own, strict=True)]
    x = start(3, 0.9)
    churn = getattr(stepper, "churn", 0.0)
    batch = list(sample(Exact(), stepper, together, x, Cond.empty(3), Rng.of(1, range(3))))
    assert torch.equal(batch[0].x[0], x[0])
    if churn:
        return  # the streams of noise are consumed at different moves
    for i, times in enumerate(own):
        alone_grid = tuple(dict.fromkeys(times))
        alone = finish(sample(Exact(), stepper, alone_grid, x[i : i + 1], Cond.empty(1), Rng.of(1, [i])))
        assert torch.allclose(batch[-1].x[i : i + 1], alone, atol=1e-12)


@given(t=st.floats(0.01, 1.0), s=st.floats(0.0, 1.0), churn=st.floats(0, 1))
@settings(max_examples=50)
def test_the_kernel_keeps_the_marginal(t, s, churn):
    """From the true x0 and eps, x_s is N((1-s)·x0, s²) whatever the churn; at s = t it is x_t, bit for bit."""
    s = min(s, t)
    n = 4000
    rng = Rng.of(3, [0])
    x0 = torch.full((1, n), 0.7, dtype=torch.float64)
    time, to = torch.full((1, 1), t, dtype=torch.float64), torch.full((1, 1), s, dtype=torch.float64)
    x_t = Gaussian().forward(x0, time * 0, time, rng)
    x_s = Gaussian().reverse(x_t, Mean(x0), time, to, rng, churn)
    assert x_s.mean() == pytest.approx((1 - s) * 0.7, abs=0.08 * s + 1e-9)
    assert x_s.std() == pytest.approx(s, abs=0.08 * s + 1e-9)
    assert torch.equal(Gaussian().reverse(x_t, Mean(x0), time, time, rng, churn), x_t)


@given(times=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3, unique=True))
@settings(max_examples=30)
def test_noising_composes(times):
    """Data to s, then s to t, has the law of data to t."""
    _, s, t = sorted(times)
    rng = Rng.of(5, [0])
    x0 = torch.full((1, 20000), -1.3, dtype=torch.float64)
    zero, s_, t_ = (torch.full((1, 1), v, dtype=torch.float64) for v in (0.0, s, t))
    x_t = Gaussian().forward(Gaussian().forward(x0, zero, s_, rng), s_, t_, rng)
    assert x_t.mean() == pytest.approx(-1.3 * (1 - t), abs=0.04 * t + 1e-9)
    assert x_t.std() == pytest.approx(t, rel=0.04, abs=1e-6)


# ---- guidance and inpainting ----------------------------------------------------------------------------------------


class Constant:
    process = Gaussian()

    def __init__(self, value: float, mid: float | None = None) -> None:
        self.value, self.mid, self.calls, self.seen = value, mid, 0, 0

    def __call__(self, x_t, t, cond, s=None):
        self.calls += 1
        self.seen = len(x_t)
        answer = torch.full_like(x_t, self.value)
        return Mean(answer, None if self.mid is None else torch.full_like(x_t, self.mid))


def test_guidance_extrapolates_inside_its_interval_and_costs_nothing_outside():
    main, ref = Constant(1.0), Constant(0.5)
    guided = Guided(main, ref, Interval(weight=3.0, low=-2.0, high=2.0))
    x, cond = torch.zeros(2, 1), Cond.empty(2)
    assert guided(x, torch.full((2, 1), 0.5), cond).point().tolist() == [[2.0]] * 2
    assert ref.calls == 1
    assert guided(x, torch.full((2, 1), 0.99), cond).point().tolist() == [[1.0]] * 2
    assert ref.calls == 1
    assert guided(x, torch.tensor([[0.99], [0.5]]), cond).point().tolist() == [[1.0], [2.0]]
    assert (ref.calls, ref.seen) == (2, 1), "only those are asked about that are guided"
    one = Guided(main, ref, Interval(weight=1.0))
    assert one(x, torch.full((2, 1), 0.5), cond).point().tolist() == [[1.0]] * 2
    assert ref.calls == 2


def test_internal_guidance_reads_the_mid_output_and_needs_one():
    x, t, cond = torch.zeros(2, 1), torch.full((2, 1), 0.5), Cond.empty(2)
    assert Internal(Constant(1.0, mid=0.0), Interval(weight=1.5))(x, t, cond).point().tolist() == [[1.5]] * 2
    with pytest.raises(FromNoiseError, match="mid_head"):
        Internal(Constant(1.0), Interval(weight=1.5))(x, t, cond)


def test_pinned_elements_come_out_as_given():
    known = torch.tensor([[0.3, 0.0]], dtype=torch.float64).expand(16, 2)
    mask = torch.tensor([[True, False]]).expand(16, 2)
    x = solve(Pinned(Exact(), known, mask), Multistep(), LogSNR()(20), n=16)
    assert torch.equal(x[:, 0], known[:, 0]) and not torch.equal(x[:, 1], known[:, 1])


# ---- the masked process ---------------------------------------------------------------------------------------------

JOINT = torch.tensor([[0.30, 0.02, 0.08], [0.05, 0.25, 0.10], [0.10, 0.05, 0.05]], dtype=torch.float64)


class ExactJoint:
    """The posterior of two tokens with the law JOINT, given those already shown."""

    process = Masked(3)

    def __call__(self, x_t, t, cond, s=None):
        rows = []
        for a, b in x_t.tolist():
            first = JOINT.sum(1) if b == 3 else JOINT[:, b] / JOINT[:, b].sum()
            second = JOINT.sum(0) if a == 3 else JOINT[a] / JOINT[a].sum()
            rows.append(torch.stack([first.log(), second.log()]))
        return Logits(torch.stack(rows))


def test_the_masked_process_recovers_a_joint_law():
    n = 3000
    x = Masked(3).prior((n, 2), 1.0, Rng.of(0, range(n)))
    x = finish(sample(ExactJoint(), DDIM(), Linear()(40), x, Cond.empty(n), Rng.of(0, range(n), "steps")))
    law = torch.zeros(3, 3, dtype=torch.float64).index_put_((x[:, 0], x[:, 1]), torch.tensor(1.0 / n).double(), True)
    # Two tokens revealed in one of 40 moves are independent, a bias of at most 1/40; the rest is sampling error.
    assert (law - JOINT).abs().max() < 0.025 + 3 * math.sqrt(0.25 / n)
    assert (law - JOINT).abs().sum() < 0.12
    independent = torch.outer(JOINT.sum(1), JOINT.sum(0))
    assert (law - independent).abs().sum() > 0.3


def test_masking_hides_the_right_share_and_never_unhides():
    x0 = torch.zeros(1, 20000, dtype=torch.int64)
    rng = Rng.of(0, [0])
    s, t = torch.full((1, 1), 0.3), torch.full((1, 1), 0.8)
    x_s = Masked(5).forward(x0, s * 0, s, rng)
    x_t = Masked(5).forward(x_s, s, t, rng)
    assert (x_s == 5).float().mean() == pytest.approx(0.3, abs=0.02)
    assert (x_t == 5).float().mean() == pytest.approx(0.8, abs=0.02)
    assert bool((x_t[x_s == 5] == 5).all())


def test_second_order_steppers_refuse_tokens():
    x = Masked(3).prior((2, 2), 1.0, Rng.of(0, range(2)))
    with pytest.raises(FromNoiseError, match=r"DDIM\(\)"):
        next(sample(ExactJoint(), Heun(), Linear()(4), x, Cond.empty(2), Rng.of(0, range(2))))


def test_logits_lerp_and_pin_keep_impossible_tokens_impossible():
    a = Logits(torch.tensor([[[0.0, -torch.inf, 1.0]]]))
    assert torch.isneginf(a.lerp(a, torch.tensor([[2.0]])).logits[0, 0, 1])
    pinned = a.pin(torch.tensor([[1]]), torch.tensor([[True]]))
    assert pinned.point().item() == 1
    assert torch.softmax(pinned.logits, -1)[0, 0].tolist() == [0.0, 1.0, 0.0]


# ---- randomness -----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**40), where=st.integers(0, 63))
@settings(max_examples=30)
def test_a_stream_depends_on_its_seed_and_index_alone(seed, where):
    many, one = Rng.of(seed, range(64)), Rng.of(seed, [where])
    for _ in range(2):
        assert torch.equal(many.normal((64, 3))[where], one.normal((1, 3))[0])
    assert not torch.equal(Rng.of(seed, [where], "other").normal((1, 3)), Rng.of(seed, [where]).normal((1, 3)))
    assert not torch.equal(Rng.of(seed + 1, [where]).normal((1, 3)), Rng.of(seed, [where]).normal((1, 3)))


def test_stratified_draws_fill_each_stratum_once_also_when_ranks_share_the_batch():
    halves = [Rng.of(0, range(0, 8), total=16).stratified(), Rng.of(0, range(8, 16), total=16).stratified()]
    whole = Rng.of(0, range(16)).stratified()
    assert torch.equal(torch.cat(halves), whole)
    assert (whole * 16).floor().tolist() == list(range(16))


def test_every_fourth_example_is_a_batch_of_its_own_also_when_ranks_share_it():
    parts = [Rng.of(0, part, total=16).every(4).stratified() for part in (range(0, 6), range(6, 16))]
    quarter = torch.cat(parts)
    assert torch.equal((quarter * 4).long(), torch.arange(4))
    assert torch.equal(quarter, Rng.of(0, range(16)).every(4).stratified())
    drawn = Rng.of(0, range(16)).normal((16, 3))
    assert torch.equal(Rng.of(0, range(16)).every(4).normal((4, 3)), drawn[::4])
