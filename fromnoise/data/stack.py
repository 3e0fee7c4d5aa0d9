"""Stacks of examples in one file: `.npy`, `.npz`, IDX, HDF5 and Zarr, seen as arrays that stay on disk.

A `.npy` is memory-mapped where it lies.  What is compressed or inside an archive is first written to an unnamed
temporary file and mapped from there, so that memory does not grow with the set.

IDX (LeCun's MNIST files): two zero bytes, a type code, the number of axes, then each axis as a big-endian uint32.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BufferedIOBase
from typing import cast

import numpy as np

from fromnoise.codec import Header, Rows, Scalable
from fromnoise.data.containers import SUFFIXES, Array, open_container
from fromnoise.data.image import MAX_CHANNELS
from fromnoise.data.image import Header as PictureHeader
from fromnoise.data.splits import split_word
from fromnoise.data.texts import Texts
from fromnoise.data.tree import Entry, Tree, Unreadable, reason
from fromnoise.errors import FromNoiseError

IDX = re.compile(r"[-.]ubyte(\.gz)?$")
_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_PREFERRED = ("samples", "images", "x", "data", "arr_0")
READABLE = "biuf"
COLOURS = (1, 3, 4)
_LONGEST = 64  # numbers of a vector


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """Examples of one file, rows of `pixels`, with the columns that came beside them, each of n strings.

    Pictures are (n, h, w, c), fields as `fields.py` says.  `key` is the array's name in a file of several, empty
    elsewhere; `single` says that the file is one example, not a row of many; `names` are those of the rows where they
    have any.  Examples that a medium gathered stand here, too, without a header: see `codec/medium.py`; `files` are
    those that they are from, where the names of files are not looked at by themselves; `maps` are columns of values as
    large as the examples.
    """

    pixels: np.ndarray | Rows | Scalable
    name: str
    header: Header | None = None
    key: str = ""
    columns: Mapping[str, Texts] = field(default_factory=dict)
    single: bool = False
    names: Sequence[str] = ()
    files: Sequence[str] = ()
    maps: Mapping[str, Rows] = field(default_factory=dict)


def is_array(name: str) -> bool:
    return name.lower().endswith((".npy", ".npz", *SUFFIXES)) or IDX.search(name.lower()) is not None


def real(array: np.ndarray) -> np.ndarray:
    """The array in the machine's own order of bytes, of 64 bits at most.  Raises Unreadable for no real numbers."""
    if array.dtype.kind not in READABLE:
        remedy = "save its real and imaginary part as channels" if array.dtype.kind == "c" else "save numbers"
        raise Unreadable(f"holds {array.dtype}, not real numbers: {remedy}")
    if not array.ndim:
        raise Unreadable("is one number and no array of examples: save examples along its first axis")
    if 0 in array.shape:
        raise Unreadable(f"is empty: its shape is {array.shape}; save examples along its first axis")
    if array.dtype.byteorder not in "=|<" or array.dtype.itemsize > 8:
        return array.astype(array.dtype.newbyteorder("=") if array.dtype.itemsize <= 8 else np.float64)
    return array


def as_stack(array: np.ndarray, name: str, *, channels_first: bool, lone: bool = True, certain: bool = False) -> Stack:
    """An array as examples: (n, h, w), (n, h, w, c), or (n, c, h, w) under `channels_first`.

    Where the array is one file of many (`lone` false), two axes are one grey image, and three axes are one image if
    its channel axis is the shortest and at most 32 long.  Raises Unreadable for anything else, and, unless `certain`,
    for what looks as if channels came first though that was not said.
    """
    array = real(array)
    asked = "say --channels-first (channels_first=True), or"
    if not lone and not channels_first and array.ndim == 3 and _channels_first(array.shape):
        raise Unreadable(f"has the shape {array.shape}, which looks like (c, h, w): {asked} --axes nhw of n pictures")
    single = not lone and (array.ndim == 2 or (array.ndim == 3 and _is_image(array.shape, channels_first)))
    if single:
        array = array[None]
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and channels_first:
        array = array.transpose(0, 2, 3, 1)
    elif array.ndim == 4 and array.shape[1] in COLOURS and array.shape[3] > max(COLOURS) and not certain:
        raise Unreadable(f"has the shape {array.shape}, which looks like (n, c, h, w): {asked} --axes nhwc")
    if array.ndim != 4:
        raise Unreadable(f"has {array.ndim} axes: images are (n, h, w) or (n, h, w, c)")
    _, height, width, channels = array.shape
    alpha = channels in (2, 4) and array.dtype in (np.uint8, np.uint16)
    header = PictureHeader(height=height, width=width, channels=channels, alpha=alpha, dtype=str(array.dtype))
    return Stack(pixels=array, name=name, header=header, single=single)


def _channels_first(shape: tuple[int, ...]) -> bool:
    return shape[0] in COLOURS and min(shape[1:]) > max(COLOURS)


def _is_image(shape: tuple[int, ...], channels_first: bool) -> bool:
    channels, *plane = shape if channels_first else (shape[-1], *shape[:-1])
    return channels < min(plane) and channels <= MAX_CHANNELS


def open_arrays(tree: Tree, entry: Entry) -> dict[str, Array]:
    """The arrays of a file by name, "" where there is one without.  Raises Unreadable."""
    try:
        if entry.suffix in SUFFIXES:
            return open_container(tree, entry)
        if entry.suffix == ".npz":
            return _members(tree, entry)
        return {"": Array.of(_open_npy(tree, entry) if entry.suffix == ".npy" else _open_idx(tree, entry))}
    except (FromNoiseError, Unreadable):
        raise
    except Exception as error:  # numpy, gzip, HDF5 and the archives raise many kinds for a broken header or stream
        # numpy says it in four ways
        why = "holds Python objects, which are never unpickled" if "bject" in str(error) else reason(error)
        raise Unreadable(f"is not a readable array ({why}): save it again as numbers") from error


def chosen(arrays: Mapping[str, Array], fit: Callable[[Array], bool]) -> list[str]:
    """The names of the arrays that are the examples, of those that `fit`.

    Where names say so one for each split, as in Keras' and MedMNIST's files; otherwise the one that is called what our
    own samples and numpy call it; otherwise the largest.
    """
    usable = [key for key, array in arrays.items() if array.dtype.kind in READABLE and fit(array)]
    split = [key for key in usable if split_word(key)]
    named = [key for key in _PREFERRED if key in usable]
    largest = sorted(usable, key=lambda key: -math.prod(arrays[key].shape))
    return split or [*named, *largest][:1]


def picture_stacks(
    entry: Entry, arrays: Mapping[str, Array], *, channels_first: bool, lone: bool, certain: bool
) -> list[Stack]:
    """The pictures of a file, of a `.npz` one stack for each split.  Raises Unreadable."""
    if "" in arrays:
        array = arrays[""].load()
        return [as_stack(array, entry.name, channels_first=channels_first, lone=lone, certain=certain)]
    keys = chosen(arrays, lambda array: array.ndim in (3, 4))
    if not keys:
        raise Unreadable(
            f"holds no array of 3 or 4 axes, but {', '.join(arrays) or 'none'}: save pictures along a first axis"
        )
    return [
        replace(
            as_stack(arrays[key].load(), f"{entry.name}:{key}", channels_first=channels_first, certain=certain),
            key=key,
            columns=columns(arrays, arrays[key].shape[0], split_word(key)),
        )
        for key in keys
    ]


def _members(tree: Tree, entry: Entry) -> dict[str, Array]:
    arrays = {}
    with tree.open(entry) as file, zipfile.ZipFile(file) as members:
        for name in members.namelist():
            key = name.removesuffix(".npy")
            with members.open(name) as member:
                try:
                    arrays[key] = Array.of(_npy_stream(cast(BufferedIOBase, member)))
                except ValueError as error:  # pickled or strange ones beside the images
                    arrays[key] = _unusable(f"holds {key}, which cannot be used ({reason(error)}): save numbers")
    return arrays


def _unusable(why: str) -> Array:
    """An array that is there and cannot be read, which is said when it is asked for."""

    def load() -> np.ndarray:
        raise Unreadable(why)

    return Array(shape=(), dtype=np.dtype(object), load=load)


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


def describes(array: Array, n: int) -> bool:
    """Whether an array has a value or a vector for each of n examples."""
    if array.ndim == 2 and array.shape[0] == n and 2 <= array.shape[1] <= _LONGEST:
        return array.dtype.kind in "iuf"
    return array.shape in ((n,), (n, 1)) and array.dtype.kind in "biufSUO"


def columns(arrays: Mapping[str, Array], n: int, word: str) -> dict[str, Texts]:
    """Arrays of a value or a vector per example, named without their split and the `cond_` of our own samples."""
    found = {}
    for key, array in arrays.items():
        if not describes(array, n) or split_word(key) != word:
            continue
        values = array.load()
        if values.dtype.kind == "O":  # strings of HDF5
            values = np.array([one.decode(errors="replace") for one in values.reshape(-1)])
        vectors = array.ndim == 2 and array.shape[1] > 1
        flat = np.array([str(row) for row in values.tolist()]) if vectors else values.reshape(n)
        parts = [part for part in re.split(r"([_\-.])", key.rpartition("/")[2]) if part != word]
        found["".join(parts).strip("_-.").removeprefix("cond_") or key] = Texts.of_array(flat)
    return found


def common_stem(name: str) -> str:
    """What the images and the labels of one set have in common: `a/train-labels-idx1-ubyte` -> `a/train`."""
    return re.sub(r"[-_.]?(labels|images).*", "", name.lower())
