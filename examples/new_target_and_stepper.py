"""A new target and a new stepper, each a few lines, used with everything else as it is.

    python examples/new_target_and_stepper.py

The target is the v-prediction of a variance-preserving path (Salimans & Ho 2022); the stepper is the midpoint rule.
A small network learns the bundled digits for a minute, and a sheet of samples is written to digits.png.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import torch

from fromnoise.cond import Cond
from fromnoise.data import open_dataset
from fromnoise.denoise import Denoiser, NetDenoiser
from fromnoise.density import LogitNormal
from fromnoise.grid import Linear
from fromnoise.nets import Conditioner, UNet
from fromnoise.objectives import Regression, TargetWeight
from fromnoise.posterior import Posterior
from fromnoise.process import velocity
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.sheet import sheet
from fromnoise.stepper import mean
from fromnoise.types import Data, Time


@dataclass(frozen=True)
class VPrediction:
    """alpha·eps - sigma·x0 on the circle alpha² + sigma² = 1, which the line meets at (1-t, t)/√n."""

    def row(self, t: Time) -> tuple[Time, Time]:
        root = ((1 - t) ** 2 + t**2).sqrt()
        return -t / root, (1 - t) / root


@dataclass(frozen=True)
class Midpoint:
    """x_s = x_t + (s-t)·v((t+s)/2): second order with two evaluations a step, never asked at t = 0."""

    order = 2

    def init(self, x: Data) -> None:
        return None

    def step(
        self, denoise: Denoiser, x_t: Data, t: Time, s: Time, cond: Cond, state: None, rng: Rng
    ) -> tuple[Data, Posterior, None]:
        middle = (t + s) / 2
        x_middle = denoise.process.reverse(x_t, denoise(x_t, t, cond), t, middle, rng)
        post = mean(denoise(x_middle, middle, cond))
        return x_t + (s - t) * velocity(x_middle, post, middle), post, None


def main(steps: int = 600, out: str = "digits.png") -> torch.Tensor:
    digits = open_dataset("digits", columns=[])
    net = UNet(channels=1, space=2, widths=(32, 64), blocks=1, patch=1, attention=(False, True), emb=64)
    target = VPrediction()
    denoiser = NetDenoiser(net, Conditioner((), 64), target, sigma_data=0.7)
    objective = Regression(density=LogitNormal(), weight=TargetWeight(target))
    optimizer = torch.optim.AdamW(denoiser.parameters(), 2e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    train = digits.indices("train")
    for step in range(steps):
        rng = Rng.of(0, range(64), "train", step)
        x0 = digits.x0(np.random.default_rng(step).choice(train, 64))
        loss = objective(denoiser, x0, Cond.empty(64), rng).value.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    rng = Rng.of(0, range(64))
    noise = denoiser.process.prior((64, 1, 8, 8), 1.0, rng)
    x0 = finish(sample(denoiser.eval(), Midpoint(), Linear()(12), noise, Cond.empty(64), rng))
    sheet(digits.codec.preview(digits.codec.decode(x0))).save(out)
    return x0


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 600)
