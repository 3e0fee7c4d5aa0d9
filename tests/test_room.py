"""Room for what comes: other media, through public pieces and without touching one of them."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from fromnoise.cond import Column, Cond
from fromnoise.config import Config, LossConfig, OptimConfig, RunConfig
from fromnoise.denoise import NetDenoiser, TokenDenoiser
from fromnoise.density import LogitNormal, Uniform
from fromnoise.grid import Linear
from fromnoise.nets import Conditioner, TokenTransformer, Transformer, UNet
from fromnoise.objectives import MaskedCrossEntropy, Regression, VelocityWeight
from fromnoise.observe import Pinned
from fromnoise.rng import Rng
from fromnoise.runtime import Runtime
from fromnoise.sample import finish, sample
from fromnoise.stepper import DDIM, Heun, Multistep
from fromnoise.target import X0, Velocity
from fromnoise.trainer import Trainer, held_out_loss
from fromnoise.types import FromNoiseError

CPU = Runtime(device=torch.device("cpu"), precision="float32", threads=1)
REGRESSION = Regression(density=LogitNormal(), weight=VelocityWeight())


class Arrays:
    """Examples held in memory."""

    def __init__(self, x0: torch.Tensor, cond: Cond | None = None) -> None:
        self.data, self.conditions = x0, cond or Cond.empty(len(x0))

    def x0(self, indices: np.ndarray, rng: Rng | None = None) -> torch.Tensor:
        return self.data[torch.as_tensor(indices)]

    def cond(self, indices: np.ndarray, rng: Rng | None = None) -> Cond:
        rows = torch.as_tensor(indices)
        pick = self.conditions
        return Cond(
            {k: v[rows] for k, v in pick.values.items()}, {k: p[rows] for k, p in pick.present.items()}, len(rows)
        )


def fit(denoiser: nn.Module, objective, data: Arrays, steps: int, batch: int = 32) -> Trainer:
    config = Config(
        run=RunConfig(steps=steps, ema=0.1),
        optim=OptimConfig(batch=batch, warmup_steps=5, adam_lr=3e-3),
        loss=LossConfig(drop=0.0),
    )
    begun = time.perf_counter()
    trainer = Trainer(
        config=config,
        denoiser=denoiser,
        objective=objective,
        data=data,
        indices=np.arange(len(data.data)),
        runtime=CPU,
        clock=lambda: time.perf_counter() - begun,
    )
    for _ in trainer.run():
        pass
    return trainer


def draw(denoiser, shape, cond: Cond | None = None, stepper=None, steps: int = 20) -> torch.Tensor:
    n = shape[0]
    rng = Rng.of(0, range(n))
    x = denoiser.process.prior(shape, 1.0, rng)
    return finish(sample(denoiser, stepper or Heun(), Linear()(steps), x, cond or Cond.empty(n), rng))


def seeded(build):
    torch.manual_seed(0)
    return build()


def test_a_one_dimensional_set_is_learned():
    phase = torch.rand(512, 1, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
    waves = torch.sin(torch.linspace(0, 4 * torch.pi, 33)[:-1] + phase)[:, None]  # (512, 1, 32): two periods
    denoiser = seeded(
        lambda: NetDenoiser(
            UNet(channels=1, space=1, widths=(32, 64), blocks=1, patch=2, attention=(False, True), emb=64),
            Conditioner((), 64),
            Velocity(),
            sigma_data=0.7,
        )
    )
    average = fit(denoiser, REGRESSION, Arrays(waves), steps=150).average()
    spectrum = torch.fft.rfft(draw(average, (64, 1, 32))).abs() ** 2
    share = spectrum[..., 2] / spectrum.sum(-1)
    assert share.median() > 0.9  # white noise has 1/17


def test_a_three_dimensional_set_is_learned():
    g = torch.Generator().manual_seed(0)
    planes = torch.sign(torch.randn(256, 3, generator=g))
    ramp = torch.linspace(-1, 1, 6)
    slopes = [ramp.reshape(*(-1 if j == i else 1 for j in range(3))) for i in range(3)]
    volumes = sum(planes[:, i].reshape(-1, 1, 1, 1) * slopes[i] for i in range(3))
    volumes = (volumes / 2)[:, None]  # (256, 1, 6, 6, 6): eight different ramps
    denoiser = seeded(
        lambda: NetDenoiser(
            Transformer(channels=1, space=3, patch=2, width=64, depth=2, heads=2, emb=64),
            Conditioner((), 64),
            X0(),
        )
    )
    average = fit(denoiser, REGRESSION, Arrays(volumes), steps=200).average()
    x = draw(average, (32, 1, 6, 6, 6))
    kinds = volumes.unique(dim=0)
    nearest = torch.cdist(x.flatten(1), kinds.flatten(1)).min(1)
    assert nearest.values.median() < 0.3 * kinds.flatten(1).norm(dim=1).mean()
    assert len(nearest.indices.unique()) >= 5


def test_time_per_frame_lets_known_frames_be_clean():
    """Clips that fade: frame k is (1 - k/3) times a random brightness; the first frame tells the rest."""
    g = torch.Generator().manual_seed(0)
    first = torch.rand(512, 1, 1, 1, 1, generator=g) * 2 - 1
    clips = (first * torch.tensor([1.0, 0.5, 0.0, -0.5]).reshape(1, 1, 4, 1, 1)).expand(-1, 1, 4, 4, 4).contiguous()

    def build(time_axes):
        net = Transformer(channels=1, space=3, patch=2, width=64, depth=2, heads=2, emb=64, time_axes=time_axes)
        return NetDenoiser(net, Conditioner((), 64), Velocity(), time_axes=time_axes)

    objective = Regression(density=Uniform(), weight=VelocityWeight(), time_axes=(0,))
    average = fit(seeded(lambda: build((0,))), objective, Arrays(clips), steps=250).average()
    x0 = clips[:32]
    t = torch.ones(32, 1, 4, 1, 1)
    t[:, :, 0] = 0
    grid = [t * level for level in Linear()(12)]
    rng = Rng.of(0, range(32))
    start = torch.where(t > 0, rng.normal(tuple(x0.shape)), x0)
    x = finish(sample(average, Multistep(), grid, start, Cond.empty(32), rng))
    assert torch.equal(x[:, :, 0], x0[:, :, 0])
    error = (x - x0)[:, :, 1:].pow(2).mean().sqrt()
    assert error < 0.5 * x0[:, :, 1:].std()
    with pytest.raises(FromNoiseError, match="one noise level"):
        build(())(start, t, Cond.empty(32))


def test_tokens_go_through_the_same_loop():
    """Words abcabc… from a random start: each letter tells all the others."""
    first = torch.randint(0, 3, (256, 1), generator=torch.Generator().manual_seed(0))
    words = (first + torch.arange(8)) % 3
    denoiser = seeded(
        lambda: TokenDenoiser(
            TokenTransformer(vocab=3, width=32, depth=2, heads=2, emb=32), Conditioner((), 32), vocab=3
        )
    )
    trainer = fit(denoiser, MaskedCrossEntropy(), Arrays(words), steps=200)
    average = trainer.average()
    losses = dict(held_out_loss(average, MaskedCrossEntropy(), Arrays(words), np.arange(64)))
    assert losses[0.3] < 0.05 and losses[0.9] == pytest.approx(np.log(3), abs=0.02)  # at 0.9 all eight are hidden
    x = draw(average, (48, 8), stepper=DDIM(), steps=100)  # so that few letters are shown at once
    assert ((x[:, 1:] - x[:, :-1]) % 3 == 1).float().mean() > 0.85
    assert len(x[:, 0].unique()) == 3
    known = torch.full((48, 8), 2)
    mask = torch.zeros(48, 8, dtype=torch.bool)
    mask[:, 3] = True
    infilled = draw(Pinned(average, known, mask), (48, 8), stepper=DDIM(), steps=24)
    assert bool((infilled[:, 3] == 2).all())


def test_a_map_condition_steers_every_place():
    maps = torch.randn(256, 1, 2, 2, generator=torch.Generator().manual_seed(0)).repeat_interleave(4, 2)
    maps = torch.tanh(maps.repeat_interleave(4, 3))  # (256, 1, 8, 8)
    cond = Cond({"coarse": maps}, {"coarse": torch.ones(256, dtype=torch.bool)}, 256)
    conditioner = Conditioner((Column(name="coarse", kind="map", size=1),), 32)

    def build():
        net = UNet(
            channels=1,
            space=2,
            widths=(32, 64),
            blocks=1,
            patch=2,
            attention=(False, False),
            emb=32,
            map_channels=conditioner.map_channels,
        )
        return NetDenoiser(net, conditioner, Velocity())

    data = Arrays(-maps, cond)
    average = fit(seeded(build), REGRESSION, data, steps=120).average()
    wanted = data.cond(np.arange(32))
    x = draw(average, (32, 1, 8, 8), wanted)
    assert (x + maps[:32]).pow(2).mean().sqrt() < 0.3 * maps.std()


def test_a_number_condition_is_obeyed_also_between_the_values_seen():
    value = torch.linspace(-1.5, 1.5, 9).repeat(40)
    column = Column(name="level", kind="number", low=-1.5, high=1.5)
    noise = 0.05 * torch.randn(360, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x0 = 0.6 * value.reshape(-1, 1, 1, 1) + noise
    data = Arrays(x0, Cond({"level": value}, {"level": torch.ones(360, dtype=torch.bool)}, 360))
    denoiser = seeded(
        lambda: NetDenoiser(
            UNet(channels=1, space=2, widths=(32,), blocks=2, patch=2, attention=(False,), emb=32),
            Conditioner((column,), 32),
            Velocity(),
        )
    )
    average = fit(denoiser, REGRESSION, data, steps=250).average()
    asked = torch.linspace(-1.4, 1.4, 32)
    cond = Cond({"level": asked}, {"level": torch.ones(32, dtype=torch.bool)}, 32)
    got = draw(average, (32, 1, 4, 4), cond).flatten(1).mean(1) / 0.6
    assert (got - asked).abs().mean() < 0.05 * 3.0


class GaussianFlowMap(nn.Module):
    """The exact average velocity from t to s of the flow between N(0, 1) and N(mu, std²), as a network."""

    def __init__(self, mu: float, std: float) -> None:
        super().__init__()
        self.law = nn.Parameter(torch.tensor([mu, std], dtype=torch.float64))

    def forward(self, x, t, s, cond):
        mu, std = self.law

        def spread(time):
            return ((1 - time) ** 2 * std**2 + time**2).sqrt()

        # The scaled input has unit variance at every t once sigma_data is std and mu is 0.
        x_t = x * spread(t)
        x_s = (1 - s) * mu + spread(s) * (x_t - (1 - t) * mu) / spread(t)
        return torch.where(t == s, torch.zeros_like(x), (x_t - x_s) / torch.where(t == s, 1.0, t - s)), None


def test_a_flow_map_read_at_a_far_destination_is_exact():
    net = GaussianFlowMap(0.0, 0.3)
    flow = NetDenoiser(net, Conditioner((), 8), Velocity(), sigma_data=0.3, flow_map=True)
    x = Rng.of(0, range(8)).normal((8, 1, 3), like=torch.empty(0, dtype=torch.float64))
    ends = [
        finish(sample(flow, DDIM(), grid, x, Cond.empty(8), Rng.of(0, range(8))))
        for grid in [(1.0, 0.0), (1.0, 0.7, 0.0), (1.0, 0.9, 0.5, 0.2, 0.0)]
    ]
    for end in ends:
        assert torch.allclose(end, 0.3 * x, atol=1e-12)
