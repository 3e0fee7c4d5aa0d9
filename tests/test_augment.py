"""Augmentation's laws: nothing happens at p = 0, the label says exactly what happened, and nothing leaks."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.build import build_denoiser, build_objective
from fromnoise.codec import augment as augmentation
from fromnoise.codec.augment import COLUMN, augment, augmented
from fromnoise.cond import Cond
from fromnoise.config import Config, RunConfig, override
from fromnoise.data import open_dataset
from fromnoise.folder import RunFolder
from fromnoise.generate import configure, generate
from fromnoise.release import load_release, save_release
from fromnoise.rng import Rng
from fromnoise.runtime import Runtime
from fromnoise.session import Session
from fromnoise.trainer import Trainer, held_out_loss

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(8, 20), st.integers(8, 20))


def pictures(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def smooth(height: int, width: int) -> torch.Tensor:
    """Two waves whose mirror image is their continuation, so that only what is not outside need be compared."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return torch.stack([(3 * y + 2 * x).sin(), (2 * y - 3 * x + 1).cos()])[None] * 0.9


@given(SHAPES, st.integers(0, 100), st.booleans())
def test_without_probability_nothing_changes_by_a_bit(shape, seed, flip):
    x0 = pictures(shape)
    x, label = augment(x0, 0.0, Rng.of(seed, range(len(x0))), flip)
    assert torch.equal(x, x0) and not label.any()


@given(SHAPES, st.integers(0, 1000), st.sampled_from([0.05, 0.12, 0.5]), st.booleans())
@settings(max_examples=100)
def test_the_label_is_zero_exactly_where_nothing_was_done(shape, seed, p, flip):
    x0 = pictures(shape)
    x, label = augment(x0, p, Rng.of(seed, range(len(x0))), flip)
    for one, before, said in zip(x, x0, label, strict=True):
        assert torch.equal(one, before) == (not said.any())
    assert x.abs().max() <= 1 and label.isfinite().all()


@given(st.integers(1, 4), st.integers(8, 24), st.integers(8, 24), st.integers(0, 1000))
@settings(max_examples=100)
def test_flips_and_shifts_move_pixels_and_no_more(channels, height, width, seed):
    x0 = pictures((16, channels, height, width))
    x, label = augment(x0, 0.2, Rng.of(seed, range(16)), flip=True)
    for i in (~label[:, 3:].any(1)).nonzero().flatten().tolist():
        dy, dx = (round(float(label[i, k]) * side / 8) for k, side in ((1, height), (2, width)))
        source = np.pad(x0[i].numpy(), ((0, 0), (height, height), (width, width)), mode="symmetric")
        if label[i, 0]:
            source = source[..., ::-1]
        expect = source[:, height - dy : 2 * height - dy]
        np.testing.assert_array_equal(x[i].numpy(), expect[..., width - dx : 2 * width - dx])


@given(st.integers(0, 1000), st.integers(0, 30), st.integers(1, 8))
@settings(max_examples=15)
def test_an_example_is_augmented_the_same_in_any_batch(seed, first, n):
    x0 = pictures((40, 4, 12, 9))
    whole, labels = augment(x0, 0.3, Rng.of(seed, range(40)))
    part, label = augment(x0[first : first + n], 0.3, Rng.of(seed, range(first, first + n)))
    assert torch.equal(part, whole[first : first + n]) and torch.equal(label, labels[first : first + n])


def test_the_resampling_does_what_the_label_says():
    """A smooth picture, changed, is the picture's own formula at the places that the label leads back to."""
    height, width, n = 40, 56, 300
    x0 = smooth(height, width).repeat(n, 1, 1, 1)
    x, label = augment(x0, 0.3, Rng.of(5, range(n)))
    checked = 0
    for i in label[:, 3:].any(1).nonzero().flatten().tolist():
        if label[i, 1:3].any():
            continue
        y, x_ = torch.meshgrid(
            torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij"
        )
        moved = label[i, 3:5] / 8 * torch.tensor([height, width])
        at = torch.stack([x_ - moved[1], y - moved[0]]).reshape(2, -1)
        angle = torch.atan2(label[i, 7], label[i, 6] + 1)
        strength, direction = label[i, 8:].norm(), torch.atan2(label[i, 9], label[i, 8]) / 2
        turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
        u = torch.stack([direction.cos(), direction.sin()])
        along = torch.outer(u, u)
        grow = 2 ** (0.2 * (label[i, 5] + strength)) * along
        grow = grow + 2 ** (0.2 * (label[i, 5] - strength)) * (torch.eye(2) - along)
        back = torch.linalg.solve(turn @ grow, at)
        column, row = back[0] + (width - 1) / 2, back[1] + (height - 1) / 2
        inside = (column > 2) & (column < width - 3) & (row > 2) & (row < height - 3)
        v, h = row / height, column / width
        expect = torch.stack([(3 * v + 2 * h).sin(), (2 * v - 3 * h + 1).cos()]) * 0.9
        assert (x[i].reshape(2, -1) - expect)[:, inside].abs().max() < 1e-2
        checked += int(inside.sum() > 300)
    assert checked > 100


def test_every_change_happens_as_often_as_asked():
    n, p = 4000, 0.12
    _, label = augment(torch.zeros(n, 1, 32, 32), p, Rng.of(0, range(n)), flip=True)
    touched = torch.stack([label[:, part].any(1) for part in ([0], [1, 2], [3, 4], [5], [6, 7], [8, 9])])
    assert (touched.float().mean(1) - p).abs().max() < 5 * (p * (1 - p) / n) ** 0.5
    assert not augment(torch.zeros(n, 1, 32, 32), p, Rng.of(0, range(n)))[1][:, 0].any(), "no flip unless asked"


CONFIG = override(
    Config(run=RunConfig(steps=4)),
    ["net.widths=[32]", "net.attention=[false]", "net.emb=32", "loss.augment=0.5", "optim.batch=16"],
)


def test_what_is_not_augmented_is_what_sampling_asks_for():
    """An untouched example in training and a sample, which has no such column, are one input to the network."""
    denoiser = build_denoiser(CONFIG, (), 1)
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    x0, t = pictures((8, 1, 8, 8)), torch.full((8, 1, 1, 1), 0.5)
    x, cond = augmented(x0, Cond.empty(8), 0.2, Rng.of(3, range(8)))
    touched = cond.present[COLUMN.name]
    assert touched.any() and not touched.all()
    with torch.no_grad():
        told, sampled = (denoiser(x, t, c).x0 for c in (cond, Cond.empty(8)))
    same = (told - sampled).abs().amax((1, 2, 3)) < 1e-5
    assert torch.equal(same, ~touched)


def test_training_sees_augmentation_and_held_out_loss_and_samples_never_do(tmp_path, monkeypatch):
    seen: list[int] = []
    real = augmentation.augment

    def counted(x0, *others):
        seen.append(len(x0))
        return real(x0, *others)

    monkeypatch.setattr(augmentation, "augment", counted)
    data = open_dataset("digits", columns=["label"])
    denoiser = build_denoiser(CONFIG, data.columns, 1)
    trainer = Trainer(
        config=CONFIG,
        denoiser=denoiser,
        objective=build_objective(CONFIG),
        data=data,
        indices=data.indices("train"),
        runtime=Runtime(device=torch.device("cpu"), precision="float32", threads=1, why="for a test"),
        clock=lambda: 0.0,
    )
    held, rows = data.indices("val")[:8], data.cond(range(20))
    session = Session(trainer, RunFolder(tmp_path), data.codec, held, rows)
    assert [c.name for c in session.columns] == ["label"], "the label is no condition of the user's"
    next(trainer.run())
    assert seen == [16]
    levels = held_out_loss(denoiser, trainer.objective, data, held)
    path = tmp_path / "model.safetensors"
    save_release(path, denoiser, data.codec, session.columns, rows, CONFIG, loss=1.0)
    release = load_release(path)
    assert held_out_loss(release.denoiser.train(denoiser.training), trainer.objective, data, held) == levels
    samples = generate(release, 2, configure(release, steps=2, guidance=1.5), where={"label": "3"})
    assert np.isfinite(samples.samples).all() and seen == [16]
