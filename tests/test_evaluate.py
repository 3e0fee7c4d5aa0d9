"""Distances have closed forms and unbiased estimates, harms are ordered by strength, copies are caught."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.appraise import askable
from fromnoise.cond import Cond
from fromnoise.evaluate import batches, beside, judge, learn_features, nearest
from fromnoise.evaluate import corrupt as harm
from fromnoise.evaluate.distance import Moments, frechet, kernel_distance, manifold
from fromnoise.evaluate.neighbours import _precedence, among, copy_check
from fromnoise.types import FromNoiseError


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blobs(n: int, space: tuple[int, ...] = (12, 12), channels: int = 1, seed: int = 0) -> torch.Tensor:
    """Smooth, sharp-edged bumps of random place and width: a law with low-dimensional content."""
    g = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, m) for m in space), indexing="ij")
    place = 1.2 * torch.rand(n, len(space), generator=g) - 0.6
    width = 0.2 + 0.4 * torch.rand(n, generator=g)
    square = sum((axis[None] - p.view(-1, *(1,) * len(space))) ** 2 for axis, p in zip(axes, place.T, strict=True))
    one = torch.tanh(6 * (width.view(-1, *(1,) * len(space)) - square.sqrt()))
    return one[:, None].repeat(1, channels, *(1,) * len(space))


def gaussian(mean: torch.Tensor, cov: torch.Tensor) -> Moments:
    return Moments(mean=mean, cov=cov, count=1000)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000))
def test_frechet_of_commuting_gaussians_is_the_distance_of_their_deviations(f: int, seed: int):
    basis = torch.linalg.qr(randn(f, f, seed=seed).double()).Q
    a, b = randn(2, f, seed=seed + 1).double().abs() * torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    mean = randn(2, f, seed=seed + 2).double()
    value = frechet(*(gaussian(m, basis @ torch.diag(s**2) @ basis.T) for m, s in zip(mean, (a, b), strict=True)))
    assert value == pytest.approx(float((mean[0] - mean[1]).square().sum() + (a - b).square().sum()), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 10), st.integers(0, 10_000))
def test_frechet_of_one_gaussian_moved_linearly(f: int, seed: int):
    """From N(0, A) by a symmetric positive map T to N(0, T A T), the optimal transport is T: tr((T-1) A (T-1))."""
    half, root = randn(2, f, f, seed=seed).double()
    cov, map_ = half @ half.T, root @ root.T + 0.1 * torch.eye(f, dtype=torch.float64)
    zero, extra = torch.zeros(f, dtype=torch.float64), map_ - torch.eye(f, dtype=torch.float64)
    value = frechet(gaussian(zero, cov), gaussian(zero, map_ @ cov @ map_))
    assert value == pytest.approx(float((extra @ cov @ extra).trace()), rel=1e-6, abs=1e-6)


def test_frechet_with_fewer_examples_than_features_is_symmetric_and_zero_on_itself():
    a, b = Moments.of(randn(10, 40)), Moments.of(randn(12, 40, seed=1))
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-6)
    assert frechet(a, a) < 1e-6 < frechet(a, b)


def test_kernel_distance_is_unbiased_and_its_error_covers():
    """For one law the estimates divided by their errors have mean zero and about unit spread."""
    pairs = [kernel_distance(randn(200, 6, seed=2 * i), randn(200, 6, seed=2 * i + 1)) for i in range(60)]
    z = np.array([e.value / e.error for e in pairs])
    assert abs(z.mean()) < 0.45 and 0.7 < z.std() < 1.5
    assert (np.abs(z) < 2.5).mean() > 0.9
    far = kernel_distance(randn(200, 6), randn(200, 6, seed=1) + 0.5)
    assert far.value > 3 * far.error


def test_manifold_tells_quality_from_variety():
    real, same = randn(300, 3), randn(300, 3, seed=1)
    honest = manifold(real, same)
    few = manifold(real, real[:6].repeat(50, 1) + 1e-3 * same)
    outside = manifold(real, same + 20)
    assert min(honest.precision, honest.recall, honest.coverage) > 0.85 and 0.8 < honest.density < 1.2
    assert few.precision > 0.95 and few.coverage < 0.3 and few.recall < 0.1
    assert outside.precision == outside.coverage == 0


@pytest.mark.parametrize("space", [(9,), (8, 11), (4, 5, 6)])
@pytest.mark.parametrize("corruption", harm.REFERENCES, ids=lambda c: c.name)
def test_corruptions_are_generic_deterministic_and_harm(corruption: harm.Corruption, space: tuple[int, ...]):
    x = randn(40, 2, *space).clamp(-1, 1)
    first, again = (corruption.apply(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again) and first.shape == x.shape
    assert first.min() >= x.min() and first.max() <= x.max()
    assert not torch.equal(first, x)


def test_blur_keeps_constants_and_adds_the_variance_it_states():
    impulse = torch.zeros(1, 1, 41)
    impulse[..., 20] = 1
    spread = harm.blur(impulse, 6)[0, 0]
    at = torch.arange(41.0) - 20
    assert float(spread.sum()) == pytest.approx(1) and float((spread * at**2).sum()) == pytest.approx(6 / 2, rel=1e-5)
    assert torch.allclose(harm.blur(torch.full((2, 1, 5, 5), 0.3), 4), torch.tensor(0.3))


def test_shuffled_parts_are_the_parts_of_the_example():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    y = harm.shuffle_blocks(x, torch.Generator().manual_seed(0))
    assert torch.equal(y.flatten().sort().values, x.flatten()) and (y != x).all()


def test_nearest_agrees_with_brute_force_and_is_exact_for_copies():
    base, queries = 50 + randn(137, 2, 3), 50 + randn(20, 2, 3, seed=1)
    queries[4] = base[99]
    found = nearest(queries, batches(base, 10), k=3, chunk=7)
    brute = torch.cdist(queries.flatten(1).double(), base.flatten(1).double()).topk(3, largest=False)
    assert torch.equal(found.index, brute.indices) and torch.allclose(found.distance.double(), brute.values, atol=1e-4)
    assert found.distance[4, 0] == 0
    assert torch.equal(beside(queries, base, found)[4, 1], base[99])


def test_the_precedence_test_is_exact():
    """Under one law P(p-value <= a) never exceeds a; one sample before the first of one held-out: exactly 1/2."""
    assert _precedence(1, 1, 1, 1) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    draws = [(rng.normal(size=50) < np.sort(rng.normal(size=30))[1]).sum() for _ in range(1500)]
    p = np.array([_precedence(int(d), 50, 2, 30) for d in draws])
    assert all((p <= a).mean() < a + 0.025 for a in (0.05, 0.2, 0.5)) and (p <= 0.5).mean() > 0.3


def check(samples: torch.Tensor, train: torch.Tensor, held: torch.Tensor):
    return copy_check(*(nearest(x, batches(train), k=2) for x in (samples, held)), space="values")


def test_the_copy_check_clears_new_data_and_catches_planted_copies():
    train, held, new = randn(600, 12), randn(120, 12, seed=1), randn(300, 12, seed=2)
    clean = check(new, train, held)
    assert clean.level == "none" and 0.9 < clean.median_ratio < 1.1
    planted = new.clone()
    planted[:30] = train[:30] + 0.02 * new[:30]
    caught = check(planted, train, held)
    assert caught.level == "copies" and caught.memorised == pytest.approx(0.1, abs=0.01)
    assert "10" in caught.verdict and "nearer to the training data" in caught.verdict


@settings(max_examples=10)
@given(st.integers(12, 60), st.integers(0, 99))
def test_few_examples_stand_in_for_held_out_ones_by_their_distances_to_each_other(n, seed):
    """New data of the law are cleared, copies of ten examples are caught, without anything held out."""
    train, new = randn(n, 12, seed=seed + 3), randn(64, 12, seed=seed + 200)
    apart = among(train)
    others = torch.cdist(train, train).fill_diagonal_(torch.inf)
    assert torch.allclose(apart.distance[:, 0], others.min(1).values, atol=1e-3)

    def of(samples: torch.Tensor):
        return copy_check(nearest(samples, batches(train), k=2), apart, space="values", among=True)

    assert of(new).level == "none" and "to each other" in of(new).verdict
    copied = of(train[torch.arange(64) % 10] + 0.02 * new)
    assert copied.level == "copies" and "(training examples: " in copied.verdict


def test_shrunken_samples_are_nearer_but_not_called_copies():
    train, held, new = randn(600, 12), randn(120, 12, seed=1), randn(300, 12, seed=2)
    assert check(0.6 * new, train, held).level == "nearer"


@pytest.fixture(scope="module")
def law() -> tuple[torch.Tensor, ...]:
    """One law: training, held-out, new."""
    return blobs(640).split((400, 80, 160))


@pytest.fixture(scope="module")
def features(law):
    return learn_features(law[0], steps=100)


def test_the_distance_orders_harms_by_strength(features, law):
    train, _, new = law
    real, g = Moments.of(features(train)), torch.Generator().manual_seed(0)

    def distance(x: torch.Tensor) -> float:
        return frechet(Moments.of(features(x)), real)

    noisy = [distance(harm.noise(new, sigma, g)) for sigma in (0.1, 0.3, 0.8)]
    blurred = [distance(harm.blur(new, passes)) for passes in (1, 4, 16)]
    fewer = [distance(harm.repeat_few(new, share, g)) for share in (0.3, 0.1, 0.02)]
    for series in (noisy, blurred, fewer):
        assert distance(new) < series[0] < series[1] < series[2]


def test_features_are_deterministic_cached_and_learned_anew_from_other_data(tmp_path):
    x, cache = blobs(40, (6,), 3), tmp_path / "deep" / "features.safetensors"
    labels = torch.arange(40) % 3
    first = learn_features(x, labels, steps=3, cache=cache)
    written = cache.read_bytes()
    cached = learn_features(x, labels, steps=3, cache=cache)
    assert torch.equal(first(x), cached(x)) and torch.equal(first(x), learn_features(x, labels, steps=3)(x))
    assert cache.read_bytes() == written
    cache.write_bytes(written[: len(written) // 2])
    assert torch.equal(first(x), learn_features(x, labels, steps=3, cache=cache)(x))
    other = learn_features(x.flip(0), labels, steps=3, cache=cache)
    assert not torch.equal(first(x), other(x)) and cache.read_bytes() != written
    with pytest.raises(FromNoiseError, match="learned on examples of shape"):
        first(x[:, :2])


@pytest.mark.parametrize(("space", "channels"), [((50,), 1), ((4, 4), 5), ((37, 91), 2), ((7, 6, 5), 1)])
def test_features_see_examples_one_by_one_whatever_their_axes(space: tuple[int, ...], channels: int):
    x = blobs(12, space, channels)
    features = learn_features(x, steps=2)
    together, alone = features(x), torch.cat([features(one) for one in x.split(1)])
    assert together.shape == (12, features.dim) and torch.allclose(together, alone, atol=1e-3)


def test_a_judgement_places_samples_on_the_ruler(features, law):
    train, held, new = law
    honest = judge(new, train, held, features)
    noisy = judge(harm.noise(new, 0.5, torch.Generator().manual_seed(0)), train, held, features)
    copied = judge(train[:160], train, held, features)
    assert honest.p_floor > 0.01 >= noisy.p_floor
    assert "cannot be told" in honest.sentences[0]
    assert all(c.level == "none" for c in honest.copies)
    assert noisy.row("samples").frechet > next(r for r in noisy.rows if r.name == "strong noise").frechet
    assert copied.row("samples").frechet < copied.row("floor").frechet
    assert any(c.level == "copies" for c in copied.copies)
    assert any("three times nearer" in sentence for sentence in copied.sentences)
    told = json.loads(json.dumps(honest.to_json(), allow_nan=False))
    assert told["count"] == 80 and {r["role"] for r in told["rows"]} == {"samples", "floor", "copies", "corruption"}
    with pytest.raises(FromNoiseError, match="at least 20"):
        judge(train[:5], train, held, features)


def test_a_caption_is_asked_for_without_the_group_of_the_example_that_it_is_from():
    here = torch.ones(3, dtype=torch.bool)
    alone = Cond({"group": torch.arange(3)}, {"group": here}, 3)
    assert askable(alone) is alone, "of groups alone each sample needs one"
    both = askable(Cond({"group": torch.arange(3), "kind": torch.arange(3)}, {"group": here, "kind": here}, 3))
    assert not both.present["group"].any() and both.present["kind"].all()
