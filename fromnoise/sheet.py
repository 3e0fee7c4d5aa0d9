"""Pictures made of pictures: contact sheets, strips, and sheets that move."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from fromnoise.codec.imagefile import SHEET_KEY
from fromnoise.codec.videofile import save_animation

_PAPER = (245, 245, 245)
_INK = (40, 40, 40)
_VISIBLE = 64  # pixels: tiles smaller than this are enlarged
_LEGIBLE = 96  # pixels: the same for tiles with words below
_LONGEST = 60  # characters of a title
_LINES = 3  # of a label


def sheet(
    images: np.ndarray,
    columns: int | None = None,
    scale: int | None = None,
    gap: int = 4,
    titles: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> Image.Image:
    """A contact sheet of RGB images (n, h, w, 3) uint8, row by row.

    `columns` defaults to a sheet that is about square.  Each pixel becomes `scale` x `scale`, unblurred; by default
    just enough for a tile of 64 pixels.  `gap` is in pixels of the sheet.  `titles` are written above the rows,
    `labels` below the images, in up to three lines.
    """
    assert images.dtype == np.uint8 and images.ndim == 4 and images.shape[-1] == 3 and len(images), images.shape
    n, height, width, _ = images.shape
    columns = columns or _squarish(n, height, width)
    rows = math.ceil(n / columns)
    scale = scale or max(1, math.ceil((_LEGIBLE if labels else _VISIBLE) / max(height, width)))
    font, small = ImageFont.load_default(12), ImageFont.load_default(10)
    head, foot = 16 if titles else 0, 12 * _LINES if labels else 0
    tile_h, tile_w = height * scale, width * scale
    page = Image.new("RGB", (gap + columns * (tile_w + gap), gap + rows * (head + tile_h + foot + gap)), _PAPER)
    draw = ImageDraw.Draw(page)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top, left = gap + row * (head + tile_h + foot + gap) + head, gap + column * (tile_w + gap)
        tile = Image.fromarray(image).resize((tile_w, tile_h), Image.Resampling.NEAREST)
        page.paste(tile, (left, top))
        if titles and column == 0 and row < len(titles):
            draw.text((left, top - head), titles[row][:_LONGEST], _INK, font)
        if labels:
            lines = textwrap.wrap(labels[i], max(1, tile_w // 6), max_lines=_LINES, placeholder="…")
            draw.multiline_text((left, top + tile_h), "\n".join(lines), _INK, small, spacing=1)
    return page


def strip(steps: Sequence[np.ndarray], scale: int | None = None, gap: int = 4) -> Image.Image:
    """The way from noise to data: `steps` are batches (n, h, w, 3) uint8; rows are examples, columns are steps."""
    frames = np.stack(list(steps), axis=1)
    return sheet(frames.reshape(-1, *frames.shape[2:]), columns=frames.shape[1], scale=scale, gap=gap)


def save_sheet(page: Image.Image, path: Path) -> None:
    """Writes a PNG that says of itself that it is a sheet, so that a folder of samples can be data again."""
    page.save(path, "PNG", pnginfo=_of_pictures())


def moving(frames: np.ndarray, rate: Fraction) -> bytes:
    """An animated PNG of clips (n, frames, h, w, 3) uint8 side by side, `rate` frames a second; it too says so."""
    pages = [sheet(frames[:, k], scale=1) for k in range(frames.shape[1])]
    out = io.BytesIO()
    save_animation(out, pages, rate, "PNG", pnginfo=_of_pictures())
    return out.getvalue()


def _of_pictures() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text(SHEET_KEY, "made of other pictures")
    return info


def _squarish(n: int, height: int, width: int) -> int:
    return min(n, max(1, math.ceil(math.sqrt(n * height / width))))
