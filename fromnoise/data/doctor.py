"""`fromnoise doctor DATA`: what was found, what looks odd, what is proposed, and every file that is left out.

Examples are decoded as training does it, into the same cache, so that both say and leave out the same; `MUCH` data is
not, unless it is in the cache already, and that is said.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np

from fromnoise.codec import Codec
from fromnoise.data.cache import Decoded, decoded, unread_maps
from fromnoise.data.columns import Profile, choose
from fromnoise.data.encoded import lonely
from fromnoise.data.listing import Listing, links_note
from fromnoise.data.scan import Progress
from fromnoise.data.splits import assign
from fromnoise.data.store import is_cached

MUCH = 1 << 31  # pixels, samples or characters; a core decodes some tens of millions a second
_SHOWN = 5
_LINKS = 10  # more links than that are counted and not listed
_FEW = 200


def diagnose(listing: Listing, cache_dir: Path | None = None, progress: Progress | None = None) -> str:
    """The diagnosis as plain text; after the summary every skipped file stands on a line of its own.

    `cache_dir` and `progress` are those of `open_dataset`.  Raises FromNoiseError where nothing can be decoded.
    """
    codec, chosen = listing.medium.choose(listing.common, listing.headers, None)
    how = [("size", note) for note in chosen]
    split, remarks = assign(listing.items.split, listing.items.digest, listing.parted)[1], []
    values = sum(math.prod(header.size) * count for header, count in listing.headers.items())
    scanned = len(listing)
    if values <= MUCH or is_cached(listing, codec, cache_dir):
        found = decoded(listing, None, cache_dir, progress)
        listing, codec, split = found.whole, found.codec, found.split
        how = [*(("size", note) for note in found.chosen), *(("fitted", note) for note in found.fitted)]
        remarks += _unread_maps(found, cache_dir)
    else:
        remarks.append(
            f"{_count(scanned, 'example')} would take long to decode and are judged by their headers: train decodes "
            "them, and lists in run.json what is damaged inside"
        )
    parts = (
        _summary(listing, split, scanned),
        _remarks(listing, codec, remarks),
        _proposals(listing, codec, how),
        _skipped(listing),
    )
    return "\n".join(chain.from_iterable(parts))


def _summary(listing: Listing, split: str, scanned: int) -> Iterator[str]:
    """`scanned` is how many examples the columns are of."""
    yield f"{listing.source}: {_count(len(listing), 'example')}, {_count(len(listing.skipped), 'file')} skipped"
    yield f"  medium        {listing.medium.name}"
    yield f"  size          {_sizes(listing)}"
    yield f"  mode          {_counts(listing.modes)}"
    yield f"  dtype         {_counts(listing.dtypes)}"
    yield f"  split         {split.removeprefix('split ')}"
    for profile in listing.profiles:
        yield f"  column        {_column(profile, scanned)}"
    if not listing.profiles:
        yield "  column        none"


def _remarks(listing: Listing, codec: Codec, remarks: Sequence[str]) -> Iterator[str]:
    remarks = [*listing.notes, *remarks, *_duplicates(listing), *_odd(listing, codec)]
    for profile in listing.profiles:
        remarks += lonely(profile, listing.items.columns[profile.name])
    if len(listing) < _FEW:
        remarks.append(f"{_count(len(listing), 'example')}: a model will mostly remember them; more would help")
    if remarks:
        yield "remarks"
        yield from (f"  {remark}" for remark in remarks)


def _proposals(listing: Listing, codec: Codec, how: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield "proposal"
    yield f"  x0       {' x '.join(map(str, codec.shape))} ({', '.join(codec.axes)})"
    yield from (f"  {what:<8} {note}" for what, note in how)
    yield f"  columns  {choose(listing.profiles, None)[1]}"


def _skipped(listing: Listing) -> Iterator[str]:
    if not listing.skipped:
        return
    yield f"skipped ({len(listing.skipped):,})"
    links = sum(file.link for file in listing.skipped)
    for file in listing.skipped:
        if not file.link or links <= _LINKS:
            yield f"  {file.name}: {file.reason}"
    if links > _LINKS:
        yield f"  {links_note(listing.skipped)}"


def _duplicates(listing: Listing) -> Iterator[str]:
    groups = listing.duplicates()
    if groups:
        extra = sum(len(places) - 1 for places in groups)
        yield (
            f"{_count(extra, 'exact duplicate')} in {_count(len(groups), 'group')}, kept and on one side of the split: "
            + "; ".join(" = ".join(listing.names(places[:3])) for places in groups[:_SHOWN])
            + ("; ..." if len(groups) > _SHOWN else "")
        )
    if links := links_note(listing.skipped):
        yield links


def _unread_maps(found: Decoded, cache_dir: Path | None) -> Iterator[str]:
    """Sentences on files of maps that cannot be read, or that do not fit."""
    for profile in found.whole.profiles:
        if profile.role == "map":
            broken = unread_maps(profile, found, cache_dir)
            if len(broken) == len(found.whole.items.columns[profile.name].counts()):
                name, why = next(iter(broken.items()))
                yield f"No map of {profile.name} can be used ({name} {why}): train refuses the column."
                continue
            for name, why in islice(broken.items(), _SHOWN):
                yield f"{profile.name}: {name} is not read, and its examples train without it: {why}"
            if len(broken) > _SHOWN:
                yield f"{profile.name}: {len(broken) - _SHOWN:,} more maps are not read"


def _odd(listing: Listing, codec: Codec) -> Iterator[str]:
    odd: dict[str, list[int]] = defaultdict(list)
    for code, header in enumerate(listing.items.headers):
        for what in listing.medium.remarks(header, codec, listing.headers):
            odd[what].append(code)
    for what, codes in odd.items():
        places = np.flatnonzero(np.isin(listing.items.header, codes))
        if len(places):
            more = ", ..." if len(places) > _SHOWN else ""
            names = ", ".join(listing.names(places[:_SHOWN]))
            yield f"{_count(len(places), 'file')} {what}: {names}{more}"


def _sizes(listing: Listing) -> str:
    axes = listing.medium.axes[-len(listing.common.size) :]
    if len(listing.sizes) == 1:
        return f"{' x '.join(map(str, *listing.sizes))} ({' x '.join(axes)})"
    extents = np.repeat(list(listing.sizes), list(listing.sizes.values()), axis=0).T
    ranges = (
        f"{axis} {values.min():,} to {values.max():,}, median {np.median(values):,.0f}"
        for axis, values in zip(axes, extents, strict=True)
    )
    return f"{len(listing.sizes):,} different; {'; '.join(ranges)}"


def _counts(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{n:,} {'of ' * name[:1].isdigit()}{name}" for name, n in counts.most_common())


def _column(profile: Profile, total: int) -> str:
    filled = "" if profile.filled == total else f", {profile.filled:,} of {total:,} filled"
    filled += f"; {profile.said_missing}" if profile.missing else ""
    if profile.role == "class":
        shown = ", ".join(profile.labels[:_SHOWN]) + (", ..." if len(profile.labels) > _SHOWN else "")
        return f"{profile.name}: class of {len(profile.labels)} labels ({shown}){filled}"
    if profile.role == "number":
        return f"{profile.name}: number from {profile.low:g} to {profile.high:g}{filled}"
    if profile.role == "map":
        return f"{profile.name}: a map beside each, such as {profile.example}{filled}"
    if profile.role == "vector":
        return f"{profile.name}: vector of {profile.size} numbers, such as {profile.example}{filled}"
    return f"{profile.name}: text, such as {profile.example!r}{filled}"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
