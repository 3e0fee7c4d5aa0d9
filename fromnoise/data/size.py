"""The one shape that all examples take.

Every image is scaled to cover the target (antialiased) and cut to it around its centre; one that has the target's size
is not touched.  The target is, in this order:

(h, w)   as asked.
n        as asked: the shorter side.  A set of one size keeps its aspect ratio, sets of mixed sizes become n x n.
own      one size of no more pixels than 64 x 64, such as 37 x 91, is kept.
shrunk   one size above that becomes 64 on its longer side, the shorter side rounded to a multiple of 4.
mixed    the largest of 32 x 32, 48 x 48 and 64 x 64 that the median shorter side fills.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fromnoise.errors import FromNoiseError

_LARGEST = 64
_MOST = 1024 * 1024  # beyond it one batch fills the memory of an ordinary machine
_SQUARES = (32, 48, 64)


def target_size(
    sizes: Mapping[tuple[int, int], int], size: int | tuple[int, ...] | None = None, largest: int = _LARGEST
) -> tuple[int, int]:
    """(height, width) for a set of `sizes` (height, width) -> count, by the rule above, with `largest` in place of 64.

    Raises FromNoiseError for a size below 1, of more pixels than `_MOST`, or of other than two sides.
    """
    height, width = _target(sizes, size, largest)
    if height * width > _MOST:
        raise FromNoiseError(f"Pictures of {height} x {width} are too large to train on: ask for a --size up to 1024.")
    return height, width


def held_whole(fits: np.ndarray) -> str:
    """What a window holds of clips, by whether each fits it."""
    whole, clips = int(fits.sum()), len(fits)
    if whole in (0, clips):
        return f"hold {'every' if whole else 'no'} clip whole"
    return f"hold {whole:,} of {clips:,} clips whole"


def _target(sizes: Mapping[tuple[int, int], int], size: int | tuple[int, ...] | None, largest: int) -> tuple[int, int]:
    if size is not None and min(np.atleast_1d(size)) < 1:
        raise FromNoiseError(f"A size of {size} is no image: give a positive number of pixels, such as 64.")
    if isinstance(size, tuple):
        if len(size) != 2:
            raise FromNoiseError(f"A size of {'x'.join(map(str, size))} is no picture: give a side or HEIGHTxWIDTH.")
        return size
    if len(sizes) == 1:
        return _uniform(*next(iter(sizes)), size, largest)
    if size is not None:
        return size, size
    shorter = np.repeat([min(s) for s in sizes], list(sizes.values()))
    side = max((s for s in _SQUARES if s <= min(np.median(shorter), largest)), default=_SQUARES[0])
    return side, side


def _uniform(height: int, width: int, size: int | None, largest: int) -> tuple[int, int]:
    if size is not None:
        scale = size / min(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))
    if height * width <= largest**2:
        return height, width
    longer = max(height, width)
    shorter = max(4, 4 * round(min(height, width) * largest / longer / 4))
    return (largest, shorter) if height >= width else (shorter, largest)
