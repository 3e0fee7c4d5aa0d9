"""Maps as values: images that condition images, brought to the size of x0, and maps of labels that lie on scans.

A map of at most `LABELS` different colours is one of labels: each is a channel of its own, 1 where it is and -1 where
it is not, scaled as a share of each pixel.  Any other is what it shows: grey or colours from -1 to 1.  Maps of scans
are cut where their scans are, and where these are resampled each voxel has the label of the nearest one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fromnoise.codec.image import ImageCodec
from fromnoise.codec.medium import Rows
from fromnoise.codec.volume import VolumeCodec
from fromnoise.cond import Column
from fromnoise.data import nifti
from fromnoise.data.blocks import Grid, brought
from fromnoise.data.columns import Profile
from fromnoise.data.encoded import Coded, Encoded, fitted_to
from fromnoise.data.image import decode, probe
from fromnoise.data.listing import Listing
from fromnoise.data.store import default_cache, keep
from fromnoise.data.texts import Texts
from fromnoise.data.tree import Entry, Tree, Unreadable, read
from fromnoise.errors import FromNoiseError
from fromnoise.types import Shape

LABELS = 16
LOOKED_AT = 64  # maps that say what the column is


def encode(profile: Profile, listing: Listing, space: Shape, train: np.ndarray, cache: Path | None = None) -> Encoded:
    """The maps of a column at the size of x0, decoded once and then cached."""
    rows = listing.stacks[0].maps.get(profile.name) if listing.stacks else None
    if rows is None:
        return _of_files(profile, listing, space, train, cache)
    return _of_rows(profile, listing, rows, space, train, cache)


def _of_files(profile: Profile, listing: Listing, space: Shape, train: np.ndarray, cache: Path | None) -> Encoded:
    """The maps of a column, of (height, width) `space`: float16 (n, c, height, width)."""
    values, tree = listing.items.columns[profile.name], listing.tree
    assert tree is not None and len(space) == 2, "maps are files, and of images"
    place = {name: i for i, name in enumerate(tree.entries.names)}
    used = np.setdiff1d(values.codes, 0)
    first = dict.fromkeys([*np.unique(values.codes[train]), *used])
    named = (tree.entries[place[values.words[code]]] for code in first if code)
    column = _column(profile.name, islice(_readable(tree, named), LOOKED_AT))
    file = (cache or default_cache()) / "maps" / f"{_digest(column, listing, values, space)}.npy"
    if not file.exists():
        table = np.full((len(values.words), column.size, *space), np.nan, dtype=np.float16)
        for code in used:
            with suppress(Unreadable):  # what stays NaN is counted below
                table[code] = as_map(column, read(tree, tree.entries[place[values.words[code]]]), space)
        keep(file, partial(np.save, arr=table))
    else:
        table = np.load(file, mmap_mode="r")
    whole = np.zeros(len(table), dtype=bool)
    whole[used] = np.isfinite(table[used, 0, 0, 0])
    present = whole[values.codes]
    return Encoded(column=column, values=_Rows(table, values.codes), present=present, notes=told(column, present))


def unread(profile: Profile, listing: Listing) -> dict[str, str]:
    """The files of a column of maps that cannot be read, each with the reason; none of scans, whose names may be
    people's."""
    tree, broken = listing.tree, dict[str, str]()
    if listing.stacks and profile.name in listing.stacks[0].maps:
        return broken
    assert tree is not None, "maps are files"
    place = {name: i for i, name in enumerate(tree.entries.names)}
    for name in listing.items.columns[profile.name].counts():
        try:
            _raw(read(tree, tree.entries[place[name]]))
        except Unreadable as error:
            broken[name] = str(error)
    return broken


def _of_rows(
    profile: Profile, listing: Listing, rows: Rows, space: Shape, train: np.ndarray, cache: Path | None
) -> Encoded:
    """Maps that a medium has gathered: float32 (n, *space) as they are, NaN where there are none."""
    file = (cache or default_cache()) / "maps" / f"{_of_items(profile.name, listing, space)}.npy"

    def write(to: Path) -> None:
        table = np.lib.format.open_memmap(to, "w+", np.float32, (len(listing), *space))
        for i, row in enumerate(listing.items.row.tolist()):
            table[i] = np.nan
            with suppress(Unreadable):
                table[i] = np.reshape(rows[row], space)
        table.flush()

    if not file.exists():
        keep(file, write)
    if not file.exists():
        raise FromNoiseError(f"The maps cannot be written to {file.parent}: name another folder in XDG_CACHE_HOME.")
    table = np.load(file, mmap_mode="r")
    present = np.array([np.isfinite(row).any() for row in table])
    seen = np.flatnonzero(fitted_to(present, train))
    column = _column(profile.name, (_bytes(np.nan_to_num(table[i]))[..., None] for i in seen))
    return Encoded(column=column, values=_Overlays(table, column), present=present, notes=told(column, present))


def told(column: Column, present: np.ndarray) -> tuple[str, ...]:
    what = f"of {column.size} labels" if column.labels else "of grey" if column.size == 1 else "of colours"
    missing = int((~present).sum())
    lack = f"{column.name}: {missing:,} of {len(present):,} examples have no readable map; train without it."
    return f"{column.name}: maps {what} are a condition, at the size of the examples.", *[lack] * bool(missing)


class _Overlays:
    """Rows of a table of values (n, *space) as channels, made when asked for."""

    def __init__(self, table: np.ndarray, column: Column) -> None:
        self.table, self.column = table, column

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return channels(self.column, self.table[rows])


def channels(column: Column, values: np.ndarray) -> np.ndarray:
    """Values (n, *space) of a map -> float32 (n, c, *space): a channel a label, 1 where it is and -1 elsewhere, or what
    they are, from -1 to 1."""
    values = np.nan_to_num(values)[:, None]
    if column.labels:
        labels = np.array(column.labels, np.float32).reshape(-1, *(1,) * (values.ndim - 2))
        return np.where(values == labels, np.float32(1), np.float32(-1))
    return np.clip(2 * (values - column.low) / (column.high - column.low) - 1, -1, 1).astype(np.float32)


def _bytes(values: np.ndarray) -> np.ndarray:
    """The values as uint8, which labels are looked for in, where they are such."""
    small = np.clip(values, 0, 255).astype(np.uint8)
    return small if (small == values).all() else values


class _Rows(Coded):
    """Rows as float32, 0 where there is no map."""

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.nan_to_num(super().__getitem__(rows).astype(np.float32))


def as_map(column: Column, data: bytes, space: Shape) -> Float[np.ndarray, "c h w"]:
    """The bytes of an image file as a value of the column, float32 in [-1, 1].  Raises Unreadable."""
    raw = _raw(data)
    if column.labels:
        raw = np.stack([(flat(raw) == label).reshape(raw.shape[:2]) for label in map(int, column.labels)], -1)
        low, high = 0.0, 1.0
    else:
        raw, low, high = _channels(raw, column.size), column.low, column.high
    codec = ImageCodec(
        height=space[0], width=space[1], channels=column.size, alpha=False, dtype="float32", low=low, high=high
    )
    return codec.encode(codec.store(raw.astype(np.float32))[None])[0].clamp(-1, 1).contiguous().numpy()


def from_file(column: Column, path: str, space: Shape) -> Tensor:
    """`as_map` of a file that a user names.  Raises FromNoiseError with what is wrong, as other colours than labels."""
    try:
        data = Path(path).expanduser().read_bytes()
        if column.labels:
            check_colours(column, path, set(np.unique(flat(_raw(data))).tolist()), "smoothing or JPEG")
        return torch.from_numpy(as_map(column, data, space))
    except (OSError, Unreadable) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise FromNoiseError(f"{column.name} is an image, and {path!r} gives none ({why}): name a file.") from error


def check_colours(column: Column, path: str, colours: set[int], cause: str) -> None:
    """Raises FromNoiseError where a file has other colours than the column's labels; says what may be the cause."""
    strange = colours - set(map(int, column.labels))
    if not strange:
        return
    known = _colours(map(int, column.labels))
    raise FromNoiseError(
        f"{column.name} is a map of {known}, and {path!r} has {_colours(strange)}: give each of its pixels one of the "
        f"former, without {cause}."
    )


def _colours(labels: Iterable[int]) -> str:
    """Labels as people know them: values of grey, or colours as #RRGGBB; of many the first."""
    ordered = sorted(labels)
    shown = [str(label) if label < 256 else f"#{label:06X}" for label in ordered[:LABELS]]
    more = f" and {len(ordered) - LABELS:,} more" * (len(ordered) > LABELS)
    return f"the colour{'s' * (len(ordered) > 1)} {', '.join(shown)}{more}"


def from_scan(column: Column, path: str, codec: VolumeCodec) -> Float[Tensor, "c x y z"]:
    """A map that a user names, as large as the scans of the codec.  Raises FromNoiseError with what is wrong."""
    try:
        volume = nifti.volume("", Path(path).expanduser().read_bytes, labels=True)
    except (OSError, Unreadable) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise FromNoiseError(
            f"{column.name} lies on a scan, and what was given does not ({why}): name a NIfTI."
        ) from error
    x, y, z = codec.whole.block
    grid = Grid(block=(x, y, z), spacing=codec.spacing, along=None, whole=True)
    return torch.from_numpy(channels(column, brought(volume, grid, labels=True)[None])[0])


def _column(name: str, raws: Iterable[np.ndarray]) -> Column:
    """What a column of maps (h, w, c) is.  Raises FromNoiseError where there are none."""
    colours: set[int] = set()
    size, low, high, labels = 1, np.inf, -np.inf, True
    for raw in raws:
        size = max(size, raw.shape[-1])
        low, high = min(low, float(raw.min())), max(high, float(raw.max()))
        labels &= raw.dtype == np.uint8
        if len(colours) <= LABELS and labels:
            colours.update(np.unique(flat(raw)).tolist())
    if low > high:
        raise FromNoiseError(f"No map of {name} can be read: mend them, or leave the column out by --columns none.")
    if labels and 2 <= len(colours) <= LABELS:
        return of_labels(name, colours)
    return Column(name=name, kind="map", size=size, low=low, high=high if high > low else low + 1)


def of_labels(name: str, colours: Iterable[int]) -> Column:
    """A column of maps of labels, each a channel of its own."""
    labels = tuple(map(str, sorted(colours)))
    return Column(name=name, kind="map", size=len(labels), labels=labels, low=-1.0, high=1.0)


def _readable(tree: Tree, entries: Iterable[Entry]) -> Iterator[np.ndarray]:
    for entry in entries:
        with suppress(Unreadable):
            yield _raw(read(tree, entry))


def _raw(data: bytes) -> np.ndarray:
    """The pixels of an image file (h, w, c) without opacity.  Raises Unreadable."""
    header = probe(data)
    raw = decode(data, header)
    return raw[..., :-1] if header.alpha else raw


def flat(raw: np.ndarray) -> np.ndarray:
    """Each pixel's colour as one number, (h·w,)."""
    planes = raw.reshape(-1, raw.shape[-1]).astype(np.int64)
    return planes @ 256 ** np.arange(planes.shape[1])[::-1]


def _channels(raw: np.ndarray, channels: int) -> np.ndarray:
    if raw.shape[2] == channels:
        return raw
    grey = raw.astype(np.float32).mean(2, keepdims=True)
    return grey.repeat(channels, 2)


def _of_items(name: str, listing: Listing, space: Shape) -> str:
    """A hash of examples and of their maps, which are called by their content."""
    hash_, values = hashlib.blake2b(digest_size=16), listing.items.columns[name].ordered()
    hash_.update(repr((listing.common, space, values.words)).encode())
    hash_.update(np.ascontiguousarray(listing.items.digest).data)
    hash_.update(values.codes.data)
    return hash_.hexdigest()


def _digest(column: Column, listing: Listing, values: Texts, space: Shape) -> str:
    assert listing.tree is not None
    entries, hash_ = listing.tree.entries, hashlib.blake2b(digest_size=16)
    place = {name: i for i, name in enumerate(entries.names)}
    files: Sequence[int] = [place[word] for word in values.words if word in place]
    hash_.update(repr((listing.source, column, space, values.words)).encode())
    hash_.update(np.ascontiguousarray(entries.sizes[files]).data)
    hash_.update(np.ascontiguousarray(entries.stamps[files]).data)
    return hash_.hexdigest()
