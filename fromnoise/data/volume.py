"""Volumes as a medium: the rules by which NIfTI, DICOM and TIFF of several pages become one set of examples.

scans     one a NIfTI file, one a DICOM series or a DICOM file of several frames, one a TIFF, where half of the TIFF
          files or more are stacks (`tiff.py`); those of the most common modality are the set, others are left out
values    in their units: slope and intercept applied, integers where they are whole, else float32; where scans have
          several number types the widest, which is said; TIFF of floats and of integers are sets by themselves
axes      turned so that x runs to the right, y to the front and z upwards; samples are turned back
examples  slices across the axis of the coarsest voxels, of cubes from below upwards; whole scans where there are
          `MANY` or more of at most `SMALL` voxels; or as asked: --size 64 or 48x64 for slices, 64x1x64 for slices
          across the second axis, 32x32x32 for patches
size      slices and scans are brought to one spacing and one shape, slices to at most 64 pixels a side (`size.py`);
          patches keep the median spacing
position  how far along its axis a slice lies, from 0 to 1, is a condition of the model
maps      `X_mask` beside X, as `pairs.py` says, is a condition where it lies on its scan voxel by voxel (`overlaid.py`)
split     by subject (`subject.py`); of one subject by slabs (`blocks.py`); or by folders called train and val
names     of files and folders often tell who somebody is, so none is kept: scans and files that are left out are called
          by the hash of their content, eight digits, as `b2sum -l 32 FILE` prints it
class     what folders are called, only where that is asked for, since it is written into the model
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np

from fromnoise.codec.field import FieldCodec
from fromnoise.codec.medium import POSITION, Gathered, Size
from fromnoise.codec.niftifile import ALIGNED
from fromnoise.codec.volume import AXES, UNITS, Container, VolumeCodec
from fromnoise.data import dicom, nifti, tiff
from fromnoise.data.blocks import GAP, Blocks, Grid, Volume, mixed
from fromnoise.data.gathered import by_digest
from fromnoise.data.overlaid import alike, overlaid
from fromnoise.data.size import target_size
from fromnoise.data.splits import OPEN, TRAIN, VAL, folder_roles, hold_groups
from fromnoise.data.subject import subjects
from fromnoise.data.tree import suffix
from fromnoise.errors import FromNoiseError, Unreadable
from fromnoise.types import Shape

MANY, SMALL = 20, 40_000
_COARSE = 1.5  # times the finest spacing: the axis of slices is that of the coarsest then, and upwards otherwise
_DICM = slice(128, 132)
_FORMATS: dict[Container, str] = {"nifti": "NIfTI", "tiff": "TIFF"}
_SIZED: dict[Container, str] = {"nifti": "pixdim, PixelSpacing", "tiff": "Image > Properties in ImageJ"}
_FOLDER = (
    "scans in one folder are taken for one subject's, since nothing says otherwise: where that is wrong, call files "
    "sub-… by their subject, or folders train and val."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeHeader:
    """What is known of a block without its values; `room` is how far it can move in a scan, `frame` the code by which
    NIfTI says what its millimetres are counted from."""

    block: tuple[int, int, int]
    affine: tuple[float, ...]
    dtype: str
    disk: str
    slope: float
    intercept: float
    modality: str
    orientation: str
    room: tuple[int, int, int]
    frame: int
    holes: bool
    container: Container
    channels: int = 1

    @property
    def size(self) -> Shape:
        return self.block

    @property
    def mode(self) -> str:
        """As `CT slice`."""
        what = {0: "block", 1: "slice"}.get(self.block.count(1), "line")
        return f"{self.modality} {what}".strip()


class Volumes:
    name = "volume"
    formats = "NIfTI, DICOM, TIFF of several pages"
    suffixes = nifti.SUFFIXES | dicom.SUFFIXES
    shared, share = tiff.SUFFIXES, 0.5
    axes = AXES
    header = VolumeHeader
    codec = VolumeCodec

    def sniff(self, head: bytes) -> bool:
        return head[_DICM] == b"DICM"

    def claims(self, data: bytes) -> bool:
        return tiff.stacked(data)

    def probe(self, data: bytes) -> VolumeHeader:
        volumes = _family(*_scans({"": data})[:2])
        return _header(volumes, _cut(volumes, None)[0])

    def read(self, data: bytes, header: VolumeHeader, codec: VolumeCodec) -> np.ndarray:
        return _cut(_family(*_scans({"": data})[:2]), codec.block)[0][0]

    def gather(
        self, files: Mapping[str, bytes], size: Size | None, maps: Mapping[str, Mapping[str, bytes]]
    ) -> Gathered:
        found, broken, lacking = _scans(files)
        if broken and not found:
            first = dict(islice(broken.items(), 1))
            raise Unreadable(" ".join(by_digest(files, first).popitem()))
        volumes = _family(found, broken)
        blocks, notes = _cut(volumes, size)
        split, why, said = _parted(volumes, blocks)
        rows = [row for row, part in enumerate(split) if part is not None]
        beside = overlaid(volumes, blocks.grid, rows, maps)
        blocks = blocks.taken(rows)
        parts = [part for part in split if part is not None]
        of = [volumes[place] for place in blocks.which]
        positions = [blocks.position(row) for row in range(len(blocks))]
        ids = [volume.digest[:4].hex() for volume in of]
        return Gathered(
            raws=blocks,
            headers=(_header(volumes, blocks),) * len(blocks),
            files=tuple(volume.file for volume in of),
            names=tuple(f"{name}{list(start)}" for name, start in zip(ids, blocks.starts, strict=True)),
            digests=_digests(of, blocks),
            notes=(*notes, *lacking, *said, *_unnamed(volumes, any(positions))),
            broken=by_digest(files, broken) | beside.broken,
            columns=({POSITION: positions} if any(positions) else {}) | beside.names,
            maps=beside.maps,
            split=[] if set(parts) == {OPEN} else parts,
            why=why,
            nameless=True,
        )

    def family(self, header: VolumeHeader) -> str:
        return "volumes"

    def common(self, headers: Counter[VolumeHeader]) -> tuple[VolumeHeader, list[str]]:
        return next(iter(headers)), []

    def choose(
        self, common: VolumeHeader, headers: Counter[VolumeHeader], size: Size | None
    ) -> tuple[VolumeCodec, list[str]]:
        field = FieldCodec(
            space=tuple(n for n in common.block if n > 1),
            channels=1,
            dtype=common.dtype,
            masks=int(common.holes),
            units="HU" if common.modality == "CT" else "",
        )
        codec = VolumeCodec(
            field=field,
            block=common.block,
            affine=common.affine,
            room=common.room,
            frame=common.frame,
            modality=common.modality,
            orientation=common.orientation,
            disk=common.disk,
            slope=common.slope,
            intercept=common.intercept,
            container=common.container,
        )
        return codec, []

    def remarks(self, header: VolumeHeader, codec: VolumeCodec, headers: Counter[VolumeHeader]) -> list[str]:
        return []


def _scans(files: Mapping[str, bytes]) -> tuple[list[Volume], dict[str, str], list[str]]:
    """All scans, the files that are in none, with the reason, and what is said of series.

    Raises Unreadable where a library is missing.
    """
    found, frames, broken, notes = list[Volume](), [], {}, []
    for name in files:
        try:
            data = files[name]
            again = partial(files.__getitem__, name)
            if suffix(name) in tiff.SUFFIXES or tiff.is_tiff(data):
                found.append(tiff.volume(name, again))
            elif suffix(name) in nifti.SUFFIXES or data[:2] == b"\x1f\x8b" or data[344:347] in (b"n+1", b"ni1"):
                found.append(nifti.volume(name, again))
            else:
                frames += dicom.frames(name, data)
        except Unreadable as error:
            broken[name] = str(error)
    if frames:
        series, rest, notes = dicom.volumes(frames, files)
        found += series
        broken |= rest
    return found, broken, notes


def _family(found: list[Volume], broken: dict[str, str]) -> list[Volume]:
    """The scans of the most common modality, and of pictures of one plane; the others go to `broken`.

    Raises Unreadable where there are none.
    """
    if not found:
        raise Unreadable(next(iter(broken.values()), "holds no scans"))
    kinds = Counter(volume.kind for volume in found)
    # Maps of labels go with scans, and are a set only where nothing else is there.
    most = max(kinds, key=lambda kind: (kind[0] != nifti.LABELS, kinds[kind], str(kind)))
    for volume in found:
        if volume.kind != most:
            plain = "a scan" if volume.container == "nifti" else "a TIFF"
            what = {nifti.LABELS: "a map of labels", "": plain}.get(volume.modality, volume.modality)
            flat = " of a single slice" if volume.plane is not None else ""
            of = f" of {'floats' if volume.kind[3] else 'integers'}" * (volume.kind[:3] == most[:3])
            broken[volume.file] = f"is {what}{of or flat}, unlike most of the set: train on such by themselves"
    kept = [volume for volume in found if volume.kind == most]
    if any(volume.sized for volume in kept):
        where = _SIZED[kept[0].container]
        unsized = f"says not how large its voxels are, as others do: write that into it ({where})"
        broken |= {volume.file: unsized for volume in kept if not volume.sized}
        return [volume for volume in kept if volume.sized]
    return kept


def _cut(volumes: Sequence[Volume], size: Size | None) -> tuple[Blocks, list[str]]:
    """The blocks of all scans and the sentences that say so.  Raises FromNoiseError for a size that cannot be."""
    spacing = np.median([volume.spacing for volume in volumes], axis=0)
    extent = np.median([volume.shape * volume.spacing for volume in volumes], axis=0)
    shape = np.maximum(1, np.rint(extent / spacing)).astype(int)
    many = len(volumes) >= MANY and all(np.prod(volume.shape) <= SMALL for volume in volumes)
    block = _asked(size, shape) if isinstance(size, tuple) and len(size) == 3 else None
    if block is None and (size is not None or not many):
        block = _slice(shape, spacing, volumes[0].plane, size)
    if block is None:
        block = int(shape[0]), int(shape[1]), int(shape[2])
    along = block.index(1) if 1 in block else None
    whole = along is None and block == tuple(shape)
    fitted = np.array([whole or (along is not None and axis != along) for axis in range(3)])
    spacing = np.where(fitted, extent / block, spacing)
    # What a microscope looks at has no scale of its own, but steps between slices have that of what is seen.
    gap = GAP if volumes[0].container == "nifti" else GAP * float(spacing.max())
    grid = Grid(block=block, spacing=spacing, along=along, whole=whole, gap=gap)
    dtype = np.result_type(*(volume.values for volume in volumes))
    dtype = dtype if dtype.kind in "iu" else np.dtype(np.float32)
    return Blocks(volumes, grid, dtype), [*_told(volumes, grid), *mixed(volumes, dtype)]


def _asked(size: tuple[int, ...], shape: np.ndarray) -> tuple[int, int, int]:
    x, y, z = size
    if (x, y, z).count(1) > 1 or (np.array(size) > shape).any():
        raise FromNoiseError(
            f"Blocks of {x} x {y} x {z} cannot be cut from scans of {_by(shape)} voxels: ask for fewer voxels, and at "
            "most one 1."
        )
    return x, y, z


def _slice(shape: np.ndarray, spacing: np.ndarray, along: int | None, size: Size | None) -> tuple[int, int, int]:
    """The block of slices: rows are of the later, columns of the earlier of the two axes that are left."""
    if isinstance(size, float):
        raise FromNoiseError(f"A size of {size} is none of slices: give pixels, such as --size 64, or 32x32x32.")
    if along is None:
        along = int(np.argmax(spacing)) if spacing.max() > _COARSE * spacing.min() else 2
    columns, rows = (axis for axis in range(3) if axis != along)
    side = size if size is None or isinstance(size, int) else (size[0], size[1])
    height, width = target_size({(int(shape[rows]), int(shape[columns])): 1}, side)
    block = [1, 1, 1]
    block[rows], block[columns] = height, width
    return block[0], block[1], block[2]


def _told(volumes: Sequence[Volume], grid: Grid) -> list[str]:
    """What the examples are, as sentences."""
    spacings = np.array([volume.spacing for volume in volumes])
    sizes = sorted({volume.shape for volume in volumes})
    of = f" of {volumes[0].modality}" * bool(volumes[0].modality)
    count = f"{len(volumes):,} scan{'s' * (len(volumes) != 1)}{of}"
    voxels = f"{_by(sizes[0])}{f' to {_by(sizes[-1])}' * (len(sizes) > 1)} voxels"
    container = volumes[0].container
    unit = UNITS[container]
    notes = [f"{count}, {voxels} of {_by(np.median(spacings, 0))} {unit}; samples are {_FORMATS[container]}."]
    if container == "tiff":
        notes.append("pages of TIFF are slices of scans; --axes hw for pictures.")
    if not volumes[0].sized:
        notes.append(f"how large voxels are is said by no scan ({_SIZED[container]}): 1 {unit} is taken, and written.")
    if np.ptp(spacings, axis=0).max() > 0.01 * spacings.max():
        notes.append(
            f"voxels of {spacings.min():.3g} to {spacings.max():.3g} {unit} differ from scan to scan: all are brought "
            f"to {_by(grid.spacing)} {unit}."
        )
    what = f"slices across the {AXES[grid.along]} axis" if grid.along is not None else "whole scans"
    if grid.along is None and not grid.whole:
        what = "patches that overlap by half"
    others = "--size 64 for slices of another size, 64x1x64 across another axis, 32x32x32 for patches"
    return [*notes, f"examples are {what}, {_by(grid.block)} voxels of {_by(grid.spacing)} {unit}; {others}."]


def _by(numbers: Any) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _header(volumes: Sequence[Volume], blocks: Blocks) -> VolumeHeader:
    """What all blocks share."""
    grid, first = blocks.grid, volumes[0]
    affine, room, frame = _place(volumes, blocks)
    scales = {(volume.dtype, volume.slope, volume.intercept) for volume in volumes}
    disk, slope, intercept = scales.pop() if len(scales) == 1 else (str(blocks.dtype), 1.0, 0.0)
    return VolumeHeader(
        block=grid.block,
        affine=tuple(float(x) for x in affine.reshape(-1)),
        room=room,
        frame=frame,
        dtype=str(blocks.dtype),
        disk=disk,
        slope=slope,
        intercept=intercept,
        modality=first.modality,
        orientation=Counter(volume.orientation for volume in volumes).most_common(1)[0][0],
        holes=any(volume.holes for volume in volumes),
        container=first.container,
    )


def _place(volumes: Sequence[Volume], blocks: Blocks) -> tuple[np.ndarray, tuple[int, int, int], int]:
    """(4, 4), from voxels to millimetres of the scans, how far blocks can move in them, and NIfTI's code of that space.

    Where scans lie in different places what is seen of them lies around the origin, as long as most of them.
    """
    grid, first = blocks.grid, volumes[0]
    if all(alike(first, other) for other in volumes):
        codes = {volume.frame for volume in volumes}
        return grid.affine(first), blocks.room(0), codes.pop() if len(codes) == 1 else ALIGNED
    x, y, z = np.median([blocks.room(place) for place in range(len(volumes))], axis=0).astype(int).tolist()
    affine = np.diag([*grid.spacing, 1.0])
    affine[:3, 3] = -grid.spacing * (np.array([x, y, z]) + grid.block - 1) / 2
    return affine, (x, y, z), ALIGNED


def _parted(volumes: Sequence[Volume], blocks: Blocks) -> tuple[list[int | None], str, list[str]]:
    """Of each block its split, None where it is left out; what that goes by; and sentences on it."""
    named = folder_roles([volume.file.rpartition("/")[0] for volume in volumes])[0]
    if set(named) != {OPEN}:
        return [named[place] for place in blocks.which], "", []
    whose, folders = subjects(volumes)
    first: dict[int, bytes] = {}
    for who, volume in zip(whose, volumes, strict=True):
        first[who] = min(volume.digest, first.get(who, volume.digest))
    if len(first) > 1:
        digests = b"".join(first[whose[place]] for place in blocks.which)
        held = hold_groups(np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2))
        return (
            [VAL if one else TRAIN for one in held],
            f"subject, of whom there are {len(first):,}",
            [_FOLDER] * folders,
        )
    body = (
        "all examples come from one subject: samples are of that body, and the copying check tells only whether they "
        "repeat single examples of it, not whether the subject could be recognised."
    )
    parts = list(blocks.parted())
    if not {TRAIN, VAL} <= set(parts):
        close = "its scans are too small to hold a slab out: what is held out lies next to what is trained on."
        return [OPEN] * len(parts), "", [body, close]
    gaps = parts.count(None)
    apart = f"{blocks.grid.gap:.4g} {UNITS[volumes[0].container]}"
    what = f"{gaps:,} examples" if gaps > 1 else "1 example"
    left = f"{what} within {apart} of what is held out, or across its edge, {'are' if gaps > 1 else 'is'} left out."
    return list(parts), "slabs of one subject", [body, *[left] * (gaps > 0)]


def _unnamed(volumes: Sequence[Volume], placed: bool) -> list[str]:
    """A sentence on folders that could be classes, and are none without being asked for."""
    classes = set(folder_roles([volume.file.rpartition("/")[0] for volume in volumes])[1]) - {""}
    return [
        f"what its {len(classes):,} folders are called is no label unless that is asked for, by --columns class"
        f"{',position' * placed}: it may be names of people, and labels are written into the model and its samples."
    ] * (len(classes) > 1)


def _digests(of: Sequence[Volume], blocks: Blocks) -> np.ndarray:
    """(n, 2) uint64, of each block by its scan's content and its place there."""
    layout = repr((blocks.grid.block, blocks.grid.spacing.tolist(), str(blocks.dtype))).encode()
    parts = (
        blake2b(volume.digest + repr(start).encode(), digest_size=16, key=blake2b(layout, digest_size=16).digest())
        for volume, start in zip(of, blocks.starts, strict=True)
    )
    return np.frombuffer(b"".join(part.digest() for part in parts), dtype=np.uint64).reshape(-1, 2)
