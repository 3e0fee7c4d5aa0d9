"""The cache: every example decoded and brought to one shape once, then memory-mapped.

A cache is a folder `<key>/` with `stored.bin` (rows of one shape, but for their lengths where they are ragged) and
`meta.json`.  It is written under another name and renamed when whole, so a build that was killed never looks complete,
and of two builds at once the first to finish stays and the other is dropped.  Decoding is bounded by a chunk, whatever
the size of the set.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np
import platformdirs

from fromnoise.codec.codec import Codec
from fromnoise.data.listing import FILE, Listing
from fromnoise.data.tree import Unreadable, reason
from fromnoise.errors import FromNoiseError

_FILES = 32  # that a worker decodes at a time
_ROWS = 1 << 20  # values of an array, likewise
_AHEAD = 4  # jobs a worker
_LARGE = 4_000_000  # pixels or samples; larger examples are decoded one at a time, which bounds memory on many cores
_STALE = 24 * 3600  # seconds after which an unfinished build is taken for dead
_PART = ".part"


@dataclass(frozen=True, kw_only=True, eq=False)
class Ragged:
    """Rows that differ in the length of their first axis: row i is values[starts[i]:ends[i]]."""

    values: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, places: np.ndarray) -> list[np.ndarray]:
        return [self.values[self.starts[i] : self.ends[i]] for i in places.tolist()]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """`rows` memory-mapped; `broken` maps the places of examples without a row to the reason."""

    rows: np.ndarray | Ragged
    low: float
    high: float
    broken: dict[int, str]


def default_cache() -> Path:
    """fromnoise's folder in the user's cache directory."""
    return platformdirs.user_cache_path("fromnoise") / "data"


def keep(file: Path, write: Callable[[Path], None]) -> None:
    """Writes what can be found again, whole or not at all; where the disk refuses, nothing else is lost."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            whole = Path(folder) / file.name
            write(whole)
            whole.replace(file)


def cached(
    listing: Listing, codec: Codec, cache_dir: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Stored:
    """The examples of a listing as `codec` stores them, from the cache or put there now.

    `progress` is called with (examples done, examples in all).  Raises FromNoiseError where the disk refuses.
    """
    root, folder = _places(listing, codec, cache_dir)
    if not is_cached(listing, codec, cache_dir):
        try:
            root.mkdir(parents=True, exist_ok=True)
            _remove_stale(root)
            _build(listing, codec, folder, progress)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "the disk is full" if full else reason(error)
            raise FromNoiseError(
                f"The decoded data cannot be written to {root} ({what}): mend that, or name another folder "
                "for caches in the environment variable XDG_CACHE_HOME."
            ) from error
    stored = _open(folder)
    if any(not isinstance(_decode(listing, place, codec), Unreadable) for place in stored.broken):
        shutil.rmtree(folder)  # a codec was installed or a file mended since: what was broken no longer is
        return cached(listing, codec, cache_dir, progress)
    return stored


def is_cached(listing: Listing, codec: Codec, cache_dir: Path | None = None) -> bool:
    """Whether `cached` finds the examples decoded."""
    return (_places(listing, codec, cache_dir)[1] / "meta.json").exists()


def _places(listing: Listing, codec: Codec, cache_dir: Path | None) -> tuple[Path, Path]:
    """The folder of caches, and that of these examples: by the content in its order and the whole codec, its version
    included."""
    digest = blake2b(json.dumps(codec.to_json(), sort_keys=True).encode(), digest_size=20)
    digest.update(np.ascontiguousarray(listing.items.digest).data)
    root = cache_dir or default_cache()
    return root, root / digest.hexdigest()


def _build(listing: Listing, codec: Codec, folder: Path, progress: Callable[[int, int], None] | None) -> None:
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", suffix=_PART, dir=folder.parent))
    try:
        meta = _write(listing, codec, part / "stored.bin", progress)
        (part / "meta.json").write_text(json.dumps(meta))
        try:
            os.rename(part, folder)
        except OSError:
            if not (folder / "meta.json").exists():  # otherwise another process was first, with the same content
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(
    listing: Listing, codec: Codec, file: Path, progress: Callable[[int, int], None] | None
) -> dict[str, object]:
    broken: dict[int, str] = {}
    low, high, tail, dtype, lengths = np.inf, -np.inf, (), "", []
    with open(file, "wb") as out:
        for places, stored, wrong in _decoded(listing, codec):
            broken |= wrong
            whole = [np.asarray(stored)] if len(stored) and not codec.ragged else []
            for part in list(stored) if codec.ragged else whole:
                out.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
                low, high = min(low, part.min()), max(high, part.max())
                tail, dtype = part.shape[1:], str(part.dtype)
                lengths.append(len(part))
            if progress is not None:
                progress(places.stop, len(listing))
    return {
        "shape": [sum(lengths), *tail],
        "lengths": lengths if codec.ragged else None,
        "dtype": dtype,
        "low": float(low) if lengths else 0.0,
        "high": float(high) if lengths else 0.0,
        "broken": broken,
    }


def _decoded(listing: Listing, codec: Codec) -> Iterator[tuple[range, np.ndarray | list[np.ndarray], dict[int, str]]]:
    """Places in order, some at a time, with the stored examples (of a ragged codec a list) and those that are broken.

    Decoders and resampling release the interpreter's lock, so threads suffice.
    """
    one_large = threading.Lock()

    def work(places: range) -> tuple[range, np.ndarray | list[np.ndarray], dict[int, str]]:
        rows = listing.rows(places.start, places.stop)
        if rows is not None:
            return places, *_sound(codec.store_many(rows), places)
        whole, broken = [], {}
        for place in places:
            header = listing.header(place)
            with one_large if math.prod(header.size) > _LARGE else nullcontext():
                stored = _decode(listing, place, codec)
            if isinstance(stored, Unreadable):
                broken[place] = str(stored)
            else:
                whole.append(stored)
        return places, whole if codec.ragged else np.stack(whole) if whole else np.zeros(0), broken

    jobs = _jobs(listing, codec)
    sequential = listing.tree is not None and listing.tree.sequential
    workers = 1 if sequential else min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        while several := list(islice(jobs, _AHEAD * workers)):
            yield from pool.map(work, several)


def _jobs(listing: Listing, codec: Codec) -> Iterator[range]:
    """What a worker takes at a time: a few files, or a megabyte or so of an array's rows."""
    rows = max(_FILES, _ROWS // math.prod(codec.shape))
    start = 0
    while start < len(listing):
        stop = min(len(listing), start + (_FILES if listing.items.stack[start] == FILE else rows))
        yield range(start, stop)
        start = stop


def _decode(listing: Listing, place: int, codec: Codec) -> np.ndarray | Unreadable:
    try:
        out = codec.store_many(listing.read(place, codec)[None])
    except Unreadable as error:
        return error
    sound, broken = _sound(out, range(place, place + 1))
    return Unreadable(broken[place]) if broken else sound[0]


def _sound(stored: np.ndarray, places: range) -> tuple[np.ndarray, dict[int, str]]:
    """The examples that are finite throughout, and the places of the others."""
    if stored.dtype.kind != "f":
        return stored, {}
    finite = np.isfinite(stored.reshape(len(stored), -1)).all(axis=1)
    why = "holds NaN or infinite values: replace them, in a field by NaN, which marks what is missing"
    return stored[finite], {places[i]: why for i in np.flatnonzero(~finite)}


def _open(folder: Path) -> Stored:
    meta = json.loads((folder / "meta.json").read_text())
    shape, dtype = tuple(meta["shape"]), np.dtype(meta["dtype"] or "uint8")
    rows = np.memmap(folder / "stored.bin", dtype, "r", shape=shape) if shape[0] else np.zeros(shape, dtype)
    if meta.get("lengths") is not None:
        ends = np.cumsum([0, *meta["lengths"]], dtype=np.int64)
        rows = Ragged(values=rows, starts=ends[:-1], ends=ends[1:])
    broken = {int(place): reason for place, reason in meta["broken"].items()}
    return Stored(rows=rows, low=meta["low"], high=meta["high"], broken=broken)


def _remove_stale(root: Path) -> None:
    for part in root.glob(f"*{_PART}"):
        with suppress(FileNotFoundError):  # finished by its own process meanwhile
            if time.time() - part.stat().st_mtime > _STALE:
                shutil.rmtree(part, ignore_errors=True)
