"""Students: flow maps whose exact answer is known, and distillation as a user meets it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fromnoise as fn
from fromnoise import checkpoint
from fromnoise.build import build_denoiser
from fromnoise.cli import main
from fromnoise.cond import Cond
from fromnoise.config import Config, ModelConfig, RunConfig, UNetConfig
from fromnoise.denoise import TokenDenoiser
from fromnoise.density import LogitNormal, Uniform
from fromnoise.distill import check_teacher
from fromnoise.errors import FromNoiseError
from fromnoise.fewsteps import STEPS, FewSteps, Way
from fromnoise.grid import Linear
from fromnoise.nets import Conditioner
from fromnoise.objectives import FlowMap, Regression, UniformWeight
from fromnoise.objectives.flowmap import jump_velocity
from fromnoise.posterior import Mean
from fromnoise.process import Gaussian, add_noise
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.stepper import DDIM, Multistep
from fromnoise.trainer import Stepped

STD = 0.4  # of the Gaussian data N(MEAN, STD²)
MEAN = 0.7
TINY = ["net.widths=[32]", "net.attention=[false]", "net.blocks=1", "net.emb=32", "optim.batch=16"]
TINY += ["run.held_examples=16", "run.held_evaluations=4", "run.grid_priors=0", "sample.steps=4"]


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
    optimizer, steps = torch.optim.Adam(net.parameters(), 1e-2), 300
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


# ---- as users meet it -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    return fn.train("digits", out=out, steps=30, settings=TINY)


@pytest.fixture(scope="module")
def distilled(run):
    return run, run.distill(steps=20, n=60)


def test_a_student_is_measured_kept_and_used_where_it_is_better(distilled):
    run, measured = distilled
    student = fn.load(run.folder.path / "distilled")
    assert student.config.model.flow_map and not run.config.model.flow_map
    assert measured == FewSteps.load(student.folder.few_steps) == run.few_steps
    assert {(w.model, w.steps) for w in measured.ways} == {(m, n) for m in ("student", "teacher") for n in STEPS}
    # The student has learned what guidance adds; a guided teacher asks twice within the guidance interval.
    assert all(w.evaluations == w.steps for w in measured.ways if w.model == "student")
    assert all(w.steps <= w.evaluations <= 2 * w.steps for w in measured.ways)
    text = measured.table() + "\n".join(measured.sentences())
    for steps in STEPS:
        best = measured.best(steps)
        made = run.generate(3, steps=steps)
        ours, model = (student, "student") if best.model == "student" else (run, "plain multistep")
        assert made.recipe["model"] == ours.release.digest and made.recipe["sampler"] == best.sampler
        assert np.array_equal(made.samples, ours.sample(3, steps=steps, sampler=best.sampler))
        assert f"In {steps} step" in text and model in text
    # What the caller names is what the caller gets, and the default stays the teacher's.
    for asked in ({"steps": 2, "sampler": "multistep"}, {}, {"steps": 9}):
        assert run.generate(2, **asked).recipe["model"] == run.release.digest


def test_the_better_way_is_that_of_the_largest_measured_number():
    def way(model, steps, frechet):
        return Way(model=model, sampler="x", steps=steps, evaluations=steps, frechet=frechet, coverage=0.5)

    student = [way("student", n, 2.0) for n in STEPS]
    teacher = [way("teacher", n, 8.0 / n) for n in STEPS]
    table = FewSteps(
        teacher="a", student="b", samples=9, floor=0.1, ways=(*student, *teacher), default=way("teacher", 24, 0.5)
    )
    assert [table.best(n).model for n in (1, 2, 3)] == ["student"] * 3
    assert [table.best(n).model for n in (5, 8)] == ["student", "teacher"] and table.best(9) is None
    said = table.sentences()
    assert "plain multistep sampling of the teacher is the better choice" in said[3] and "student is" in said[0]


def test_a_table_of_other_weights_is_not_believed(distilled):
    run, measured = distilled
    path = run.folder.path / "distilled" / "few-steps.json"
    before = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(before) | {"student": "of another day"}))
        assert fn.load(run.folder.path).few_steps is None
        path.write_text("{")
        with pytest.raises(FromNoiseError, match="few-steps"):
            fn.load(run.folder.path).sample(1, steps=1)
    finally:
        path.write_text(before)
    assert fn.load(run.folder.path).few_steps == measured


def test_a_student_is_as_long_as_its_run_and_starts_from_its_weights(distilled, tmp_path):
    run, _ = distilled
    out = copied(run, tmp_path)
    events = []

    def stop_at_once(event):
        events.append(event)
        if isinstance(event, Stepped):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        out.distill(watch=stop_at_once, settings=["optim.muon_lr=0", "optim.adam_lr=0", "run.save_every=0.001"])
    facts = json.loads((out.folder.path / "distilled" / "run.json").read_text())
    assert facts["config"]["run"]["steps"] == 30 and facts["teacher"] == run.release.digest
    # Without a learning rate the student stays its teacher.
    out.distill(resume=True, steps=2, n=40)
    assert_same(*(weights_of(path) for path in (out.folder.model, out.folder.path / "distilled/model.safetensors")))


def test_a_student_resumed_is_bit_equal(distilled, tmp_path):
    run, _ = distilled
    calm, disturbed = copied(run, tmp_path / "calm"), copied(run, tmp_path / "disturbed")
    calm.distill(steps=12, n=40)
    seen = []

    def interrupted(event):
        seen.append(event)
        if sum(isinstance(e, Stepped) for e in seen) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disturbed.distill(steps=12, n=40, settings=["run.save_every=0.001"], watch=interrupted)
    disturbed.distill(resume=True, n=40, settings=["run.save_every=60"])
    for file in ("checkpoints/last.safetensors", "model.safetensors"):
        one, other = (checkpoint.load(r.folder.path / "distilled" / file)[0] for r in (calm, disturbed))
        assert_same(one, other)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path, "weights/")[0]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def copied(run: fn.Run, out: Path) -> fn.Run:
    """A run of its own with the same model, never distilled."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("run.json", "split.jsonl", "model.safetensors", "features.safetensors"):
        (out / name).write_bytes((run.folder.path / name).read_bytes())
    return fn.load(out)


# ---- what cannot work -----------------------------------------------------------------------------------------------


@pytest.fixture
def refused(capsys, monkeypatch):
    def call(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["fromnoise", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr().err.strip().splitlines()
        assert stop.value.code == 2 and said[-1].startswith("fromnoise: ")
        return said[-1]

    return call


def test_what_cannot_be_distilled_is_refused_in_a_sentence(distilled, refused, tmp_path):
    run, _ = distilled
    student = run.folder.path / "distilled"
    assert "student already" in refused("distill", student)
    assert "lone release" in refused("distill", run.folder.model)
    assert "--resume" in refused("distill", run.folder.path)
    assert "nowhere" in refused("distill", tmp_path / "nowhere")
    assert "flow.k_last" in refused("distill", copied(run, tmp_path / "a").folder.path, "--set", "flow.k_last=0")
    assert "budget" in refused("distill", copied(run, tmp_path / "b").folder.path, "--budget", "5m", "--steps", 3)
    assert not (tmp_path / "a" / "distilled").exists() and not (tmp_path / "b" / "distilled").exists()


def test_a_student_is_sampled_by_ddim_alone(distilled, refused):
    run, _ = distilled
    student = run.folder.path / "distilled"
    for sampler in ("heun", "multistep", "ancestral"):
        assert "ddim" in refused("sample", student, "--sampler", sampler, "--out", "never")
    assert "guidance" in refused("sample", student, "--guidance", 2, "--out", "never")
    assert "distill" in refused("train", "digits", "--out", student, "--resume", "--steps", 99)
    assert fn.load(student).sample(2, sampler="ddim", steps=1).shape == (2, 8, 8, 1)


def test_a_token_model_is_refused(run):
    tokens = TokenDenoiser(nn.Identity(), Conditioner((), 32), vocab=9)
    with pytest.raises(FromNoiseError, match="tokens"):
        check_teacher(run.folder, replace(run.release, denoiser=tokens))


def test_another_model_is_not_the_students_teacher(distilled, tmp_path):
    run, _ = distilled
    out = copied(run, tmp_path)
    out.distill(steps=1, n=20)
    facts = json.loads((tmp_path / "distilled" / "run.json").read_text())
    (tmp_path / "distilled" / "run.json").write_text(json.dumps(facts | {"teacher": "another"}))
    with pytest.raises(FromNoiseError, match="began with"):
        out.distill(resume=True)
