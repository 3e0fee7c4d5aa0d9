"""The data side: every source gives its own pixels back, everything left out is named, mistakes get one sentence."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import tifffile
from datafiles import RNG, fill, many, noise, pack, png
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fromnoise.data import columns, store
from fromnoise.data.cache import Dataset, open_dataset
from fromnoise.data.doctor import diagnose
from fromnoise.data.image import MAX_PIXELS, decode, probe
from fromnoise.data.scan import Listing, scan
from fromnoise.data.size import target_size
from fromnoise.data.splits import HELD_OUT_MOST, OPEN, TEST, TRAIN, VAL, assign, folder_roles, hash_split, hold_groups
from fromnoise.data.texts import Texts
from fromnoise.data.tree import Unreadable
from fromnoise.errors import FromNoiseError
from fromnoise.folder import RunFolder
from fromnoise.generate import Samples


def saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def opened(source, tmp_path: Path, **options) -> Dataset:
    return open_dataset(source, cache_dir=tmp_path / "cache", **options)


def samples(data: Dataset) -> np.ndarray:
    return data.codec.decode(data.x0(np.arange(len(data))))


def hashes(contents: list[int]) -> np.ndarray:
    """(n, 2) uint64, as a scan gives them."""
    digests = b"".join(blake2b(str(c).encode(), digest_size=16).digest() for c in contents)
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)


def reasons(listing: Listing) -> dict[str, str]:
    return {file.name: file.reason for file in listing.skipped}


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_pixels_come_back_with_their_own_channels_dtype_and_values(kind, channels, dtype):
    pixels = noise(5, 7, channels, dtype=dtype)
    data = png(pixels)
    if kind == "tif":
        out = io.BytesIO()
        photometric = "rgb" if channels >= 3 else "minisblack"
        extra = ["unassalpha"] if channels in (2, 4) else None
        plain = pixels[..., 0] if channels == 1 else pixels
        tifffile.imwrite(out, plain, photometric=photometric, extrasamples=extra, planarconfig="contig")
        data = out.getvalue()
    header = probe(data)
    assert header.mode == ["grey", "grey-alpha", "RGB", "RGBA"][channels - 1]
    np.testing.assert_array_equal(decode(data, header), pixels)


@pytest.mark.parametrize("layout", ["contig", "separate", "pages", "array"])
def test_five_channels_of_sixteen_bits_in_a_tiff(layout):
    pixels = noise(37, 91, 5, dtype="uint16")
    out, planes = io.BytesIO(), np.moveaxis(pixels, -1, 0)
    if layout == "contig":
        tifffile.imwrite(out, pixels, photometric="minisblack", planarconfig="contig")
    elif layout == "separate":
        tifffile.imwrite(out, planes, photometric="minisblack", planarconfig="separate")
    else:
        tifffile.imwrite(out, planes if layout == "pages" else pixels)
    header = probe(out.getvalue())
    assert (header.height, header.width, header.channels, header.dtype) == (37, 91, 5, "uint16")
    np.testing.assert_array_equal(decode(out.getvalue(), header), pixels)


@pytest.mark.parametrize(
    ("kind", "mode", "options", "expect"),
    [
        ("PNG", "1", {}, "grey"),
        ("PNG", "P", {}, "RGB"),
        ("PNG", "P", {"transparency": 0}, "RGBA"),
        ("PNG", "L", {"transparency": 0}, "grey-alpha"),
        ("PNG", "RGB", {"transparency": (0, 0, 0)}, "RGBA"),
        ("GIF", "L", {}, "grey"),
        ("GIF", "P", {}, "RGB"),
        ("GIF", "P", {"transparency": 0}, "RGBA"),
        ("BMP", "RGB", {}, "RGB"),
        ("WEBP", "RGBA", {"lossless": True, "exact": True}, "RGBA"),
        ("JPEG", "L", {}, "grey"),
        ("JPEG", "CMYK", {}, "RGB"),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}, "RGB"),
        ("TIFF", "RGBA", {}, "RGBA"),
    ],
)
def test_the_header_promises_what_decoding_gives(kind, mode, options, expect):
    image = Image.fromarray(noise(9, 6, 4)).convert(mode) if mode != "P" else Image.fromarray(noise(9, 6))
    if mode == "P":
        image.putpixel((0, 0), 0)
        image.putpalette(noise(768).tobytes())
    data = saved(image, kind, **options)
    header = probe(data)
    assert header.mode == expect and (header.height, header.width) == (9, 6)
    pixels = decode(data, header)
    assert pixels.shape == (9, 6, header.channels)
    if kind != "JPEG":
        plain = {"grey": "L", "grey-alpha": "LA", "RGB": "RGB", "RGBA": "RGBA"}[expect]
        reference = np.asarray(Image.open(io.BytesIO(data)).convert(plain)).reshape(pixels.shape)
        np.testing.assert_array_equal(pixels, reference)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_obeyed(kind, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = saved(Image.fromarray(noise(4, 6, 3)), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    header = probe(data)
    expect = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert (header.height, header.width) == expect.shape[:2]
    np.testing.assert_array_equal(decode(data, header), expect)


def test_a_large_jpeg_is_decoded_small_but_not_too_small():
    image = Image.linear_gradient("L").resize((1600, 1200))
    data = saved(image, "JPEG", quality=95)
    small = decode(data, probe(data), at_least=(64, 64))
    assert 128 <= small.shape[0] < 1200 and 128 <= small.shape[1] < 1600


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert probe(data).more and (decode(data, probe(data)) == 10).all()
    stills = {f"{i}.gif": saved(Image.new("L", (4, 4), i), "GIF") for i in range(4)}  # else it is a set of clips
    assert "several frames" in diagnose(scan(fill(tmp_path, {"a.gif": data} | stills)))


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"BM", b"GIF89a"])
)
@settings(max_examples=200, deadline=None)
def test_garbage_is_unreadable_and_nothing_worse(tail, head):
    try:
        header = probe(head + tail)
        decode(head + tail, header)
    except Unreadable as error:
        assert str(error) and "\n" not in str(error)


def test_a_file_cut_short_is_seen_without_decoding():
    for data in (png(noise(40, 40, 3)), saved(Image.fromarray(noise(40, 40, 3)), "JPEG")):
        with pytest.raises(Unreadable, match="cut short"):
            probe(data[: len(data) // 2])


def test_a_bomb_is_never_decoded(tmp_path, monkeypatch):
    head = struct.pack(">IIBBBBB", 16000, 14464, 8, 6, 0, 0, 0)
    part = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    bomb = b"\x89PNG\r\n\x1a\n" + part + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    fill(tmp_path, {"bomb.png": bomb, "good.png": png(noise(8, 8, 3))})
    monkeypatch.setattr("fromnoise.data.image.decode", lambda *_: pytest.fail("scan decodes nothing"))
    listing = scan(tmp_path)
    assert len(listing) == 1 and "231 megapixels" in reasons(listing)["bomb.png"]
    assert 25e6 <= MAX_PIXELS <= 51e6


# ---------------------------------------------------------------- sources


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_is_the_folder_that_it_was_packed_from(kind, tmp_path):
    files = {f"{label}/{i}.png": png(noise(8, 8, 3)) for label in ("cat", "dog") for i in range(6)}
    files |= {"__MACOSX/._x.png": b"x", ".DS_Store": b"x", "README.md": b"hello"}
    folder = opened(fill(tmp_path / "folder", files), tmp_path)
    packed = opened(pack(kind, files, tmp_path / f"a.{kind}"), tmp_path)
    assert packed.fingerprint == folder.fingerprint and reasons(packed.listing) == reasons(folder.listing)
    assert list(reasons(folder.listing)) == ["README.md"], "hidden files are not mentioned"
    np.testing.assert_array_equal(samples(packed), samples(folder))
    assert packed.columns == folder.columns and packed.columns[0].labels == ("cat", "dog")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_with_evil_names_are_read_and_never_written(kind, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    files = {"../../evil.png": png(noise(8, 8, 1)), "/tmp/fromnoise-evil.png": png(noise(8, 8, 1))}
    data = opened(pack(kind, files, inner / f"evil.{kind}"), inner)
    assert len(data) == 2
    assert not list(tmp_path.glob("evil*")) and not Path("/tmp/fromnoise-evil.png").exists()


def test_links_of_a_tar_are_said(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        body = png(noise(8, 8, 1))
        info = tarfile.TarInfo("x/a.png")
        info.size = len(body)
        archive.addfile(info, io.BytesIO(body))
        for name, kind, target in (
            ("x/b.png", tarfile.SYMTYPE, "a.png"),
            ("x/c.png", tarfile.LNKTYPE, "x/a.png"),
            ("x/d.png", tarfile.SYMTYPE, "/etc/passwd"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    why = reasons(scan(path))
    assert "exact duplicate" in why["x/b.png"] and "exact duplicate" in why["x/c.png"]
    assert "not in the archive" in why["x/d.png"]


@pytest.mark.parametrize("shape", [(6, 9, 5), (6, 9, 5, 3), (6, 9, 5, 7)])
def test_arrays_from_python_npy_and_npz_are_the_same_set(shape, tmp_path):
    array = noise(*shape, dtype="uint16")
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "b.npz", samples=array, index=np.arange(6), recipe="{}")
    expect = array if array.ndim == 4 else array[..., None]
    for source in (array, tmp_path / "a.npy", str(tmp_path / "b.npz")):
        np.testing.assert_array_equal(samples(opened(source, tmp_path)), expect)
    if array.ndim == 4:
        first = opened(np.ascontiguousarray(array.transpose(0, 3, 1, 2)), tmp_path, channels_first=True)
        np.testing.assert_array_equal(samples(first), array)


def test_a_folder_of_npy_images_and_a_big_array_stays_on_disk(tmp_path):
    images = [noise(12, 10, 5, dtype="uint16") for _ in range(4)]
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(images):
        np.save(folder / f"{i}.npy", image)
    np.testing.assert_array_equal(samples(opened(folder, tmp_path)), images)
    np.save(tmp_path / "big.npy", np.ones((9, 16, 16), np.float32))
    assert isinstance(scan(tmp_path / "big.npy").stacks[0].pixels.base, np.memmap)


def test_our_own_samples_and_medmnist_files_bring_columns_and_splits(tmp_path):
    x, labels = noise(40, 8, 8, 3), np.arange(40) % 4
    np.savez(tmp_path / "own.npz", samples=x, cond_class=labels.astype(str), index=np.arange(40), seed=3, recipe="{}")
    own = opened(tmp_path / "own.npz", tmp_path)
    assert [c.name for c in own.columns] == ["class"] and own.texts("index", [7]) == ["7"]
    arrays = {f"{s}_images": x[a:b] for s, a, b in (("train", 0, 30), ("val", 30, 35), ("test", 35, 40))}
    arrays |= {f"{s}_labels": labels[a:b, None] for s, a, b in (("train", 0, 30), ("val", 30, 35), ("test", 35, 40))}
    np.savez(tmp_path / "med.npz", **arrays)
    med = opened(tmp_path / "med.npz", tmp_path, columns=["labels"])
    assert {s: len(med.indices(s)) for s in ("train", "val", "test")} == {"train": 30, "val": 5, "test": 5}
    assert med.cond(med.indices("val")).values["labels"].tolist() == labels[30:35].tolist()


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_of_idx_files_is_one_set_with_labels_and_split(zipped, tmp_path):
    x, y = noise(30, 7, 5), (np.arange(30) % 3).astype(np.uint8)
    files = {
        "train-images-idx3-ubyte": idx(x[:20]),
        "train-labels-idx1-ubyte": idx(y[:20]),
        "t10k-images-idx3-ubyte": idx(x[20:]),
        "t10k-labels-idx1-ubyte": idx(y[20:]),
    }
    if zipped:
        files = {f"{name}.gz": gzip.compress(data) for name, data in files.items()}
    data = opened(fill(tmp_path / "idx", files), tmp_path)
    train, val, test = (data.indices(split) for split in ("train", "val", "test"))
    ours = np.sort(np.concatenate([train, val]))
    np.testing.assert_array_equal(samples(data)[ours][..., 0], x[:20])
    np.testing.assert_array_equal(samples(data)[test][..., 0], x[20:])
    assert data.columns[0].name == "label" and data.cond(ours).values["label"].tolist() == y[:20].tolist()
    assert len(train) > len(val) > 0


def test_an_idx_file_that_lies_about_its_length_is_skipped(tmp_path):
    files = {"a-images-idx3-ubyte": idx(noise(9, 4, 4))[:-5], "x.png": png(noise(4, 4, 1))}
    assert "cut short" in reasons(scan(fill(tmp_path, files)))["a-images-idx3-ubyte"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_table_gives_columns_and_names_what_is_missing(kind, alone, tmp_path):
    names = [f"images/{i}.png" for i in range(60)]
    rows = [
        {"file_name": name, "kind": "ab"[i % 2], "height": str(i / 7), "text": f"picture number {i}, of noise"}
        for i, name in enumerate([*names, "images/lost.png"])
    ]
    header = ",".join(rows[0])
    lines = [json.dumps(row) for row in rows]
    if kind == "csv":
        lines = [header, *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
    table = tmp_path / "set" / f"metadata.{kind}"
    fill(table.parent, {name: png(noise(8, 8, 1)) for name in names} | {table.name: "\n".join(lines).encode()})
    data = opened(table if alone else table.parent, tmp_path, columns=["kind", "height"])
    assert reasons(data.listing) == {"images/lost.png": f"named in metadata.{kind}, but not there"}
    assert [(c.name, c.kind) for c in data.columns] == [("kind", "class"), ("height", "number")]
    age = data.columns[1]
    for i in (0, 17, 59):
        place = data.names(np.arange(60)).index(f"images/{i}.png")
        assert data.cond([place]).values["kind"].item() == i % 2
        assert data.cond([place]).values["height"].item() == pytest.approx((i / 7 - age.mean) / age.std)
        assert data.texts("text", [place]) == [f"picture number {i}, of noise"]
    assert [c.name for c in opened(table.parent, tmp_path).columns] == ["text"], "no column of a table is the class"


@pytest.mark.parametrize("alone", [False, True])
def test_broken_lines_of_a_table_cost_themselves_alone(alone, tmp_path):
    rows = [json.dumps({"file_name": f"{i:03}.png", "height": i}) for i in range(6)]
    one, several = (
        [*rows[:3], '{"file_name": "003.png", "hei', *rows[4:]],
        [*rows[:2], "[1]", "nonsense", "", *rows[4:]],
    )
    for lines, said, filled in (
        (one, "m.jsonl: line 4 is not a JSON object: mend it; the other 5 rows count.", 5),
        (several, "m.jsonl: 2 lines are not JSON objects, the first is line 3: mend them; the other 4 rows count.", 4),
    ):
        folder = fill(tmp_path / f"{filled}", many(6) | {"m.jsonl": "\n".join(lines).encode()})
        data = opened(folder / "m.jsonl" if alone else folder, tmp_path, columns=["height:number"])
        assert said in data.notes and said in diagnose(scan(folder)) and len(data) == (filled if alone else 6)
        assert int(data.cond(np.arange(len(data))).present["height"].sum()) == filled
    with pytest.raises(FromNoiseError, match="no line of it is a JSON object"):
        scan(fill(tmp_path, {"all.jsonl": b"a\nb\n"}) / "all.jsonl")


@pytest.mark.parametrize("lines", [1, 2])
def test_of_equal_keys_in_a_line_of_a_table_the_last_counts_and_is_said(lines, tmp_path):
    rows = [f'{{"file_name": "{i:03}.png", "kind": "a", "more": {{"x": 1, "x": 2}}}}' for i in range(6)]
    rows[2 : 2 + lines] = [row.replace('"more"', '"kind": "b", "more"') for row in rows[2 : 2 + lines]]
    said = {
        1: "m.jsonl: line 3 has the key 'kind' more than once: keep one; the last counts.",
        2: "m.jsonl: 2 lines, the first line 3, have the key 'kind' more than once: keep one; the last counts.",
    }[lines]
    folder = fill(tmp_path / "set", many(6) | {"m.jsonl": "\n".join(rows).encode()})
    data = opened(folder, tmp_path, columns=["kind"])
    assert said in data.notes and said in diagnose(scan(folder)) and not any("'x'" in note for note in data.notes)
    assert data.texts("kind", range(6)) == ["b" if 2 <= i < 2 + lines else "a" for i in range(6)]


def test_of_columns_of_one_name_the_first_counts_and_is_said(tmp_path):
    text = "file_name,kind,kind\n" + "".join(f"{i:03}.png,{'ab'[i % 2]},{'cd'[i % 2]}\n" for i in range(12))
    listing = scan(fill(tmp_path, many(12) | {"m.csv": text.encode()}))
    assert [profile.labels for profile in listing.profiles if profile.name == "kind"] == [("a", "b")]
    assert "m.csv: several columns are called 'kind': rename all but one; the first counts." in listing.notes


def test_files_that_a_table_names_outside_its_folder_are_said_to_lie_there(tmp_path):
    fill(tmp_path, {"other/i0.png": png(noise(8, 8, 3))})
    named = ["000.png", "../other/i0.png", "/etc/passwd", "gone.png", "sub/../../x.png", f"{tmp_path}/set/001.png"]
    folder = fill(tmp_path / "set", many(2) | {"m.csv": "\n".join(["file_name", *named]).encode()})
    why, outside = reasons(scan(folder)), "lies outside the folder: give the table itself as the data"
    assert "not there" in why["gone.png"]
    assert all(outside in why[name] for name in ("../other/i0.png", "/etc/passwd", "../x.png"))
    assert "by its whole path" in why[f"{tmp_path}/set/001.png"]
    assert len(scan(folder / "m.csv")) == 3, "as the sentence promises"


def test_of_several_rows_on_a_file_the_last_value_given_counts(tmp_path):
    text = b"file_name,kind,size\n000.png,a,1\n001.png,b,2\n000.png,,3\n001.png,b,\n000.png,,\n"
    listing = scan(fill(tmp_path, many(2) | {"m.csv": text}))
    columns_ = listing.items.columns
    assert [(columns_["kind"][i], columns_["size"][i]) for i in range(2)] == [("a", "3"), ("b", "2")]
    assert any("lines 2 and 4 name the same file with different values" in note for note in listing.notes)


def test_rows_with_too_many_cells_are_said(tmp_path):
    text = b"file_name,text\n000.png,one, two\n001.png,three,\n002.png,four\n"
    notes = scan(fill(tmp_path, many(3) | {"m.csv": text})).notes
    assert any("m.csv: line 2 has more cells than the first line" in note for note in notes)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_rows_that_contradict_each_other_or_name_nothing_are_said(kind, tmp_path):
    def listed(name: str, *cells: tuple[str, str]) -> Listing:
        lines = [json.dumps({"file_name": file, "kind": value}) for file, value in cells]
        if kind == "csv":
            lines = ["file_name,kind", *(f"{file},{value}" for file, value in cells)]
        return scan(fill(tmp_path / name, many(3) | {f"m.{kind}": "\n".join(lines).encode()}))

    first = 2 if kind == "csv" else 1
    one = listed("one", ("000.png", "a"), ("001.png", "b"), ("./000.png", "c"), ("", "d"))
    assert [one.items.columns["kind"][i] for i in range(3)] == ["c", "b", ""], "the last counts"
    for said in (
        f"m.{kind}: line {first + 3} has no file_name and belongs to no file: fill it in.",
        f"m.{kind}: lines {first} and {first + 2} name the same file with different values: keep one a file; the last "
        "counts.",
    ):
        assert said in one.notes and said in diagnose(one)
    two = listed("two", ("000.png", "a"), ("000.png", "b"), ("001.png", "a"), ("001.png", "b"), ("", "c"), ("", "d"))
    assert any(
        f"2 files are named by several rows with different values, such as lines {first} and" in n for n in two.notes
    )
    assert any(f"2 rows, the first at line {first + 4}, have no file_name" in note for note in two.notes)
    assert not listed("alike", ("000.png", "a"), ("000.png", "a"), ("001.png", "b")).notes, "no contradiction"


def test_captions_beside_images_and_notes_without(tmp_path):
    files = many(6) | {f"{i:03}.txt": f"a noise\nof {i}".encode() for i in range(5)} | {"about.txt": b"hello"}
    data = opened(fill(tmp_path / "set", files), tmp_path)
    assert data.texts("caption", [0, 5]) == ["a noise of 0", ""]
    assert list(reasons(data.listing)) == ["about.txt"]
    assert [c.kind for c in data.columns] == ["tokens"], "what it is called says that it is a condition"
    assert opened(tmp_path / "set", tmp_path, columns=[]).columns == ()


@pytest.mark.parametrize(("name", "n", "shape"), [("digits", 1797, (1, 8, 8)), ("emoji", 1911, (4, 64, 64))])
def test_the_bundled_sets(name, n, shape):
    listing = scan(name)
    assert len(listing) == n
    assert (listing.channels, *target_size(listing.sizes)) == shape


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_first_without_saying_so_is_refused_and_names_the_flag(channels, tmp_path):
    array = noise(6, channels, 20, 24)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", samples=array)
    for source in (array, tmp_path / "a.npy", tmp_path / "b.npz"):
        with pytest.raises(FromNoiseError, match="--channels-first") as caught:
            scan(source)
        assert "\n" not in str(caught.value)
        assert scan(source, channels_first=True).channels == channels
    assert scan(noise(6, channels, 20, 3)).sizes == {(channels, 20): 6}, "pictures of few rows"


# ---------------------------------------------------------------- what is wrong


def test_every_file_left_out_is_named_with_its_reason(tmp_path):
    files = many(3) | {
        "broken.png": png(noise(8, 8, 3))[:60],
        "empty.jpg": b"",
        "fake.png": b"this is text",
        "notes.md": b"#",
        "LICENSE": b"free",
        "film.mp4": b"0" * 99,
        "blob": b"\0" * 64,
        "image-without-suffix": png(noise(8, 8, 3)),
        "inner.zip": b"PK",
        "other.csv": b"a,b\n1,2\n",
        ".hidden.png": b"",
    }
    listing = scan(fill(tmp_path, files))
    os.symlink(tmp_path / "000.png", tmp_path / "link.png")
    os.symlink(tmp_path / "nowhere", tmp_path / "dangling.png")
    os.symlink(tmp_path, tmp_path / "loop")
    listing = scan(tmp_path)
    used = set(listing.names(range(len(listing))))
    assert used == {"000.png", "001.png", "002.png", "image-without-suffix"}
    assert set(reasons(listing)) == (set(files) | {"link.png", "dangling.png", "loop"}) - used - {".hidden.png"}
    assert "exact duplicate" in reasons(listing)["link.png"]
    text = diagnose(listing)
    for name, reason in reasons(listing).items():
        assert f"{name}: {reason}" in text.split("skipped (")[1]


def test_a_sheet_beside_samples_is_no_example(tmp_path):
    data = opened("digits", tmp_path)
    samples_ = Samples(
        samples=samples(data)[:5], index=np.arange(5), seed=0, cond={}, recipe={"seed": 0}, codec=data.codec
    )
    for name in ("folder", "packed.zip"):
        listing = scan(samples_.save(tmp_path / name))
        assert len(listing) == 5 and listing.sizes == {(8, 8): 5}
        assert "fromnoise wrote" in reasons(listing)["sheet.png"]


@pytest.mark.parametrize("packed", [False, True])
def test_runs_inside_the_data_are_left_out_and_nothing_else(packed, tmp_path):
    made = RunFolder(tmp_path / "run")
    made.path.mkdir()
    made.create({}, [("train", "000.png")])
    run = {path.name: path.read_bytes() for path in (made.facts, made.split)} | {"previews/1.png": png(noise(8, 8, 3))}
    files = many(4) | {f"runs/a/{name}": data for name, data in run.items()} | {"others/run.json": b"{}"}
    files |= {f"runs/a/distilled/{name}": data for name, data in run.items()}
    files |= {"theirs/run.json": b"{}", "theirs/split.jsonl": b'{"fold": 1}\n', "theirs/x.png": png(noise(8, 8, 3))}
    source = pack("zip", files, tmp_path / "a.zip") if packed else fill(tmp_path / "set", files)
    listing = scan(source)
    assert [*listing.names(range(len(listing)))] == [*many(4), "theirs/x.png"]
    said = "6 files of a run folder inside the data are left out."
    assert said in listing.notes and said in diagnose(listing)
    assert "with its 6 files" in reasons(listing)["runs/a/run.json"] and "runs/a/previews/1.png" not in reasons(listing)
    if not packed:
        assert len(scan(source / "runs" / "a" / "previews")) == 1, "what is asked for by its own name is data"


def test_many_links_are_counted_and_three_are_named(tmp_path):
    fill(tmp_path / "set", many(3))
    for i in range(40):
        os.symlink(tmp_path / "set" / "000.png", tmp_path / "set" / f"link-{i:02}.png")
    data = opened(tmp_path / "set", tmp_path)
    (note,) = [note for note in data.notes if "skipped" in note]
    for text in (note, diagnose(data.listing)):
        assert "40 links" in text and "link-02.png" in text and "link-03.png" not in text
    assert len(reasons(data.listing)) == 40, "run.json still lists each"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no files"),
        ({"a.heic": b"x", "b.doc": b"y"}, "no usable image"),
        ({"a.png": b"x"}, "no usable image"),
    ],
)
def test_nothing_usable_is_one_sentence_with_a_remedy(files, said, tmp_path):
    with pytest.raises(FromNoiseError, match=said) as caught:
        opened(fill(tmp_path, files), tmp_path / "elsewhere")
    assert "point to a folder" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", ["missing", "bad.zip", "bad.tar.gz", "bad.npy", "bad.npz", "bad.csv", "bad.jsonl"])
def test_a_missing_path_and_broken_files_are_one_sentence(bad, tmp_path):
    fill(tmp_path, {name: b"\x93garbage\xff" for name in (bad,) if name != "missing"})
    with pytest.raises(FromNoiseError) as caught:
        scan(tmp_path / bad)
    assert bad in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_name_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(fill(tmp_path, many(3)))
    for name in ("", " "):
        with pytest.raises(FromNoiseError, match="name of the data is empty"):
            scan(name)
    assert len(scan(".")) == 3


def test_a_pickled_array_is_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([print, len], dtype=object), allow_pickle=True)
    with pytest.raises(FromNoiseError):
        scan(tmp_path / "a.npy")


def test_a_file_without_permission_is_skipped_by_name(tmp_path, monkeypatch):
    fill(tmp_path, many(3))
    real = open

    def guarded(path, *args, **kwargs):
        if str(path).endswith("001.png"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", guarded)  # tests may run as root, who may read everything
    assert reasons(scan(tmp_path)) == {"001.png": "cannot be read: Permission denied"}


def test_a_file_that_breaks_only_when_decoded_is_skipped_too(tmp_path):
    good = png(noise(8, 8, 3))
    at = good.index(b"IDAT") + 8
    files = many(4) | {"rotten.png": good[:at] + b"\0" * 20 + good[at + 20 :]}
    data = opened(fill(tmp_path / "set", files), tmp_path)
    assert len(data) == 4 and "rotten.png" in reasons(data.listing)
    again = opened(tmp_path / "set", tmp_path)
    assert len(again) == 4 and reasons(again.listing) == reasons(data.listing)
    np.testing.assert_array_equal(samples(data), samples(again))


def test_infinity_is_skipped_by_row_and_nan_of_pictures_too(tmp_path):
    for value, axes in ((np.inf, None), (np.nan, "nhw")):
        array = np.random.default_rng(0).random((5, 4, 4)).astype(np.float32)
        array[2, 0, 0] = value
        data = opened(array, tmp_path, axes=axes)
        assert len(data) == 4 and "replace them" in reasons(data.listing)["array[2]"]


# ---------------------------------------------------------------- one set out of many


@pytest.mark.parametrize(
    ("present", "wins"), [((1, 2), "grey-alpha"), ((1, 3), "RGB"), ((2, 3), "RGB"), ((3, 4), "RGBA")]
)
def test_the_widest_mode_wins_and_is_said(present, wins, tmp_path):
    data = opened(fill(tmp_path, {f"{c}-{i}.png": png(noise(6, 6, c)) for c in present for i in range(2)}), tmp_path)
    assert data.listing.mode == wins and any(f"all become {wins}" in note for note in data.notes)
    assert data.x0([0, 3]).shape[1] == data.codec.channels


def test_other_channel_counts_must_be_equal(tmp_path):
    for name, channels in (("a", 5), ("b", 5), ("c", 6)):
        tifffile.imwrite(
            tmp_path / f"{name}.tif", noise(9, 9, channels), photometric="minisblack", planarconfig="contig"
        )
    listing = scan(tmp_path)
    assert listing.channels == 5 and "6 channels" in reasons(listing)["c.tif"]


def test_the_size_rule():
    assert target_size({(37, 91): 3}) == (37, 91), "no more pixels than 64 x 64: kept as it is"
    assert target_size({(480, 640): 3}) == (48, 64)
    assert target_size({(480, 640): 3}, 96) == (96, 128), "a number is the shorter side"
    assert target_size({(480, 640): 1, (90, 50): 2}) == (48, 48)
    assert target_size({(480, 640): 1, (9, 9): 2}) == (32, 32)
    assert target_size({(480, 640): 1, (90, 50): 2}, 24) == (24, 24)
    assert target_size({(480, 640): 3}, (37, 91)) == (37, 91), "a pair is taken as it stands"
    with pytest.raises(FromNoiseError):
        target_size({(8, 8): 1}, 0)


def test_mixed_sizes_become_one_and_are_said(tmp_path):
    files = {f"{i}.png": png(noise(40 + i, 70, 3)) for i in range(6)}
    data = opened(fill(tmp_path, files), tmp_path)
    assert data.codec.shape == (3, 32, 32) and any("6 different sizes" in note for note in data.notes)


# ---------------------------------------------------------------- columns and splits


def test_the_rule_of_columns():
    role = {
        name: columns.profile(name, Texts.of(values)).role
        for name, values in {
            "few": ["a", "b"] * 10,
            "rare": ["a", "b", "c", "d"],
            "grades": [str(i % 5) for i in range(50)],
            "ages": [str(i % 30) for i in range(300)],
            "label": [str(i % 30) for i in range(300)],
            "names": [f"person {i}" for i in range(30)],
        }.items()
    }
    assert role == {
        "few": "class",
        "rare": "text",
        "grades": "class",
        "ages": "number",
        "label": "class",
        "names": "text",
    }


def test_numbers_are_standardised_by_the_training_rows_and_gaps_are_absent():
    values = Texts.of([*map(str, range(40)), ""])
    train = np.arange(41) < 20
    encoded = columns.encode(columns.profile("age", values), values, train)
    assert encoded.column.mean == 9.5 and (encoded.column.low, encoded.column.high) == (0, 19)
    assert encoded.values[train].mean() == pytest.approx(0, abs=1e-6) and encoded.values[train].std() == pytest.approx(
        1
    )
    assert encoded.present.sum() == 40 and not encoded.present[-1]


def test_a_wrong_column_names_the_right_ones(tmp_path):
    files = {f"{label}/{i}.png": png(noise(8, 8, 1)) for label in ("cat", "dog") for i in range(5)}
    with pytest.raises(FromNoiseError, match=r"'klass'.*class"):
        opened(fill(tmp_path, files), tmp_path / "c", columns=["klass"])
    assert opened(tmp_path, tmp_path / "c", columns=[]).columns == ()


def test_folders_are_splits_classes_and_paths():
    splits, classes, folders = folder_roles(["top/train/cat/a", "top/train/dog", "top/test/cat/a", "top/extra"])
    assert splits == [TRAIN, TRAIN, TEST, OPEN]
    assert classes == ["cat", "dog", "cat", "extra"] and folders == ["cat/a", "dog", "cat/a", "extra"]
    assert folder_roles(["vehicles/train", "vehicles/car"])[0] == [OPEN, OPEN], "a class called train"


@given(st.lists(st.integers(0, 200), min_size=2, max_size=400))
@settings(max_examples=50)
def test_the_hash_split_keeps_copies_together_and_both_sides_filled(contents):
    digests = hashes(contents)
    held = hash_split(digests)
    sides = {c: {bool(h) for d, h in zip(contents, held, strict=True) if d == c} for c in contents}
    assert all(len(side) == 1 for side in sides.values())
    if len(sides) > 1:
        assert held.any() and not held.all()
    order = RNG.permutation(len(digests))
    np.testing.assert_array_equal(hash_split(digests[order]), held[order])


@given(sizes=st.lists(st.integers(1, 60), min_size=2, max_size=30), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_groups_are_held_out_whole_at_least_one_and_about_a_tenth_of_the_examples(sizes, seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 2**64, (len(sizes), 2), dtype=np.uint64)
    whose = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    held = hold_groups(groups[whose])
    out = set(whose[held].tolist())
    assert 1 <= len(out) < len(sizes) and not out & set(whose[~held].tolist())
    # Never so many that leaving out the last would have come nearer, never so few that one more would have.
    assert held.sum() < 0.3 * len(whose) or held.sum() == min(sizes)
    order = rng.permutation(len(whose))
    np.testing.assert_array_equal(hold_groups(groups[whose][order]), held[order])
    smallest_missing = min(size for group, size in enumerate(sizes) if group not in out)
    assert held.sum() >= 0.1 * len(whose) - smallest_missing / 2


@pytest.mark.parametrize("seed", range(20))
def test_of_few_equal_groups_one_is_held_out_whatever_they_hold(seed):
    groups = np.random.default_rng(seed).integers(0, 2**64, (4, 2), dtype=np.uint64)
    assert hold_groups(groups.repeat(20, axis=0)).sum() == 20
    assert hold_groups(groups[:1].repeat(20, axis=0)).sum() == 0, "one group is trained on"


def test_the_hash_split_is_a_tenth_and_no_more_than_its_limit():
    digests = RNG.integers(0, 1 << 64, (80_000, 2), dtype=np.uint64)
    assert 900 < hash_split(digests[:10_000]).sum() < 1_100
    assert hash_split(digests).sum() == HELD_OUT_MOST


def test_a_split_that_a_table_says_is_kept_and_is_no_property_of_an_example(tmp_path):
    text = "file_name,split,kind\n" + "".join(f"{i:03}.png,{'test' if i > 7 else 'train'},{i % 2}\n" for i in range(10))
    data = opened(fill(tmp_path, many(10) | {"m.csv": text.encode()}), tmp_path)
    assert list(data.names(data.indices("test"))) == ["008.png", "009.png"]
    assert "split" not in data.listing.items.columns and "kind" in data.listing.items.columns
    word = text.replace("train", "left").replace("test", "right")
    other = opened(fill(tmp_path / "word", many(10) | {"m.csv": word.encode()}), tmp_path)
    assert "split" in other.listing.items.columns


def test_named_splits_are_kept_and_leaks_are_said(tmp_path):
    same = png(noise(8, 8, 1))
    files = {f"{s}/{i}.png": png(noise(8, 8, 1)) for s in ("train", "test") for i in range(4)}
    files |= {"train/x.png": same, "test/y.png": same, "val/z.png": png(noise(8, 8, 1))}
    data = opened(fill(tmp_path, files), tmp_path / "c")
    assert [len(data.indices(split)) for split in ("train", "val", "test")] == [5, 1, 5]
    assert any("1 of those held out are exact copies" in note for note in data.notes)
    assert data.columns == (), "a split is no class"


def test_the_best_model_is_not_chosen_on_a_named_test_set():
    named, digests = np.array([TRAIN] * 300 + [TEST] * 50), hashes([*range(250), *range(50), *range(1000, 1050)])
    splits, why = assign(named, digests)
    np.testing.assert_array_equal(splits == TEST, named == TEST)
    assert 10 < (splits == VAL).sum() < 60 and "for validation" in why and "copies" not in why
    assert {*map(bytes, digests[splits == VAL])}.isdisjoint(map(bytes, digests[splits == TRAIN]))
    assert "flatters" in assign(np.array([TRAIN, TEST, TEST]), hashes([0, 1, 2]))[1], "one example cannot be divided"


def test_one_image_is_a_usable_set(tmp_path):
    data = opened(fill(tmp_path, {"a.png": png(noise(8, 8, 1))}), tmp_path / "c")
    assert [data.indices(s).tolist() for s in ("train", "val", "test")] == [[0], [0], [0]]
    assert (assign(np.full(2, OPEN), hashes([0, 1]))[0] == VAL).sum() == 1


# ---------------------------------------------------------------- the cache


def test_a_second_opening_decodes_nothing_and_a_killed_build_is_not_taken_for_whole(tmp_path, monkeypatch):
    folder = fill(tmp_path / "set", many(5))
    write = store._write

    def killed(listing, codec, file, progress):
        write(listing, codec, file, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        opened(folder, tmp_path)
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name != "index"] == []
    monkeypatch.setattr(store, "_write", write)
    first = samples(opened(folder, tmp_path))
    monkeypatch.setattr(store, "_write", lambda *_: pytest.fail("built twice"))
    np.testing.assert_array_equal(samples(opened(folder, tmp_path)), first)


def test_builds_at_once_agree(tmp_path):
    folder = fill(tmp_path / "set", many(40))
    with ThreadPoolExecutor(4) as pool:
        sets = list(pool.map(lambda _: samples(opened(folder, tmp_path)), range(4)))
    for other in sets[1:]:
        np.testing.assert_array_equal(other, sets[0])
    assert len(list((tmp_path / "cache").glob("*/meta.json"))) == 1


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_write", full)
    with pytest.raises(FromNoiseError, match="the disk is full"):
        opened(noise(3, 8, 8), tmp_path)


def test_the_fingerprint_follows_content_and_columns_and_nothing_else(tmp_path):
    files = {f"{c}/{i}.png": png(noise(8, 8, 1)) for c in ("a", "b") for i in range(5)}
    first = opened(fill(tmp_path / "one", files), tmp_path).fingerprint
    assert opened(fill(tmp_path / "two", files), tmp_path, size=4).fingerprint == first
    moved = {name.replace("a/0", "b/0x"): data for name, data in files.items()}
    assert opened(fill(tmp_path / "three", moved), tmp_path).fingerprint != first
