"""TIFF of several pages and DICOM of several frames: exact values, order, spacings; which files they are; faults."""

from __future__ import annotations

import io
import json
from hashlib import blake2b
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from datafiles import fill
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, RLELossless
from scans import ball, dicom, enhanced, item, slice_, stack

from fromnoise.codec import codec_from_json, stackfile
from fromnoise.data import diagnose, open_dataset, scan, tiff
from fromnoise.data.blocks import Volume
from fromnoise.data.dicom import frames
from fromnoise.data.volume import _scans
from fromnoise.errors import FromNoiseError, Unreadable

PAGES = ball((6, 10, 12))  # pages, rows, columns


def read(data: bytes) -> Volume:
    return tiff.volume("a.tif", lambda: data)


def spacing(data: bytes) -> list[float]:
    return np.diag(read(data).affine)[:3].tolist()


def why(folder: Path, **asked: str) -> list[str]:
    return [file.reason for file in scan(folder, **asked).skipped]  # pyright: ignore


# ---- values, places, order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*(("imagej", dtype) for dtype in ("uint8", "uint16", "int16", "float32")), ("ome", "uint16"), ("ome", "int32")],
)
def test_a_stack_comes_back_to_the_bit(tmp_path, kind, dtype):
    """Numbers, number type, order of pages and spacing: read, encoded, decoded, saved, read again."""
    pages = np.random.default_rng(0).normal(100, 20, (6, 10, 12)).astype(dtype)
    if dtype == "uint16":
        pages[0, 0, :2] = 0, 65535
    data = fill(tmp_path / "in", {"a.tif": stack(pages, kind)})
    dataset = open_dataset(data, size=(12, 10, 6), cache_dir=tmp_path / "cache")
    codec = codec_from_json(json.loads(json.dumps(dataset.codec.to_json())))
    saved = codec.save(tmp_path / "out", codec.decode(dataset.x0([0]))[0], {"seed": 1})
    again = tifffile.imread(saved)
    assert saved.name == "out.tif" and again.dtype == dtype and stackfile.read_recipe(saved) == {"seed": 1}
    np.testing.assert_allclose(again, pages, rtol=0, atol=1e-4 if dtype == "float32" else 0)
    np.testing.assert_allclose(spacing(saved.read_bytes()), (0.325, 0.108, 2.0), rtol=1e-12)
    with Image.open(saved) as image:
        assert image.n_frames == 6 and image.size == (12, 10)  # pyright: ignore


def test_slices_are_pages_in_their_order_seen_as_they_lie_in_the_file(tmp_path):
    data = fill(tmp_path / "in", {"a.tif": stack(ball((40, 10, 12)))})
    dataset = open_dataset(data, cache_dir=tmp_path / "cache", columns=["position:number"])
    codec, pages = dataset.codec, ball((40, 10, 12))
    assert any("within 6 µm of what is held out" in note for note in dataset.notes), "three times the coarsest spacing"
    for row in (0, 7, len(dataset) - 1):
        place = round(39 * float(dataset.texts("position", [row])[0]))
        sample = codec.decode(dataset.x0([row]))
        saved = codec.save(tmp_path / f"{row}", sample[0], {})
        np.testing.assert_array_equal(tifffile.imread(saved), pages[place])
        low, high = codec.window
        grey = np.clip((pages[place] - low) / (high - low), 0, 1)
        np.testing.assert_allclose(codec.preview(sample)[0, ..., 0] / 255, grey, atol=0.01)


@pytest.mark.parametrize("block", [(1, 3, 4), (3, 1, 4), (3, 4, 1), (2, 3, 4)])
def test_blocks_of_any_thickness_are_pages(tmp_path, block):
    values = np.random.default_rng(0).integers(0, 255, block, dtype=np.uint8)
    saved = stackfile.save(tmp_path / "a", values, (0.5, 0.25, 4.0), dtype="uint8", recipe={})
    again = read(saved.read_bytes())
    np.testing.assert_array_equal(again.load(), values)
    assert again.sized and spacing(saved.read_bytes()) == [0.5, 0.25, 4.0]


@pytest.mark.parametrize(
    ("unit", "micrometres"),
    [
        ("um", 1),
        ("micron", 1),
        ("\\u00B5m", 1),
        ("nm", 1e-3),
        ("mm", 1e3),
        ("inch", 25400),
        ("pixel", None),
        ("", None),
    ],
)
def test_imagej_says_how_large_voxels_are_where_it_names_a_unit(unit, micrometres):
    data = stack(PAGES, unit=unit)
    assert read(data).sized == (micrometres is not None)
    wanted = np.array([0.325, 0.108, 2.0]) * micrometres if micrometres else np.ones(3)
    np.testing.assert_allclose(spacing(data), wanted, rtol=1e-12)


@pytest.mark.parametrize(("unit", "micrometres"), [("µm", 1), ("nm", 1e-3), ("mm", 1e3)])
def test_ome_says_how_large_voxels_are(unit, micrometres):
    wanted = np.array([0.325, 0.108, 2.0]) * micrometres
    np.testing.assert_allclose(spacing(stack(PAGES, "ome", unit=unit)), wanted, rtol=1e-12)


def test_a_size_that_is_not_said_is_taken_for_one_and_said(tmp_path):
    notes = scan(fill(tmp_path / "none", {"a.tif": stack(ball((30, 10, 12)), "plain")})).notes
    assert any("1 µm is taken, and written" in note for note in notes)
    both = {"a.tif": stack(ball((30, 10, 12)), "plain"), "b.tif": stack(ball((30, 10, 12), seed=1))}
    assert [one.partition(",")[0] for one in why(fill(tmp_path / "both", both))] == [
        "says not how large its voxels are"
    ]


@pytest.mark.parametrize("coding", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_what_pillow_can_unpack_is_read(coding):
    out, (first, *others) = io.BytesIO(), [Image.fromarray(page.astype(np.uint16)) for page in PAGES]
    first.save(out, "TIFF", save_all=True, append_images=others, compression=coding)
    found = read(out.getvalue())
    assert found.dtype == "uint16" and tiff.stacked(out.getvalue())
    np.testing.assert_array_equal(found.load(), stackfile.upright(PAGES.astype(np.uint16)))


def test_missing_values_and_masks_of_bits():
    pages = PAGES.astype(np.float32)
    pages[0, 0, 0], pages[1, 1, 1] = np.nan, np.inf
    found = read(stack(pages))
    assert found.holes and found.dtype == "float32" and np.isnan(found.load()).sum() == 2
    bits = read(stack(PAGES > 400, "loop"))
    assert bits.dtype == "uint8" and set(np.unique(bits.load())) == {0, 1}


def test_number_types_that_are_mixed_are_said_and_floats_are_no_integers(tmp_path):
    made = [stack(ball((24, 10, 12), seed=k).astype(("uint8", "uint16", "uint16")[k % 3])) for k in range(6)]
    unit = [stack(ball((24, 10, 12), seed=k).astype(np.float32) / 900) for k in range(2)]
    files = {f"{k}.tif": data for k, data in enumerate([*made, *unit])}
    listing = scan(fill(tmp_path / "mixed", files))
    (note,) = (note for note in listing.notes if "not scaled to each other" in note)
    assert note.startswith("scans of 4 uint16, 2 uint8: all become uint16") and listing.common.dtype == "uint16"
    assert why(tmp_path / "mixed") == ["is a TIFF of floats, unlike most of the set: train on such by themselves"] * 2
    alike = scan(fill(tmp_path / "alike", {f"{k}.tif": made[k] for k in (1, 2, 4)}))
    assert not any("not scaled" in note for note in alike.notes)


# ---- which files are stacks -----------------------------------------------------------------------------------------


def test_half_of_the_tiffs_must_be_stacks_and_axes_say_otherwise(tmp_path):
    one = {f"flat{k}.tif": stack(ball((1, 10, 12), seed=k)[0], "plain") for k in range(3)}
    few = fill(tmp_path / "few", one | {f"{k}.tif": stack(ball((24, 10, 12), seed=k)) for k in range(2)})
    half = fill(tmp_path / "half", one | {f"{k}.tif": stack(ball((24, 10, 12), seed=k)) for k in range(3)})
    assert scan(few).medium.name == "image" and len(scan(few)) == 5
    assert scan(half).medium.name == "volume"
    assert why(half) == ["is a TIFF of a single slice, unlike most of the set: train on such by themselves"] * 3
    assert scan(few, axes="zyx").medium.name == "volume" and scan(half, axes="hw").medium.name == "image"
    said = diagnose(scan(half))
    assert "samples are TIFF" in said and "--axes hw for pictures" in said and "0.325 x 0.108 x 2 µm" in said


@pytest.mark.parametrize(
    ("pages", "kind", "stacked"),
    [
        (PAGES, "plain", True),
        (PAGES[:2], "loop", True),
        (PAGES[:3], "plain", False),  # as many as colours are
        (np.moveaxis(ball((40, 44, 5)), 0, 0), "plain", False),  # five channels, last
        (PAGES[:1], "plain", False),
        (PAGES[..., None].repeat(3, -1), "colours", False),
    ],
)
def test_grey_pages_that_are_not_named_are_slices(pages, kind, stacked):
    assert tiff.stacked(stack(pages, kind)) == stacked


def test_what_becomes_of_pages_of_pictures_is_said_with_what_to_do_instead(tmp_path):
    """Unnamed grey pages that are too few for slices are channels; of pages in colours the first is used."""
    two = fill(tmp_path / "two", {f"{k}.tif": stack(ball((2, 10, 12), seed=k), "plain") for k in range(3)})
    listing = scan(two)
    assert listing.mode == "2 channels" and listing.medium.name == "image"
    (note,) = listing.notes
    assert note.startswith("pages of 3 TIFF files") and "--axes zyx" in note and "as a file" in note
    assert scan(two, axes="zyx").medium.name == "volume"
    said = written(ball((2, 10, 12)).astype(np.uint8), "CYX")
    assert not scan(fill(tmp_path / "said", {"a.tif": said})).notes
    colours = stack(ball((6, 10, 12), dtype="uint8")[..., None].repeat(3, -1), "colours")
    told = diagnose(scan(fill(tmp_path / "rgb", {"a.tif": colours})))
    assert "the first is used (save each as a file, or each colour as a grey stack): a.tif" in told


def written(pages: np.ndarray, axes: str) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, pages, imagej=True, metadata={"axes": axes})
    return out.getvalue()


def odd_page(dtype: str, *shape: int) -> bytes:
    """A stack with one page of another kind."""
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        for k, page in enumerate(PAGES):
            page = ball((1, *(shape or page.shape)))[0].astype(dtype) if k == 3 else page
            file.write(page, photometric="minisblack", metadata=None)
    return out.getvalue()


def test_each_fault_of_a_stack_has_its_sentence_and_the_rest_trains(tmp_path):
    whole = stack(ball((24, 10, 12)))
    faults = {
        "is cut short": whole[: len(whole) // 2],
        "no TIFF that can be read": whole[:60],
        "pages of several kinds, as 12 x 10 int16 and 12 x 10 uint8": odd_page("uint8"),
        "pages of several kinds, as 12 x 10 int16 and 7 x 5": odd_page("int16", 5, 7),
        "holds colours": stack(PAGES[..., None].repeat(3, -1), "colours"),
        "several moments": written(PAGES, "TYX"),
        "several channels": written(PAGES.reshape(3, 2, 10, 12), "ZCYX"),
        "holds 3 throughout": stack(np.full((6, 10, 12), 3, np.int16)),
    }
    files = {f"fault {k}.tif": data for k, data in enumerate(faults.values())}
    good = {f"{k}.tif": stack(ball((24, 10, 12), seed=k)) for k in range(9)}
    dataset = open_dataset(fill(tmp_path / "in", files | good), cache_dir=tmp_path / "cache")
    found = [file.reason for file in dataset.listing.skipped]
    for fault in faults:
        assert sum(fault in one for one in found) == 1, (fault, found)
    assert len(found) == len(faults) and all(one.count(":") == 1 for one in found) and len(dataset) > 100


def test_a_broken_stack_that_nothing_lies_beside_is_called_by_its_hash(tmp_path):
    whole = stack(ball((24, 10, 12)))
    file = fill(tmp_path / "in", {"Anna.tif": whole[: len(whole) // 2]}) / "Anna.tif"
    alias = blake2b(file.read_bytes(), digest_size=4).hexdigest()
    for source in (file.parent, file):
        with pytest.raises(FromNoiseError) as error:
            open_dataset(source, cache_dir=tmp_path / "cache")
        said = f"Nothing can be learned from {source}: {alias}.tif is cut short: copy or export it again."
        assert str(error.value) == said


@pytest.mark.parametrize("kind", ["imagej", "ome", "plain", "loop"])
def test_a_stack_that_is_cut_anywhere_is_left_out(kind):
    whole = stack(PAGES, kind)
    assert read(whole).shape == (12, 10, 6)
    last = max(page.offset for page in tifffile.TiffFile(io.BytesIO(whole)).pages)
    for length in np.linspace(1, last, 40).astype(int).tolist():
        with pytest.raises(Unreadable, match="cut short"):
            read(whole[:length])


@pytest.mark.parametrize("kind", ["imagej", "ome", "plain", "loop"])
def test_a_stack_that_is_cut_is_no_picture_of_its_first_page(tmp_path, kind):
    """Alone in its folder, where nothing else says what the set is, and beside pictures."""
    whole = stack(PAGES, kind)
    pages = tifffile.TiffFile(io.BytesIO(whole)).pages
    first, last = pages[0].dataoffsets[0] + pages[0].nbytes, max(page.offset for page in pages)  # pyright: ignore
    for length in np.linspace(first, last, 6).astype(int).tolist():
        with pytest.raises(FromNoiseError, match="cut short"):
            scan(fill(tmp_path / f"{length}", {"a.tif": whole[:length]}))
        flat = {f"flat{k}.tif": stack(ball((1, 10, 12), seed=k)[0], "plain") for k in range(3)}
        listing = scan(fill(tmp_path / f"{length}", flat))
        assert listing.medium.name == "image" and len(listing) == 3
        assert ["cut short" in file.reason for file in listing.skipped] == [True]


def test_a_large_stack_of_imagej_that_says_but_its_first_page_may_be_cut_behind_it():
    out, pages = io.BytesIO(), PAGES.astype(">u2")
    tifffile.imwrite(out, pages[0], description="ImageJ=1.54f\nimages=6\nslices=6\n", metadata=None, byteorder=">")
    whole = out.getvalue() + pages[1:].tobytes()
    np.testing.assert_array_equal(read(whole).load(), stackfile.upright(pages))
    for length in (len(out.getvalue()), len(whole) // 2, len(whole) - 1):
        assert tiff.stacked(whole[:length]) == (length > len(out.getvalue())), "words may outlive the other pages"
        with pytest.raises(Unreadable, match="cut short"):
            read(whole[:length])


# ---- DICOM of several frames ----------------------------------------------------------------------------------------

CORNERS = [(-20.0, -30.0, 100 + 2.5 * k) for k in range(6)]


@pytest.mark.parametrize("turn", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)])
def test_frames_of_a_file_are_the_scan_that_they_would_be_as_a_series(turn):
    values, order = np.random.default_rng(0).integers(0, 3000, (6, 5, 4)), [3, 0, 5, 1, 4, 2]
    corners = [tuple(np.array([-20.0, -30, 100]) + 2.5 * k * np.cross(turn[:3], turn[3:])) for k in range(6)]
    made = enhanced(values[order], [corners[k] for k in order], turn=turn)
    files = {f"{k}": dicom(slice_(values[k], corners[k], turn=turn)) for k in range(6)}
    (one,), broken, notes = _scans({"a": dicom(made)})
    (other,), *_ = _scans(files)
    assert not broken and not notes
    assert (one.shape, one.dtype, one.slope, one.intercept) == (other.shape, other.dtype, other.slope, other.intercept)
    assert (one.orientation, one.modality, one.sized) == (other.orientation, "CT", True)
    np.testing.assert_array_equal(one.affine, other.affine)
    np.testing.assert_array_equal(one.load(), other.load())


def test_a_frame_may_say_of_itself_what_others_share():
    """The place of one file of a single frame, and that its numbers are scaled, where others are of no scale."""
    made = enhanced(PAGES.astype(np.uint16), CORNERS)
    del made.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    own = item(PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=0)])
    made.PerFrameFunctionalGroupsSequence[5].update(own)
    (found,), broken, (note,) = _scans({"a": dicom(made)})
    assert (
        found.shape[2] == 5 and not broken and note.startswith("frames left out inside DICOM files: 1 (of another size")
    )
    single = enhanced(PAGES[:1].astype(np.uint16), CORNERS[:1])
    (found,), broken, notes = _scans({"a": dicom(single)})
    assert found.shape == (12, 10, 1) and found.sized and not broken and not notes


@pytest.mark.parametrize("kind", ["frames", "series"])
@pytest.mark.parametrize(
    ("slopes", "intercepts", "dtype"),
    [
        ((1, 2, 3, 1, 2, 3), (-1024, 0, 5, -1024, 0, 5), "int32"),
        ((1, 1, 1, 1, 1, 1), (0, 0, 0, 0, 0, 7), "int32"),
        ((0.5, 0.25, 1.5, 2, 0.125, 1), (0,) * 6, "float32"),
    ],
)
def test_each_slice_has_a_slope_and_intercept_of_its_own(tmp_path, kind, slopes, intercepts, dtype):
    """As PET has: all values are in their units, whole where all are, and no slice is left out."""
    numbers = np.random.default_rng(0).integers(0, 3000, (6, 10, 12)).astype(np.uint16)
    scales = list(zip(slopes, intercepts, strict=True))
    if kind == "frames":
        made = enhanced(numbers, CORNERS)
        for group, (slope, intercept) in zip(made.PerFrameFunctionalGroupsSequence, scales, strict=True):
            group.PixelValueTransformationSequence = [item(RescaleSlope=slope, RescaleIntercept=intercept)]
        files = {"a.dcm": dicom(made)}
    else:
        files = {f"{k}.dcm": dicom(slice_(numbers[k], CORNERS[k], scale=scale)) for k, scale in enumerate(scales)}
    (found,), broken, notes = _scans(files)
    wanted = stackfile.upright(numbers * np.array(slopes)[:, None, None] + np.array(intercepts)[:, None, None])
    np.testing.assert_array_equal(found.load(), wanted)
    assert not broken and not notes and (found.values, found.slope, found.intercept) == (dtype, 1, 0)
    dataset = open_dataset(fill(tmp_path / "in", files), size=(12, 10, 6), cache_dir=tmp_path / "cache")
    saved = nib.load(dataset.codec.save(tmp_path / "a", dataset.codec.decode(dataset.x0([0]))[0], {}))
    assert saved.get_data_dtype() == dtype and dataset.codec.units == "HU"  # pyright: ignore
    np.testing.assert_allclose(nib.as_closest_canonical(saved).get_fdata(), wanted, atol=1e-3)  # pyright: ignore


def test_frames_are_held_to_the_rules_of_series(tmp_path):
    values = ball((24, 8, 9), dtype="uint16")
    corners = [(-20.0, -30.0, 100 + 2.5 * k) for k in range(24)]
    gap = [k for k in range(24) if k not in (5, 6)]
    files = {
        "gap.dcm": dicom(enhanced(values[gap], [corners[k] for k in gap], series="1")),
        "twice.dcm": dicom(enhanced(values, [*corners[:-1], corners[3]], series="2")),
    }
    cine, mask = enhanced(values, corners, series="3"), enhanced(values, corners, series="4")
    del cine.PerFrameFunctionalGroupsSequence
    mask.BitsAllocated = mask.BitsStored = 1
    mask.HighBit, mask.PixelData = 0, bytes(216)
    short, lost = dicom(enhanced(values, corners, series="5")), enhanced(values, corners, series="6")
    del lost.PerFrameFunctionalGroupsSequence[7].PlanePositionSequence
    faults = {"cine.dcm": dicom(cine), "mask.dcm": dicom(mask), "short.dcm": short[:-90], "lost.dcm": dicom(lost)}
    listing = scan(fill(tmp_path, files | faults))
    (even,) = (note for note in listing.notes if "is not even" in note)
    assert "2 missing between 110 and 117.5 mm" in even and "its longest even run, of 17, is used" in even
    for n, fault in ((5, "beyond a gap"), (1, "at the same place as another slice")):
        assert any(f"inside DICOM files: {n} ({fault}" in note for note in listing.notes), listing.notes
    found = [file.reason for file in listing.skipped]
    assert len(found) == 4 and sum("does not say where its frames of CT lie:" in one for one in found) == 1
    assert sum("does not say where 1 of its 24 frames of CT lies:" in one for one in found) == 1
    assert sum("mask of single bits" in one for one in found) == 1 and sum("cut short" in one for one in found) == 1


def rle(made: Dataset) -> Dataset:
    made.compress(RLELossless)
    return made


@pytest.mark.parametrize("kind", ["slice", "frames", "compressed"])
def test_dicom_that_is_cut_anywhere_is_said_to_be_cut_short(kind):
    """Also where its pixels are lost altogether, as those of reports are that never had any."""
    made = slice_(PAGES[0], (0, 0, 0)) if kind == "slice" else enhanced(PAGES, CORNERS)
    whole = dicom(rle(made) if kind == "compressed" else made)
    for length in np.linspace(1, len(whole) - 30, 80).astype(int).tolist():
        with pytest.raises(Unreadable, match="cut short"):
            frames("a", whole[:length])
    report = slice_(PAGES[0], (0, 0, 0))
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    del report.PixelData, report.Rows, report.Columns
    with pytest.raises(Unreadable, match="a report"):
        frames("a", dicom(report))


def test_a_file_of_several_frames_that_is_damaged_is_said_to_be_so():
    few, many, junk = enhanced(PAGES, CORNERS), enhanced(PAGES, CORNERS), dicom(rle(enhanced(PAGES, CORNERS)))
    del few.PerFrameFunctionalGroupsSequence[4:]
    many.NumberOfFrames = 1
    fewer = rle(enhanced(PAGES[:4], CORNERS))
    fewer.NumberOfFrames = 6
    runs = b"\2\0\0\0\x40\0\0\0"  # how many runs of bytes a frame has, and where the first one is
    faults = {
        "is damaged, as it holds 6 and describes 4 frames": dicom(few),
        "is damaged, as it holds 1 and describes 6 frames": dicom(many),
        "cannot be decoded, as of a file that is cut short": dicom(fewer),
        "cannot be decoded, as of a file that is cut short or damaged": junk.replace(runs, bytes(8)),
    }
    for fault, data in faults.items():
        with pytest.raises(Unreadable, match=fault):
            frames("a", data)


@pytest.mark.parametrize(("modality", "remedy"), [("MR", "PerFrameFunctionalGroupsSequence"), ("US", "MP4")])
def test_only_moving_pictures_are_told_to_become_mp4(modality, remedy):
    made = enhanced(PAGES, CORNERS, Modality=modality)
    del made.PerFrameFunctionalGroupsSequence
    with pytest.raises(Unreadable, match=remedy):
        frames("a", dicom(made))
