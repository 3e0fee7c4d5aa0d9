"""Everything left out is named with its reason, and mistakes get one sentence."""

from __future__ import annotations

import os

import numpy as np
import pytest
from datafiles import fill, many, noise, opened, pack, png, reasons, samples

from fromnoise.data.doctor import diagnose
from fromnoise.data.scan import scan
from fromnoise.errors import FromNoiseError
from fromnoise.folder import RunFolder
from fromnoise.generate import Samples


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
