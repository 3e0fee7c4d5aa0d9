"""Samples of stacks as TIFF, a page a slice, with the size of voxels as ImageJ writes it, which Fiji and napari read.

Pages count as slices of CT do: their columns run to the left, their rows to the back, and they themselves upwards.  So
they are seen as they lie in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tifffile

from fromnoise.codec.recipe import read_by, written

ORIENTATION = "LPS"
_RECIPE = "fromnoise="  # the line of ImageJ's description that ImageJ itself passes over


def upright(pages: np.ndarray) -> np.ndarray:
    """Pages (z, y, x) as a volume whose axes run to the right, to the front and upwards."""
    return pages.T[::-1, ::-1]


def save(
    path: Path,
    values: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    dtype: str,
    recipe: Mapping[str, object],
) -> Path:
    """Writes values (x, y, z), upright, to `path` with `.tif` appended to its name, and returns that file.

    `spacing` is how far voxels lie apart along each axis, in micrometres.
    """
    pages, (x, y, z) = values[::-1, ::-1].T, spacing
    text = tifffile.imagej_description(pages.shape, axes="ZYX", spacing=z, unit="um", fromnoise=written(recipe))
    file = path.with_name(path.name + ".tif")
    with tifffile.TiffWriter(file) as out:
        for place, page in enumerate(pages):
            out.write(
                np.ascontiguousarray(page.astype(dtype)),
                photometric="minisblack",
                resolution=(1 / x, 1 / y),
                resolutionunit="NONE",
                description=None if place else text,
                metadata=None,
                contiguous=False,
            )
    return file


def read_recipe(file: Path) -> dict[str, object]:
    """The recipe inside a file that `save` wrote.  Raises FromNoiseError where there is none."""

    def words(file: Path) -> str:
        with tifffile.TiffFile(file) as found:
            lines = found.pages.first.description.splitlines()
        return next(line.removeprefix(_RECIPE) for line in lines if line.startswith(_RECIPE))

    return read_by(file, words, StopIteration, tifffile.TiffFileError)
