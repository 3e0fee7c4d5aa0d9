"""Many images as one set: its mode and size, the cache, the fingerprint."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from datafiles import fill, many, noise, opened, png, reasons, samples

from fromnoise.data import store
from fromnoise.data.scan import scan
from fromnoise.data.size import target_size
from fromnoise.errors import FromNoiseError

# ---- one set out of many ---------------------------------------------------------------------------------------------


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


# ---- the cache -------------------------------------------------------------------------------------------------------


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
