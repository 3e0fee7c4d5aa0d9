"""Orders that are never written down are orders: each thing once, every order as likely as any, epochs unrelated."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fromnoise.shuffle import shuffled


def whole(n: int, *entropy: int) -> np.ndarray:
    return shuffled(np.arange(n), n, *entropy)


@given(st.integers(1, 3000), st.integers(0, 2**62), st.integers(0, 2**40))
@settings(max_examples=200)
def test_it_is_a_permutation_for_every_n(n, seed, epoch):
    assert np.array_equal(np.sort(whole(n, seed, epoch)), np.arange(n))


@given(st.integers(1, 10**12), st.integers(0, 100), st.data())
def test_a_few_places_of_many_are_those_of_the_whole(n, seed, data):
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20, unique=True)))
    found = shuffled(places, n, seed)
    assert len(set(found.tolist())) == len(places) and 0 <= found.min() <= found.max() < n
    assert [int(shuffled(places[i : i + 1], n, seed)[0]) for i in range(len(places))] == found.tolist()


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_of_few_things_every_order_is_as_likely_as_any(n):
    everything = {order: k for k, order in enumerate(permutations(range(n)))}
    found = np.bincount([everything[tuple(whole(n, 7, e))] for e in range(20 * len(everything))])
    assert len(found) == len(everything) and stats.chisquare(found).pvalue > 1e-4


@pytest.mark.parametrize("n", [10, 97, 256])
def test_every_thing_is_as_likely_at_every_place_and_beside_every_other(n):
    epochs = 400
    drawn = np.stack([whole(n, 3, e) for e in range(epochs)])
    at = np.zeros((n, n))
    np.add.at(at, (np.arange(n)[None].repeat(epochs, 0), drawn), 1)
    assert stats.chisquare(at, axis=1).statistic.sum() == pytest.approx(n * (n - 1), rel=6 * (2 / n / n) ** 0.5)
    beside = np.bincount((np.diff(drawn, axis=1) % n).ravel(), minlength=n)[1:]
    assert stats.chisquare(beside).pvalue > 1e-4


def test_epochs_and_seeds_are_unrelated():
    n, orders = 1000, [whole(1000, seed, epoch) for seed in range(4) for epoch in range(4)]
    agree = [(a == b).mean() for i, a in enumerate(orders) for b in orders[:i]]
    assert max(agree) < 12 / n and np.mean(agree) == pytest.approx(1 / n, rel=0.5)
