"""Stacks of examples in one file: `.npy`, `.npz` and IDX, seen as arrays (n, h, w, c) that stay on disk.

A `.npy` is memory-mapped where it lies.  What is compressed or inside an archive is first written to an unnamed
temporary file and mapped from there, so that memory does not grow with the set.

IDX (LeCun's MNIST files): two zero bytes, a type code, the number of axes, then each axis as a big-endian uint32.
"""

from __future__ import annotations

import gzip
import re
import struct
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import cast

import numpy as np

from fromnoise.data.image import MAX_CHANNELS, Header
from fromnoise.data.splits import split_word
from fromnoise.data.texts import Texts
from fromnoise.data.tree import Entry, Tree, Unreadable, reason

IDX = re.compile(r"[-.]ubyte(\.gz)?$")
_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_PREFERRED = ("samples", "images", "x", "data", "arr_0")
_READABLE = "biuf"
_COLOURS = (1, 3, 4)
_LONGEST = 64  # numbers of a vector


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """Examples (n, h, w, c) of one file, with the columns that came beside them, each of n strings.

    `key` is the array's name in a `.npz`, empty elsewhere; `single` says that the file is one image, not a row of many;
    `names` are those of the rows where they have any.  Examples that a medium gathered stand here, too: see
    `codec/medium.py`.
    """

    pixels: np.ndarray
    name: str
    key: str = ""
    columns: Mapping[str, Texts] = field(default_factory=dict)
    single: bool = False
    names: Sequence[str] = ()

    @property
    def header(self) -> Header:
        _, height, width, channels = self.pixels.shape
        dtype = self.pixels.dtype
        alpha = channels in (2, 4) and dtype in (np.uint8, np.uint16)
        return Header(height=height, width=width, channels=channels, alpha=alpha, dtype=str(dtype.newbyteorder("=")))


def is_array(name: str) -> bool:
    return name.lower().endswith((".npy", ".npz")) or IDX.search(name.lower()) is not None


def as_stack(array: np.ndarray, name: str, *, channels_first: bool, lone: bool = True) -> Stack:
    """An array as examples: (n, h, w), (n, h, w, c), or (n, c, h, w) under `channels_first`.

    Where the array is one file of many (`lone` false), two axes are one grey image, and three axes are one image if
    its channel axis is the shortest and at most 32 long.  Raises Unreadable for anything else.
    """
    if array.dtype.kind not in _READABLE:
        raise Unreadable(f"holds {array.dtype}, not real numbers")
    if array.dtype.byteorder not in "=|<" or array.dtype.itemsize > 8:
        array = array.astype(array.dtype.newbyteorder("=") if array.dtype.itemsize <= 8 else np.float64)
    single = not lone and (array.ndim == 2 or (array.ndim == 3 and _is_image(array.shape, channels_first)))
    if single:
        array = array[None]
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and channels_first:
        array = array.transpose(0, 2, 3, 1)
    elif array.ndim == 4 and array.shape[1] in _COLOURS and array.shape[3] > max(_COLOURS):
        raise Unreadable(
            f"has the shape {array.shape}, which looks like (n, c, h, w): say --channels-first (channels_first=True); "
            "if it is (n, h, w, c) after all, transpose it to (n, c, h, w) and say so"
        )
    if array.ndim != 4:
        raise Unreadable(f"has {array.ndim} axes: images are (n, h, w) or (n, h, w, c)")
    if 0 in array.shape:
        raise Unreadable(f"is empty: its shape is {array.shape}")
    return Stack(pixels=array, name=name, single=single)


def _is_image(shape: tuple[int, ...], channels_first: bool) -> bool:
    channels, *plane = shape if channels_first else (shape[-1], *shape[:-1])
    return channels < min(plane) and channels <= MAX_CHANNELS


def open_array(tree: Tree, entry: Entry) -> np.ndarray:
    """The array in a `.npy` or IDX file, mapped.  Raises Unreadable."""
    try:
        return _open_npy(tree, entry) if entry.suffix == ".npy" else _open_idx(tree, entry)
    except Exception as error:  # numpy, gzip and the archives raise many kinds for a broken header or stream
        raise Unreadable(f"not a readable array: {reason(error)}") from error


def open_npz(tree: Tree, entry: Entry, *, channels_first: bool) -> list[Stack]:
    """The stack in a `.npz`, or one for each split in a file such as Keras' and MedMNIST's.  Raises Unreadable."""
    try:
        arrays = _members(tree, entry)
    except Exception as error:  # as above
        raise Unreadable(f"not a readable array: {reason(error)}") from error
    pictures = {key: a for key, a in arrays.items() if a.ndim in (3, 4) and a.dtype.kind in _READABLE}
    if not pictures:
        raise Unreadable(f"no array of it has 3 or 4 axes; it holds {', '.join(arrays) or 'none'}")
    split = [key for key in pictures if split_word(key)]
    chosen = split or [next((key for key in _PREFERRED if key in pictures), next(iter(pictures)))]
    return [
        Stack(
            pixels=as_stack(pictures[key], entry.name, channels_first=channels_first).pixels,
            name=f"{entry.name}:{key}",
            key=key,
            columns=_columns(arrays, len(pictures[key]), split_word(key)),
        )
        for key in chosen
    ]


def _members(tree: Tree, entry: Entry) -> dict[str, np.ndarray]:
    arrays = {}
    with tree.open(entry) as file, zipfile.ZipFile(file) as members:
        for name in members.namelist():
            with members.open(name) as member, suppress(ValueError):  # pickled or strange ones beside the images
                arrays[name.removesuffix(".npy")] = _npy_stream(cast(BufferedIOBase, member))
    return arrays


def _open_idx(tree: Tree, entry: Entry) -> np.ndarray:
    with tree.open(entry) as raw:
        file = gzip.GzipFile(fileobj=raw) if entry.name.lower().endswith(".gz") else raw
        zeros, code, axes = struct.unpack(">HBB", file.read(4))
        if zeros or code not in _IDX_TYPES or not 1 <= axes <= 4:
            raise ValueError("its header is not that of an IDX file")
        shape = struct.unpack(f">{axes}I", file.read(4 * axes))
        return _spool(file, np.dtype(_IDX_TYPES[code]), shape)


def _open_npy(tree: Tree, entry: Entry) -> np.ndarray:
    path = tree.path(entry)
    if path is not None:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with tree.open(entry) as file:
        return _npy_stream(file)


def _npy_stream(file: BufferedIOBase) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects, which are never unpickled")
    array = _spool(file, dtype, shape[::-1] if fortran else shape)
    return array.T if fortran else array


def _spool(file: BufferedIOBase, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The rest of a stream as a mapped array, held by a temporary file that has no name and goes with it."""
    promised = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if promised == 0:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile() as held:
        left = promised  # no more, whatever a bomb of a stream would go on to give
        while left and (block := file.read(min(left, 1 << 20))):
            left -= held.write(block)
        if left:
            raise ValueError(f"the file is cut short: {left} of {promised} bytes are missing")
        return np.memmap(held, dtype, "r", shape=shape)


def _columns(arrays: Mapping[str, np.ndarray], n: int, word: str) -> dict[str, Texts]:
    """Arrays of a value or a vector per example, named without their split and the `cond_` of our own samples."""
    columns = {}
    for key, array in arrays.items():
        flat = array.reshape(n) if array.shape in ((n,), (n, 1)) else None
        vectors = array.ndim == 2 and len(array) == n and 2 <= array.shape[1] <= _LONGEST and array.dtype.kind in "iuf"
        if vectors:
            flat = np.array([str(row) for row in array.tolist()])
        if flat is None or split_word(key) != word or flat.dtype.kind not in "biufSU":
            continue
        parts = [part for part in re.split(r"([_\-.])", key) if part != word]
        columns["".join(parts).strip("_-.").removeprefix("cond_") or key] = Texts.of_array(flat)
    return columns


def common_stem(name: str) -> str:
    """What the images and the labels of one set have in common: `a/train-labels-idx1-ubyte` -> `a/train`."""
    return re.sub(r"[-_.]?(labels|images).*", "", name.lower())
