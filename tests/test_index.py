"""What a scan found out is kept: nothing is read twice, and nothing that changed is taken for what it was."""

from __future__ import annotations

import os

import numpy as np
import pytest
from datafiles import fill, many, noise, pack, png

from fromnoise.data import look, tree
from fromnoise.data.scan import scan


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once."""
    monkeypatch.setattr(tree, "SETTLED", -(10**18))


def test_a_set_is_read_once_and_what_changed_again(tmp_path, settled, monkeypatch):
    files = {f"{c}/{i}.png": png(noise(8, 8, 1)) for c in ("a", "b") for i in range(6)}
    folder = fill(tmp_path / "set", files)
    packed = pack("zip", files, tmp_path / "a.zip")
    np.savez(tmp_path / "b.npz", samples=noise(20, 8, 8))
    first = {source: scan(source) for source in (folder, packed, tmp_path / "b.npz")}
    real, seen = look.read, []
    monkeypatch.setattr(look, "read", lambda tree, entry: seen.append(entry.name) or real(tree, entry))
    hashed = look.blake2b
    monkeypatch.setattr(look, "blake2b", lambda *_, **__: pytest.fail("hashed again"))
    for source, before in first.items():
        again = scan(source)
        np.testing.assert_array_equal(again.items.digest, before.items.digest)
        assert again.sizes == before.sizes and again.modes == before.modes
    assert seen == []
    monkeypatch.setattr(look, "blake2b", hashed)
    # The same name, size and times, another content; and a file that took the name of another.
    path, info = folder / "a/0.png", (folder / "a/0.png").stat()
    other = png(noise(8, 8, 1))
    path.write_bytes(other[: info.st_size].ljust(info.st_size, b"\0"))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    (folder / "b/1.png").rename(folder / "b/9.png")
    (folder / "a/1.png").unlink()
    fill(folder, {"a/new.png": other})
    found = scan(folder)
    assert sorted(seen) == ["a/0.png", "a/new.png", "b/9.png"] and len(found) == len(files)
    fresh = scan(folder, cache_dir=tmp_path / "elsewhere")
    np.testing.assert_array_equal(found.items.digest, fresh.items.digest)
    assert list(found.names(range(len(found)))) == list(fresh.names(range(len(fresh))))


def test_a_file_just_written_is_not_trusted_to_stay(tmp_path, monkeypatch):
    folder = fill(tmp_path / "set", many(3))
    before = scan(folder).items.digest
    fill(folder, {"001.png": png(noise(8, 8, 3))})
    assert (scan(folder).items.digest != before).any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("damage", [b"", b"\x10" + bytes(7) + b"{}", b"garbage" * 99])
def test_a_damaged_or_unwritable_index_costs_a_scan_and_nothing_else(damage, tmp_path, settled):
    folder, cache = fill(tmp_path / "set", many(3)), tmp_path / "cache"
    before = scan(folder, cache_dir=cache).items.digest
    (file,) = (cache / "index").iterdir()
    file.write_bytes(damage)
    np.testing.assert_array_equal(scan(folder, cache_dir=cache).items.digest, before)
    (tmp_path / "taken").write_bytes(b"")
    np.testing.assert_array_equal(scan(folder, cache_dir=tmp_path / "taken").items.digest, before)
