"""Fields as pictures: series as lines, planes in colour, volumes by their three middle slices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from fromnoise.codec.colour import coloured

_HEIGHT, _WIDTH, _FINE = 64, 160, 3  # of a plot in pixels; drawn so many times as large, which smooths it
_INKS = ((59, 95, 168), (194, 65, 12), (47, 125, 79), (199, 154, 47))
_MISSING = 200  # grey
_GAP = 2
MOST = 3  # channels of planes and volumes that are shown


Shade = Callable[[np.ndarray], np.ndarray]


def grey(level: np.ndarray) -> np.ndarray:
    """Levels from 0, black, to 1, white -> the same with three equal channels, uint8."""
    return np.rint(np.clip(level, 0, 1)[..., None].repeat(3, -1) * 255).astype(np.uint8)


def pictures(level: np.ndarray, shade: Shade = coloured) -> np.ndarray:
    """Levels (n, c, *space) from 0 to 1, NaN where nothing is -> (n, h, w, 3) uint8.

    `shade` makes (…, 3) uint8 of levels; series are drawn as lines.
    """
    if level.ndim == 3:
        return np.stack([_plot(one) for one in level])
    rows = [[level[:, channel] for channel in range(min(MOST, level.shape[1]))]]
    if level.ndim == 5:
        middles = [(axis, level.shape[axis + 1] // 2) for axis in (1, 2, 3)]
        rows = [[one.take(middle, axis) for axis, middle in middles] for one in rows[0]]
    return _table([[_shaded(part, shade) for part in row] for row in rows])


def _shaded(level: np.ndarray, shade: Shade) -> np.ndarray:
    """(n, h, w) -> (n, h, w, 3) uint8."""
    return np.where(np.isnan(level)[..., None], np.uint8(_MISSING), shade(np.nan_to_num(level)))


def _table(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Pictures (n, h, w, 3) of several sizes beside and below each other, on white."""
    heights = [max(part.shape[1] for part in row) for row in rows]
    widths = [max(row[k].shape[2] for row in rows) for k in range(len(rows[0]))]
    shape = (len(rows[0][0]), sum(heights) + _GAP * (len(heights) - 1), sum(widths) + _GAP * (len(widths) - 1), 3)
    page, top = np.full(shape, 255, np.uint8), 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for part, width in zip(row, widths, strict=True):
            page[:, top : top + part.shape[1], left : left + part.shape[2]] = part
            left += width + _GAP
        top += height + _GAP
    return page


def _plot(lines: np.ndarray) -> np.ndarray:
    """(c, steps) -> one picture; a line is broken where values are missing."""
    height, width = _HEIGHT * _FINE, _WIDTH * _FINE
    page = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    draw.line([(0, height / 2), (width, height / 2)], (225, 225, 225), _FINE)
    x = np.linspace(_FINE, width - _FINE, lines.shape[1])
    for k, line in enumerate(lines):
        y = (1 - np.clip(line, 0, 1)) * (height - 2 * _FINE) + _FINE
        there = np.flatnonzero(~np.isnan(line))
        for part in np.split(there, np.flatnonzero(np.diff(there) > 1) + 1):
            points = list(zip(x[part].tolist(), y[part].tolist(), strict=True))
            if len(points) > 1:
                draw.line(points, _INKS[k % len(_INKS)], _FINE, joint="curve")
            elif points:
                (a, b), r = points[0], _FINE
                draw.ellipse((a - r, b - r, a + r, b + r), _INKS[k % len(_INKS)])
    return np.asarray(page.resize((_WIDTH, _HEIGHT), Image.Resampling.BOX))
