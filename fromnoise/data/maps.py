"""Maps as values: images that condition images, brought to the size of x0.

A map of at most `LABELS` different colours is one of labels: each is a channel of its own, 1 where it is and -1 where
it is not, scaled as a share of each pixel.  Any other is what it shows: grey or colours from -1 to 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fromnoise.codec.image import ImageCodec
from fromnoise.cond import Column
from fromnoise.data.columns import Encoded, Profile
from fromnoise.data.image import decode, probe
from fromnoise.data.listing import Listing
from fromnoise.data.store import default_cache, keep
from fromnoise.data.texts import Texts
from fromnoise.data.tree import Unreadable, read
from fromnoise.errors import FromNoiseError
from fromnoise.types import Shape

LABELS = 16
_LOOKED_AT = 64  # maps that say what the column is


def encode(profile: Profile, listing: Listing, space: Shape, train: np.ndarray, cache: Path | None = None) -> Encoded:
    """The maps of a column, of (height, width) `space`: float16 (n, c, height, width), decoded once and then cached."""
    values, tree = listing.items.columns[profile.name], listing.tree
    assert tree is not None and len(space) == 2, "maps are files, and of images"
    place = {name: i for i, name in enumerate(tree.entries.names)}
    used = np.setdiff1d(values.codes, 0)
    first = [values.words[code] for code in np.unique(values.codes[train]) if code][:_LOOKED_AT]
    column = _column(profile.name, (_raw(read(tree, tree.entries[place[word]])) for word in first))
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
    what = f"of {column.size} labels" if column.labels else "of grey" if column.size == 1 else "of colours"
    notes = [f"{profile.name}: maps {what} are a condition, at the size of the images."]
    if missing := int((~present).sum()):
        notes.append(
            f"{profile.name}: {missing:,} of {len(present):,} examples have no readable map; train without it."
        )
    return Encoded(column=column, values=_Rows(table, values.codes), present=present, notes=tuple(notes))


class _Rows:
    """A table's rows by the codes of examples, read when asked for."""

    def __init__(self, table: np.ndarray, codes: np.ndarray) -> None:
        self.table, self.codes = table, codes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.nan_to_num(self.table[self.codes[rows]].astype(np.float32))


def as_map(column: Column, data: bytes, space: Shape) -> Float[np.ndarray, "c h w"]:
    """The bytes of an image file as a value of the column, float32 in [-1, 1].  Raises Unreadable."""
    raw = _raw(data)
    if column.labels:
        raw = np.stack([(_flat(raw) == label).reshape(raw.shape[:2]) for label in map(int, column.labels)], -1)
        low, high = 0.0, 1.0
    else:
        raw, low, high = _channels(raw, column.size), column.low, column.high
    codec = ImageCodec(
        height=space[0], width=space[1], channels=column.size, alpha=False, dtype="float32", low=low, high=high
    )
    return codec.encode(codec.store(raw.astype(np.float32))[None])[0].clamp(-1, 1).contiguous().numpy()


def from_file(column: Column, path: str, space: Shape) -> Tensor:
    """`as_map` of a file that a user names.  Raises FromNoiseError with what is wrong."""
    try:
        return torch.from_numpy(as_map(column, Path(path).expanduser().read_bytes(), space))
    except (OSError, Unreadable) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise FromNoiseError(f"{column.name} is an image, and {path!r} gives none ({why}): name a file.") from error


def _column(name: str, raws: Iterable[np.ndarray]) -> Column:
    colours: set[int] = set()
    channels, low, high = 1, np.inf, -np.inf
    for raw in raws:
        channels = max(channels, raw.shape[2])
        low, high = min(low, float(raw.min())), max(high, float(raw.max()))
        if len(colours) <= LABELS and raw.dtype == np.uint8:
            colours.update(np.unique(_flat(raw)).tolist())
    if 2 <= len(colours) <= LABELS:
        labels = tuple(map(str, sorted(colours)))
        return Column(name=name, kind="map", size=len(labels), labels=labels, low=-1.0, high=1.0)
    return Column(name=name, kind="map", size=channels, low=low, high=high if high > low else low + 1)


def _raw(data: bytes) -> np.ndarray:
    """The pixels of an image file (h, w, c) without opacity.  Raises Unreadable."""
    header = probe(data)
    raw = decode(data, header)
    return raw[..., :-1] if header.alpha else raw


def _flat(raw: np.ndarray) -> np.ndarray:
    """Each pixel's colour as one number, (h·w,)."""
    planes = raw.reshape(-1, raw.shape[2]).astype(np.int64)
    return planes @ 256 ** np.arange(planes.shape[1])[::-1]


def _channels(raw: np.ndarray, channels: int) -> np.ndarray:
    if raw.shape[2] == channels:
        return raw
    grey = raw.astype(np.float32).mean(2, keepdims=True)
    return grey.repeat(channels, 2)


def _digest(column: Column, listing: Listing, values: Texts, space: Shape) -> str:
    assert listing.tree is not None
    entries, hash_ = listing.tree.entries, hashlib.blake2b(digest_size=16)
    place = {name: i for i, name in enumerate(entries.names)}
    files: Sequence[int] = [place[word] for word in values.words if word in place]
    hash_.update(repr((listing.source, column, space, values.words)).encode())
    hash_.update(np.ascontiguousarray(entries.sizes[files]).data)
    hash_.update(np.ascontiguousarray(entries.stamps[files]).data)
    return hash_.hexdigest()
