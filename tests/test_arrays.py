"""Arrays as sets of fields, from files to a report: which they are, bad ones named."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import zarr
from datafiles import fill, many, noise
from typer.testing import CliRunner

import fromnoise as fn
from fromnoise import appraise
from fromnoise.cli import app
from fromnoise.codec import codec_from_json
from fromnoise.codec.arrayfile import read_recipe
from fromnoise.data import diagnose, open_dataset, scan
from fromnoise.data.fields import parse_axes
from fromnoise.errors import FromNoiseError

TINY = ["net.widths=[32]", "net.attention=[false]", "net.emb=32", "optim.batch=8", "run.held_examples=8"]
TINY += ["run.held_evaluations=2", "run.grid_priors=0", "sample.steps=3"]

# ---- sets of arrays --------------------------------------------------------------------------------------------------


def waves(n: int, *space: int, seed: int = 0) -> np.ndarray:
    """Smooth fields of any units, float32."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(0, 2 * np.pi, k, endpoint=False) for k in space), indexing="ij")
    shape = (n,) + (1,) * len(space)
    parts = (rng.normal(size=shape) * np.sin(axis + rng.uniform(0, 6, shape)) for axis in grid)
    return (280 + 5 * sum(parts)).astype(np.float32)


FLOATS, BYTES = waves(6, 12, 10), noise(6, 12, 10)


@pytest.mark.parametrize(
    "array,medium,size,channels",
    [
        (BYTES, "image", (12, 10), 1),
        (noise(6, 12, 10, 3), "image", (12, 10), 3),
        (FLOATS / 400, "image", (12, 10), 1),
        (FLOATS, "field", (12, 10), 1),
        (BYTES.astype(np.int32), "field", (12, 10), 1),
        (waves(6, 40), "field", (40,), 1),
        (waves(6, 9, 8, 7), "field", (9, 8, 7), 1),
        (np.stack([FLOATS, FLOATS], 1), "field", (12, 10), 2),
        (np.stack([FLOATS, FLOATS], -1), "field", (12, 10), 2),
        (np.where(FLOATS > 280, FLOATS / 400, np.nan), "field", (12, 10), 1),
        (np.ma.masked_less(FLOATS / 400, 0.7), "field", (12, 10), 1),
        (noise(5, 20, 34, 36, dtype="uint16"), "field", (20, 34, 36), 1),
    ],
)
def test_pictures_and_fields_are_told_apart(array, medium, size, channels):
    listing = scan(array)
    assert (listing.medium.name, listing.common.size, listing.channels) == (medium, size, channels)
    said = "--axes" in diagnose(listing)
    assert len(listing) == len(array) and said == (medium == "field" or array.dtype.kind == "f")


def test_axes_say_what_the_rule_would_not():
    assert scan(BYTES, axes="nyx").medium.name == "field" and scan(FLOATS, axes="nhw").medium.name == "image"
    assert scan(FLOATS, axes="zyx").sizes == {(6, 12, 10): 1}
    assert scan(noise(6, 3, 20, 24), axes="nhwc").sizes == {(3, 20): 6}, "what is said is not asked"
    assert scan(noise(6, 3, 20, 24), axes="ncyx").channels == 3
    for wrong in ("q", "nhx", "cyxc", "n", "xx", "wh"):
        with pytest.raises(FromNoiseError, match="nchw"):
            parse_axes(wrong)
    with pytest.raises(FromNoiseError, match="correct --axes"):
        scan(FLOATS, axes="nzyx")


def test_a_folder_of_arrays_with_channels_first_is_asked_about(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", noise(3, 20, 24))
    with pytest.raises(FromNoiseError, match="--channels-first"):
        scan(tmp_path)
    assert scan(tmp_path, channels_first=True).sizes == {(20, 24): 3}
    assert scan(tmp_path, axes="chw").channels == 3 and len(scan(tmp_path, axes="nhw")) == 9


def test_one_long_series_is_cut_and_many_are_windows(tmp_path):
    series = np.cumsum(np.random.default_rng(0).normal(size=(9000, 2)), 0)
    np.save(tmp_path / "series.npy", series)
    data = open_dataset(tmp_path / "series.npy", cache_dir=tmp_path / "cache")
    assert data.codec.shape == (2, 32) and len(data) == 9000 // 32 and any("cut into" in note for note in data.notes)
    np.testing.assert_array_equal(data.listing.read(5, data.codec), series[160:192])
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(8):
        np.save(folder / f"{i}.npy", series[: 300 + 50 * i, 0])
    np.save(folder / "short.npy", series[:20, 0])
    data = open_dataset(folder, cache_dir=tmp_path / "cache")
    assert data.codec.space == (300,) and data.codec.ragged and len(data) == 8
    assert [file.name for file in data.listing.skipped] == ["short.npy"] and "by itself" in data.listing.skipped[
        0
    ].reason
    np.testing.assert_allclose(data.codec.decode(data.x0([0]))[0], series[:300, 0], rtol=1e-6, atol=1e-5)
    assert open_dataset(folder, size=64, cache_dir=tmp_path / "cache").codec.space == (64,)
    with pytest.raises(FromNoiseError, match="--size 32"):
        open_dataset(folder, size=(8, 8), cache_dir=tmp_path / "cache")


def container(kind: str, file: Path, arrays: dict[str, np.ndarray], attrs: dict[str, object]) -> Path:
    if kind == "npz":
        np.savez(file, **arrays)
    elif kind == "h5":
        with h5py.File(file, "w") as out:
            for name, values in arrays.items():
                packed = {"compression": "gzip"} if values.ndim > 2 and values.dtype.kind == "f" else {}
                out.create_dataset(f"run/{name}", data=values, **packed)
            out["run/w"].attrs.update(attrs)
    else:
        group = zarr.open_group(file, mode="w")
        for name, values in arrays.items():
            group.create_array(name, data=values, chunks=(7, *values.shape[1:]))
        group["w"].attrs.update(attrs)
    return file


@pytest.mark.parametrize("kind", ["npz", "h5", "zarr"])
def test_the_largest_array_of_a_file_is_the_data_and_others_are_columns(kind, tmp_path):
    w = waves(30, 12, 10)
    w[:, 2, 3] = -999
    label = np.arange(30) % 3
    arrays = {"w": w, "label": label, "size": np.linspace(0, 1, 30), "grid": np.arange(12.0)}
    file = container(kind, tmp_path / f"flow.{kind}", arrays, {"units": "K", "_FillValue": -999.0})
    data = open_dataset(file, cache_dir=tmp_path / "cache")
    assert [column.name for column in data.columns] == ["label"] and data.texts("label", [4]) == ["1"]
    assert any("and not" in note and "grid" in note for note in data.notes)
    np.testing.assert_allclose(data.codec.decode(data.x0(np.arange(30))), w, rtol=1e-6)
    if kind != "npz":
        assert (data.codec.units, data.codec.fill, data.codec.masks, data.codec.container) == ("K", -999, 1, kind)
    again = open_dataset(file, cache_dir=tmp_path / "cache")
    assert again.fingerprint == data.fingerprint
    if kind == "zarr":
        zarr.open_group(file)["w"][0, 0, 0] = 1.0
        assert open_dataset(file, cache_dir=tmp_path / "cache").fingerprint != data.fingerprint, "changes are seen"


@pytest.mark.parametrize("kind", ["npy", "npz", "h5"])
def test_series_are_no_column_of_themselves(kind, tmp_path):
    """Though each is a vector, as long as those are that describe examples."""
    values, labels, file = noise(40, 32).astype(np.float32) * 9, np.arange(40) % 2, tmp_path / f"series.{kind}"
    if kind == "npy":
        np.save(file, values)
    elif kind == "npz":
        np.savez(file, x=values, label=labels)
    else:
        with h5py.File(file, "w") as made:
            made["x"], made["label"] = values, labels
    listing = scan(file, axes="nt")
    assert [profile.name for profile in listing.profiles] == ([] if kind == "npy" else ["label"])
    assert len(listing) == 40 and ("column        none" in diagnose(listing)) == (kind == "npy")


def test_missing_values_by_a_mask_beside_the_data_or_of_numpy(tmp_path):
    counts = np.random.default_rng(0).integers(0, 500, (20, 3, 16, 16), dtype=np.int32)
    mask = np.random.default_rng(1).random(counts.shape) < 0.2
    np.savez(tmp_path / "a.npz", counts=counts, mask=mask)
    for source in (tmp_path / "a.npz", np.ma.MaskedArray(counts, mask)):
        data = open_dataset(source, cache_dir=tmp_path / "cache")
        back = data.codec.decode(data.x0(np.arange(20)))
        np.testing.assert_array_equal(back == data.codec.fill, mask)
        np.testing.assert_array_equal(back[~mask], counts[~mask])
        assert data.codec.masks == 3 and back.dtype == np.int32
    with pytest.raises(FromNoiseError, match="save floats"):
        scan(np.ma.MaskedArray(np.full((4, 8, 8), -(2**31), np.int32), mask[:4, 0, :8, :8]))


def test_a_mask_of_one_example_serves_all_and_one_that_fits_nothing_is_said(tmp_path):
    w, mask = waves(20, 16, 12), np.random.default_rng(1).random((16, 12)) < 0.2
    np.savez(tmp_path / "one.npz", x=w, mask=mask)
    data = open_dataset(tmp_path / "one.npz", cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(np.isnan(data.codec.decode(data.x0(np.arange(20)))), np.broadcast_to(mask, w.shape))
    np.savez(tmp_path / "wrong.npz", x=w, mask=mask[:9, :9])
    with pytest.raises(FromNoiseError, match=r"has mask of the shape \(9, 9\), .* or \(16, 12\)"):
        scan(tmp_path / "wrong.npz")


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("which", [(0,), (1, 3)])
def test_channels_that_never_miss_a_value_have_no_mask_and_no_nan(tmp_path, layout, which):
    rng = np.random.default_rng(0)
    w = np.stack([waves(20, 16, 12, seed=k) for k in range(4)], 1)
    for channel in which:
        w[:, channel][rng.random(w[:, channel].shape) < 0.3] = np.nan
    w = w if layout == "first" else np.moveaxis(w, 1, -1)
    data = open_dataset(w, cache_dir=tmp_path / "cache")
    assert data.codec.shape == (4 + len(which), 16, 12)
    np.testing.assert_allclose(data.codec.decode(data.x0(np.arange(20))), w, rtol=1e-5)
    codec = codec_from_json(json.loads(json.dumps(data.codec.to_json())))
    made = codec.decode(torch.randn(50, *codec.shape))
    made = made if layout == "first" else np.moveaxis(made, -1, 1)
    assert {int(k) for k in np.flatnonzero(np.isnan(made).any((0, 2, 3)))} == set(which)


@pytest.mark.parametrize(
    "values,why",
    [
        (waves(20, 8, 8).astype(np.float64) * 1e200, "rescale them"),
        (waves(20, 8, 8).astype(np.float64) * 1e-200, "rescale them"),
        (np.full((20, 8, 8), 7.5), "holds 7.5 throughout"),
        (np.full((20, 8, 8), 7), "holds 7 throughout"),
        (np.full((20, 8, 8), np.nan), "all are missing"),
        (np.where(waves(20, 8, 8) > 280, np.nan, 7), "holds 7 throughout"),
    ],
)
def test_values_that_teach_nothing_are_said_in_a_sentence(values, why):
    with pytest.raises(FromNoiseError, match=why):
        scan(values)


def test_values_of_any_order_train_and_come_back(tmp_path):
    for scale in (1e44, 1e-44):
        w = waves(20, 8, 8).astype(np.float64) * scale
        data = open_dataset(w, cache_dir=tmp_path / "cache")
        np.testing.assert_allclose(data.codec.decode(data.x0(np.arange(20))), w, rtol=1e-6)


def test_files_without_an_array_say_what_they_hold(tmp_path):
    np.save(tmp_path / "0d.npy", np.array(3.0))
    np.savez(tmp_path / "pickled.npz", which=np.array([1, "a", None], dtype=object))
    with h5py.File(tmp_path / "groups.h5", "w") as out:
        out.create_group("a/b")
    told = {
        "0d.npy": "is one number",
        "pickled.npz": "which, which cannot be used",
        "groups.h5": "holds no array: save one",
    }
    for name, why in told.items():
        with pytest.raises(FromNoiseError, match=why):
            scan(tmp_path / name)


def test_a_field_among_pictures_is_left_out_and_an_array_of_pictures_is_not(tmp_path):
    fill(tmp_path, many(4))
    np.save(tmp_path / "field.npy", waves(6, 24, 24) - 280)
    np.save(tmp_path / "drawn.npy", noise(6, 24, 24, 3))
    listing = scan(tmp_path)
    assert (listing.medium.name, len(listing)) == ("image", 10)
    assert [(one.name, one.reason.partition(",")[0]) for one in listing.skipped] == [("field.npy", "is a field")]
    assert not any("from 0 to 1" in note for note in listing.notes)


def test_what_cannot_be_learned_from_is_named_and_the_rest_trains(tmp_path):
    good = {f"{i:02}.npy": w for i, w in enumerate(waves(30, 12, 10))}
    infinite = waves(1, 12, 10)[0]
    infinite[0, 0] = np.inf
    bad = {
        "complex.npy": np.ones((12, 10), complex),
        "empty.npy": np.zeros((0, 12, 10), np.float32),
        "inf.npy": infinite,
        "objects.npy": np.array([{}, None], dtype=object),
        "other.npy": waves(1, 12, 9)[0],
        "volume.npy": waves(1, 12, 10, 11)[0],
    }
    for name, array in (good | bad).items():
        np.save(tmp_path / name, array, allow_pickle=True)
    fill(tmp_path, {"cut.npy": (tmp_path / "00.npy").read_bytes()[:300], "broken.h5": b"no such thing"})
    data = open_dataset(tmp_path, cache_dir=tmp_path / "cache")
    reasons = {file.name: file.reason for file in data.listing.skipped}
    assert len(data) == 30 and set(reasons) == {*bad, "cut.npy", "broken.h5"}, reasons
    words = {"complex": "imaginary", "empty": "empty", "inf": "infinite", "objects": "unpickled", "other": "unlike"}
    for name, word in (words | {"volume": "3-D", "cut": "save it again"}).items():
        assert word in reasons[f"{name}.npy"], (name, reasons[f"{name}.npy"])
    listing = scan(fill(tmp_path / "mixed", many(3)))
    assert listing.medium.name == "image"


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_a_damaged_chunk_costs_its_own_file_alone(tmp_path, kind):
    for i, w in enumerate(waves(24, 12, 10)):
        file = container(kind, tmp_path / f"{i:02}.{kind}", {"w": np.stack([w, w, w])}, {})
    chunk = file if kind == "h5" else max((part for part in file.rglob("*") if part.parent.name == "0"), key=str)
    data = chunk.read_bytes()
    # Of HDF5 the packed values are the longest part, at the end of the file.
    chunk.write_bytes(data[: -len(data) // 4] + b"x" * (len(data) - len(data[: -len(data) // 4])))
    listing = scan(tmp_path)
    assert [one.name for one in listing.skipped] == [f"23.{kind}"] and "damaged" in listing.skipped[0].reason
    assert len(open_dataset(listing, cache_dir=tmp_path / "cache")) == 23


def test_a_missing_library_is_one_sentence(tmp_path, monkeypatch):
    container("h5", tmp_path / "a.h5", {"w": waves(4, 8, 8)}, {})
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(FromNoiseError, match=r"fromnoise\[fields\]"):
        scan(tmp_path / "a.h5")


# ---- from files to a report ------------------------------------------------------------------------------------------


def test_a_zarr_is_trained_on_sampled_and_judged_by_the_commands(tmp_path, monkeypatch):
    monkeypatch.setattr(appraise, "learn_features", partial(appraise.learn_features, steps=10))
    w = waves(300, 16, 16)
    w[:, :3, :3] = np.nan
    file = container("zarr", tmp_path / "flow.zarr", {"w": w}, {"units": "K"})
    run = tmp_path / "run"
    told = CliRunner().invoke(app, ["doctor", str(file)]).output
    assert "medium        field" in told and "16 x 16 (rows x steps)" in told
    trained = CliRunner().invoke(
        app, ["train", str(file), "--out", str(run), "--steps", "3", *(x for one in TINY for x in ("--set", one))]
    )
    assert trained.exit_code == 0, trained.output
    page = (run / "report.html").read_text()
    assert "Spectrum of channel 0" in page and " K from dark to light" in page
    (record,) = json.loads((run / "evaluation.json").read_text())["physics"]
    assert record["deviation_held"] < record["deviation"]
    drawn = CliRunner().invoke(app, ["sample", str(run), "-n", "3", "--out", str(tmp_path / "out.zip")])
    assert drawn.exit_code == 0, drawn.output
    samples = fn.load(run).generate(2, length=40)
    assert samples.samples.shape == (2, 16, 40) and samples.samples.dtype == np.float32
    folder = samples.save(tmp_path / "out")
    array = zarr.open_array(folder / "000001.zarr", mode="r")
    np.testing.assert_array_equal(array[:], samples.samples[1])
    assert read_recipe(folder / "000001.zarr")["seed"] == 0 and len(scan(folder)) == 2, "samples are data again"
