"""What is missing in arrays, and what a look at all their values tells: which mask belongs to which array, which
channels miss values, and which arrays hold nothing that could be learned.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fromnoise.codec.field import Layout, missing
from fromnoise.data.containers import Array, blocks, spooled
from fromnoise.errors import Unreadable

MASK = "mask"
_LARGEST = 1e100  # the squares of what is larger, or smaller than 1 by it, are no numbers


def masks_of(arrays: Mapping[str, Array]) -> set[str]:
    """The names of the arrays that say where others miss values."""
    return {key for key, array in arrays.items() if key.rpartition("/")[2] == MASK and array.dtype.kind == "b"}


def mask_of(key: str, arrays: Mapping[str, Array], lone: bool) -> np.ndarray | None:
    """Where the array `key` of a file misses values, of its own shape, by the mask in its group or else any; None
    without one.  A mask of one example of many serves all.  Raises Unreadable where none fits."""
    group, masks = key.rpartition("/")[0], masks_of(arrays)
    near = {mask for mask in masks if mask.rpartition("/")[0] == group} or masks
    shape = arrays[key].shape
    for fits in (shape, shape[1:]) if lone else (shape,):
        for mask in sorted(near):
            if arrays[mask].shape == fits:
                return np.broadcast_to(arrays[mask].load(), shape)
    if near:
        one = sorted(near)[0]
        whole = f"{shape}" if not lone or len(shape) < 2 else f"{shape} or {shape[1:]}"
        raise Unreadable(
            f"has {one} of the shape {arrays[one].shape}, which does not fit {key or 'its array'}: save a mask of the "
            f"shape {whole}, or under another name"
        )
    return None


def masked(values: np.ndarray, mask: np.ndarray, fill: float | None) -> tuple[np.ndarray, float | None]:
    """The values with NaN, or of integers a fill value that nothing has, where `mask` is true; and that fill value."""
    if fill is None and values.dtype.kind != "f":
        info = np.iinfo(values.dtype)
        fill = info.min if info.min else info.max
        if any((block == fill).any() for block in blocks(values)):
            raise Unreadable(f"masks integers of which some are {fill}, the mark of what is missing: save floats")
    mark = np.nan if fill is None else fill
    return spooled(values.shape, values.dtype, lambda rows: np.where(mask[rows], mark, values[rows])), fill


def surveyed(rows: np.ndarray, layout: Layout, fill: float | None, lone: bool) -> tuple[tuple[int, ...], bool]:
    """The channels of examples (n, …) that miss values anywhere, and whether all channels miss the same ones.

    Raises Unreadable where nothing is there, where squares of values would be no numbers, and where all values of all
    there is (`lone`) are one.
    """
    channels, alike, low, high, there = set[int](), True, np.inf, -np.inf, False
    for block in blocks(rows):
        gone = missing(block, fill)
        values = block[~gone & np.isfinite(block)] if block.dtype.kind == "f" else block[~gone]
        there = there or not gone.all()
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        if gone.any():
            last = np.moveaxis(gone, 1, -1) if layout == "first" else gone[..., None] if layout == "none" else gone
            channels.update(np.flatnonzero(last.any(axis=tuple(range(last.ndim - 1)))).tolist())
            alike = alike and bool((last.any(-1) == last.all(-1)).all())
    reach = max(abs(low), abs(high)) if low <= high else 0.0
    if not there:
        raise Unreadable("holds no values, as all are missing: leave it out")
    if reach > _LARGEST or 0 < reach < 1 / _LARGEST:
        raise Unreadable(f"holds values of the order of {reach:.0e}, whose squares are no numbers: rescale them")
    if lone and low == high:
        raise Unreadable(f"holds {low:g} throughout, of which there is nothing to learn: give data that vary")
    return tuple(sorted(channels)), alike
