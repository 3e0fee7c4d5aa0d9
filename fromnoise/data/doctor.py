"""`fromnoise doctor DATA`: what a scan found, what looks odd, what it proposes, and every file that is left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from fromnoise.codec import Codec
from fromnoise.data.columns import Profile, choose
from fromnoise.data.listing import Listing, links_note
from fromnoise.data.splits import assign

_SHOWN = 5
_LINKS = 10  # more links than that are counted and not listed
_FEW = 200


def diagnose(listing: Listing) -> str:
    """The diagnosis as plain text; after the summary every skipped file stands on a line of its own."""
    codec, how = listing.medium.choose(listing.common, listing.headers, None)
    parts = (_summary(listing), _remarks(listing, codec), _proposals(listing, codec, how), _skipped(listing))
    return "\n".join(chain.from_iterable(parts))


def _summary(listing: Listing) -> Iterator[str]:
    yield f"{listing.source}: {_count(len(listing), 'example')}, {_count(len(listing.skipped), 'file')} skipped"
    yield f"  medium        {listing.medium.name}"
    yield f"  size          {_sizes(listing)}"
    yield f"  mode          {_counts(listing.modes)}"
    yield f"  dtype         {_counts(listing.dtypes)}"
    split = assign(listing.items.split, listing.items.digest, listing.parted)[1]
    yield f"  split         {split.removeprefix('split ')}"
    for profile in listing.profiles:
        yield f"  column        {_column(profile, len(listing))}"
    if not listing.profiles:
        yield "  column        none"


def _remarks(listing: Listing, codec: Codec) -> Iterator[str]:
    remarks = [*listing.notes, *_duplicates(listing), *_odd(listing, codec)]
    if len(listing) < _FEW:
        remarks.append(f"{_count(len(listing), 'example')}: a model will mostly remember them; more would help")
    if remarks:
        yield "remarks"
        yield from (f"  {remark}" for remark in remarks)


def _proposals(listing: Listing, codec: Codec, how: Sequence[str]) -> Iterator[str]:
    yield "proposal"
    yield f"  x0       {' x '.join(map(str, codec.shape))} ({', '.join(codec.axes)})"
    yield from (f"  size     {note}" for note in how)
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
    return ", ".join(f"{count:,} {name}" if len(counts) > 1 else name for name, count in counts.most_common())


def _column(profile: Profile, total: int) -> str:
    filled = "" if profile.filled == total else f", {profile.filled:,} of {total:,} filled"
    if profile.role == "class":
        shown = ", ".join(profile.labels[:_SHOWN]) + (", ..." if len(profile.labels) > _SHOWN else "")
        return f"{profile.name}: class of {len(profile.labels)} labels ({shown}){filled}"
    if profile.role == "number":
        return f"{profile.name}: number from {profile.low:g} to {profile.high:g}{filled}"
    if profile.role == "map":
        return f"{profile.name}: an image beside each, such as {profile.example}{filled}"
    if profile.role == "vector":
        return f"{profile.name}: vector of {profile.size} numbers, such as {profile.example}{filled}"
    return f"{profile.name}: text, such as {profile.example!r}{filled}"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
