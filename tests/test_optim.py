"""Muon moves along the orthogonal factor, AdamW is torch's own, and state survives a round trip bit for bit."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fromnoise.config import OptimConfig
from fromnoise.optim import (
    limit_momentum,
    make_optimizer,
    orthogonal,
    pack_optimizer,
    schedule,
    set_lr,
    unpack_optimizer,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 16), nn.Linear(16, 4))
    return net.to(memory_format=torch.channels_last)


def optimizer_of(net: nn.Sequential, **choices):
    rates = {"muon_lr": 5e-3, "adam_lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.01} | choices
    return make_optimizer(net, [net[1].weight, net[3].weight], **rates)


def train(net, optimizer, steps: int, start: int = 0) -> list[float]:
    losses = []
    for n in range(start, start + steps):
        x = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(n))
        loss = (net(x) - x.mean((2, 3)).sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 8, 40), (2, 40, 8)])
def test_newton_schulz_levels_the_singular_values(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    x = u * (0.1 + s)[:, None] @ v  # well away from rank deficiency
    levelled = u.mT @ orthogonal(x) @ v.mT
    diagonal = levelled.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6 and diagonal.max() < 1.3
    assert (levelled - torch.diag_embed(diagonal)).abs().max() < 1e-4


def test_newton_schulz_ignores_scale_and_keeps_zero():
    x = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(orthogonal(x), orthogonal(1e-4 * x), atol=1e-2)
    assert torch.equal(orthogonal(torch.zeros(1, 4, 4)), torch.zeros(1, 4, 4))


@given(st.sampled_from([(16, 16), (64, 16), (16, 96), (12, 8, 3, 3)]), st.floats(1e-3, 1e2))
def test_a_muon_step_has_the_size_of_an_adamw_step(shape, scale):
    """RMS .2·lr whatever the shape of the matrix and the scale of the gradient."""
    p = nn.Parameter(torch.zeros(shape))
    model = nn.ParameterList([p])
    optimizer = make_optimizer(model, [p], muon_lr=1.0, adam_lr=1.0, weight_decay=0.5)
    p.grad = scale * torch.randn(shape, generator=torch.Generator().manual_seed(3))
    optimizer.step()
    assert 0.12 < p.square().mean().sqrt() < 0.25


def test_muon_agrees_with_torch_on_matrices():
    ours, theirs = (nn.Parameter(torch.ones(24, 40)) for _ in range(2))
    mine = make_optimizer(nn.ParameterList([ours]), [ours], muon_lr=0.01, adam_lr=1.0, weight_decay=0.1)
    reference = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for n in range(6):
        ours.grad = theirs.grad = torch.randn(24, 40, generator=torch.Generator().manual_seed(n))
        mine.step()
        reference.step()
    # torch iterates in bfloat16, whose rounding is a few hundredths of a step.
    moved = (theirs - 1).norm()
    assert (ours - theirs).norm() < 0.05 * moved


def test_everything_else_is_adamw_and_gains_do_not_decay():
    net, twin = network(), network()
    optimizer = make_optimizer(net, [], muon_lr=1.0, adam_lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    flat = [p for p in twin.parameters() if p.ndim < 2]
    deep = [p for p in twin.parameters() if p.ndim >= 2]
    groups = [{"params": deep, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    assert train(net, optimizer, 5) == pytest.approx(train(twin, reference, 5), rel=1e-4)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_learns(dtype):
    net = network()
    losses = train(net, optimizer_of(net, dtype=dtype), 100)
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])


def test_training_resumes_bit_for_bit():
    net = network()
    optimizer = optimizer_of(net)
    train(net, optimizer, 3)
    saved = {name: x.contiguous().clone() for name, x in pack_optimizer(optimizer).items()}
    weights = {name: x.clone() for name, x in net.state_dict().items()}
    undisturbed = train(net, optimizer, 3, start=3)

    again = network()
    again.load_state_dict(weights)
    resumed = optimizer_of(again)
    unpack_optimizer(resumed, saved)
    assert train(again, resumed, 3, start=3) == undisturbed
    for p, q in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


def test_equal_shapes_in_one_batch_move_as_alone():
    shape, generator = (12, 20), torch.Generator().manual_seed(4)
    grads = [torch.randn(shape, generator=generator) for _ in range(3)]

    def moved(picked: list[torch.Tensor]) -> list[nn.Parameter]:
        params = [nn.Parameter(torch.zeros(shape)) for _ in picked]
        optimizer = make_optimizer(nn.ParameterList(params), params, muon_lr=1.0, adam_lr=1.0)
        for p, grad in zip(params, picked, strict=True):
            p.grad = grad
        optimizer.step()
        return params

    for p, grad in zip(moved(grads), grads, strict=True):
        assert torch.allclose(p, moved([grad])[0], atol=1e-5)


def test_parameters_without_gradient_stay():
    net = network()
    optimizer = optimizer_of(net, weight_decay=0.5)
    before = [p.clone() for p in net.parameters()]
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True))


def test_one_factor_sets_all_rates_and_zero_stops_everything():
    net = network()
    optimizer = optimizer_of(net)
    set_lr(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {2.5e-3, 5e-4}
    set_lr(optimizer, 0.0)
    before = [p.clone() for p in net.parameters()]
    train(net, optimizer, 2)
    assert all(torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True))


@given(st.floats(0, 0.95), st.integers(0, 200), st.integers(1, 5000))
def test_the_schedule_warms_up_stays_and_ends_at_zero(decay_from, warmup, total):
    def factor(step: int) -> float:
        return schedule(step / total, step, OptimConfig(warmup_steps=warmup, decay_from=decay_from))

    factors = [factor(n) for n in range(0, total + 1, max(1, total // 50))]
    assert all(0 <= f <= 1 for f in factors)
    assert factor(total) < 1e-12
    start, middle = math.ceil(warmup), math.floor(decay_from * total)
    if start <= middle:
        assert factor(middle) == 1
    assert factor(0) > 0


@given(st.floats(0, 1), st.floats(0.01, 1))
def test_the_schedule_drops_when_it_is_said_to(at, to):
    optim = OptimConfig(warmup_steps=0, decay_from=1.0, drop_at=at, drop_to=to)
    assert all(schedule(n / 100, n, optim) == (to if n / 100 >= at else 1) for n in range(100))
    # Or falls to there by and by, from where it is said to.
    falling = [schedule(n / 100, n, replace(optim, drop_from=at / 2)) for n in range(100)]
    assert all(a >= b >= to for a, b in pairwise(falling))
    assert all(rate == (to if n / 100 >= at else 1) for n, rate in enumerate(falling) if not at / 2 < n / 100 < at)


def test_momenta_are_limited_as_long_as_it_is_said_and_no_longer():
    """A run that goes back before the limit trains as it did, so a limit leaves nothing behind."""
    limited, plain = optimizer_of(network()), optimizer_of(network())
    for most, expected in ((0.6, {0.6}), (0.92, {0.92, 0.9}), (1.0, {0.95, 0.9})):
        limit_momentum(limited, most)
        assert {group["momentum"] for group in limited.param_groups} == expected
    assert [g["momentum"] for g in limited.param_groups] == [g["momentum"] for g in plain.param_groups]
    free = optimizer_of(network(), momentum=0.0)
    limit_momentum(free, 0.6)
    assert {group["momentum"] for group in free.param_groups if group["rule"] == "muon"} == {0.0}
