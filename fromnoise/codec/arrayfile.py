"""Arrays as files: `.npy` with its recipe in a `.json` beside it, HDF5 and Zarr with the recipe in their attributes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

from fromnoise.errors import FromNoiseError

Container = Literal["npy", "h5", "zarr"]
DATA = "data"  # the name of the array in HDF5
RECIPE = "fromnoise"
FILL = "_FillValue"  # the attribute that marks missing values, by the CF conventions
UNITS = "units"


def hdf5() -> ModuleType:
    """h5py.  Raises FromNoiseError where it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise FromNoiseError('HDF5 needs h5py: pip install "fromnoise[fields]".') from error
    return h5py


def zarrs() -> ModuleType:
    """zarr.  Raises FromNoiseError where it is not installed."""
    try:
        import zarr
    except ImportError as error:
        raise FromNoiseError('Zarr needs zarr: pip install "fromnoise[fields]".') from error
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
    file, text = path.with_name(f"{path.name}.{container}"), json.dumps(dict(recipe), ensure_ascii=True)
    known = {UNITS: units} if units else {}
    if fill is not None:
        known[FILL] = np.asarray(fill).astype(sample.dtype).item()
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
    try:
        if file.suffix == ".npy":
            text = file.with_suffix(".json").read_text()
        elif file.suffix == ".h5":
            with hdf5().File(file) as inside:
                text = inside[DATA].attrs[RECIPE]
        else:
            text = str(zarrs().open_array(file, mode="r").attrs[RECIPE])
        recipe = json.loads(text)
    except (OSError, KeyError, ValueError) as error:
        raise FromNoiseError(f"{file} holds no recipe: only files that fromnoise wrote itself do.") from error
    assert isinstance(recipe, dict)
    return recipe
