"""What the examples of scans are and where they lie; subjects apart in every split."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from datafiles import fill
from hypothesis import given
from hypothesis import strategies as st
from scans import ball, dicom, header_like, nifti, series

from fromnoise.data import diagnose, open_dataset, scan
from fromnoise.data.blocks import GAP, slabs, starts
from fromnoise.data.splits import NAMES as SPLITS
from fromnoise.data.subject import subjects
from fromnoise.data.volume import MANY, _scans
from fromnoise.errors import FromNoiseError


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
