"""The averages follow their power profile, and lengths that were not tracked are recovered from those that were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fromnoise.ema import SIGMAS, PowerEma, Snapshot, coefficients, gamma_of, reconstruct, sigma_of


class Walk(nn.Module):
    """A model whose weights are the one-hot vector of the step, so that an average shows its own profile."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((steps,), torch.nan).nan_to_num(7.0))
        self.register_buffer("count", torch.tensor(0))

    @torch.no_grad()
    def move(self, n: int) -> None:
        self.weight.zero_()
        self.weight[n - 1] = 1
        self.count += 1


def walk(steps: int, sigmas, every: int):
    """The averages at the end, and snapshots every so many steps."""
    model = Walk(steps)
    ema = PowerEma(model, sigmas)
    snapshots = []
    for n in range(1, steps + 1):
        model.move(n)
        ema.update(n)
        if n % every == 0:
            for sigma in SIGMAS:
                kept = {name: x.clone() for name, x in ema.weights(sigma).items()}
                snapshots.append(Snapshot(step=n, sigma_rel=sigma, load=lambda kept=kept: kept))
    return ema, snapshots


@given(st.floats(0.01, 0.288))
def test_sigma_and_gamma_are_inverse(sigma):
    gamma = gamma_of(sigma)
    assert gamma >= 0
    assert sigma_of(gamma) == pytest.approx(sigma, rel=1e-9)


@given(st.floats(0.02, 0.28))
def test_sigma_is_the_deviation_of_the_profile(sigma):
    steps = 4000
    edges = (np.arange(steps + 1) / steps) ** (gamma_of(sigma) + 1)
    mass, place = np.diff(edges), (np.arange(steps) + 0.5) / steps
    mean = (mass * place).sum()
    assert ((mass * (place - mean) ** 2).sum()) ** 0.5 == pytest.approx(sigma, rel=1e-3)


def test_the_average_is_its_power_profile_and_sums_to_one():
    steps = 300
    ema, _ = walk(steps, SIGMAS, steps)
    for sigma in SIGMAS:
        profile = np.diff((np.arange(steps + 1) / steps) ** (gamma_of(sigma) + 1))
        average = ema.weights(sigma)["weight"]
        assert np.abs(average.numpy() - profile).max() < 1e-6
        assert average.double().sum() == pytest.approx(1, abs=1e-5)


def test_the_initialisation_never_enters():
    model = nn.Linear(3, 3)
    ema = PowerEma(model)
    nn.init.ones_(model.weight)
    ema.update(1)
    for sigma in SIGMAS:
        assert torch.equal(ema.weights(sigma)["weight"], torch.ones(3, 3))


def test_buffers_are_copied_not_averaged():
    ema, _ = walk(20, SIGMAS, 20)
    assert ema.weights(0.05)["count"] == 20


@pytest.mark.parametrize("wanted", [0.06, 0.075, 0.12, 0.15])
def test_a_length_never_tracked_is_recovered(wanted):
    steps = 400
    ema, snapshots = walk(steps, (*SIGMAS, wanted), steps // 20)
    truth = ema.weights(wanted)["weight"]
    ours = reconstruct(snapshots, wanted)["weight"]
    assert ours.sum() == pytest.approx(1, abs=1e-5)
    assert (ours - truth).norm() < 0.02 * truth.norm()


def test_a_tracked_length_is_recovered_exactly():
    _, snapshots = walk(200, SIGMAS, 20)
    assert torch.allclose(reconstruct(snapshots, 0.05)["weight"], snapshots[-2].load()["weight"], atol=1e-6)


@given(
    st.lists(st.integers(1, 100_000), min_size=1, max_size=12, unique=True),
    st.floats(0.03, 0.28),
    st.floats(0.3, 1.0),
)
def test_shares_sum_to_one_and_beat_every_single_snapshot(steps, sigma, part):
    known = [(float(n), gamma_of(s)) for n in steps for s in SIGMAS]
    wanted = (part * max(steps), gamma_of(sigma))
    shares = coefficients(known, wanted)
    assert shares.sum() == pytest.approx(1, abs=1e-6)
    edges = np.linspace(0, max(steps), 4001)
    masses = np.stack([np.diff(np.minimum(edges / n, 1) ** (gamma + 1)) for n, gamma in [*known, wanted]])
    error = np.linalg.norm(shares @ masses[:-1] - masses[-1])
    best = np.linalg.norm(masses[:-1] - masses[-1], axis=1).min()
    assert error <= best * 1.01 + 1e-4


def test_packed_averages_come_back_in_place():
    ema, _ = walk(10, SIGMAS, 10)
    saved = {name: x.clone() for name, x in ema.pack().items()}
    ema.model.move(5)
    ema.update(11)
    assert not torch.equal(ema.pack()["0.05/weight"], saved["0.05/weight"])
    ema.unpack(saved)
    assert all(torch.equal(x, saved[name]) for name, x in ema.pack().items())
