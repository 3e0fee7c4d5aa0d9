"""Looks at every example once: header and hash of the content, from the file or from the index of an earlier scan."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any

import numpy as np
from PIL import Image

from fromnoise.codec import Header, Medium
from fromnoise.data.index import Index
from fromnoise.data.listing import FILE, Items
from fromnoise.data.splits import OPEN
from fromnoise.data.stack import Stack
from fromnoise.data.tree import Skipped, Tree, Unreadable, read

_WORKERS = 2  # reading and hashing large files overlap; parsing holds the interpreter's lock, so more gain nothing
_FILES = 32  # by one worker at a time
_ROWS = 1 << 20  # bytes of an array, likewise


def look_at_files(
    tree: Tree,
    places: Sequence[int],
    medium: Medium[Any, Any],
    index: Index,
    skipped: list[Skipped],
    progress: Callable[[int, int], None] | None = None,
) -> Items:
    """The files of `medium` among the tree's entries at `places`; those that are not readable go to `skipped`."""
    rows = np.asarray(places, dtype=np.int64)
    if index.medium != medium.name:
        index = Index(medium=medium.name)
    known = index.find(tree.entries.stamps[rows])
    hits, left = np.flatnonzero(known >= 0), np.flatnonzero(known < 0)
    header, digest = np.full(len(rows), -1, dtype=np.int32), np.zeros((len(rows), 2), dtype=np.uint64)
    header[hits], digest[hits] = index.header[known[hits]], index.digests[known[hits]]
    number = {one: code for code, one in enumerate(index.headers)}
    done = len(hits)
    for which, found in _look(tree, medium, rows, left):
        for i, seen in zip(which, found, strict=True):
            if isinstance(seen, Unreadable):
                skipped.append(Skipped(name=tree.entries.names[rows[i]], reason=str(seen)))
            else:
                header[i] = number.setdefault(seen[0], len(number))
                digest[i] = np.frombuffer(seen[1], dtype=np.uint64)
        done += len(which)
        if progress is not None:
            progress(done, len(rows))
    good = np.flatnonzero(header >= 0)
    headers, header = _in_order(tuple(number), header[good])
    return Items(
        headers=headers,
        header=header,
        digest=digest[good],
        split=np.full(len(good), OPEN, dtype=np.int8),
        stack=np.full(len(good), FILE, dtype=np.int32),
        row=rows[good],
    )


def _look(
    tree: Tree, medium: Medium[Any, Any], rows: np.ndarray, left: np.ndarray
) -> Iterator[tuple[np.ndarray, list[tuple[Header, bytes] | Unreadable]]]:
    """Probes and hashes the files rows[left], some at a time, each read once."""

    def look(which: np.ndarray) -> list[tuple[Header, bytes] | Unreadable]:
        found: list[tuple[Header, bytes] | Unreadable] = []
        for row in rows[which].tolist():
            try:
                data = read(tree, tree.entries[row])
                found.append((medium.probe(data), blake2b(data, digest_size=16).digest()))
            except Unreadable as error:
                found.append(error)
        return found

    with ThreadPoolExecutor(1 if tree.sequential else _WORKERS) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower, and says so
        for start in range(0, len(left), _FILES * _WORKERS):
            several = left[start : start + _FILES * _WORKERS]
            parts = [several[i : i + _FILES] for i in range(0, len(several), _FILES)]
            yield from zip(parts, pool.map(look, parts), strict=True)


def _in_order(headers: tuple[Header, ...], codes: np.ndarray) -> tuple[tuple[Header, ...], np.ndarray]:
    """The headers in the order of their first examples, so that a scan with an index is one without."""
    used, first = np.unique(codes, return_index=True)
    used = used[np.argsort(first)]
    table = np.zeros(len(headers), dtype=np.int32)
    table[used] = np.arange(len(used))
    return tuple(headers[code] for code in used), table[codes]


def look_at_rows(stack: Stack, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
    """(n, 2) uint64, the digest of every row of a stack."""
    pixels, header = stack.pixels, stack.header
    assert isinstance(pixels, np.ndarray) and header is not None, "arrays have headers"
    layout = f"{' '.join(map(str, header.size))} {header.channels} {header.dtype}".encode()
    size = math.prod(header.size) * header.channels * pixels.dtype.itemsize
    step = max(1, _ROWS // size)

    def hashed(start: int) -> bytes:
        flat = np.ascontiguousarray(pixels[start : start + step]).reshape(-1).view(np.uint8).data
        parts = (flat[at : at + size] for at in range(0, len(flat), size))
        return b"".join(blake2b(part, digest_size=16, key=layout).digest() for part in parts)

    digests = np.zeros((len(pixels), 2), dtype=np.uint64)
    starts = range(0, len(pixels), step)
    with ThreadPoolExecutor(_WORKERS) as pool:
        for start, found in zip(starts, pool.map(hashed, starts), strict=True):
            digests[start : start + step] = np.frombuffer(found, dtype=np.uint64).reshape(-1, 2)
            if progress is not None:
                progress(min(start + step, len(pixels)), len(pixels))
    return digests
