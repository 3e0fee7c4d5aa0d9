"""Scans as examples: brought to one spacing, cut into blocks, and parted so that what is held out is new.

A scan whose voxels are of another size than those of the set is resampled (linear, antialiased), cut and padded with
its least value around its centre.  Blocks are all of one shape: slices are one voxel thick, patches overlap by half,
and a whole scan is one block.

What is held out is whole subjects.  Of one subject it is slabs: a tenth to a seventh of the scan, with a gap of at
least `Grid.gap` on either side that belongs to no part, since neighbouring slices show nearly the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from threading import Lock

import numpy as np
import torch
from torch.nn.functional import interpolate

from fromnoise.codec.volume import Container, position
from fromnoise.data.splits import HELD_OUT_SMALL, TRAIN, VAL
from fromnoise.errors import Unreadable
from fromnoise.types import Shape

GAP = 3.0  # millimetres
MOST = 2**32  # bytes of a scan: what claims more is damaged or a bomb
SLABS = 4  # at most
_REACH = float(np.finfo(np.float32).max)  # of values, as they are kept
_KEPT = 4  # scans in memory, as several threads cut blocks out of them


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """One scan, its axes running to the patient's right, to the front and upwards.

    shape, affine   voxels along each axis; (4, 4), from voxels to millimetres, of TIFF to micrometres
    dtype           of the numbers in the file, which stand for slope·number + intercept
    modality        as DICOM abbreviates it, "" where that is not known
    orientation     of the file, as LPS
    file            its name, or that of its first file
    sized           whether the size of its voxels is known; it is taken for 1 otherwise
    frame           NIfTI's code of what its millimetres are counted from, as 1 for a scanner, 4 for MNI
    subject         who it is of, as the file says, "" where it does not; known while a scan is read and no longer
    certain         whether that is a person: otherwise it is a study, of which a person may have several
    digest          hash of its content
    holes           whether some values are missing
    load            the values (x, y, z), NaN where they are missing; raises Unreadable
    container       the format that samples are written in, which says the unit of lengths
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: str
    slope: float
    intercept: float
    modality: str
    orientation: str
    file: str
    sized: bool
    frame: int
    subject: str
    certain: bool
    digest: bytes
    holes: bool
    load: Callable[[], np.ndarray]
    container: Container = "nifti"

    @property
    def spacing(self) -> np.ndarray:
        """(3,), the distance between voxels along each axis."""
        return np.sqrt((self.affine[:3, :3] ** 2).sum(0))

    @property
    def values(self) -> np.dtype:
        """The dtype that holds its values: whole numbers where they are, else float32."""
        return units(self.dtype, self.slope, self.intercept)

    @property
    def plane(self) -> int | None:
        """The axis of which it has but one slice, None where it has several along each."""
        return self.shape.index(1) if 1 in self.shape else None

    @property
    def kind(self) -> tuple[str, Container, int | None, bool]:
        """What the scans of a set share: floats of TIFF are no numbers as its integers are, but often from 0 to 1."""
        floats = self.container == "tiff" and self.values.kind == "f"
        return self.modality, self.container, self.plane, floats


def units(dtype: str, slope: float, intercept: float) -> np.dtype:
    """The dtype that holds slope·number + intercept of all numbers of `dtype`."""
    stored = np.dtype(dtype)
    if stored.kind not in "iu" or slope % 1 or intercept % 1:
        return np.dtype(np.float32)
    if (slope, intercept) == (1, 0):
        return stored
    info = np.iinfo(stored)
    ends = [slope * end + intercept for end in (int(info.min), int(info.max))]
    fits = (t for t in (np.int16, np.int32) if np.iinfo(t).min <= min(ends) and max(ends) <= np.iinfo(t).max)
    return np.dtype(next(fits, np.float32))


def mixed(volumes: Sequence[Volume], dtype: np.dtype) -> list[str]:
    """A sentence where scans are of several number types, unless their values have a unit; `dtype` holds all."""
    kinds = Counter(str(volume.values) for volume in volumes)
    found = ", ".join(f"{count:,} {name}" for name, count in kinds.most_common())
    return [
        f"scans of {found}: all become {dtype}, their values as they are and not scaled to each other; where these "
        "count differently, bring them to one scale first."
    ] * (len(kinds) > 1 and volumes[0].modality != "CT")


def finite(values: np.ndarray) -> np.ndarray:
    """The same with NaN in the place of what is infinite."""
    return np.where(np.isfinite(values), values, np.nan) if values.dtype.kind == "f" else values


def check(values: np.ndarray) -> None:
    """Raises Unreadable where values are all missing, all one, or beyond what is reckoned with."""
    there = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    if there.size == 0:
        raise Unreadable("holds no values, as all are missing or infinite: leave it out")
    low, high = float(there.min()), float(there.max())
    if max(abs(low), abs(high)) > _REACH:
        raise Unreadable(f"holds values beyond {_REACH:.0e}: rescale them")
    if low == high:
        raise Unreadable(f"holds {low:g} throughout, which shows nothing: leave it out")


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """What scans are brought to: voxels of `spacing`, blocks of `block`; `along` is the axis of slices, `whole` says
    that a block is a scan; `gap` is how far what is held out lies from what is trained on, in the unit of lengths."""

    block: tuple[int, int, int]
    spacing: np.ndarray
    along: int | None
    whole: bool
    gap: float = GAP

    def resampled(self, volume: Volume) -> tuple[int, int, int]:
        """The voxels of a scan at this spacing; along the axis of slices its own."""
        wanted = np.maximum(1, np.rint(np.array(volume.shape) * volume.spacing / self.spacing)).astype(int)
        x, y, z = (
            own if axis == self.along else int(n)
            for axis, (own, n) in enumerate(zip(volume.shape, wanted, strict=True))
        )
        return x, y, z

    def full(self, volume: Volume) -> tuple[int, int, int]:
        """The voxels of a scan that blocks are cut from: at least a block, in planes and of whole scans just one."""
        x, y, z = (
            b if self.whole or self.along not in (None, axis) else max(b, n)
            for axis, (b, n) in enumerate(zip(self.block, self.resampled(volume), strict=True))
        )
        return x, y, z

    def affine(self, volume: Volume) -> np.ndarray:
        """(4, 4), from voxels of the scan as it is cut to millimetres."""
        scaled, full = np.array(self.resampled(volume)), np.array(self.full(volume))
        factor = np.array(volume.shape) / scaled
        step = np.eye(4)
        step[:3, :3] = np.diag(factor)
        step[:3, 3] = (factor - 1) / 2 + factor * ((scaled - full) // 2)
        return volume.affine @ step


class Blocks:
    """Examples (n, x, y, z), read when they are asked for: block i begins at starts[i] of scan which[i].

    `labels` stay what they are where scans are resampled.
    """

    def __init__(self, volumes: Sequence[Volume], grid: Grid, dtype: np.dtype, *, labels: bool = False) -> None:
        self.grid, self.dtype, self.which, self.starts = grid, dtype, [], []
        fulls = [grid.full(volume) for volume in volumes]
        for place, full in enumerate(fulls):
            found = list(product(*(starts(n, b) for n, b in zip(full, grid.block, strict=True))))
            self.which += [place] * len(found)
            self.starts += found

        @lru_cache(_KEPT)
        def loaded(place: int) -> np.ndarray:
            return brought(volumes[place], grid, labels=labels)

        self._loaded, self._fulls, self._one = loaded, fulls, Lock()  # or several threads would load one scan

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, row: int) -> np.ndarray:
        corner = zip(self.starts[row], self.grid.block, strict=True)
        with self._one:
            scan = self._loaded(self.which[row])
        block = scan[tuple(slice(start, start + n) for start, n in corner)]
        return np.rint(block).astype(self.dtype) if self.dtype.kind in "iu" else block.astype(self.dtype)

    def room(self, place: int) -> tuple[int, int, int]:
        """How far a block can move in a scan along each axis."""
        x, y, z = (n - b for n, b in zip(self._fulls[place], self.grid.block, strict=True))
        return x, y, z

    def position(self, row: int) -> str:
        """Where a block lies in its scan, as `codec.volume.position` says it."""
        return position(self.starts[row], self.room(self.which[row]), self.grid.along)

    def parted(self) -> Iterator[int | None]:
        """Of each block the split, TRAIN or VAL by slabs, None of those in the gaps."""
        for place, start in zip(self.which, self.starts, strict=True):
            full = self._fulls[place]
            axis = int(np.argmax(full)) if self.grid.along is None else self.grid.along
            first, last = start[axis], start[axis] + self.grid.block[axis]
            gap = max(1, math.ceil(self.grid.gap / self.grid.spacing[axis]))
            held = slabs(full[axis], self.grid.block[axis], gap)
            if any(begin <= first and last <= end for begin, end in held):
                yield VAL
            else:
                yield None if any(first < end + gap and begin - gap < last for begin, end in held) else TRAIN

    def taken(self, rows: Sequence[int]) -> Blocks:
        """These rows only."""
        self.which, self.starts = [self.which[i] for i in rows], [self.starts[i] for i in rows]
        return self


def starts(n: int, size: int) -> list[int]:
    """Where blocks of `size` begin in `n` voxels: slices at each, others as few as overlap by half, evenly spread."""
    if size == 1:
        return list(range(n))
    count = math.ceil(2 * (n - size) / size)
    return [k * (n - size) // max(count, 1) for k in range(count + 1)]


def slabs(n: int, size: int, gap: int) -> list[tuple[int, int]]:
    """(begin, end) of what is held out of `n` voxels, for blocks of `size` along that axis; none where there is no
    room for it and its gaps."""
    for count in range(SLABS, 0, -1):
        thick = max(1 if size == 1 else math.ceil(1.5 * size), round(HELD_OUT_SMALL * n / count))
        lost = thick + 2 * (gap + size - 1)  # where no block for training can begin or end
        if count * lost <= n / 2 or (count == 1 and lost <= 0.75 * n):
            break
    else:
        return []
    return [(begin := (2 * k + 1) * n // (2 * count) - thick // 2, begin + thick) for k in range(count)]


def brought(volume: Volume, grid: Grid, *, labels: bool = False) -> np.ndarray:
    """The values of a scan as blocks are cut from them; `labels` are those of the nearest voxels."""
    return centred(resampled(volume.load(), grid.resampled(volume), labels=labels), grid.full(volume))


def resampled(values: np.ndarray, shape: Shape, *, labels: bool = False) -> np.ndarray:
    """`values` at another number of voxels, one axis after the other, as they are where it is the same."""
    for axis, n in enumerate(shape):
        if labels:
            values = values.take(((np.arange(n) + 0.5) * values.shape[axis] / n).astype(int), axis)
        elif values.shape[axis] != n:
            moved = np.moveaxis(values, axis, -1)
            rows = torch.from_numpy(np.ascontiguousarray(moved, np.float32).reshape(1, 1, -1, moved.shape[-1]))
            fine = interpolate(rows, size=(rows.shape[2], n), mode="bilinear", antialias=True)
            values = np.moveaxis(fine.numpy().reshape(*moved.shape[:-1], n), -1, axis)
    return values


def centred(values: np.ndarray, shape: Shape) -> np.ndarray:
    """`values` cut, or padded with their least, to a shape around their centre."""
    if values.shape == shape:
        return values
    begin = [(have - want) // 2 for have, want in zip(values.shape, shape, strict=True)]
    cut = values[tuple(slice(max(0, b), max(0, b) + n) for b, n in zip(begin, shape, strict=True))]
    room = [(max(0, -b), n - have - max(0, -b)) for b, n, have in zip(begin, shape, cut.shape, strict=True)]
    least = np.nan if np.isnan(values).all() else np.nanmin(values)
    return np.pad(cut, room, constant_values=least)
