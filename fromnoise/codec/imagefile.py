"""Samples as image files that carry their recipe.

PNG holds 8-bit grey, grey-alpha, RGB and RGBA, 16-bit grey, and 1 bit; TIFF holds the rest (16-bit colour, more than
four channels, floats, other integers).  The recipe is JSON in PNG's text chunk `fromnoise` or TIFF's ImageDescription.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from fromnoise.codec.recipe import read_by, written

_KEY = "fromnoise"
SHEET_KEY = "fromnoise-sheet"  # the PNG text chunk of a picture made of pictures, which is no example


def save(path: Path, sample: np.ndarray, *, alpha: bool, recipe: Mapping[str, object]) -> Path:
    """Writes (h, w, c) to `path` with `.png` or `.tif` appended to its name, and returns that file."""
    channels = sample.shape[2]
    text = written(recipe)
    pixels = sample[..., 0] if channels == 1 else sample
    plain = channels == 1 or (channels == 2 and alpha) or channels == 3 or (channels == 4 and alpha)
    if (sample.dtype == np.uint8 and plain) or (channels == 1 and sample.dtype in (np.uint16, np.bool_)):
        info = PngImagePlugin.PngInfo()
        info.add_text(_KEY, text)
        file = path.with_name(path.name + ".png")
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, pnginfo=info)
        return file
    file = path.with_name(path.name + ".tif")
    tifffile.imwrite(
        file,
        sample.astype(np.uint8) if sample.dtype == np.bool_ else pixels,
        photometric="rgb" if channels in (3, 4) and (channels == 3 or alpha) else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=_extra(channels, alpha),
        description=text,
        metadata=None,
    )
    return file


def _extra(channels: int, alpha: bool) -> list[str] | None:
    if alpha:
        return ["unassalpha"]
    return ["unspecified"] * (channels - 1) if channels not in (1, 3) else None


def read_recipe(path: Path) -> dict[str, object]:
    """The recipe inside a file that `save` wrote.  Raises FromNoiseError where there is none."""
    return read_by(path, _words, AttributeError)


def _words(path: Path) -> str:
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            return file.pages.first.description
    with Image.open(path) as image:
        return image.text.get(_KEY, "")  # type: ignore[attr-defined]
