"""HDF5 and Zarr files as arrays by name that are read when asked for, with what their attributes say."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.codec.arrayfile import FILL, UNITS, hdf5, zarrs
from fromnoise.data.tree import Entry, Tree, Unreadable, reason

SUFFIXES = (".h5", ".hdf5", ".hdf", ".zarr")
_BLOCK = 1 << 24  # bytes that are copied at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Array:
    """An array of a file; its values are mapped from there, or copied, when `load` is called, which may raise
    Unreadable."""

    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], np.ndarray]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(values: np.ndarray) -> Array:
        return Array(shape=values.shape, dtype=values.dtype, load=lambda: values)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def fill(self) -> float | None:
        """What stands for missing values, as the attributes `_FillValue` or `missing_value` say."""
        said = self.attrs.get(FILL, self.attrs.get("missing_value"))
        try:
            value = None if said is None else np.ravel(said).astype(self.dtype)[0].item()
        except (TypeError, ValueError, IndexError):
            return None
        return None if value != value else value

    @property
    def units(self) -> str:
        said = self.attrs.get(UNITS, "")
        return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def open_container(tree: Tree, entry: Entry) -> dict[str, Array]:
    """The arrays of an HDF5 or Zarr file, by their names with the groups that they lie in."""
    path = tree.path(entry)
    if entry.suffix != ".zarr":
        return _hdf5(path, tree, entry)
    if path is None:
        raise Unreadable("is a Zarr inside an archive: unpack it")
    zarr = zarrs()
    node = zarr.open(path, mode="r")
    members = [("", node)] if isinstance(node, zarr.Array) else node.members(max_depth=None)
    return {name: _array(one, None) for name, one in members if isinstance(one, zarr.Array)}


def _hdf5(path: Path | None, tree: Tree, entry: Entry) -> dict[str, Array]:
    h5py = hdf5()
    found: dict[str, Array] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape is not None:
            found[name] = _array(node, path)

    # It stays open as long as its arrays.
    h5py.File(tree.open(entry) if path is None else path, "r").visititems(visit)
    return found


def _array(node: Any, path: Path | None) -> Array:
    offset = None if path is None else node.id.get_offset()

    def part(rows: slice) -> np.ndarray:
        try:
            return node[rows]
        except Exception as error:  # HDF5, Zarr and their codecs raise many kinds for a damaged chunk
            raise Unreadable(f"has a damaged part ({reason(error)}): copy or export it again") from error

    def load() -> np.ndarray:
        if path is not None and offset is not None and 0 not in node.shape and node.dtype.kind in "biuf":
            if offset + node.size * node.dtype.itemsize > path.stat().st_size:
                raise Unreadable("is cut short: copy or export it again")
            return np.memmap(path, node.dtype, "r", offset, node.shape)  # as it lies in the file
        return spooled(node.shape, node.dtype, part)

    return Array(shape=tuple(node.shape), dtype=np.dtype(node.dtype), load=load, attrs=dict(node.attrs))


def spooled(shape: tuple[int, ...], dtype: np.dtype, rows: Callable[[slice], np.ndarray]) -> np.ndarray:
    """An array that is given by parts of its first axis, mapped from a temporary file that goes with it."""
    if dtype.hasobject or 0 in shape or not shape:
        return np.asarray(rows(slice(None)) if shape else np.zeros(shape, dtype))
    step = max(1, _BLOCK // max(1, int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize))
    with tempfile.TemporaryFile() as held:
        for start in range(0, shape[0], step):
            held.write(np.ascontiguousarray(rows(slice(start, start + step)), dtype).reshape(-1).view(np.uint8).data)
        held.flush()
        return np.memmap(held, dtype, "r", shape=shape)


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array a few megabytes at a time, along its first axis."""
    step = max(1, _BLOCK // max(1, array.nbytes // max(1, len(array))))
    return (array[start : start + step] for start in range(0, len(array), step))
