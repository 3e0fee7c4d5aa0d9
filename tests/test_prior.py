"""What is expected of data before any of it is seen: its mean and covariance, by conditions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.cond import Column, Cond
from fromnoise.data import Dataset, open_dataset
from fromnoise.posterior import Mean
from fromnoise.prior import ALIKE, KNOTS, MOST_AXES, OF_EACH, Expected, features, find_expected
from fromnoise.process import Gaussian, add_noise
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.stepper import Heun

PLACE = torch.linspace(0, 2 * torch.pi, 9)[:8]
WAVES = (PLACE.sin().expand(8, 8), PLACE.cos()[:, None].expand(8, 8))


def waves(folder: Path, n: int, *columns: str) -> Dataset:
    """Pictures as bright as their kind and number say, which otherwise differ by two waves, one twice as strong."""
    rng = np.random.default_rng(0)
    kind, number, (a, b) = rng.integers(3, size=n), rng.normal(size=n), rng.normal(size=(2, n))
    level = 128 + 10 * (kind - 1) + 8 * number
    images = level[:, None, None] + 30 * a[:, None, None] * WAVES[0].numpy() + 15 * b[:, None, None] * WAVES[1].numpy()
    np.savez(folder / "waves.npz", images=np.clip(images, 0, 255).round().astype(np.uint8), kind=kind, number=number)
    return open_dataset(folder / "waves.npz", columns=columns)


@pytest.mark.parametrize("columns", [(), ("kind",), ("kind", "number")])
@pytest.mark.parametrize("t", [0.5, 0.3])
def test_draws_have_the_mean_and_the_covariance_of_noised_data(t, columns, tmp_path):
    dataset, n = waves(tmp_path, 1500, *columns), 8000
    indices = np.resize(dataset.indices("train"), n)
    x0, cond = dataset.x0(indices), dataset.cond(indices)
    noise = Rng.of(2, range(n)).normal(tuple(x0.shape))
    x_t = add_noise(x0, noise, torch.full((n, 1, 1, 1), t))
    drawn = Gaussian(find_expected(dataset)).prior((n, 1, 8, 8), t, Rng.of(1, range(n)), cond=cond)
    torch.testing.assert_close(drawn.mean(0), x_t.mean(0), atol=0.04, rtol=0)
    for wave in (*WAVES, torch.ones(8, 8)):
        along, ours, plain = (float((x * wave).sum((1, 2, 3)).var()) for x in (x_t, drawn, t * noise))
        assert ours == pytest.approx(along, rel=0.12)
        assert plain < 0.9 * along, "which noise alone is not"
    if "kind" in columns:  # and of each condition its own
        for kind in range(3):
            rows = cond.values["kind"] == kind
            torch.testing.assert_close(drawn[rows].mean(0), x_t[rows].mean(0), atol=0.06, rtol=0)
    if "number" in columns:
        z = cond.values["number"].double()
        slopes = [float((z * x.double().mean((1, 2, 3))).mean() / (z**2).mean()) for x in (x_t, drawn)]
        assert slopes[1] == pytest.approx(slopes[0], rel=0.1) and slopes[0] > 0.01


def test_the_axes_are_those_of_what_conditions_leave_open_the_longest_first(tmp_path):
    dataset = waves(tmp_path, 1500, "kind", "number")
    found, again = find_expected(dataset), find_expected(dataset)
    assert len(found.axes) == 1 + len(found.centres) > 10
    for axes in found.axes.float():
        axes = axes[axes.any(1)]
        lengths = axes.norm(dim=1)
        assert bool((lengths.diff() <= 1e-5).all()), "in order"
        near = (axes @ axes.T / (lengths[:, None] * lengths)).abs() - torch.eye(len(axes))
        assert float(near.max()) < 1e-3, "and orthogonal"
    # Two waves, one twice as strong; what kinds and numbers differ by is known.
    lengths = torch.linalg.eigvalsh((found.axes[1:].mT @ found.axes[1:]).float().mean(0)).flip(0).sqrt()
    assert lengths[0] / lengths[1] == pytest.approx(2, rel=0.1) and lengths[2] < 0.15 * lengths[1]
    assert all(torch.equal(value, again.tensors()[name]) for name, value in found.tensors().items())


def two_sorts(folder: Path, n: int, few: int) -> Dataset:
    """Of n + few pictures all but the last few differ by one wave, and these by the other, five times as strong."""
    along = torch.randn(n + few, generator=torch.Generator().manual_seed(0))[:, None, None]
    images = 128 + torch.where(torch.arange(n + few)[:, None, None] < n, 5 * along * WAVES[0], 25 * along * WAVES[1])
    kind = np.where(np.arange(n + few) < n, "many", "few")
    np.savez(folder / "sorts.npz", images=images.round().numpy().astype(np.uint8), kind=kind)
    return open_dataset(folder / "sorts.npz", columns=["kind"])


def test_each_kind_differs_in_its_own_way(tmp_path):
    dataset, n = two_sorts(tmp_path, 800, 800), 4000
    labels = dataset.columns[0].labels
    process, rng = Gaussian(find_expected(dataset)), Rng.of(1, range(n))

    def deviations(cond: Cond | None) -> list[float]:
        drawn = process.prior((n, 1, 8, 8), 0.02, rng, cond=cond)
        return [float((drawn * wave).mean((1, 2, 3)).std()) for wave in WAVES]

    x0, cond = dataset.x0(dataset.indices("train")), dataset.cond(dataset.indices("train")).values["kind"]
    for label in range(2):
        told = Cond({"kind": torch.full((n,), label)}, {"kind": torch.ones(n, dtype=torch.bool)}, n)
        own, other = (1, 0) if labels[label] == "few" else (0, 1)
        found, known = deviations(told), float((x0[cond == label] * WAVES[own]).mean((1, 2, 3)).std())
        assert 0.98 * found[own] == pytest.approx(known, rel=0.12)
        assert found[other] < 0.35 * deviations(None)[other], "in which others differ"
    whole = [float((x0 * wave).mean((1, 2, 3)).std()) for wave in WAVES]
    assert [0.98 * found for found in deviations(None)] == pytest.approx(whole, rel=0.12)


def test_how_few_examples_differ_is_believed_little(tmp_path):
    """What four pictures alone differ by is not what any other is made of."""
    dataset = two_sorts(tmp_path, 800, 5)
    found, train = find_expected(dataset), dataset.indices("train")
    few = dataset.columns[0].labels.index("few")
    rows = dataset.cond(train).values["kind"] == few
    assert 2 <= int(rows.sum()) <= 5
    wave = WAVES[1].flatten() / WAVES[1].norm()
    theirs = float((dataset.x0(train)[rows].flatten(1) @ wave).square().mean())
    along = found.axes.float() @ (found.basis.flatten(1) @ wave)
    assert float(along.square().sum(1)[1:].max()) < 1.5 * int(rows.sum()) / ALIKE * theirs


@pytest.mark.parametrize("n", [10, 200, 1500])
def test_no_axis_is_of_few_examples(n, tmp_path):
    np.savez(tmp_path / "noise.npz", images=np.random.default_rng(0).integers(0, 256, (n, 8, 8), np.uint8))
    dataset = open_dataset(tmp_path / "noise.npz")
    assert find_expected(dataset).axes.shape[1] == min(MOST_AXES, len(dataset.indices("train")) // OF_EACH, 64)


def test_what_is_known_of_few_examples_is_believed_little(tmp_path):
    """A class of one example is not expected to be that example, which a model must not give away."""
    images = np.full((200, 8, 8), 100, np.uint8)
    images += np.random.default_rng(0).integers(0, 9, images.shape).astype(np.uint8)
    kind = np.zeros(200, int)
    kind[:40] = np.arange(1, 41)
    images[:40, :4] += 100
    np.savez(tmp_path / "few.npz", images=images, kind=np.char.add("k", kind.astype(str)))
    dataset = open_dataset(tmp_path / "few.npz", columns=["kind"])
    train = dataset.indices("train")
    expected, x0, cond = find_expected(dataset), dataset.x0(train), dataset.cond(train)
    alone = x0[:, 0, 0, 0] > x0.mean()
    far = (x0 - expected.offset).flatten(1).norm(dim=1)
    moved = (features(expected.columns, cond) @ expected.coefficients).norm(dim=1)
    assert bool((moved[alone] < 0.3 * far[alone]).all())


def test_conditions_are_told_by_simple_features_and_those_that_are_absent_by_none():
    columns = (
        Column(name="kind", kind="class", labels=("a", "b", "c")),
        Column(name="age", kind="number", mean=50.0, std=10.0, low=10.0, high=90.0),
        Column(name="words", kind="tokens", size=6, length=4),
        Column(name="where", kind="vector", size=2),
        Column(name="mask", kind="map", size=1),
    )
    values = {
        "kind": torch.tensor([2, 0]),
        "age": torch.tensor([-4.0, 0.5]),
        "words": torch.tensor([[3, 5, 3, 0], [0, 0, 0, 0]]),
        "where": torch.tensor([[0.5, -1.0], [9.0, 9.0]]),
    }
    present = {name: torch.tensor([True, name != "where"]) for name in values}
    told = features(columns, Cond(values, present, 2))
    knots = torch.zeros(2, KNOTS)
    knots[0, 0], knots[1, 4], knots[1, 5] = 1, 0.5, 0.5
    words = torch.tensor([[0, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]])
    expected = torch.cat([torch.tensor([[0, 0, 1], [1, 0, 0]]), knots, words, torch.tensor([[0.5, -1], [0, 0]])], 1)
    torch.testing.assert_close(told, expected)
    assert not features(columns, Cond.empty(2)).any() and features((), Cond.empty(2)).shape == (2, 0)


@given(st.floats(0.1, 1))
@settings(max_examples=10)
def test_samples_begin_where_the_flow_of_gaussian_data_leads(t):
    """Of its own noise each, as a sampler finds in many small steps."""
    axes = torch.tensor([[[2.0, 0.0, 1.0]], [[-0.5, 0.0, 1.0]]]) * torch.tensor([1.0, 0.3])[:, None, None]
    none, basis = torch.zeros(0, 3), torch.eye(3).reshape(3, 1, 3)
    process = Gaussian(Expected((), torch.tensor([[0.5, -1.0, 2.0]]), none, basis, none, axes[None, :, 0]))

    class Known:
        """The posterior mean, in float64, by the covariance of data."""

        def __init__(self) -> None:
            self.process = process

        def __call__(self, x_t, t, cond, s=None):
            a, at = axes[:, 0].double(), float(t[0, 0, 0])
            covariance, mean = a.T @ a, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
            gain = (1 - at) * covariance @ torch.linalg.inv((1 - at) ** 2 * covariance + at**2 * torch.eye(3))
            return Mean(mean + (x_t - (1 - at) * mean) @ gain.T)

    rng, times = Rng.of(0, range(8)), torch.linspace(1, t, 60, dtype=torch.float64).tolist()
    eps = process.prior((8, 1, 3), 1.0, rng, torch.float64)
    walked = finish(sample(Known(), Heun(), times, eps, Cond.empty(8), rng))
    torch.testing.assert_close(
        process.prior((8, 1, 3), t, Rng.of(0, range(8)), torch.float64), walked, atol=2e-3, rtol=0
    )


@given(st.integers(1, 7), st.floats(0, 1))
def test_a_draw_is_the_same_in_any_batch_and_noise_alone_at_one(cut, t):
    axes, none, basis = torch.arange(24.0).reshape(1, 4, 6) / 24, torch.zeros(0, 6), torch.eye(6).reshape(6, 3, 2)
    known = Gaussian(Expected((), torch.ones(3, 2), none, basis, none, axes))
    whole = known.prior((8, 3, 2), t, Rng.of(0, range(8)))
    parts = [known.prior((len(part), 3, 2), t, Rng.of(0, part)) for part in (range(cut), range(cut, 8))]
    torch.testing.assert_close(torch.cat(parts), whole)
    noise = Rng.of(0, range(8)).normal((8, 3, 2))
    torch.testing.assert_close(Gaussian().prior((8, 3, 2), t, Rng.of(0, range(8))), t * noise)
    torch.testing.assert_close(known.prior((8, 3, 2), 1.0, Rng.of(0, range(8))), noise)
    # Of what is larger than the examples the mean is known.
    longer = known.prior((8, 3, 5), t, Rng.of(0, range(8))) - t * Rng.of(0, range(8)).normal((8, 3, 5))
    torch.testing.assert_close(longer, torch.full((8, 3, 5), 1 - t))


def test_what_was_expected_before_kinds_were_told_apart_is_still_read(tmp_path):
    known = find_expected(waves(tmp_path, 300))
    assert len(known.axes) == 1
    tensors = known.tensors()
    del tensors["centres"]
    tensors["axes"] = torch.tensordot(known.axes[0].float(), known.basis, 1)
    again, eps = Expected.from_tensors((), tensors), Rng.of(0, range(4)).normal((4, 1, 8, 8))
    torch.testing.assert_close(again.flow(eps, 0.5, None), known.flow(eps, 0.5, None), atol=1e-3, rtol=0)
