"""Volumes: exact values, places and spacings; series in order; each fault in a sentence."""

from __future__ import annotations

import gzip
import json
import sys
from hashlib import blake2b
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from datafiles import fill
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEGLSLossless
from scans import ball, dicom, header_like, nifti, series, slice_

import fromnoise as fn
from fromnoise.codec import VolumeCodec, codec_from_json
from fromnoise.codec.niftifile import read_recipe
from fromnoise.data import open_dataset, scan
from fromnoise.errors import FromNoiseError

KINDS = [("int16", None), ("uint16", (1, -1024)), ("uint8", (0.25, 3)), ("int32", (2, 7)), ("float32", None)]
ORIENTATIONS = [a + b + c for a in "LRAPSI" for b in "LRAPSI" for c in "LRAPSI"]
ORIENTATIONS = [code for code in ORIENTATIONS if len({"LRAPSI".index(c) // 2 for c in code}) == 3]


def nowhere(data: bytes) -> bytes:
    """The same file with an affine of zeros."""
    return data[:280] + bytes(48) + data[328:]


def nan_affine(data: bytes) -> bytes:
    """The same file with an affine of NaN."""
    return data[:280] + np.full(12, np.nan, np.float32).tobytes() + data[328:]


def reasons(folder: Path) -> dict[str, str]:
    return {file.name: file.reason for file in scan(folder).skipped}


# ---- values and places -----------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    st.sampled_from(ORIENTATIONS),
    st.sampled_from(
        [("int16", None), ("uint16", (1, -1024)), ("uint8", (0.25, 3)), ("int32", (2, 7)), ("float32", None)]
    ),
    st.tuples(*[st.integers(2, 7)] * 3),
    st.tuples(*[st.floats(0.125, 4, width=16)] * 3),
    st.integers(0, 99),
)
def test_a_scan_comes_back_to_the_bit(tmp_path_factory, codes, kind, shape, spacing, seed):
    """Numbers, slope, intercept, affine, orientation and spacing: read, encoded, decoded, saved, read again."""
    dtype, scale = kind
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 100, shape) if dtype == "float32" else rng.integers(0, 200, shape)
    affine = header_like(codes, spacing, (-90, 12.5, 7))
    folder = tmp_path_factory.mktemp("scan")
    data = fill(folder / "in", {"a.nii": nifti(values.astype(dtype), affine, scale)})
    upright = nib.as_closest_canonical(nib.load(data / "a.nii")).shape
    dataset = open_dataset(data, size=upright, cache_dir=folder / "cache")
    codec = codec_from_json(json.loads(json.dumps(dataset.codec.to_json())))
    out = codec.save(folder / "out", codec.decode(dataset.x0([0]))[0], {"seed": 1})
    then, now = nib.load(data / "a.nii"), nib.load(out)
    np.testing.assert_array_equal(now.affine, then.affine)
    assert now.header.get_zooms() == then.header.get_zooms()
    assert (now.dataobj.slope, now.dataobj.inter) == (then.dataobj.slope, then.dataobj.inter) == (scale or (1, 0))
    stored, again = then.dataobj.get_unscaled(), now.dataobj.get_unscaled()
    assert again.dtype == stored.dtype and read_recipe(out) == {"seed": 1}
    if dtype == "float32":
        np.testing.assert_allclose(again, stored, rtol=0, atol=1e-4)
    else:
        np.testing.assert_array_equal(again, stored)


@given(st.tuples(*[st.floats(0.5, 2)] * 3), st.tuples(*[st.integers(8, 20)] * 2), st.integers(6, 16))
def test_what_is_brought_to_another_spacing_stays_where_it_is(tmp_path_factory, spacing, plane, side):
    """A scan that grows evenly in space has, wherever a slice of it is saved, the value of that place."""
    slope, shape = np.array([2.0, -3.0, 5.0]), (*plane, 8)
    affine = header_like("LPS", spacing, (10, -20, 30))
    there = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    folder = tmp_path_factory.mktemp("scan")
    data = fill(folder / "in", {"a.nii": nifti((there @ slope).astype(np.float32), affine)})
    dataset = open_dataset(data, size=side, columns=["position:number"], cache_dir=folder / "cache")
    position = float(dataset.texts("position", [0])[0])
    codec = dataset.codec
    image = nib.load(codec.save(folder / "out", codec.decode(dataset.x0([0]))[0], {"cond": {"position": position}}))
    places = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), -1)
    wanted = (places @ image.affine[:3, :3].T + image.affine[:3, 3]) @ slope
    found = np.asarray(image.dataobj)
    inner = tuple(slice(None) if n == 1 else slice(2, -2) for n in image.shape)
    step = np.abs(image.affine[:3, :3].T @ slope)
    np.testing.assert_allclose(found[inner], wanted[inner], atol=0.12 * step[np.array(image.shape) > 1].sum())


@pytest.mark.parametrize("turn", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (0.96, 0.28, 0, -0.28, 0.96, 0)])
def test_a_series_is_one_scan_in_hounsfield_units_wherever_its_files_lie(tmp_path, turn):
    numbers = np.random.default_rng(0).integers(0, 3000, (6, 5, 4))
    row, column = np.array(turn[:3]), np.array(turn[3:])
    corner, across = np.array([-20.0, -30.0, 100.0]), np.cross(row, column)
    order = np.random.default_rng(1).permutation(6)
    files = {
        f"{chr(97 + i)}/{i}.dcm": dicom(slice_(numbers[k], tuple(corner + 2.5 * k * across), turn=turn, number=9 - i))
        for i, k in enumerate(order)
    }
    listing = scan(fill(tmp_path / "in", files))
    assert listing.common.mode == "CT slice" and not listing.skipped
    shape = tuple(np.abs(np.stack([row, column, across])).argmax(0))
    whole = tuple((4, 5, 6)[axis] for axis in shape)
    dataset = open_dataset(tmp_path / "in", size=whole)
    image = nib.load(dataset.codec.save(tmp_path / "a", dataset.codec.decode(dataset.x0([0]))[0], {}))
    found, to_voxels = np.asarray(image.dataobj), np.linalg.inv(image.affine)
    for k, r, c in ((0, 0, 0), (5, 4, 3), (2, 3, 1)):
        place = np.diag([-1, -1, 1]) @ (corner + 0.75 * c * row + 0.5 * r * column + 2.5 * k * across)
        voxel = to_voxels[:3, :3] @ place + to_voxels[:3, 3]
        np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-4)
        assert found[tuple(np.rint(voxel).astype(int))] == numbers[k, r, c] - 1024
    assert dataset.codec.units == "HU" and dataset.codec.window == (-500.0, 1300.0)


@pytest.mark.parametrize(("low", "high", "window"), [(-80, 120, (-160.0, 240.0)), (300, 1200, (-500.0, 1300.0))])
def test_ct_is_shown_by_the_window_that_its_body_fits(tmp_path, low, high, window):
    body = np.random.default_rng(0).integers(low + 1024, high + 1024, (8, 10, 12))
    body[:, :3] = 24  # air, which says nothing
    files = {f"{k}.dcm": dicom(made) for k, made in series(body).items()}
    codec = open_dataset(fill(tmp_path, files)).codec
    assert codec.window == window and "HU" in codec.legend
    shades = codec.preview(np.array([-2000.0, window[0], np.mean(window), window[1], 9000]).reshape(1, 5, 1, 1))
    assert np.ravel(shades[..., 0]).tolist() in ([0, 0, 128, 255, 255], [255, 255, 128, 0, 0])


def test_pictures_are_seen_as_radiologists_look_at_them():
    """The right hand on the left, the face up, the head up: one voxel in the corner right, front, up, of each plane."""
    for block in ((3, 4, 1), (3, 1, 4), (1, 3, 4), (3, 4, 5)):
        field = fn.codec.FieldCodec(space=tuple(n for n in block if n > 1), channels=1, dtype="float32")
        codec = VolumeCodec(field=field, block=block, affine=tuple(np.eye(4).ravel()))
        one = np.zeros((1, *block))
        one[0, -1, -1, -1] = 1
        assert codec.preview(one)[0, 0, 0].tolist() == [255] * 3 or 1 not in block


# ---- what cannot be used ---------------------------------------------------------------------------------------------


def test_each_fault_of_a_series_has_its_sentence_and_the_rest_trains(tmp_path):
    body = ball((16, 8, 9), dtype="uint16")
    good = {k: made for k, made in series(body).items() if k not in (4, 5)}
    twice, wide, scout = (slice_(body[9], (-20, -30, 118)) for _ in range(3))
    wide.PixelSpacing = [0.9, 0.9]
    wide.ImagePositionPatient = [-20, -30, 200]
    scout.ImageType, scout.ImagePositionPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [0, 0, 0]
    short, frames, colour, burned, coded = (slice_(body[0], (0, 0, 0), series=f"9.{k}") for k in range(5))
    short.PixelData = short.PixelData[:40]
    frames.NumberOfFrames, frames.PixelData = 2, frames.PixelData * 2
    colour.SamplesPerPixel, colour.PhotometricInterpretation, colour.PlanarConfiguration = 3, "RGB", 0
    colour.PixelData = colour.PixelData * 3
    burned.BurnedInAnnotation = "YES"
    coded.file_meta.TransferSyntaxUID = JPEGLSLossless
    coded.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x04\0\0\0abcd"
    coded["PixelData"].is_undefined_length = True
    report = slice_(body[0], (0, 0, 0))
    del report.PixelData
    faults = {
        "same place": twice,
        "of another size": wide,
        "localiser": scout,
        "cut short": short,
        "where its frames of CT lie": frames,
        "colours": colour,
        "burned in": burned,
        "JPEG-LS": coded,
        "no pixels": report,
    }
    files = {f"{k:02}.dcm": dicom(made) for k, made in good.items()}
    files |= {f"fault {k}.dcm": dicom(made) for k, made in enumerate(faults.values())}
    files |= {"junk.dcm": b"no dicom at all" * 30, "stump.dcm": files["00.dcm"][:300]}
    listing = scan(fill(tmp_path, files))
    why = [file.reason for file in listing.skipped]
    for fault in [*faults, "no DICOM file", "beyond a gap"]:
        assert any(fault in one for one in why), (fault, why)
    assert sum("beyond a gap" in one for one in why) == 4 and all(":" in one for one in why)
    assert len(why) == len(faults) + 2 + 4 and {volume for volume in listing.names(range(3))}
    assert len(open_dataset(listing)) + sum("left out" in note for note in listing.notes) > 5


def test_gaps_of_a_series_are_placed_once_and_missing_attributes_are_named(tmp_path):
    made = series(ball((24, 8, 9)), step=2.5)
    files = {f"{k}.dcm": dicom(one) for k, one in made.items() if k not in (5, 6, 20)}
    listing = scan(fill(tmp_path / "gaps", files))
    (note,) = (note for note in listing.notes if "is not even" in note)
    assert (
        "2 missing between 110 and 117.5 mm, 1 missing between 147.5 and 152.5 mm" in note and "of 13, is used" in note
    )
    assert [one.reason.partition(":")[0] for one in listing.skipped] == ["beyond a gap in its series"] * 8
    for tag in ("SeriesInstanceUID", "ImagePositionPatient"):
        lacking = series(ball((24, 8, 9)))
        for one in lacking.values():
            delattr(one, tag)
        notes = scan(fill(tmp_path / tag, {f"{k}.dcm": dicom(one) for k, one in lacking.items()})).notes
        assert any(f"24 DICOM slices have no {tag}, so" in note for note in notes)
        notes = scan(fill(tmp_path / f"one {tag}", {"a.dcm": dicom(lacking[0])})).notes
        assert any(f"1 DICOM slice has no {tag}, so that it is a scan" in note for note in notes)


def test_each_fault_of_nifti_has_its_sentence_and_the_rest_trains(tmp_path):
    whole = nifti(ball((8, 9, 20)), np.eye(4))
    faults = {
        "4 axes": nifti(np.zeros((4, 4, 4, 3), np.int16), np.eye(4)),
        "is cut short": whole[:-100],
        "cut short or damaged": gzip.compress(whole)[:-30],
        "no NIfTI file": b"nonsense" * 100,
        "colours": nib.Nifti1Image(np.zeros((4, 4, 4), [(c, "u1") for c in "RGB"]), np.eye(4)).to_bytes(),
        "where its axes lead": nowhere(nifti(np.ones((4, 4, 4), np.int16), np.eye(4))),
        "mend its affine": nan_affine(nifti(np.ones((4, 4, 5), np.int16), np.eye(4))),
        "holds no values": nifti(np.full((4, 4, 6), np.nan, np.float32), np.eye(4)),
        "holds 3 throughout": nifti(np.full((4, 4, 6), 3, np.int16), np.eye(4)),
        "rescale them": nifti(np.geomspace(1, 1e200, 96).reshape(4, 4, 6), np.eye(4)),
        "holds no volume": nifti(np.ones((1, 1, 1), np.int16), np.eye(4)),
    }
    names = {"cut short or damaged": "c.nii.gz"}
    files = {names.get(why, f"{k}.nii"): data for k, (why, data) in enumerate(faults.items())}
    labels = nib.Nifti1Image(np.ones((8, 9, 20), np.uint8), np.eye(4))
    labels.header.set_intent("label")
    fill(tmp_path, {**files, "good.nii.gz": gzip.compress(whole), "labels.nii": labels.to_bytes()})
    why = reasons(tmp_path)
    for fault in [*faults, "a map of labels"]:
        assert any(fault in one for one in why.values()), (fault, why)
    assert len(why) == len(faults) + 1 and len(open_dataset(tmp_path)) > 5
    hashed = {blake2b(data, digest_size=4).hexdigest() for data in files.values()}
    assert {name.partition(".")[0] for name in why} - hashed == {blake2b(labels.to_bytes(), digest_size=4).hexdigest()}


def test_a_size_of_voxels_that_is_not_said_is_not_made_up(tmp_path):
    image = nib.Nifti1Image(ball((8, 9, 20)), None)
    bare = bytearray(image.to_bytes())
    bare[80:92] = bytes(12)  # pixdim
    two, three = series(ball((20, 8, 9))), series(ball((20, 8, 9)))
    for one, other in zip(two.values(), three.values(), strict=True):
        del one.PixelSpacing
        other.PixelSpacing = [0, 0]
    sets = {"nifti": {"a.nii": bytes(bare)}}
    sets |= {name: {f"{k}.dcm": dicom(made) for k, made in of.items()} for name, of in (("no", two), ("zero", three))}
    for name, files in sets.items():
        notes = scan(fill(tmp_path / name, files)).notes
        assert any("1 mm is taken, and written" in note for note in notes), (name, notes)
    good = nifti(ball((8, 9, 20), seed=1), np.diag([2, 2, 2, 1.0]))
    listing = scan(fill(tmp_path / "both", {"a.nii": bytes(bare), "b.nii": good}))
    assert [one.reason.partition(",")[0] for one in listing.skipped] == ["says not how large its voxels are"]
    assert not any("1 mm is taken" in note for note in listing.notes)


def test_missing_values_come_back_as_nan(tmp_path):
    values = ball((8, 9, 20), dtype="float32")
    values[:2], values[2, 2, 2] = np.nan, np.inf
    dataset = open_dataset(fill(tmp_path, {"a.nii": nifti(values, np.eye(4))}), size=(8, 9, 1))
    assert dataset.codec.shape == (2, 8, 9)
    assert np.isnan(dataset.codec.decode(dataset.x0([0]))[0, :2]).all()


@pytest.mark.parametrize("missing", ["nibabel", "pydicom"])
def test_without_its_library_a_sentence_says_what_to_install(tmp_path, monkeypatch, missing):
    fill(tmp_path, {"a.dcm": dicom(slice_(ball((4, 5, 6))[0], (0, 0, 0))), "b.nii": nifti(ball((4, 5, 6)), np.eye(4))})
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(FromNoiseError, match=r"pip install .fromnoise\[medical\]"):
        scan(tmp_path)
