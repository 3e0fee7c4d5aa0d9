"""The examples do what they say."""

from __future__ import annotations

import torch
from exact import Exact

from examples.new_target_and_stepper import Midpoint, VPrediction, main
from fromnoise.cond import Cond
from fromnoise.process import Gaussian
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.target import EDM


def test_the_example_learns_and_draws(tmp_path):
    x0 = main(steps=80, out=str(tmp_path / "digits.png"))
    assert (tmp_path / "digits.png").exists()
    # Ink in the middle and none at the sides, as in the digits; noise has no such difference.
    assert x0[:, :, 2:6, 2:6].mean() - x0[:, :, :, [0, 7]].mean() > 0.5


def test_its_target_is_the_edm_row_up_to_sign():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    for ours, theirs in zip(VPrediction().row(t), EDM(sigma_data=1.0).row(t), strict=True):
        assert torch.allclose(ours, -theirs)


def test_its_stepper_is_of_second_order():
    def solve(steps: int) -> torch.Tensor:
        grid = torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64).tolist()
        x = Gaussian().prior((16, 2), grid[0], Rng.of(0, range(16)), dtype=torch.float64)
        return finish(sample(Exact(), Midpoint(), grid, x, Cond.empty(16), Rng.of(0, range(16))))

    truth = solve(1024)
    coarse, fine = ((solve(n) - truth).norm() for n in (32, 64))
    assert 3.5 < coarse / fine < 4.6
