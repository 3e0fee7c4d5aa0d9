"""Groups found in the data, and the guidance by a run's own past, as a user meets them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import fromnoise as fn
from fromnoise import checkpoint
from fromnoise.beyond import beyond_window
from fromnoise.codec import videofile
from fromnoise.data import open_dataset
from fromnoise.data.groups import NAME, find_groups, propose
from fromnoise.generate import configure, generate
from fromnoise.prepare import open_as

TINY = ["net.widths=[32]", "net.attention=[false]", "net.emb=32", "run.held_examples=16", "run.held_evaluations=8"]
LAYOUT = {"size": None, "columns": None, "channels_first": False}


def blobs(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of four plain greys with a little noise, and which grey each has."""
    rng = np.random.default_rng(0)
    kind = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    grey = np.array([20, 90, 160, 230])[kind]
    return (grey[:, None, None] + rng.normal(0, 5, (n, 8, 8))).clip(0, 255).astype(np.uint8), kind


def test_groups_are_the_kinds_that_are_there_the_largest_first():
    images, kind = blobs()
    dataset = open_dataset(images, columns=[])
    groups = find_groups(dataset, 4)
    pairs = {(int(k), int(g)) for k, g in zip(kind, groups, strict=True)}
    assert len(pairs) == 4, "each kind is one group"
    counts = np.bincount(groups[dataset.indices("train")])
    assert (np.diff(counts) <= 0).all()
    assert np.array_equal(groups, find_groups(dataset, 4)), "found again, they are the same"


@pytest.mark.parametrize("examples, k", [(10, 0), (18, 0), (1_700, 33), (60_000, 196), (10_000_000, 256)])
def test_more_examples_are_worth_more_groups(examples, k):
    assert propose(examples) == k


def test_groups_stand_in_where_the_data_names_no_class():
    images, _ = blobs()
    assert [c.name for c in open_as(images, LAYOUT).columns] == [NAME]
    assert not any("unconditional" in note for note in open_as(images, LAYOUT).notes)
    assert open_as(images, LAYOUT | {"columns": []}).columns == ()
    alike = np.zeros((30, 8, 8), np.uint8)
    assert open_as(alike, LAYOUT | {"columns": [NAME]}).columns == (), "one kind is none"
    assert [c.name for c in open_as("digits", LAYOUT).columns] == ["label"]
    assert [c.name for c in open_as("digits", LAYOUT | {"columns": ["label", NAME]}).columns] == ["label", NAME]


def test_clips_of_no_column_have_groups_too(tmp_path):
    images, kind = blobs(60)
    for i, image in enumerate(images):
        clip = np.broadcast_to(image[None, ..., None], (8, 8, 8, 3)) + np.arange(8, dtype=np.uint8)[:, None, None, None]
        videofile.save(tmp_path / f"{i:02}", clip, Fraction(10), container="webp", recipe={})
    dataset = open_as(tmp_path, LAYOUT | {"size": [8, 8, 8]})
    assert [c.name for c in dataset.columns] == [NAME]
    groups = dataset.encoded[0].values
    assert len(set(groups.tolist())) == propose(54)
    assert len(set(zip(groups.tolist(), kind.tolist(), strict=True))) == propose(54), "none has two kinds"


def test_a_column_of_that_name_in_the_data_goes_before(tmp_path):
    images, kind = blobs()
    np.savez(tmp_path / "own.npz", images=images, group=kind)
    (column,) = open_as(tmp_path / "own.npz", LAYOUT | {"columns": [NAME]}).columns
    assert column.labels == ("0", "1", "2", "3")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    images, _ = blobs()
    out = tmp_path_factory.mktemp("groups") / "run"
    return fn.train(images, out=out, steps=80, settings=[*TINY, "optim.batch=16"])


def test_groups_are_drawn_as_often_as_they_occur_and_named_by_users(run):
    drawn = run.generate(200, steps=2, guidance=1.0).cond[NAME]
    shares = np.bincount([int(g) for g in drawn], minlength=len(run.release.columns[0].labels)) / 200
    rows = np.bincount(run.release.rows.values[NAME].numpy(), minlength=len(shares)) / len(run.release.rows)
    assert np.abs(shares - rows).max() < 0.12
    assert set(run.generate(5, steps=2, where={NAME: "1"}).cond[NAME]) == {"1"}


def test_what_goes_on_from_a_beginning_is_told_no_other_group(run):
    images, _ = blobs(1)
    onwards = beyond_window(run.release, beginning=images[0, ..., None])
    assert onwards.asked({}) == {NAME: "none"} and onwards.asked({NAME: "1"}) == {NAME: "1"}
    assert beyond_window(run.release, length=20).asked({}) == {}, "without one it has that of an example"


def test_the_weak_model_is_the_average_of_a_quarter_of_the_run(run):
    snapshots = checkpoint.read_snapshots(run.folder.ema)
    assert min(s.step for s in snapshots) == 20
    early = next(s for s in snapshots if s.step == 20 and s.sigma_rel == pytest.approx(2 * run.config.run.ema)).load()
    for name, x in run.release.weak.state_dict().items():
        assert np.allclose(x.numpy(), early[name].float().numpy())


def test_guidance_extrapolates_from_the_weak_model(run):
    """The last move jumps to the guess at t = 1/2, so a sample is there weak + w·(main - weak), pixel by pixel."""
    config = replace(configure(run.release, steps=2, sampler="ddim"), grid="linear", shift=1.0)

    def samples(w: float) -> np.ndarray:
        return generate(run.release, 8, replace(config, guidance=w)).samples.astype(float)

    weak, plain, beyond = samples(0.0), samples(1.0), samples(2.0)
    inside = (beyond > 1) & (beyond < 254) & (weak > 1) & (weak < 254)
    assert inside.mean() > 0.5 and np.abs(plain - weak)[inside].mean() > 1
    assert np.abs(beyond - (2 * plain - weak))[inside].max() <= 2.5, "but for the rounding of three pictures"


def test_evaluations_count_every_network_and_the_interval(run):
    config = replace(configure(run.release, steps=2, sampler="ddim"), grid="linear", shift=1.0)
    assert generate(run.release, 2, replace(config, guidance=1.0)).recipe["evaluations"] == 2
    assert generate(run.release, 2, config).recipe["evaluations"] == 3, "t = 1 lies outside the interval"


def test_a_run_too_short_for_a_weaker_self_is_not_guided(tmp_path):
    images, _ = blobs()
    run = fn.train(images, out=tmp_path / "run", steps=2, settings=[*TINY, "optim.batch=16"])
    assert run.release.weak is None and run.config.sample.guidance == 1
    assert run.generate(2, steps=2).recipe["evaluations"] == 2
    assert run.config.sample.reference == "null", "its condition can still be dropped"
    assert run.generate(2, steps=2, guidance=2.0).recipe["evaluations"] == 3


def test_a_run_of_an_array_in_memory_is_distilled_with_the_array(run):
    images, _ = blobs()
    with pytest.raises(fn.FromNoiseError, match="array in memory"):
        run.distill(steps=2)
    run.distill(steps=2, n=20, data=images)
    assert run.student.folder.read_facts()["data"] == run.folder.read_facts()["data"]
