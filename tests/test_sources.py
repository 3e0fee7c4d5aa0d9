"""Folders, archives and arrays: every source gives its own examples back."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from datafiles import fill, noise, opened, pack, png, reasons, samples

from fromnoise.data.scan import scan
from fromnoise.data.size import target_size
from fromnoise.errors import FromNoiseError


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
