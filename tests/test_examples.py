"""The examples do what they say."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial

import nibabel
import numpy as np
import pytest
import torch
from exact import Exact

import fromnoise as fn
from examples import flow_field, to_order
from examples.new_target_and_stepper import Midpoint, VPrediction, main
from fromnoise import appraise
from fromnoise.codec import videofile
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


def test_an_example_makes_what_it_is_asked_for_and_is_trained_once(tmp_path, monkeypatch, capsys):
    for name in ("learn_features", "obedience"):
        monkeypatch.setattr(appraise, name, partial(getattr(appraise, name), steps=10))
    small = ["net.widths=[32]", "net.attention=[false]", "net.blocks=1", "net.emb=32", "run.grid_priors=0"]
    example = to_order.Example(
        data="digits",
        wishes=to_order.where(label=("3", "8")),
        settings={"settings": [*small, "sample.steps=4", "run.held_evaluations=2"]},
    )
    monkeypatch.setitem(to_order.EXAMPLES, "digits", example)
    out = tmp_path / "digits"
    to_order.main("digits", "4s", out, tmp_path, each=3)
    assert (out / "report.html").exists() and (out / "asked.png").exists()
    assert len(list((out / "asked" / "8").glob("*.png"))) == 3 + 1  # and their sheet
    before = (out / "model.safetensors").read_bytes()
    to_order.main("digits", "4s", out, tmp_path, each=2)
    assert (out / "model.safetensors").read_bytes() == before


def moving(folder):
    frames = np.zeros((60, 8, 8, 3), np.uint8)
    frames[np.arange(60), :, np.arange(60) % 8] = 255
    videofile.save(folder / "bar", frames, Fraction(12), container="mp4", recipe={})


def head(folder):
    voxels = np.random.default_rng(0).integers(0, 200, (20, 20, 24)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / "head.nii.gz")


def measured(file):
    return nibabel.load(file).shape if file.suffix == ".gz" else videofile.probe(file.read_bytes()).size


@pytest.mark.parametrize("name, data, shape", [("street", moving, (300, 8, 8)), ("patches", head, (20, 20, 24))])
def test_examples_go_beyond_the_window_of_their_models(tmp_path, monkeypatch, name, data, shape):
    data(tmp_path)
    small = ["net.widths=[32]", "net.attention=[false]", "net.blocks=1", "net.emb=32", "run.grid_priors=0"]
    fn.train(tmp_path, out=tmp_path / "run", steps=1, size=(8, 8, 8), settings=[*small, "run.preview_examples=1"])
    example = to_order.EXAMPLES[name]
    wishes = {wish: {**asked, "steps": 1} for wish, asked in example.wishes.items()}
    monkeypatch.setitem(to_order.EXAMPLES, name, replace(example, wishes=wishes))
    to_order.main(name, "1m", tmp_path / "run", tmp_path)
    assert (tmp_path / "run" / "asked.png").exists()
    made = [file for file in sorted((tmp_path / "run" / "asked").glob("*/*")) if "sheet" not in file.name]
    assert len(made) == len(wishes)
    assert {measured(file) for file in made} == {shape}


def test_flows_lose_energy_as_turbulence_does_and_each_is_its_own():
    w = flow_field.simulate(3)
    np.testing.assert_allclose(w.mean((1, 2)), 0, atol=1e-6)
    k = np.fft.fftfreq(64, 1 / 64)
    square = k[:, None] ** 2 + k**2
    modes = np.abs(np.fft.fft2(w)) ** 2 / 64**4
    energy = np.where(square > 0, modes / np.maximum(square, 1), 0).sum((1, 2))
    loss = np.exp(-2 * flow_field.VISCOSITY * flow_field.SECONDS * 4**2)
    assert (energy < 1).all() and (energy > loss).all(), "in two dimensions energy goes to large eddies, and is kept"
    assert modes[:, (square > 25**2)].sum() < 1e-3 * modes.sum(), "viscosity acts before the grid ends"
    np.testing.assert_allclose(flow_field.simulate(2), w[:2], atol=1e-4)


def test_the_flow_is_learned_and_its_spectrum_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(appraise, "learn_features", partial(appraise.learn_features, steps=10))
    rng = np.random.default_rng(0)
    np.save(tmp_path / "vorticity.npy", 3 * rng.normal(size=(250, 16, 16)).astype(np.float32))
    tiny = ("net.widths=[32]", "net.attention=[false]", "net.emb=32", "run.grid_priors=0", "sample.steps=3")
    flow_field.main(seconds=None, steps=3, folder=str(tmp_path), settings=tiny)
    told = capsys.readouterr().out
    assert "250 fields of 16 x 16" in told and "held-out data" in told.splitlines()[-1]
    assert len(list((tmp_path / "samples").glob("*.npy"))) == 16
