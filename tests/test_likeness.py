"""Likeness of all samples together, on features whose moments are known exactly."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.cond import Cond
from fromnoise.denoise import NetDenoiser
from fromnoise.nets import Conditioner, Transformer, UNet
from fromnoise.objectives.likeness import HEARD, Likeness, block_features
from fromnoise.target import X0

D = 4


def plain(x, eps, cond):
    return x.flatten(1)


def drawn(n: int, seed: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    """Correlated normal numbers (n, D), their law turned by the same matrix for any seed."""
    turn = torch.randn(D, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    z = torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mean + std * z) @ turn


def likeness(data: torch.Tensor, kinds: tuple[int, ...] = (1,), **more) -> Likeness:
    parts = [(part, part, Cond.empty(len(part))) for part in data.split(1000)]
    return Likeness(plain, parts, kinds, **more)


def frechet(z: torch.Tensor) -> torch.Tensor:
    """Eq. (1) of features z, moments of all of them."""
    mean = z.mean(0)
    values = torch.linalg.eigvalsh((z - mean).T @ (z - mean) / len(z))
    return mean.square().sum() + (values.sqrt() - 1).square().sum()


@settings(max_examples=10)
@given(st.floats(-1, 1), st.floats(0.3, 3), st.integers(0, 99))
def test_its_gradient_is_that_of_the_frechet_distance(mean, std, seed):
    """Exactly, where the moments are those of the batch; so is the distance."""
    of, n = likeness(drawn(4000, 1)), 2 * HEARD
    x = drawn(n, seed + 2, mean, std).requires_grad_()
    of(x, x, Cond.empty(n), torch.ones(n, dtype=torch.long)).sum().backward()
    z = ((x.detach() - of.centre) @ of.white.double()).requires_grad_()
    distance = frechet(z)
    torch.testing.assert_close(torch.tensor(of.distance(1)).double(), distance.detach(), rtol=1e-4, atol=1e-6)
    (slope,) = torch.autograd.grad(n * distance, z)
    torch.testing.assert_close(x.grad, slope @ of.white.double().T, rtol=1e-3, atol=1e-3 * float(x.grad.abs().max()))


def test_it_brings_a_wrong_law_to_that_of_the_data():
    """Small batches, moments of thousands: mean and deviation of a sampler are learned from them alone."""
    of = likeness(drawn(4000, 1))
    mean, std = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.8, 0.5))
    optimiser = torch.optim.Adam([mean, std], 5e-3)
    for step in range(600):
        x = drawn(64, step + 10, mean, std)
        optimiser.zero_grad()
        loss = of(x, x, Cond.empty(64), torch.ones(64, dtype=torch.long)).mean()
        if loss.requires_grad:  # enough was seen
            loss.backward()
            optimiser.step()
    assert abs(mean.item()) < 0.05
    assert abs(std.item() - 1) < 0.05
    assert of.distance(1) < 0.05


def test_moments_of_kinds_are_apart_and_wait_until_they_mean_something():
    of, n = likeness(drawn(4000, 1), (1, 4)), 2 * HEARD - 2
    x, kinds = drawn(n, 2, 1.0), torch.tensor([1, 4]).repeat(n // 2)
    assert not of(x, x, Cond.empty(n), kinds).any()
    two = drawn(2, 3)
    loss = of(two, two, Cond.empty(2), torch.tensor([1, 1]))
    assert loss.all()
    assert of.count.tolist() == [HEARD + 1, HEARD - 1]
    assert of.distance(1) != of.distance(4)


def test_ranks_keep_the_same_moments_as_one():
    """Half of a batch on each rank, summed, is the batch."""
    data, x = drawn(4000, 1), drawn(200, 2)
    whole = likeness(data)
    whole(x, x, Cond.empty(200), torch.ones(200, dtype=torch.long))
    half, z = x[:100], (x[100:] - whole.centre.double()) @ whole.white.double()
    theirs = torch.cat([z.new_tensor([100]), z.sum(0), (z.T @ z).flatten()])
    other = likeness(data, summed=lambda sums: sums + theirs)
    other(half, half, Cond.empty(100), torch.ones(100, dtype=torch.long))
    for a, b in zip(whole.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_leaves_no_trace(bad):
    of, x = likeness(drawn(4000, 1)), drawn(50, 2)
    of(x, x, Cond.empty(50), torch.ones(50, dtype=torch.long))
    before = [buffer.clone() for buffer in of.buffers()]
    of(x * bad, x, Cond.empty(50), torch.ones(50, dtype=torch.long))
    assert all(torch.equal(a, b) for a, b in zip(before, of.buffers(), strict=True))


@pytest.mark.parametrize("space", [1, 2, 3])
@pytest.mark.parametrize("kind", ["unet", "transformer"])
def test_features_of_any_trunk_belong_to_one_example_each(kind, space):
    """Whatever else is in the batch, and with a gradient back to the example."""
    shared = {"channels": 2, "space": space, "patch": 2, "emb": 16}
    net = (
        UNet(**shared, widths=(32, 32), blocks=1, attention=(False, True))
        if kind == "unet"
        else Transformer(**shared, width=32, depth=2, heads=2)
    )
    features = partial(block_features, NetDenoiser(net.double().eval(), Conditioner((), 16), X0()))
    x = torch.randn(3, 2, *[8] * space, dtype=torch.float64, requires_grad=True)
    eps = torch.randn_like(x)
    f = features(x, eps, Cond.empty(3))
    torch.testing.assert_close(f[1:2], features(x[1:2], eps[1:2], Cond.empty(1)), rtol=1e-4, atol=1e-5)
    (slope,) = torch.autograd.grad(f[0].sum(), x)
    assert slope[0].abs().sum() > 0
    assert slope[1:].abs().sum() == 0
    assert not any(block._forward_hooks for block in net.taps.values())
