"""Volumes: exact values, places and spacings; series in order; subjects apart; nobody's name anywhere."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from datafiles import fill
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEGLSLossless
from safetensors.numpy import load_file
from scans import NAMES, ball, dicom, enhanced, named, nifti, series, slice_, stack

import fromnoise as fn
from fromnoise.cli import main
from fromnoise.codec import VolumeCodec, codec_from_json
from fromnoise.codec.niftifile import read_recipe
from fromnoise.data import diagnose, open_dataset, scan
from fromnoise.data.blocks import GAP, slabs, starts
from fromnoise.data.splits import NAMES as SPLITS
from fromnoise.data.splits import TRAIN
from fromnoise.data.subject import subjects
from fromnoise.data.volume import MANY, Volumes, _scans
from fromnoise.errors import FromNoiseError

TINY = ["net.widths=[32]", "net.attention=[false]", "net.emb=32", "optim.batch=8", "run.held_examples=8"]
TINY += ["run.held_evaluations=2", "run.grid_priors=0", "sample.steps=2"]
KINDS = [("int16", None), ("uint16", (1, -1024)), ("uint8", (0.25, 3)), ("int32", (2, 7)), ("float32", None)]
ORIENTATIONS = [a + b + c for a in "LRAPSI" for b in "LRAPSI" for c in "LRAPSI"]
ORIENTATIONS = [code for code in ORIENTATIONS if len({"LRAPSI".index(c) // 2 for c in code}) == 3]


def header_like(codes: str, spacing: tuple[float, float, float], corner: tuple[float, float, float]) -> np.ndarray:
    """(4, 4), the affine of voxels whose axes run to `codes`."""
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (1, 1, 1))
    affine[:3, :3] *= np.array(spacing)
    affine[:3, 3] = corner
    return affine


def nowhere(data: bytes) -> bytes:
    """The same file with an affine of zeros."""
    return data[:280] + bytes(48) + data[328:]


def nan_affine(data: bytes) -> bytes:
    """The same file with an affine of NaN."""
    return data[:280] + np.full(12, np.nan, np.float32).tobytes() + data[328:]


def reasons(folder: Path) -> dict[str, str]:
    return {file.name: file.reason for file in scan(folder).skipped}


# ---- values and places ----------------------------------------------------------------------------------------------


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


# ---- examples and splits --------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.sampled_from([1, 1, 8, 32]), st.integers(1, 6))
def test_blocks_reach_both_ends_and_slabs_leave_room_for_training(n, size, gap):
    n = max(n, size)
    found = starts(n, size)
    assert found[0] == 0 and found[-1] == n - size and (np.diff(found) <= max(1, size / 2)).all()
    held = slabs(n, size, gap)
    assert sum(end - begin + 2 * (gap + size - 1) for begin, end in held) <= 0.75 * n
    assert all(0 <= begin < end <= n and end - begin >= size for begin, end in held)
    assert all(a[1] + 2 * gap <= b[0] for a, b in pairwise(held))


@pytest.mark.parametrize("size", [None, (8, 8, 8), (1, 16, 16)])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 2.5)])
def test_of_one_subject_nothing_held_out_lies_next_to_what_is_trained_on(tmp_path, size, spacing):
    files = {"a.nii": nifti(ball((24, 28, 60)), np.diag([*spacing, 1.0]))}
    dataset = open_dataset(fill(tmp_path, files), size=size)
    assert any("one subject" in note for note in dataset.notes)
    assert not any(note.startswith(("0 examples", "1 examples")) for note in dataset.notes)
    block = np.array(dataset.listing.common.size)
    corner = {split: [] for split in SPLITS}
    for split, name in dataset.split_rows():
        corner[split].append(json.loads(name[name.index("[") :]))
    train = np.array([corner["train"][i] for i in range(len(corner["train"]))])
    held = np.array(corner["val"])
    # Between two blocks along some axis there are so many voxels, less than none where they overlap.
    apart = np.abs(train[:, None] - held[None]) - block
    axis = int(np.argmax((24, 28, 60))) if 1 not in block.tolist() else block.tolist().index(1)
    least = apart[..., axis].min()
    assert len(train) > len(held) > 0 and least >= 1 and least * spacing[axis] >= GAP


def test_subjects_are_on_one_side_and_known_by_their_number_however_many_series_they_have(tmp_path):
    files = {}
    for who in range(6):
        for of in range(2):
            body = ball((4, 8, 8), seed=10 * who + of)
            files |= {
                f"{who}{of}{k}.dcm": dicom(made)
                for k, made in series(body, series=f"1.{who}.{of}", patient=f"P{who}").items()
            }
    dataset = open_dataset(fill(tmp_path, files))
    assert any("split by subject, of whom there are 6" in note for note in dataset.notes)
    assert not any("one subject" in note for note in dataset.notes)
    side = {split: {name.partition("[")[0] for part, name in dataset.split_rows() if part == split} for split in SPLITS}
    assert len(side["train"] | side["val"]) == 12 and not side["train"] & side["val"] and len(side["val"]) % 2 == 0


def test_two_series_of_one_patient_are_one_subject_and_nobody_is_nobody(tmp_path):
    def notes(folder: str, patients: tuple[str, str]) -> str:
        files = {}
        for of, patient in enumerate(patients):
            made = series(ball((24, 8, 8), seed=of), series=f"1.{of}", patient=patient)
            files |= {f"{of}{k}.dcm": dicom(one) for k, one in made.items()}
        return diagnose(scan(fill(tmp_path / folder, files)))

    assert "one subject" in notes("same", ("7", "7"))
    assert "one subject" not in notes("other", ("7", "8"))
    assert "one subject" not in notes("hidden", ("ANONYMOUS", "ANONYMOUS"))


def test_what_examples_are_follows_the_rule_and_the_size_that_is_asked(tmp_path):
    cube = {"a.nii": nifti(ball((20, 24, 40)), np.eye(4))}
    flat = {"a.nii": nifti(ball((20, 24, 40)), np.diag([1, 3, 1, 1.0]))}
    many = {f"{i:02}.nii": nifti(ball((8, 8, 8), seed=i), np.eye(4)) for i in range(MANY)}

    def block(files: dict[str, bytes], name: str, size=None) -> tuple[int, ...]:
        return scan(fill(tmp_path / name, files), size=size).common.size

    assert block(cube, "cube") == (20, 24, 1) and block(flat, "flat") == (20, 1, 40) and block(many, "many") == (8,) * 3
    assert block(cube, "cube", 10) == (10, 12, 1) and block(cube, "cube", (12, 16)) == (16, 12, 1)
    assert block(cube, "cube", (16, 1, 16)) == (16, 1, 16) and block(many, "many", 4) == (4, 4, 1)
    for wrong in ((1, 1, 8), (64, 8, 8), 1.5):
        with pytest.raises(FromNoiseError, match=r"Blocks of|A size of"):
            scan(tmp_path / "cube", size=wrong)
    patches = open_dataset(tmp_path / "cube", size=(8, 8, 8))
    assert patches.codec.shape == (1, 8, 8, 8) and [c.kind for c in patches.columns] == ["vector"]
    corner = dict(zip(range(len(patches)), patches.names(range(len(patches))), strict=True))
    for row in (0, len(patches) - 1):
        x, y, z = json.loads(corner[row][corner[row].index("[") :])
        np.testing.assert_array_equal(
            patches.codec.decode(patches.x0([row]))[0], ball((20, 24, 40))[x : x + 8, y : y + 8, z : z + 8]
        )


def test_a_slice_is_saved_where_its_position_says(tmp_path):
    scanned = ball((20, 24, 40))
    dataset = open_dataset(fill(tmp_path / "in", {"a.nii": nifti(scanned, header_like("RAS", (1, 1, 2), (5, 6, 7)))}))
    for row in (0, 7, len(dataset) - 1):
        position = float(dataset.texts("position", [row])[0])
        values = dataset.codec.decode(dataset.x0([row]))[0]
        image = nib.load(dataset.codec.save(tmp_path / str(row), values, {"cond": {"position": position}}))
        k = round(float(image.affine[2, 3] - 7) / 2)
        np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0], scanned[..., k])


@pytest.mark.parametrize("size", [None, (8, 8, 8)])
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_samples_of_several_scans_lie_where_their_position_says(tmp_path, size, shift):
    """In the scans' own place where all lie alike, and otherwise around the origin."""
    affine, made = header_like("LAS", (1, 1.5, 2), (5, 6, 7)), {}
    for k in range(3):
        there = affine.copy()
        there[0, 3] += shift * k
        image = nib.Nifti1Image(ball((16, 12, 20), seed=k), there)
        image.set_sform(there, 4)
        made[f"{k}.nii"] = image.to_bytes()
    dataset = open_dataset(fill(tmp_path / "in", made), size=size, cache_dir=tmp_path / "cache")
    scans = {k: nib.as_closest_canonical(nib.load(tmp_path / "in" / name)) for k, name in enumerate(made)}
    for row in (0, len(dataset) // 3 - 1, len(dataset) - 1):
        said = dataset.texts("position", [row])[0]
        recipe = {"cond": {"position": said if said.startswith("[") else float(said)}}
        saved = dataset.codec.save(tmp_path / f"{row}", dataset.codec.decode(dataset.x0([row]))[0], recipe)
        image = nib.load(saved)
        assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
        assert int(image.header["sform_code"]) == (2 if shift else 4)
        image = nib.as_closest_canonical(image)
        scanned = scans[dataset.listing.stacks[0].pixels.which[row]]
        (name,) = dataset.names([row])
        corner = json.loads(name[name.index("[") :])
        there = scanned.affine[:3, :3] @ corner + scanned.affine[:3, 3]
        if shift:
            there -= scanned.affine[:3, :3] @ (np.array(scanned.shape) - 1) / 2 + scanned.affine[:3, 3]
        np.testing.assert_allclose(image.affine[:3, 3], there, atol=1e-4)


def sides(folder: Path, names: Sequence[str]) -> list[set[str]]:
    """Which of the scans, one a name, are said to be of one subject."""
    bodies = [nifti(ball((8, 9, 10), seed=k), np.eye(4)) for k in range(len(names))]
    fill(folder, dict(zip(names, bodies, strict=True)))
    volumes, *_ = _scans({name: (folder / name).read_bytes() for name in names})
    of: dict[int, set[str]] = defaultdict(set)
    for volume, subject in zip(volumes, subjects(volumes)[0], strict=True):
        of[subject].add(volume.file)
    return sorted(of.values(), key=sorted)


@pytest.mark.parametrize(
    "groups",
    [
        [{"Doe/a.nii", "Doe/b.nii"}, {"Roe/a.nii", "Roe/b.nii"}],
        [{"Doe/visit1/a.nii", "Doe/2019-05-12/a.nii"}, {"Roe/visit1/a.nii"}],
        [{"well/a.nii"}, {"well/b.nii"}, {"ill/a.nii"}, {"ill/c.nii"}],
        [{"well/Doe/a.nii", "well/Doe/b.nii"}, {"ill/Roe/a.nii", "ill/Roe/b.nii"}],
        [{"T1/001.nii", "T2/001.nii"}, {"T1/002.nii", "T2/002.nii"}],
        [
            {"anna_visit1.nii", "anna_visit2.nii"},
            {"ben_visit1.nii"},
            {"0001.nii"},
            {"0002.nii"},
            {"1.2.nii"},
            {"1.3.nii"},
        ],
        [{"Doe/sub-01_a.nii", "Roe/sub-01_b.nii"}, {"Roe/sub-02_a.nii"}],
    ],
)
def test_one_person_is_on_one_side_however_scans_are_sorted_into_folders(tmp_path, groups):
    assert sides(tmp_path, [name for group in groups for name in sorted(group)]) == sorted(groups, key=sorted)


def test_what_folders_are_called_is_a_label_only_where_that_is_asked(tmp_path):
    scans = {f"{k}": nifti(ball((8, 9, 10), seed=k), np.eye(4)) for k in range(6)}
    files = {f"{'well' if int(k) % 2 else 'ill'}/{k}.nii": data for k, data in scans.items()}
    listing = scan(fill(tmp_path / "in", files))
    assert {p.name for p in listing.profiles} == {"position"} and "well" not in diagnose(listing)
    assert any("--columns class,position" in note for note in listing.notes)
    asked = open_dataset(listing, columns=["class", "position"], cache_dir=tmp_path / "cache")
    assert asked.columns[0].labels == ("ill", "well") and any("written into the model" in note for note in asked.notes)
    for row in (0, len(asked) - 1):
        of = asked.listing.stacks[0].files[asked.listing.items.row[row]]
        assert asked.texts("class", [row]) == [of.partition("/")[0]]
    with pytest.raises(FromNoiseError, match="no column 'class'"):
        open_dataset(fill(tmp_path / "flat", {f"{k}.nii": data for k, data in scans.items()}), columns=["class"])


def test_scans_of_several_spacings_meet_at_the_median(tmp_path):
    files = {
        f"{k}.nii": nifti(ball((20, 24, 8), seed=k), np.diag([mm, mm, 4, 1.0])) for k, mm in enumerate((1.0, 1.0, 1.5))
    }
    listing = scan(fill(tmp_path, files))
    assert any("differ from scan to scan" in note for note in listing.notes) and listing.common.size == (20, 24, 1)
    assert len(open_dataset(listing)) == 24


# ---- what cannot be used --------------------------------------------------------------------------------------------


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


# ---- the whole way, and nobody's name on it -------------------------------------------------------------------------


def unpacked(data: bytes) -> list[bytes]:
    """The bytes, and what they are when unpacked."""
    found = [data]
    if data[:2] == b"\x1f\x8b":
        found += unpacked(gzip.decompress(data))
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            found += [part for name in members.namelist() for part in unpacked(members.read(name))]
            found.append("\n".join(members.namelist()).encode())
    for code in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data):
        found += unpacked(base64.b64decode(code))
    return found


def leaks(folder: Path) -> list[str]:
    """Files below a folder whose bytes or path hold a planted name, in any case and encoding."""
    found = []
    for file in folder.rglob("*"):
        text = [str(file.relative_to(folder)).encode()]
        for data in unpacked(file.read_bytes()) if file.is_file() else []:
            text += [data, data.replace(b"\0", b"")]
        for name in NAMES:
            if any(name.lower().encode() in one.lower() for one in text):
                found.append(f"{name} in {file.relative_to(folder)}")
    return found


def planted(folder: Path, kind: str) -> Path:
    family, given, *_ = NAMES
    body = ball((30, 12, 12), dtype="uint16")
    if kind == "dicom":
        files = {f"{family}^{given}/{given}_{k}": dicom(named(made)) for k, made in series(body).items()}
        files |= {f"{family}/broken {given}.dcm": next(iter(files.values()))[:500], f"{family}/{given}.pdf": b"%PDF"}
        strange = named(slice_(body[0], (0, 0, 0), series="7"))
        strange.ImageType = ["LOCALIZER", family]
        odd = dicom(named(slice_(body[0], (0, 0, 0), series="8")))
        odd = odd.replace(b"0.5\\0.75", given.encode())  # where numbers should be
        return fill(folder, files | {f"{family}/scout.dcm": dicom(strange), f"{family}/odd.dcm": odd})
    text = f"{family} {NAMES[2]}"
    if kind == "frames":
        corners = [(-20.0, -30.0, 2.0 * k) for k in range(30)]
        made = named(enhanced(body, corners))
        strange = named(enhanced(body[:3], corners[:3]))
        del strange.PerFrameFunctionalGroupsSequence
        odd = dicom(named(enhanced(body[:3], [*corners[:2], corners[1]], series="9")))
        files = {f"{family}/{given}.dcm": dicom(made), f"{family}/cine.dcm": dicom(strange), f"{family}/b.dcm": odd}
        return fill(folder, files | {f"{family}/{given} short.dcm": dicom(made)[:-900]})
    if kind == "tiff":
        whole = stack(body, words=text)
        files = {f"{family}/{given}.tif": whole, f"{family}/broken {given}.tif": whole[:-300]}
        files[f"{family}/{given}_visit2.ome.tiff"] = stack(body + 1, "ome", words=text)
        files[f"{family}/{given} colours.tif"] = stack(body[..., None].repeat(3, -1), "colours", words=text)
        return fill(folder, files)
    if kind == "patients":
        scans = {
            f"{who}/{who}_visit{k}.nii": ball((30, 12, 12), seed=10 * n + k)
            for n, who in enumerate((family, given, NAMES[4]))
            for k in range(2)
        }
        return fill(folder, {name: nifti(one, np.eye(4), text=text) for name, one in scans.items()})
    if kind == "masks":
        values, double = (body > 300).astype(np.uint8), np.diag([2.0, 2, 2, 1])
        made = {"": (body, np.eye(4)), "_visit2": (body + 1, np.eye(4))}
        made |= {"_mask": (values, np.eye(4)), "_visit2_mask": (values, double)}
        return fill(folder, {f"{family}/{given}{word}.nii": nifti(*one, text=text) for word, one in made.items()})
    return fill(
        folder,
        {
            f"{family}/{given}.nii": nifti(body, np.eye(4), text=text),
            f"{family}/4d {given}.nii": nifti(np.zeros((4, 4, 4, 2), np.int16), np.eye(4), text=text),
            f"{family}/broken.nii": nifti(body, np.eye(4), text=text)[:-9],
            f"{family}/{given}.txt": given.encode(),
        },
    )


@pytest.mark.parametrize("kind", ["dicom", "frames", "masks", "nifti", "patients", "tiff"])
def test_no_name_enters_run_folder_cache_log_or_samples(tmp_path, monkeypatch, capfd, kind):
    data, cache, run = planted(tmp_path / "in", kind), tmp_path / "cache", tmp_path / "run"
    assert leaks(data), "the names are there"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    sets = [part for setting in TINY for part in ("--set", setting)]
    out = tmp_path / "out"
    out.mkdir()
    commands = [
        ("doctor", data),
        ("train", data, "--out", run, "--steps", 2, *sets),
        ("sample", run, "-n", 2, "--where", "position=0.5", "--out", out / "files"),
        ("sample", run, "-n", 2, "--out", out / "s.npz"),
        ("sample", run, "-n", 2, "--out", out / "s.zip"),
        ("evaluate", run),
    ]
    masks = dict(enumerate(data.rglob("*_mask.nii")))
    commands += [("sample", run, "--where", f"mask={file}", "--out", out / f"masked{k}") for k, file in masks.items()]
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["fromnoise", *map(str, command)])
        try:
            main()
        except SystemExit as end:
            assert not end.code, command
    said = capfd.readouterr()
    for name in NAMES:
        assert name.lower() not in (said.out + said.err).lower()
    assert (run / "report.html").exists() and len(list((out / "files").iterdir())) == 3
    assert leaks(run) + leaks(cache) + leaks(out) == []
    whose = "of whom there are 3" if kind == "patients" else "one subject"
    assert whose in (run / "report.html").read_text()


def test_what_is_said_of_tables_and_runs_beside_volumes_names_nobody(tmp_path):
    folder = planted(tmp_path / "in", "nifti")
    family, given, *_ = NAMES
    lines = [f"{family}/{given}.nii,one", f"{family}/{given}.nii,zw\u00f6lf", ",none"]
    fill(
        folder,
        {
            f"{family}.csv": "\n".join(["file_name,kind", *lines]).encode("latin-1"),
            f"{family}.{given}/run.json": b"{}",
            f"{family}.{given}/split.jsonl": b'["train", "a"]\n',
        },
    )
    said = diagnose(scan(folder))
    said = said.replace(str(folder), "")
    for part in (
        "a table: lines 2 and 3 name the same",
        "a table: line 4",
        "a table is read as",
        "2 files of a run folder",
    ):
        assert part in said
    assert not any(name.lower() in said.lower() for name in NAMES), said


def test_the_model_holds_what_samples_need_and_no_more(tmp_path):
    data = fill(tmp_path / "in", {f"{k}.dcm": dicom(named(m)) for k, m in series(ball((30, 12, 12))).items()})
    run = fn.train(data, out=tmp_path / "run", steps=2, settings=TINY)
    for file in data.iterdir():
        file.unlink()
    samples = fn.load(tmp_path / "run").sample(2, where={"position": 0.25}, seed=3)
    assert samples.shape == (2, 12, 12, 1) and samples.dtype == np.int32
    assert load_file(run.folder.model) and torch.isfinite(torch.tensor(samples.astype(float))).all()


def test_the_medium_reads_a_single_file_as_its_model_has_it():
    medium, data = Volumes(), nifti(ball((20, 24, 40)), np.eye(4))
    assert medium.sniff(dicom(slice_(ball((4, 5, 6))[0], (0, 0, 0)))[:512]) and not medium.sniff(data[:512])
    header = medium.probe(data)
    codec, _ = medium.choose(header, Counter([header]), None)
    assert medium.read(data, header, codec).shape == (20, 24, 1) and TRAIN == 0
