"""Samples of volumes as NIfTI: values, affine, units and recipe, and nothing that any file of the data said besides.

Integers of the data that stand for value = slope·integer + intercept are written as those integers again.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from fromnoise.codec.recipe import read_by, written
from fromnoise.errors import extra

SCANNER, ALIGNED = 1, 2  # NIfTI's codes of spaces: a scanner's own, and one that is said nowhere
_COMMENT = 6  # the code of a plain text among NIfTI's header extensions


def nibabels() -> ModuleType:
    """nibabel.  Raises FromNoiseError where it is not installed."""
    with extra("NIfTI and DICOM need nibabel", "medical"):
        import nibabel
    return nibabel


def save(
    path: Path,
    values: np.ndarray,
    affine: np.ndarray,
    *,
    frame: int,
    orientation: str,
    dtype: str,
    slope: float,
    intercept: float,
    recipe: Mapping[str, object],
) -> Path:
    """Writes values (x, y, z), of which x runs to the right, y to the front and z upwards, to `path` with `.nii.gz`
    appended to its name, turned to `orientation`, such as LPS, and returns that file.

    `affine` (4, 4) leads from voxels to millimetres, before the turn; `frame` is NIfTI's code of that space.
    """
    nib = nibabels()
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        whole = np.rint((values.astype(np.float64) - intercept) / slope)
        values = np.clip(np.nan_to_num(whole), info.min, info.max)
    image = nib.Nifti1Image(values.astype(dtype), affine)
    orientations = nib.orientations
    turn = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(orientation))
    image = image.as_reoriented(turn)
    image.set_sform(image.affine, frame)
    image.header.set_slope_inter(slope, intercept)
    image.header.set_xyzt_units("mm")
    text = written(recipe).encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension(_COMMENT, text))
    file = path.with_name(path.name + ".nii.gz")
    file.write_bytes(gzip.compress(image.to_bytes(), mtime=0))
    return file


def read_recipe(file: Path) -> dict[str, object]:
    """The recipe inside a file that `save` wrote.  Raises FromNoiseError where there is none."""
    nib = nibabels()

    def words(file: Path) -> bytes:
        found = nib.Nifti1Image.from_bytes(gzip.decompress(file.read_bytes())).header.extensions
        return next(one.get_content() for one in found if one.get_code() == _COMMENT)

    return read_by(file, words, EOFError, StopIteration, nib.filebasedimages.ImageFileError)
