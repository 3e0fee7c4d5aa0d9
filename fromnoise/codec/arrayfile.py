"""Arrays as files: `.npy` with its recipe in a `.json` beside it, HDF5 and Zarr with the recipe in their attributes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

from fromnoise.codec.recipe import read_by, written
from fromnoise.errors import extra

Container = Literal["npy", "h5", "zarr"]
DATA = "data"  # the name of the array in HDF5
RECIPE = "fromnoise"
FILL = "_FillValue"  # the attribute that marks missing values, by the CF conventions
UNITS = "units"


def hdf5() -> ModuleType:
    """h5py.  Raises FromNoiseError where it is not installed."""
    with extra("HDF5 needs h5py", "fields"):
        import h5py
    return h5py


def zarrs() -> ModuleType:
    """zarr.  Raises FromNoiseError where it is not installed."""
    with extra("Zarr needs zarr", "fields"):
        import zarr
    return zarr


def save(
    path: Path,
    sample: np.ndarray,
    container: Container,
    *,
    recipe: Mapping[str, object],
    units: str = "",
    fill: float | None = None,
) -> Path:
    """Writes an array to `path` with `.npy`, `.h5` or `.zarr` appended to its name, and returns that."""
    file, text = path.with_name(f"{path.name}.{container}"), written(recipe)
    known: dict[str, object] = {UNITS: units} if units else {}
    if fill is not None:
        # In the type of the values, by the same conventions; the JSON of Zarr knows one kind of numbers alone.
        mark = np.asarray(fill).astype(sample.dtype)[()]
        known[FILL] = mark.item() if container == "zarr" else mark
    if container == "npy":
        np.save(file, sample)
        file.with_suffix(".json").write_text(text + "\n")
    elif container == "h5":
        with hdf5().File(file, "x") as out:
            array = out.create_dataset(DATA, data=sample)
            array.attrs.update({**known, RECIPE: text})
    else:
        array = zarrs().create_array(file, data=np.ascontiguousarray(sample))
        array.attrs.update({**known, RECIPE: text})
    return file


def read_recipe(file: Path) -> dict[str, object]:
    """The recipe of a file that `save` wrote.  Raises FromNoiseError where there is none."""
    return read_by(file, _words, KeyError)


def _words(file: Path) -> str:
    if file.suffix == ".npy":
        return file.with_suffix(".json").read_text()
    if file.suffix == ".h5":
        with hdf5().File(file) as inside:
            return inside[DATA].attrs[RECIPE]
    return str(zarrs().open_array(file, mode="r").attrs[RECIPE])
