"""The data as training sees it: `open_dataset` scans, chooses shape, columns and split, and decodes into the cache."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from fromnoise.codec import Codec, Size, VideoCodec
from fromnoise.cond import Column, Cond
from fromnoise.data import clipmaps, embeddings, maps
from fromnoise.data import columns as columns_
from fromnoise.data.columns import Profile
from fromnoise.data.encoded import Encoded, encode
from fromnoise.data.gathered import with_folders
from fromnoise.data.listing import Items, Listing, counted, links_note
from fromnoise.data.pieces import in_pieces
from fromnoise.data.scan import Progress, scan
from fromnoise.data.splits import NAMES, TRAIN, assign
from fromnoise.data.store import Ragged, Stored, cached
from fromnoise.data.tree import Skipped
from fromnoise.errors import FromNoiseError
from fromnoise.rng import Rng
from fromnoise.types import Data


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Examples 0..len-1 of one shape, with the columns that condition the model.

    `fingerprint` names content, columns and splits; `notes` are the choices made, as sentences for the plan;
    `splits` (n,) int8 are places in `splits.NAMES`.
    """

    codec: Codec
    columns: tuple[Column, ...]
    fingerprint: str
    listing: Listing
    source: str
    notes: tuple[str, ...]
    splits: np.ndarray = field(repr=False)
    encoded: tuple[Encoded, ...] = field(repr=False)
    stored: np.ndarray | Ragged = field(repr=False)

    def __len__(self) -> int:
        return len(self.listing)

    def indices(self, split: str) -> np.ndarray:
        """(n,) int64, the examples of train, val or test; of val and test one stands in for the other."""
        found = np.flatnonzero(self.splits == NAMES.index(split))
        if len(found) in (0, len(self)):
            found = np.flatnonzero(self.splits != TRAIN)
        # One distinct example: held out is what is trained on, as `notes` say.
        return found if len(found) else np.arange(len(self))

    def x0(self, indices: Sequence[int] | np.ndarray, rng: Rng | None = None) -> Data:
        """The examples, encoded.

        Of those that are longer than x0 a part: the one that `rng` draws, and without it the same one every time.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if rng is None and self.codec.ragged:
            rng = clipmaps.fixed(rows)
        return self.codec.encode(self.stored[rows], rng)

    def cond(self, indices: Sequence[int] | np.ndarray, rng: Rng | None = None) -> Cond:
        """The conditions of the examples: class indices (b,) int64, standardised numbers (b,) float32, and so on.

        Maps of clips are of the part that `x0` shows when it draws next from `rng`, which stays as it is.
        """
        rows = np.asarray(indices, dtype=np.int64)
        found = {
            e.column.name: torch.from_numpy(
                e.values[rows]
                if rng is None or not isinstance(e.values, clipmaps.Windows)
                else e.values.shown(rows, rng.again())
            )
            for e in self.encoded
        }
        values = {name: v if v.is_floating_point() else v.long() for name, v in found.items()}
        present = {e.column.name: torch.from_numpy(e.present[rows]) for e in self.encoded}
        return Cond(values, present, len(rows))

    def names(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """Where the examples come from: file names, with the row in brackets for arrays."""
        return list(self.listing.names(indices))

    def split_rows(self) -> Iterator[tuple[str, str]]:
        """Every (split, name), of one split after the other."""
        for split in NAMES:
            yield from ((split, name) for name in self.listing.names(self.indices(split)))

    def texts(self, column: str, indices: Sequence[int] | np.ndarray) -> list[str]:
        """Any column of the data as its strings, "" where an example has none."""
        names = [profile.name for profile in self.listing.profiles]
        if column not in names:
            raise FromNoiseError(f"There is no column {column!r}: the columns are {', '.join(names) or 'none'}.")
        return [self.listing.items.columns[column][int(i)] for i in indices]


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A listing as it is trained on, but for columns.

    `whole` is the listing without what cannot be decoded, and `stored` are its rows; `listing` is the same, in pieces
    where long clips are cut into such, and `rows` and `splits` are its.  `codec` is fitted; `chosen`, what came before
    that, and `fitted` are sentences, as is `split`.
    """

    whole: Listing
    stored: np.ndarray | Ragged
    listing: Listing
    codec: Codec
    rows: np.ndarray | Ragged
    splits: np.ndarray
    chosen: tuple[str, ...]
    fitted: tuple[str, ...]
    split: str


def decoded(
    listing: Listing, size: Size | None = None, cache_dir: Path | None = None, progress: Progress | None = None
) -> Decoded:
    """What decoding makes of a listing, from the cache or put there now.

    Raises FromNoiseError where nothing can be decoded, or the cache cannot be written.
    """
    codec, how = listing.medium.choose(listing.common, listing.headers, size)
    stored = cached(listing, codec, cache_dir, progress)
    whole = listing = _without_broken(listing, stored)
    rows, cut = stored.rows, []
    if isinstance(rows, Ragged):
        listing, rows, cut = in_pieces(listing, rows, codec)
    by = "their place in their file" if cut else listing.parted
    splits, split = assign(listing.items.split, listing.items.digest, by)
    codec, fitted = codec.fitted(stored.low, stored.high, _some(rows, splits))
    return Decoded(
        whole=whole,
        stored=stored.rows,
        listing=listing,
        codec=codec,
        rows=rows,
        splits=splits,
        chosen=(*how, *cut),
        fitted=tuple(fitted),
        split=split,
    )


def open_dataset(
    source: str | Path | np.ndarray | Listing,
    *,
    size: Size | None = None,
    columns: Sequence[str] | None = None,
    channels_first: bool = False,
    axes: str | None = None,
    fps: float | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Opens any source of `scan` (or a listing that exists already) as a data set of one shape.

    `size` of images follows data/size.py: None proposes, a number is the shorter side, a pair is (height, width); of
    sounds it is seconds, of text the most symbols of a window.  `columns` names the conditions, if need be with what
    they are ("size:number"); None takes what `columns.choose` proposes.  `channels_first`, `axes` and `fps` are
    those of `scan`.  `cache_dir` defaults to the user's cache directory.  `progress` is called with (done, in all)
    while scanning and decoding.
    Raises FromNoiseError where nothing usable is found, a column does not exist, or the cache cannot be written.
    """
    listing = source
    if not isinstance(listing, Listing):
        listing = scan(
            listing,
            channels_first=channels_first,
            axes=axes,
            fps=fps,
            size=size,
            cache_dir=cache_dir,
            progress=progress,
        )
    listing = with_folders(listing, columns or ())
    profiles = columns_.roles(listing.items.columns, listing.profiles, columns or ())
    chosen, why = columns_.choose(profiles, columns and columns_.plain(columns, profiles))
    found = decoded(listing, size, cache_dir, progress)
    listing, codec, splits = found.listing, found.codec, found.splits
    encoded = tuple(_encoded(p, found, cache_dir, progress) for p in chosen)
    return Dataset(
        codec=codec,
        columns=tuple(e.column for e in encoded),
        fingerprint=_fingerprint(listing),
        listing=listing,
        source=listing.source,
        notes=(
            *listing.notes,
            *found.chosen,
            *found.fitted,
            why,
            *(note for e in encoded for note in e.notes),
            found.split,
            *_skip_note(listing),
        ),
        splits=splits,
        encoded=encoded,
        stored=found.rows,
    )


def _encoded(profile: Profile, found: Decoded, cache_dir: Path | None, progress: Progress | None) -> Encoded:
    listing, train = found.listing, found.splits == TRAIN
    if profile.encoder:
        return embeddings.encode(profile, listing.items.columns[profile.name], train, cache_dir)
    if profile.role != "map":
        return encode(profile, listing.items.columns[profile.name], train)
    if (clips := _clips(found)) is not None:
        return clipmaps.encode(profile, clips, train, cache_dir, progress)
    return maps.encode(profile, listing, found.codec.shape[1:], train, cache_dir)


def unread_maps(profile: Profile, found: Decoded, cache_dir: Path | None = None) -> dict[str, str]:
    """The files of a column of maps that are not used, each with the reason; none of scans, whose names may be
    people's."""
    if (clips := _clips(found)) is not None:
        return clipmaps.lie(profile, clips, found.splits == TRAIN, cache_dir).broken
    return maps.unread(profile, found.whole)


def _clips(found: Decoded) -> clipmaps.Clips | None:
    """The examples as what maps of clips lie on, None where they are no clips."""
    if not isinstance(found.codec, VideoCodec):
        return None
    assert isinstance(found.stored, Ragged) and isinstance(found.rows, Ragged)
    return clipmaps.Clips(listing=found.whole, stored=found.stored, rows=found.rows, codec=found.codec)


def _some(rows: np.ndarray | Ragged, splits: np.ndarray) -> Sequence[np.ndarray]:
    """Stored training examples that a codec is fitted to, of 64 MB together; up to 256 of those of one shape."""
    most = len(rows) if isinstance(rows, Ragged) else 256  # the ragged are not copied
    count = int(np.clip(2**26 // max(1, rows.nbytes // len(rows)), 1, most))
    return list(rows[np.random.default_rng(0).permutation(np.flatnonzero(splits == TRAIN))[:count]])


def _without_broken(listing: Listing, stored: Stored) -> Listing:
    """What decoding found out: files whose header is sound and whose pixels are not."""
    if not stored.broken:
        return listing
    items = listing.items.take(np.delete(np.arange(len(listing)), list(stored.broken)))
    names = listing.names(list(stored.broken))
    skipped = [Skipped(name=name, reason=why) for name, why in zip(names, stored.broken.values(), strict=True)]
    if len(items) == 0:
        first = f"{skipped[0].name}: {skipped[0].reason}"
        raise FromNoiseError(
            f"No {listing.medium.name} of {listing.source} can be decoded ({first}): check or convert the files."
        )
    everything = tuple(sorted((*listing.skipped, *skipped), key=lambda file: file.name))
    return dataclasses.replace(listing, items=items, skipped=everything, notes=_told_of(listing, items))


def _told_of(listing: Listing, items: Items) -> tuple[str, ...]:
    """The notes of the listing, with those that count headers as they are of `items`, its readable part; as they were
    where that alone would become another set."""
    _, said = listing.medium.common(listing.headers)
    common, left = listing.medium.common(counted(items, lambda header: header))
    if (common.mode, common.dtype) != (listing.common.mode, listing.common.dtype):
        return listing.notes
    return (*(note for note in listing.notes if note not in said), *left)


def _fingerprint(listing: Listing) -> str:
    items, digest = listing.items, blake2b(digest_size=16)
    digest.update(np.ascontiguousarray(items.digest).data)
    digest.update(items.split.data)
    for name in sorted(items.columns):
        texts = items.columns[name].ordered()
        if len(texts.words) > 1:
            digest.update(json.dumps([name, texts.words]).encode())
            digest.update(texts.codes.data)
    return digest.hexdigest()


def _skip_note(listing: Listing) -> list[str]:
    count = len(listing.skipped)
    what = "1 file is" if count == 1 else f"{count:,} files are"
    links = links_note(listing.skipped)
    among = f", among them {links}" if links else ""
    return [f"{what} skipped{among}: run.json lists each with its reason."] if count else []
