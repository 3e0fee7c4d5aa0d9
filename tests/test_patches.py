"""Whole scans out of patches: windows add up to what one look at the whole would say, each asked for its own place."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from datafiles import fill, many
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import NAMES, TINY, ball, header_like, leaks, nifti, planted
from torch import Tensor

import fromnoise as fn
from fromnoise import extend
from fromnoise.cli import main
from fromnoise.cond import Cond
from fromnoise.data import open_dataset
from fromnoise.denoise import NetDenoiser
from fromnoise.errors import FromNoiseError
from fromnoise.extend import Places, Windowed
from fromnoise.grid import Linear
from fromnoise.posterior import Mean
from fromnoise.process import Gaussian
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.stepper import Multistep

SHAPE, PATCH = (20, 24, 16), (8, 8, 8)
CORNER = Places(column="corner", value=lambda corner: torch.tensor([corner], dtype=torch.float64))


def told(n: int) -> Cond:
    """A batch that has room to be told where it lies."""
    return Cond({"corner": torch.zeros(n, 3, dtype=torch.float64)}, {"corner": torch.zeros(n, dtype=torch.bool)}, n)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Independent:
    """The exact denoiser of voxels that are independent Gaussians, each of its own mean and spread.

    It knows which ones it is shown by the corner that it is told.
    """

    process = Gaussian()

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean, self.spread = drawn(*shape, seed=1), 0.2 + drawn(*shape, seed=2).abs()
        self.most = 0

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None) -> Mean:
        assert bool(cond.present["corner"].all())
        self.most = max(self.most, len(x_t))
        corner = cond.values["corner"][0].long().tolist()
        seen = tuple(slice(a, a + n) for a, n in zip(corner, x_t.shape[2:], strict=True))
        mean, variance = self.mean[seen], self.spread[seen] ** 2
        gain = (1 - t) * variance / ((1 - t) ** 2 * variance + t**2)
        return Mean(mean + gain * (x_t - (1 - t) * mean))


class Smooth:
    """The exact denoiser of a Gaussian process with covariances Π_axes exp(-(lag/width)²), of any extent."""

    process = Gaussian()

    def __init__(self, width: float) -> None:
        self.width = width

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None) -> Mean:
        power, bases = torch.ones((), dtype=torch.float64), []
        for n in x_t.shape[2:]:
            place = torch.arange(n, dtype=torch.float64)
            values, vectors = torch.linalg.eigh(torch.exp(-(((place[:, None] - place) / self.width) ** 2)))
            power = power[..., None] * values.clamp_min(0)
            bases.append(vectors)
        gain = (1 - t) * power / ((1 - t) ** 2 * power + t**2).clamp_min(1e-12)
        return Mean(turned(gain * turned(x_t, bases), [basis.T for basis in bases]))


def turned(x: Tensor, bases: list[Tensor]) -> Tensor:
    return torch.einsum("bcxyz,xi,yj,zk->bcijk", x, *bases)


@settings(max_examples=12)
@given(
    st.tuples(*[st.integers(2, 5)] * 3),
    st.tuples(*[st.integers(0, 7)] * 3),
    st.floats(0.05, 0.999),
)
def test_what_has_no_neighbours_is_denoised_as_without_windows(size, more, t):
    shape = tuple(a + b for a, b in zip(size, more, strict=True))
    alone, time = Independent(shape), torch.full((2, 1, 1, 1, 1), t, dtype=torch.float64)
    x = drawn(2, 1, *shape)
    joined = Windowed(alone, size, places=CORNER)(x, time, told(2)).x0
    torch.testing.assert_close(joined, alone(x, time, told(2).having("corner", torch.zeros(1, 3))).x0)
    assert alone.most == 2, "one window of each sample at a time, however many there are"


def test_samples_are_those_of_the_whole_and_there_is_no_seam():
    """Strength everywhere, and steps from voxel to voxel along each axis, are those of the law, across windows too."""
    width, shape, size, count = 1.5, (21, 12, 18), (12, 12, 12), 160
    rng, grid = Rng.of(0, range(count), "prior"), Linear(shift=2.0, start=1.0)(16)
    x = Gaussian().prior((count, 1, *shape), grid[0], rng, torch.float64)
    assert [len(extend.starts(n, 12)) for n in shape] == [3, 1, 2]
    x = finish(sample(Windowed(Smooth(width), size), Multistep(), grid, x, Cond.empty(count), rng))[:, 0]
    assert (x.square().mean((0, 2, 3)).sqrt() - 1).abs().max() < 0.05
    for axis in (1, 2, 3):
        for lag in (1, 3):
            steps = x.narrow(axis, lag, x.shape[axis] - lag) - x.narrow(axis, 0, x.shape[axis] - lag)
            found = steps.square().mean([a for a in range(4) if a != axis])
            wanted = 2 - 2 * np.exp(-((lag / width) ** 2))
            assert (found / wanted - 1).abs().max() < 0.1, (axis, lag, found / wanted)


def test_the_order_of_windows_does_not_matter(monkeypatch):
    x, time = drawn(1, 1, *SHAPE), torch.full((1, 1, 1, 1, 1), 0.5, dtype=torch.float64)
    forwards = Windowed(Smooth(2.0), PATCH)(x, time, Cond.empty(1)).x0
    begins = extend.starts
    monkeypatch.setattr(extend, "starts", lambda *asked: begins(*asked)[::-1])
    torch.testing.assert_close(Windowed(Smooth(2.0), PATCH)(x, time, Cond.empty(1)).x0, forwards)


# ---- models ---------------------------------------------------------------------------------------------------------


class Knowing(NetDenoiser):
    """Knows of one scan only, and of a patch what its position says."""

    def __init__(self, model: NetDenoiser, scan: Tensor, mean: Tensor, std: float) -> None:
        super().__init__(model.net, model.conditioner, model.target)
        self.scan, self.mean, self.std, self.asked = scan, mean, std, set[tuple[float, ...]]()

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None) -> Mean:
        assert bool(cond.present["position"].all())
        found = []
        for position in cond.values["position"] * self.std + self.mean:
            self.asked.add(tuple(round(share, 4) for share in position.tolist()))
            room = torch.tensor([a - b for a, b in zip(self.scan.shape[1:], x_t.shape[2:], strict=True)])
            corner = (position * room).round().long().tolist()
            seen = (slice(None), *(slice(a, a + n) for a, n in zip(corner, x_t.shape[2:], strict=True)))
            found.append(self.scan[seen])
        return Mean(torch.stack(found).to(x_t))


def trained(folder: Path, files: dict[str, bytes], size=PATCH) -> fn.Run:
    data = fill(folder / "in", files)
    return fn.train(data, out=folder / "run", steps=1, size=size, settings=[*TINY, "sample.guidance=1"])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> fn.Run:
    affine = header_like("LAS", (1.0, 1.5, 2.0), (5.0, -6.0, 7.0))
    return trained(tmp_path_factory.mktemp("patches"), {"a.nii": nifti(ball(SHAPE), affine)})


def test_a_model_that_knows_one_scan_makes_that_scan(run, tmp_path):
    """Voxels, shape, affine, spacing and orientation of the file, by windows where patches of training lay."""
    data = run.folder.path.parent / "in"
    there = nib.load(data / "a.nii")
    release, whole = run.release, open_dataset(data, size=SHAPE, cache_dir=tmp_path / "cache")
    (column,) = release.columns
    scan = run.release.codec.whole.encode(run.release.codec.whole.store(upright(there))[None])[0]
    knowing = Knowing(release.denoiser, scan, torch.tensor(column.mean), column.std)
    other = fn.Run(run.folder)
    other.__dict__["release"] = replace(release, denoiser=knowing)
    samples = other.generate(2, whole=True, seed=1)
    (file, again) = (samples.codec.save(tmp_path / f"{k}", samples.samples[k], samples.recipe_of(k)) for k in (0, 1))
    made = nib.load(file)
    np.testing.assert_array_equal(np.asarray(made.dataobj), np.asarray(there.dataobj))
    np.testing.assert_array_equal(made.affine, there.affine)
    assert made.get_data_dtype() == there.get_data_dtype() and nib.aff2axcodes(made.affine) == tuple("LAS")
    assert samples.cond == {"position": [None, None]} and samples.recipe["whole"] is True and again != file
    assert whole.codec.shape == samples.codec.shape and samples.sheet().size[0] > sum(SHAPE[:2])
    patches = open_dataset(data, size=PATCH, cache_dir=tmp_path / "cache").listing.stacks[0].pixels
    positions = {tuple(json.loads(patches.position(row))) for row in range(len(patches))}
    assert positions <= knowing.asked and len(knowing.asked) == 4 * 5 * 3


def upright(image) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(image).dataobj)


def test_a_whole_scan_is_a_function_of_its_seed_alone(run):
    both = run.generate(3, whole=True, steps=2, seed=5, batch=3)
    assert both.samples.shape == (3, *SHAPE) and both.samples.dtype == np.int16
    for batch in (1, 2):
        again = run.sample(3, whole=True, steps=2, seed=5, batch=batch)
        assert np.abs(again.astype(int) - both.samples).max() <= 1
    assert (run.sample(1, whole=True, steps=2, seed=6) != both.samples[0]).any()
    assert both.recipe["evaluations"] == 2 * 4 * 5 * 3


def test_what_cannot_be_joined_is_refused_in_a_sentence(run, tmp_path):
    for asked, word in (({"loop": True}, "give --whole alone"), ({"length": 9.0}, "give --whole alone")):
        with pytest.raises(FromNoiseError, match=word):
            run.sample(1, whole=True, **asked)
    with pytest.raises(FromNoiseError, match="leave out --where position"):
        run.sample(1, whole=True, where={"position": "0.5,0.5,0.5"})
    scans = {"a.nii": nifti(ball(SHAPE), np.eye(4))}
    others = {"slices": (scans, 16, "makes slices"), "scans": (scans, SHAPE, "whole scans already")}
    others |= {"pictures": (many(4), None, "which this model has not")}
    for name, (files, size, word) in others.items():
        with pytest.raises(FromNoiseError, match=word):
            trained(tmp_path / name, files, size).sample(1, whole=True)


def test_a_model_without_positions_joins_patches_by_what_they_show(tmp_path):
    data = fill(tmp_path / "in", {"a.nii": nifti(ball(SHAPE), np.eye(4))})
    run = fn.train(data, out=tmp_path / "run", steps=1, size=PATCH, columns=[], settings=TINY)
    assert run.sample(1, whole=True).shape == (1, *SHAPE)


def test_scans_of_several_sizes_are_joined_to_the_median_one_around_the_origin(tmp_path):
    sizes = [(16, 18, 12), (18, 20, 16), (20, 24, 20)]
    files = {f"{k}.nii": nifti(ball(shape, seed=k), np.diag([2.0, 2, 2, 1])) for k, shape in enumerate(sizes)}
    run = trained(tmp_path, files)
    samples = run.generate(1, whole=True)
    assert samples.samples.shape == (1, *sizes[1])
    affine = nib.load(samples.codec.save(tmp_path / "out", samples.samples[0], samples.recipe_of(0))).affine
    np.testing.assert_allclose(affine @ [*(np.array(sizes[1]) - 1) / 2, 1], [0, 0, 0, 1], atol=1e-6)


def test_no_name_is_in_a_whole_scan(tmp_path, monkeypatch, capfd):
    data, run, out = planted(tmp_path / "in", "nifti"), tmp_path / "run", tmp_path / "out"
    (scan,) = data.rglob(f"{NAMES[1]}.nii")
    mask = scan.with_stem(f"{NAMES[1]}_mask")
    mask.write_bytes(nifti((ball((30, 12, 12)) > 300).astype(np.uint8), np.eye(4), text=NAMES[0]))
    fn.train(data, out=run, steps=1, size=PATCH, settings=TINY)
    asked = (run, "-n", 1, "--whole", "--where", f"mask={mask}", "--out", out)
    monkeypatch.setattr(sys, "argv", ["fromnoise", "sample", *map(str, asked)])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "1 sample, " in capfd.readouterr().out and len(list(out.iterdir())) == 2
    assert leaks(run) + leaks(out) == []


# ---- maps that lie on scans -----------------------------------------------------------------------------------------

AFFINE = header_like("LAS", (1.0, 1.5, 2.0), (5.0, -6.0, 7.0))


def region(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A box somewhere in a scan, 1 inside and 0 outside."""
    rng, inside = np.random.default_rng(seed), np.zeros(shape, np.int16)
    inside[tuple(slice(a, a + n // 2) for n, a in ((n, int(rng.integers(0, n // 2))) for n in shape))] = 1
    return inside


def lit(seed: int) -> np.ndarray:
    """A scan that is bright where its region is."""
    return 400 * region(seed) + np.random.default_rng(seed).integers(0, 40, SHAPE, np.int16)


def masked(folder: Path, n: int, scan: str = "{}.nii", mask: str = "{}_mask.nii") -> Path:
    files = {scan.format(k): nifti(lit(k), AFFINE) for k in range(n)}
    return fill(folder, files | {mask.format(k): nifti(region(k), AFFINE) for k in range(n)})


@pytest.mark.parametrize("size", [None, PATCH, 12])
@pytest.mark.parametrize("how", ["sidecar", "folder", "table", "kind"])
def test_maps_lie_on_their_scans_however_they_are_found_and_cut(how, size, tmp_path):
    scan = {"folder": "imagesTr/{}.nii", "table": "x/{}.nii", "kind": "s{}_T1w.nii"}.get(how, "{}.nii")
    mask = {"folder": "masks/{}.nii", "table": "y/{}-of.nii", "kind": "s{}_seg.nii"}.get(how, "{}_mask.nii")
    data = masked(tmp_path / "in", 3, scan, mask)
    if how == "table":
        rows = "\n".join(f"{scan.format(k)},{mask.format(k)}" for k in range(3))
        (data / "scans.csv").write_text(f"file_name,mask\n{rows}\n")
    found = open_dataset(data, size=size, cache_dir=tmp_path / "cache")
    assert {c.name: c.kind for c in found.columns}["mask"] == "map" and not found.listing.skipped
    (column,) = (c for c in found.columns if c.kind == "map")
    assert column.labels == ("0", "1")
    rows = np.arange(0, len(found), 7)
    values, told = found.codec.decode(found.x0(rows)).squeeze(), found.cond(rows)
    inside = told.values["mask"][:, 1].numpy()
    assert bool(told.present["mask"].all())
    np.testing.assert_array_equal(told.values["mask"][:, 0].numpy(), -inside)
    assert ((values > 220) == (inside > 0)).mean() > (0.999 if size != 12 else 0.9), "resampled at borders"


def test_a_map_that_does_not_lie_on_its_scan_is_left_out_in_a_sentence(tmp_path):
    data = masked(tmp_path / "in", 3)
    fill(data, {"0_mask.nii": nifti(region(0, (20, 24, 15)), AFFINE), "1_mask.nii": nifti(region(1), np.eye(4))})
    found = open_dataset(data, size=PATCH, cache_dir=tmp_path / "cache")
    why = [file.reason for file in found.listing.skipped]
    assert len(why) == 2 and all("does not lie on its scan" in one for one in why)
    here = found.cond(np.arange(len(found))).present["mask"]
    assert int(here.sum()) * 3 == len(found) and any("have no readable map" in note for note in found.notes)


class Painting(NetDenoiser):
    """Paints what the map says: 400 where its region is, 0 elsewhere."""

    def __init__(self, model: NetDenoiser, dark: float, bright: float) -> None:
        super().__init__(model.net, model.conditioner, model.target)
        self.dark, self.bright = dark, bright

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None) -> Mean:
        assert bool(cond.present["mask"].all()) and cond.values["mask"].shape[2:] == x_t.shape[2:]
        share = (cond.values["mask"][:, 1:] + 1) / 2
        return Mean((self.dark + share * (self.bright - self.dark)).to(x_t))


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> fn.Run:
    data = masked(tmp_path_factory.mktemp("masked") / "in", 3)
    run = fn.train(data, out=data.parent / "run", steps=1, size=PATCH, settings=[*TINY, "sample.guidance=1"])
    codec = run.release.codec
    dark, bright = codec.encode(codec.store_many(np.array([0, 400]).reshape(2, 1, 1, 1) + np.zeros((2, *PATCH))))
    painting = Painting(run.release.denoiser, float(dark.mean()), float(bright.mean()))
    run.__dict__["release"] = replace(run.release, denoiser=painting)
    return run


def test_a_map_that_is_asked_for_is_cut_where_samples_lie_and_whole_scans_have_it_whole(painted, tmp_path):
    file = tmp_path / "other.nii.gz"
    nib.save(nib.Nifti1Image(region(9), AFFINE), file)
    there = upright(nib.load(file))
    whole = painted.generate(1, whole=True, where={"mask": str(file)})
    np.testing.assert_array_equal(whole.samples[0], 400 * there)
    assert str(file) not in json.dumps(whole.recipe) and whole.cond["mask"] == ["a map"]
    parts = painted.generate(4, where={"mask": str(file)})
    asked = painted.generate(1, where={"mask": str(file), "position": "1,0,0.5"})
    np.testing.assert_array_equal(asked.samples[0], 400 * there[12:, :8, 4:12])
    for position, part in zip(parts.cond["position"], parts.samples, strict=True):
        x, y, z = np.rint(np.array(json.loads(str(position))) * (np.array(SHAPE) - 8)).astype(int)
        np.testing.assert_array_equal(part, 400 * there[x : x + 8, y : y + 8, z : z + 8])
    with pytest.raises(FromNoiseError, match="ask for a position"):
        painted.sample(1, where={"mask": str(file), "position": "none"})
    with pytest.raises(FromNoiseError, match="mask lies on a scan"):
        painted.sample(1, where={"mask": str(tmp_path / "lost.nii")})


def test_a_model_learns_that_the_bright_region_is_the_mask(tmp_path):
    data = masked(tmp_path / "in", 6)
    tiny = ["net.widths=[32]", "net.attention=[false]", "net.emb=32", "net.patch=2", "optim.batch=16"]
    quick = ["run.held_examples=8", "run.held_evaluations=2", "run.grid_priors=0", "sample.guidance=1"]
    run = fn.train(data, out=tmp_path / "run", steps=80, size=12, settings=[*tiny, *quick])
    file = tmp_path / "other.nii"
    nib.save(nib.Nifti1Image(region(9), AFFINE), file)
    asked = {"mask": str(file)}
    inside = run.release.conditions(asked, 0, range(12)).values["mask"][:, 1].numpy() > 0
    told, untold = (run.sample(12, steps=8, where=w).reshape(inside.shape) > 220 for w in (asked, {"mask": "none"}))
    assert told[inside].mean() > 0.6 and told[~inside].mean() < 0.05
    assert untold[inside].mean() < 0.3, "nothing else says where it is"
