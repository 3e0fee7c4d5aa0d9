"""Maps that lie on scans voxel by voxel, as masks and labels do: cut where the blocks of their scan are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from fromnoise.codec.medium import Rows
from fromnoise.data import nifti
from fromnoise.data.blocks import Blocks, Grid, Volume
from fromnoise.data.gathered import by_digest
from fromnoise.errors import Unreadable


@dataclass(frozen=True, kw_only=True)
class Overlaid:
    """By column: the maps of blocks, NaN where there is none, and their names by their content, "" for none; `broken`
    are those that are left out, by such a name, with the reason."""

    maps: dict[str, Rows]
    names: dict[str, list[str]]
    broken: dict[str, str]


def overlaid(
    volumes: Sequence[Volume], grid: Grid, rows: Sequence[int], files: Mapping[str, Mapping[str, bytes]]
) -> Overlaid:
    """The maps of the blocks `rows` of scans; `files` are those of each column by their scan's."""
    found = Overlaid(maps={}, names={}, broken={})
    for column, of in files.items():
        maps, names = [], []
        for scan in volumes:
            try:
                map_ = _on(scan, of) if scan.file in of else None
            except Unreadable as error:
                map_ = None
                found.broken.update(by_digest(of, {scan.file: str(error)}))
            maps.append(_nothing(scan) if map_ is None else map_)
            names.append("" if map_ is None else map_.digest[:4].hex())
        if any(names):
            blocks = Blocks(maps, grid, np.dtype(np.float32), labels=True).taken(rows)
            found.maps[column] = blocks
            found.names[column] = [names[place] for place in blocks.which]
    return found


def _on(scan: Volume, files: Mapping[str, bytes]) -> Volume:
    """The map of a scan.  Raises Unreadable where it does not lie on it."""
    found = nifti.volume(scan.file, lambda: files[scan.file], labels=True)
    if not alike(scan, found):
        raise Unreadable(
            "is a map that does not lie on its scan, voxel by voxel: bring it to the scan's shape and affine, as "
            "nibabel.processing.resample_from_to(map, scan, order=0) does"
        )
    return replace(found, affine=scan.affine)  # that of the scan to the last digit, so that blocks are the same


def _nothing(scan: Volume) -> Volume:
    return replace(scan, load=lambda: np.full(scan.shape, np.nan, np.float32))


def alike(one: Volume, other: Volume) -> bool:
    """Whether the voxels of two scans lie in the same places, to a tenth of a voxel."""
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in one.shape))])
    apart = np.abs(corners @ (one.affine - other.affine).T).max()
    return one.shape == other.shape and bool(apart < 0.1 * one.spacing.min())
