"""Fields as a medium: the rules by which arrays are fields and not pictures, and what their axes are.

pictures    bools, integers of 8 or 16 bits, or floats from 0 to 1 that reach 0.1, on two axes with few channels; all
            else is fields: series, volumes, floats of any range, with NaN, wider integers, whatever is in HDF5 or Zarr
axes        channels are an axis of at most `CHANNELS` that is at most half as long as all others, first or last.  Of an
            array that is alone the first axis is the examples, but for a single series, (t) or (t, c) with at most
            `BESIDE` channels, which is cut into blocks; of files beside each other each is one example
window      all of an example, along each axis at most `LARGEST`, and no more than the smallest has; of larger ones each
            step sees a random part
missing     NaN, what the attribute `_FillValue` or `missing_value` names, where an array of bools called `mask` beside
            the data is true, and what numpy masks; one mask channel where all channels miss the same, or one for each
            that misses any (`gaps.py`)

`axes` says otherwise, a letter an axis: n examples, c channels, t, z, y, x of fields, h and w of pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import NamedTuple

import numpy as np

from fromnoise.codec.arrayfile import Container
from fromnoise.codec.field import AXES, FieldCodec, Layout
from fromnoise.codec.medium import Size
from fromnoise.data.containers import SUFFIXES, Array
from fromnoise.data.gaps import mask_of, masked, masks_of, surveyed
from fromnoise.data.image import MAX_CHANNELS
from fromnoise.data.splits import split_word
from fromnoise.data.stack import COLOURS, Stack, chosen, columns, describes, real
from fromnoise.data.tree import Entry
from fromnoise.errors import FromNoiseError, Unreadable, reason
from fromnoise.types import Shape

LARGEST = {1: 1024, 2: 64, 3: 32}
CHANNELS, BESIDE = 16, 8
_BLOCKS, _SHORTEST = 160, 16  # that a single series is cut into, at the least; the steps of one
_SEEN = 1 << 22  # values by which floats are told to be pictures
_BRIGHT = 0.1  # that pictures of floats reach: small numbers of a measurement are between 0 and 1, too
_SHORT = 0.25  # of the median length: shorter series are left out, or the window would shrink to them


class Axes(NamedTuple):
    """What the axes of an array are: whether the first is examples, where channels are, how many of space."""

    many: bool
    layout: Layout
    space: int
    pictures: bool


def parse_axes(text: str | None) -> Axes | None:
    """Letters, an axis each: see the top of this file.  Raises FromNoiseError for anything else."""
    if text is None:
        return None
    many, rest = text.startswith("n"), text.removeprefix("n")
    space = rest.strip("c")
    pictures = space == "hw"
    known = pictures or (1 <= len(space) <= 3 and len(set(space)) == len(space) and set(space) <= set("tzyx"))
    if not known or len(rest) - len(space) > 1:
        raise FromNoiseError(
            f"Cannot read the axes {text!r}: write a letter an axis, n for examples, c for channels, t, z, y, x of "
            "fields, h and w of pictures, such as nyx, tc or nchw."
        )
    layout = "none" if rest == space else "first" if rest[0] == "c" else "last"
    return Axes(many=many, layout=layout, space=len(space), pictures=pictures)


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldHeader:
    """What is known of a field without its values; `gaps` are the channels that miss some, `alike` says that all miss
    the same ones."""

    places: Shape
    channels: int
    dtype: str
    layout: Layout = "none"
    container: Container = "npy"
    gaps: tuple[int, ...] = ()
    alike: bool = True
    fill: float | None = None
    units: str = ""

    @property
    def size(self) -> Shape:
        return self.places

    @property
    def mode(self) -> str:
        """`2-D field of 3 channels`."""
        where = {"none": "", "first": ", which come first", "last": ""}[self.layout]
        return f"{len(self.places)}-D field of {self.channels} channel{'s' * (self.channels != 1)}{where}"


def pictured(found: Sequence[tuple[Entry, Mapping[str, Array], bool]]) -> bool:
    """Whether most arrays that may be examples are pictures, by the rule at the top of this file.

    `found` are files with their arrays, and whether each is alone.
    """
    if any(entry.suffix in SUFFIXES for entry, _, _ in found):
        return False
    votes = []
    for _, arrays, lone in found:
        keys = chosen(arrays, lambda array: array.ndim in (3, 4)) or chosen(arrays, lambda array: array.ndim > 1)
        votes += [(arrays[key], lone) for key in keys]
    beside = [array.shape for array, lone in votes if not lone]
    volumes = len(beside) > 1 and len(set(beside)) == 1
    return sum(_drawn(array, lone, volumes) for array, lone in votes) * 2 > len(votes)


def _drawn(array: Array, lone: bool, volumes: bool) -> bool:
    """Whether an array may be pictures; `volumes` says that all files beside each other have its shape."""
    shape, kind = array.shape, array.dtype.kind
    if array.ndim not in ((3, 4) if lone else (2, 3, 4)):
        return False
    if array.ndim == 4 and shape[3] > MAX_CHANNELS and shape[1] not in COLOURS:
        return False
    if array.ndim == 3 and not lone and volumes and min(shape[0], shape[2]) > MAX_CHANNELS:
        return False
    if kind != "f":
        return kind == "b" or array.dtype.itemsize <= 2
    values = array.load()
    some = np.asarray(values[:: max(1, values.size // _SEEN)], dtype=np.float64)
    return bool(((some >= 0) & (some <= 1)).all()) and float(some.max(initial=0)) >= _BRIGHT


def field_stacks(
    entry: Entry, arrays: Mapping[str, Array], *, axes: Axes | None, channels_first: bool, lone: bool
) -> tuple[list[Stack], list[str]]:
    """The fields of a file, one stack for each split that it names, and what is said of them.  Raises Unreadable."""
    masks = masks_of(arrays)
    keys = chosen({key: array for key, array in arrays.items() if key not in masks}, lambda array: array.ndim > 0)
    if not keys:
        for array in arrays.values():
            real(array.load())
        what = f"array of numbers, but {', '.join(arrays)}" if arrays else "array"
        raise Unreadable(f"holds no {what}: save one")
    stacks, notes = [], []
    container: Container = "zarr" if entry.suffix == ".zarr" else "h5" if entry.suffix in SUFFIXES else "npy"
    for key in keys:
        array = arrays[key]
        mask = mask_of(key, arrays, axes.many if axes else lone)
        values, fill = real(array.load()), array.fill
        if mask is not None:
            values, fill = masked(values, mask, fill)
        name = f"{entry.name}:{key}" if key else entry.name
        stack, note = as_field(
            values, name, axes=axes, channels_first=channels_first, lone=lone, fill=fill, units=array.units
        )
        assert isinstance(stack.header, FieldHeader)
        others = {name: one for name, one in arrays.items() if name != key and name not in masks}
        beside = {} if stack.single else columns(others, len(stack.pixels), split_word(key))
        stacks.append(replace(stack, key=key, columns=beside, header=replace(stack.header, container=container)))
        notes.append(note)
    sizes = [len(stack.pixels) for stack in stacks]
    rest = (key for key in arrays if key not in keys and key not in masks)
    unused = [key for key in rest if not any(describes(arrays[key], n) for n in sizes)]
    if unused:
        more = ", …" if len(unused) > 5 else ""
        notes.append(f"of {entry.name} is used {', '.join(keys)}, and not {', '.join(unused[:5])}{more}.")
    return stacks, notes


def as_field(
    array: np.ndarray,
    name: str,
    *,
    axes: Axes | None,
    channels_first: bool,
    lone: bool,
    fill: float | None = None,
    units: str = "",
) -> tuple[Stack, str]:
    """An array as examples, and a sentence that says how its axes are read.  Raises Unreadable with a remedy."""
    if isinstance(array, np.ma.MaskedArray):
        array, fill = masked(np.asarray(array.data), np.ma.getmaskarray(array), fill)
    array = real(array)
    axes = axes or _axes(array.shape, channels_first=channels_first, lone=lone)
    if array.ndim != axes.many + axes.space + (axes.layout != "none"):
        raise Unreadable(f"has the shape {array.shape}, which has not as many axes as are said: correct --axes")
    rows, cut = (array, "") if axes.many else (array[None], "")
    if not axes.many and lone and axes.space == 1 and axes.layout != "first":
        steps = max(_SHORTEST, 2 ** int(np.log2(max(1, len(array) // _BLOCKS))))
        count = len(array) // steps
        if count > 1:
            rows = array[: count * steps].reshape(count, steps, *array.shape[1:])
            cut = f", one series of {len(array):,}, cut into {count:,} blocks"
    shape = rows.shape[1:]
    places = shape if axes.layout == "none" else shape[1:] if axes.layout == "first" else shape[:-1]
    channels = 1 if axes.layout == "none" else shape[0 if axes.layout == "first" else -1]
    gaps, alike = surveyed(rows, axes.layout, fill, lone)
    header = FieldHeader(
        places=places,
        channels=channels,
        dtype=str(rows.dtype),
        layout=axes.layout,
        gaps=gaps,
        alike=alike,
        fill=fill,
        units=units,
    )
    where = {"none": "", "first": ", which come first", "last": ", which come last"}[axes.layout]
    size = " x ".join(map(str, places))
    note = (
        f"{name} is {len(rows):,} field{'s' * (len(rows) != 1)} of {size} {AXES[axes.space][-1]}"
        f"{cut}, with {channels} channel{'s' * (channels != 1)}{where}, and no pictures, which are bools, 8- or 16-bit "
        "integers or floats from 0 to 1 on two axes; --axes for another reading, as nyx, tc or nhwc."
    )
    return Stack(pixels=rows, name=name, header=header, single=not axes.many and not cut), note


def _axes(shape: Shape, *, channels_first: bool, lone: bool) -> Axes:
    """The rule at the top of this file."""
    if len(shape) == 1 or (lone and len(shape) == 2 and shape[1] <= min(BESIDE, shape[0] / 2)):
        return Axes(many=False, layout="none" if len(shape) == 1 else "last", space=1, pictures=False)
    inner = shape[1:] if lone else shape
    layout = "first" if channels_first else _channels(inner)
    space = len(inner) - (layout != "none")
    if not 1 <= space <= 3:
        raise Unreadable(
            f"has the shape {shape}, and fields have 1 to 3 axes beside examples and channels: say --axes, such as nzyx"
        )
    return Axes(many=lone, layout=layout, space=space, pictures=False)


def _channels(shape: Shape) -> Layout:
    """Where the channels are among the axes of one example; of two short axes the last."""
    if len(shape) < 2:
        return "none"
    last = shape[-1] <= min(CHANNELS, min(shape[:-1]) / 2)
    first = shape[0] <= min(CHANNELS, min(shape[1:]) / 2)
    return "last" if last else "first" if first else "none"


class Fields:
    name = "field"
    formats = "NPY, NPZ, HDF5, Zarr"
    suffixes: frozenset[str] = frozenset()  # array files are told apart from pictures by what they hold
    axes = AXES[3]  # of series and planes the last of them
    header = FieldHeader
    codec = FieldCodec

    def sniff(self, head: bytes) -> bool:
        return False

    def probe(self, data: bytes) -> FieldHeader:
        array = _read(data)
        return FieldHeader(places=array.shape, channels=1, dtype=str(array.dtype))

    def read(self, data: bytes, header: FieldHeader, codec: FieldCodec) -> np.ndarray:
        array = _read(data)
        if array.ndim != len(codec.space) + (codec.layout != "none"):
            raise Unreadable(f"has {array.ndim} axes, unlike the data of this model: give one example of them")
        return array

    def family(self, header: FieldHeader) -> str:
        # Examples may differ in length alone; where channels come first, that is not the first axis of the array.
        beyond = "".join(f" x {n}" for n in header.places[1:])
        kind = {"f": "floats", "b": "booleans"}.get(np.dtype(header.dtype).kind, "integers")
        fill = "" if header.fill is None else f", {header.fill:g} where missing"
        return f"{header.mode}, n{beyond} {AXES[len(header.places)][-1]} of {kind}{fill}"

    def common(self, headers: Counter[FieldHeader]) -> tuple[FieldHeader, list[str]]:
        first = max(headers, key=headers.__getitem__)
        dtypes = sorted({header.dtype for header in headers})
        dtype = str(np.result_type(*dtypes))
        notes = [f"arrays of {' and '.join(dtypes)} all become {dtype}."] if len(dtypes) > 1 else []
        gaps = tuple(sorted({channel for header in headers for channel in header.gaps}))
        return replace(first, dtype=dtype, gaps=gaps, alike=all(header.alike for header in headers)), notes

    def choose(
        self, common: FieldHeader, headers: Counter[FieldHeader], size: Size | None
    ) -> tuple[FieldCodec, list[str]]:
        axes = len(common.places)
        smallest = tuple(min(header.places[k] for header in headers) for k in range(axes))
        asked = (size,) * axes if isinstance(size, int) else size
        if isinstance(asked, float) or (asked is not None and len(asked) != axes):
            raise FromNoiseError(f"A size of {size} is no window of {axes} axes: give places, such as --size 32.")
        if isinstance(size, tuple) and (np.array(asked) > smallest).any():
            raise FromNoiseError(f"A size of {size} is larger than the smallest example, {smallest}: ask for less.")
        space = tuple(int(n) for n in np.minimum(asked or LARGEST[axes], smallest))
        codec = FieldCodec(
            space=space,
            channels=common.channels,
            dtype=common.dtype,
            layout=common.layout,
            whole=all(header.places == space for header in headers),
            masks=int(bool(common.gaps)) if common.alike else len(common.gaps),
            gaps=() if common.alike or len(common.gaps) == common.channels else common.gaps,
            fill=common.fill,
            units=common.units,
            container=common.container,
        )
        notes = []
        if not codec.whole:
            window = " x ".join(map(str, space))
            notes.append(f"each step sees parts of {window} {AXES[axes][-1]} of the examples; --size for others.")
        if common.gaps:
            some = (
                f"in {len(codec.gaps):,} of {common.channels:,} channels" if codec.gaps else "in each channel by itself"
            )
            how = "in all channels alike" if common.alike else some
            notes.append(f"values are missing, {how}: where they are is learned and generated along.")
        return codec, notes

    def remarks(self, header: FieldHeader, codec: FieldCodec, headers: Counter[FieldHeader]) -> list[str]:
        return []


def too_short(stacks: Sequence[Stack]) -> dict[int, str]:
    """The places of single series so short that the window of all would shrink to them, with the reason."""
    lengths = [stack.header.size[0] if stack.header and stack.single else 0 for stack in stacks]
    least = _SHORT * float(np.median(lengths or [0]))
    return {
        place: f"of {n:,} places along its first axis, less than a quarter of the median: leave it out, or train on it "
        "by itself"
        for place, n in enumerate(lengths)
        if 0 < n < least
    }


def _read(data: bytes) -> np.ndarray:
    try:
        return real(np.load(BytesIO(data), allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise Unreadable(f"is not a readable array ({reason(error)}): give a .npy") from error
