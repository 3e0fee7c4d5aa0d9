"""Maps of clips: clips that lie on clips, frame on frame, read, cached and cut as these are.

fits     a map has its clip's shape, in whatever resolution, and as many frames, however fast it says they are; where
         either has no constant rate, it gives as many at the set's rate
labels   animated WebP and GIF that have at most `LABELS` colours together are labels, as maps of pictures are
videos   are grey, or colours where they have any: what compresses them makes many colours of few
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fromnoise.codec import videofile
from fromnoise.codec.image import ImageCodec, convert
from fromnoise.codec.video import VideoCodec
from fromnoise.codec.videofile import VideoHeader
from fromnoise.cond import Column
from fromnoise.data.columns import Profile
from fromnoise.data.encoded import Encoded
from fromnoise.data.listing import Listing
from fromnoise.data.maps import LABELS, LOOKED_AT, check_colours, flat, of_labels, told
from fromnoise.data.media import VIDEO, read_as
from fromnoise.data.stack import Stack
from fromnoise.data.store import Ragged, cached
from fromnoise.data.tree import read, suffix
from fromnoise.errors import Advice, FromNoiseError, Unreadable
from fromnoise.rng import Rng

_VIDEOS_LOOKED_AT = 8  # as they only say whether there is any colour
_GREY = 8  # of 255, what compression tears the channels of grey apart
_SAID = 3  # maps that do not fit


def fixed(rows: np.ndarray) -> Rng:
    """What draws the parts that are shown of examples (n,) where no other draws are given: the same every time."""
    return Rng.of(0, rows.tolist(), "crop")


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Maps of examples as values (n, c, frames, height, width) float32, of the part that draws show of the example."""

    codec: VideoCodec
    rows: Ragged

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.shown(rows, fixed(rows))

    def shown(self, rows: np.ndarray, rng: Rng) -> np.ndarray:
        """Those that `VideoCodec.encode` shows by the same draws, since maps are as long as their examples."""
        return self.codec.encode(self.rows[rows], rng).numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class Clips:
    """What maps lie on: the clips of a listing as they are `stored`, and the examples, `rows`, that each is or is cut
    into."""

    listing: Listing = field(repr=False)
    stored: Ragged
    rows: Ragged
    codec: VideoCodec

    @property
    def of_rows(self) -> np.ndarray:
        """(n,) the clip that each example is, or is a piece of."""
        return np.searchsorted(self.stored.starts, self.rows.starts, side="right") - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Lying:
    """The maps of a column that lie on their clips: `rows[i]` on clip `on[i]`; of the others' files the reasons."""

    column: Column
    codec: VideoCodec
    rows: Ragged
    on: np.ndarray
    broken: dict[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Raw:
    """Maps by number, a `Scalable`: file `places[i]` of the tree, of clip i of `clips`, which has `lengths[i]` frames
    at the set's rate."""

    column: Column
    clips: Listing = field(repr=False)
    places: Sequence[int]
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def read(self, row: int, codec: VideoCodec) -> np.ndarray:
        """(n, height, width, c) uint8.  Raises Unreadable for what does not fit its clip."""
        assert self.clips.tree is not None
        clip, data = self.clips.header(row), read(self.clips.tree, self.clips.tree.entries[self.places[row]])
        header, rate = videofile.probe(data), Fraction(codec.rate)
        assert isinstance(clip, VideoHeader)
        steady = not (header.variable or clip.variable)
        if why := _odd(header, clip, steady):
            raise Unreadable(why)
        if steady:  # frame by frame
            rate *= Fraction(header.rate) / Fraction(clip.rate)
        frames = videofile.decode(data, rate, (codec.image.height, codec.image.width))
        if len(frames) != self.lengths[row]:
            raise Unreadable(
                f"gives {len(frames):,} frames where its clip gives {self.lengths[row]:,}: export both at one rate"
            )
        return _painted(self.column, frames, codec)


def _odd(header: VideoHeader, clip: VideoHeader, steady: bool) -> str:
    """Why a map does not lie on a clip, "" where it does."""
    if steady and header.frames != clip.frames:
        return f"has {header.frames:,} frames, and its clip has {clip.frames:,}: give it one for each of its clip"
    if abs(header.height * clip.width - header.width * clip.height) >= max(clip.height, clip.width):
        return (
            f"is {header.height} x {header.width} (height x width), which is no smaller or larger form of its clip's "
            f"{clip.height} x {clip.width}: give it that shape"
        )
    return ""


def encode(
    profile: Profile,
    clips: Clips,
    train: np.ndarray,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """The maps of a column for the examples, of which `train` (n,) says which are trained on.

    Raises FromNoiseError where no map can be used.
    """
    lying, clip, rows, stored = lie(profile, clips, train, cache, progress), clips.of_rows, clips.rows, clips.stored
    number = np.full(len(stored), -1)
    number[lying.on] = np.arange(len(lying.on))
    present = number[clip] >= 0
    if not present.any():
        name, why = next(iter(lying.broken.items()), ("", "there is none"))
        raise FromNoiseError(
            f"No map of {profile.name} can be used ({name}{' ' * bool(name)}{why}): mend them, or leave the column out "
            "by --columns none."
        )
    # What is absent is never looked at, and stands as one frame.
    starts = np.where(present, lying.rows.starts[number[clip]] + rows.starts - stored.starts[clip], 0)
    ends = np.where(present, starts + rows.ends - rows.starts, 1)
    windows = Windows(codec=lying.codec, rows=Ragged(values=lying.rows.values, starts=starts, ends=ends))
    return Encoded(column=lying.column, values=windows, present=present, notes=tuple(_told(lying, present)))


def lie(
    profile: Profile,
    clips: Clips,
    train: np.ndarray,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Lying:
    """The maps of a column out of the cache, or put there now; arguments as of `encode`."""
    listing, stored = clips.listing, clips.stored
    values, tree = listing.items.columns[profile.name], listing.tree
    assert tree is not None, "maps are files"
    place = {name: i for i, name in enumerate(tree.entries.names)}
    have = np.flatnonzero(values.codes)
    places = [place[values[i]] for i in have.tolist()]
    trained = np.isin(have, clips.of_rows[train])
    looked = dict.fromkeys(p for p, first in sorted(zip(places, trained, strict=True), key=lambda one: not one[1]))
    column = _column(profile.name, listing, list(looked))
    own = _codec(column, clips.codec)
    lengths = (stored.ends - stored.starts)[have]
    with_maps = replace(listing, items=listing.items.take(have))
    raw = _Raw(column=column, clips=with_maps, places=places, lengths=lengths)
    items = replace(
        with_maps.items,
        digest=_digests(raw),
        stack=np.zeros(len(have), dtype=np.int32),
        row=np.arange(len(have)),
    )
    kept = cached(replace(listing, items=items, stacks=(Stack(pixels=raw, name=profile.name),)), own, cache, progress)
    assert isinstance(kept.rows, Ragged)
    broken = {tree.entries.names[places[i]]: why for i, why in kept.broken.items()}
    return Lying(column=column, codec=own, rows=kept.rows, on=np.delete(have, list(kept.broken)), broken=broken)


def from_clip(column: Column, path: str, codec: VideoCodec) -> Float[Tensor, "c f h w"]:
    """A map that a user names, as long and as large as samples of the codec: a clip, or a picture for all frames.

    A longer one is used from its start, a shorter one stands still at its end.  Raises FromNoiseError with what is
    wrong, as other colours than labels.
    """
    own = _codec(column, codec)
    # Labels are looked for in the pixels as they are: nothing is as large as this.
    large = ImageCodec.full_range(height=2**16, width=2**16, channels=3, alpha=False, dtype="uint8")
    raw = _colours(read_as(Path(path).expanduser(), replace(own, image=large) if column.labels else own))
    if column.labels:
        check_colours(column, path, set(np.unique(flat(raw)).tolist()), "smoothing or the compression of video")
    if len(raw) > 1 and len(raw) != own.frames:
        what = "the first are used" if len(raw) > own.frames else "it stands still at its end"
        said = f"{path} gives {len(raw):,} frames at the rate of the samples, which have {own.frames:,}: {what}."
        warnings.warn(Advice(said), stacklevel=2)
    return own.encode([_painted(column, raw, own)])[0]


def _codec(column: Column, codec: VideoCodec) -> VideoCodec:
    """That of the clips, with the column's channels."""
    height, width = codec.image.height, codec.image.width
    image = ImageCodec.full_range(height=height, width=width, channels=column.size, alpha=False, dtype="uint8")
    return replace(codec, image=image)


def _painted(column: Column, frames: np.ndarray, codec: VideoCodec) -> np.ndarray:
    """Frames (n, h, w, c) as channels of the column, (n, height, width, size): of labels the shares of each pixel."""
    frames = _colours(frames)
    if not column.labels:
        return codec.store(frames)
    labels = np.array([int(label) for label in column.labels])
    # One after the other, since all channels of all frames at their own size may not fit into memory.
    shares = (255 * (flat(one).reshape(*one.shape[:2], 1) == labels).astype(np.uint8) for one in frames)
    return np.stack([codec.image.store(one) for one in shares])


def _colours(frames: np.ndarray) -> np.ndarray:
    """Frames (…, c) as RGB; opacity is left out."""
    return convert(frames[..., :3] if frames.shape[-1] > 2 else frames[..., :1], 3)


def _column(name: str, clips: Listing, places: Sequence[int]) -> Column:
    """What a column of maps is, by the files at `places` or the first of them."""
    assert clips.tree is not None
    exact = not any(suffix(clips.tree.entries.names[place]) in VIDEO.suffixes for place in places)
    colours, grey = set[int](), True
    for frames in _looked_at(clips, places[: LOOKED_AT if exact else _VIDEOS_LOOKED_AT]):
        grey &= int(np.ptp(frames.astype(np.int16), axis=-1).max()) <= _GREY
        if exact and len(colours) <= LABELS:
            colours.update(np.unique(flat(frames)).tolist())
    if 2 <= len(colours) <= LABELS:
        return of_labels(name, colours)
    return Column(name=name, kind="map", size=1 if grey else 3, low=0.0, high=255.0)


def _looked_at(clips: Listing, places: Iterable[int]) -> Iterator[np.ndarray]:
    assert clips.tree is not None
    for place in places:
        try:
            data = read(clips.tree, clips.tree.entries[place])
            header = videofile.probe(data)
            # So large that nothing is made smaller.
            yield _colours(videofile.decode(data, Fraction(header.rate), (header.height, header.width)))
        except Unreadable:  # which is said of each when all are read
            continue


def _digests(raw: _Raw) -> np.ndarray:
    """(n, 2) uint64, hashes of what each map is made from: its clip and its file, by the stamp where it has one."""
    tree, parts = raw.clips.tree, []
    assert tree is not None
    for place, clip, length in zip(raw.places, raw.clips.items.digest, raw.lengths.tolist(), strict=True):
        entry = tree.entries[place]
        hash_ = blake2b(repr((raw.column, entry.name, length)).encode() + clip.tobytes(), digest_size=16)
        with suppress(Unreadable):  # which is said when it is decoded
            hash_.update(entry.stamp if any(entry.stamp) else read(tree, entry))
        parts.append(hash_.digest())
    return np.frombuffer(b"".join(parts), dtype=np.uint64).reshape(-1, 2)


def _told(lying: Lying, present: np.ndarray) -> Iterator[str]:
    yield from told(lying.column, present)
    for name, why in list(lying.broken.items())[:_SAID]:
        yield f"{lying.column.name}: {name} {why}; its clip trains without it."
