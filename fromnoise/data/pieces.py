"""Few long clips as many short examples: the pieces that they are cut into, and which of these are held out.

A set of a dozen films is a set of dozen examples, of which one or two would be held out, and nothing could be judged.
So where there are fewer than `FEW`, each is cut into pieces that overlap, `WANTED` of them in all or as many as there
are; what is held out is the last fifth of each film, and at least a window and a quarter, which no piece for training
reaches into.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fromnoise.codec import Codec, Divisible
from fromnoise.data.listing import Listing
from fromnoise.data.splits import OPEN, TRAIN, VAL
from fromnoise.data.store import Ragged

FEW, WANTED = 100, 500
_HELD = 0.2


def in_pieces(listing: Listing, rows: Ragged, codec: Codec) -> tuple[Listing, Ragged, list[str]]:
    """The examples cut into the codec's pieces, or a little more, with the sentence that says so; as they are where it
    is not `Divisible`, where there are many, and where none is as long as three pieces."""
    if not isinstance(codec, Divisible):
        return listing, rows, []
    lengths, window = rows.ends - rows.starts, codec.piece
    if len(rows) >= FEW or (lengths < 3 * window).all():
        return listing, rows, []
    stride = int(np.clip(lengths.sum() // WANTED, 1, window))
    cut = [
        (place, start, stop, split)
        for place, (length, named) in enumerate(zip(lengths.tolist(), listing.items.split.tolist(), strict=True))
        for start, stop, split in _pieces(length, window, stride, named)
    ]
    place, start, stop, split = (np.array(column, dtype=np.int64) for column in zip(*cut, strict=True))
    first = rows.starts[place]
    number = np.concatenate([np.arange(n) for n in np.bincount(place)])
    digest = listing.items.digest[place]
    # Pieces differ, and so must what they are told apart by.
    digest = digest ^ (
        number[:, None].astype(np.uint64) * np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
    )
    items = replace(listing.items.take(place), digest=digest, split=split.astype(np.int8), part=number)
    note = _told(len(rows), stop - start, _parted(lengths, listing.items.split, window))
    return replace(listing, items=items), Ragged(values=rows.values, starts=first + start, ends=first + stop), [note]


def _parted(lengths: np.ndarray, named: np.ndarray, window: int) -> np.ndarray:
    """Of each clip whether its end is held out."""
    return (named == OPEN) & (lengths >= 3 * window)


def _told(clips: int, pieces: np.ndarray, parted: np.ndarray) -> str:
    shortest, longest = int(pieces.min()), int(pieces.max())
    frames = f"{shortest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
    held = "the end of each clip is held out" if parted.all() else f"the end of {parted.sum():,} of them is held out"
    few = "a single clip is cut" if clips == 1 else f"{clips:,} clips are few, and are cut"
    return f"{few} into {len(pieces):,} pieces of {frames} frames, which overlap{f'; {held}' * bool(parted.any())}."


def _pieces(length: int, window: int, stride: int, named: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, split) of the pieces of one clip; all are of the split that its name gives, if it gives one."""
    border = (
        length - max(window + window // 4, int(_HELD * length)) if named == OPEN and length >= 3 * window else length
    )
    for start in range(0, max(border - window, 0) + 1, stride):
        yield start, min(start + window + stride - 1, border), TRAIN if named == OPEN else named
    for start in range(border, length - window + 1, stride):
        yield start, start + window, VAL
