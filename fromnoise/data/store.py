"""The cache: every example decoded and brought to one shape once, then memory-mapped.

A cache is a folder `<key>/` with `stored.bin` (rows of one shape, C order) and `meta.json`.  It is written under
another name and renamed when whole, so a build that was killed never looks complete, and of two builds at once the
first to finish stays and the other is dropped.  Decoding is bounded by a chunk, whatever the size of the set.
"""

from __future__ import annotations

import errno
import json
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
from pathlib import Path

import numpy as np
import platformdirs

from fromnoise.codec.codec import Codec
from fromnoise.data.listing import Listing
from fromnoise.data.tree import Unreadable, reason
from fromnoise.errors import FromNoiseError

_CHUNK = 256
_LARGE = 4_000_000  # pixels; larger images are decoded one at a time, which bounds memory on machines of many cores
_STALE = 24 * 3600  # seconds after which an unfinished build is taken for dead
_PART = ".part"


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """`pixels` (rows, ...) memory-mapped; `broken` maps the places of examples without a row to the reason."""

    pixels: np.ndarray
    low: float
    high: float
    broken: dict[int, str]


def default_cache() -> Path:
    """fromnoise's folder in the user's cache directory."""
    return platformdirs.user_cache_path("fromnoise") / "data"


def cached(
    listing: Listing, codec: Codec, cache_dir: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Stored:
    """The examples of a listing as `codec` stores them, from the cache or put there now.

    `progress` is called with (examples done, examples in all).  Raises FromNoiseError where the disk refuses.
    """
    root = cache_dir or default_cache()
    folder = root / _key(listing, codec)
    if not (folder / "meta.json").exists():
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


def _key(listing: Listing, codec: Codec) -> str:
    """The content in its order and the whole codec, its version included."""
    digest = blake2b(json.dumps(codec.to_json(), sort_keys=True).encode(), digest_size=20)
    for item in listing.items:
        digest.update(item.digest)
    return digest.hexdigest()


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
    low, high, shape, dtype = np.inf, -np.inf, (), ""
    with open(file, "wb") as out:
        for place, stored in enumerate(_decoded(listing, codec)):
            if isinstance(stored, Unreadable):
                broken[place] = str(stored)
            else:
                out.write(np.ascontiguousarray(stored).data)
                low, high = min(low, stored.min()), max(high, stored.max())
                shape, dtype = stored.shape, str(stored.dtype)
            done, total = place + 1, len(listing.items)
            if progress is not None and (done % _CHUNK == 0 or done == total):
                progress(done, total)
    rows = len(listing.items) - len(broken)
    return {
        "shape": [rows, *shape],
        "dtype": dtype,
        "low": float(low) if rows else 0.0,
        "high": float(high) if rows else 0.0,
        "broken": broken,
    }


def _decoded(listing: Listing, codec: Codec) -> Iterator[np.ndarray | Unreadable]:
    """Stored examples in order; decoders and resampling release the interpreter's lock, so threads suffice."""
    one_large = threading.Lock()

    def stored(place: int) -> np.ndarray | Unreadable:
        header = listing.items[place].header
        with one_large if header.height * header.width > _LARGE else nullcontext():
            return _decode(listing, place, codec)

    sequential = listing.tree is not None and listing.tree.sequential
    with ThreadPoolExecutor(1 if sequential else min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(listing.items), _CHUNK):
            yield from pool.map(stored, range(start, min(start + _CHUNK, len(listing.items))))


def _decode(listing: Listing, place: int, codec: Codec) -> np.ndarray | Unreadable:
    try:
        height, width = codec.shape[-2:]
        out = codec.store(listing.read(listing.items[place], (height, width)))
    except Unreadable as error:
        return error
    if out.dtype.kind == "f" and not np.isfinite(out).all():
        return Unreadable("holds NaN or infinite values")
    return out


def _open(folder: Path) -> Stored:
    meta = json.loads((folder / "meta.json").read_text())
    shape, dtype = tuple(meta["shape"]), np.dtype(meta["dtype"] or "uint8")
    pixels = np.memmap(folder / "stored.bin", dtype, "r", shape=shape) if shape[0] else np.zeros(shape, dtype)
    broken = {int(place): reason for place, reason in meta["broken"].items()}
    return Stored(pixels=pixels, low=meta["low"], high=meta["high"], broken=broken)


def _remove_stale(root: Path) -> None:
    for part in root.glob(f"*{_PART}"):
        with suppress(FileNotFoundError):  # finished by its own process meanwhile
            if time.time() - part.stat().st_mtime > _STALE:
                shutil.rmtree(part, ignore_errors=True)
