"""The result of a scan: the examples of one usable set, and what makes them one.

Examples are kept as columns, a few dozen bytes each, never as objects: a set may have ten million of them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from fromnoise.codec import Codec, Header, Medium, Scalable
from fromnoise.data.columns import Profile
from fromnoise.data.splits import distinct
from fromnoise.data.stack import Stack
from fromnoise.data.texts import Texts
from fromnoise.data.tree import Skipped, Tree, read

FILE = -1
_CHUNK = 1 << 16
T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """n examples.

    header   (n,) int32, a place in `headers`
    digest   (n, 2) uint64, the hash of the content
    split    (n,) int8, a place in `splits.NAMES`, or -1 where no name fixes it
    stack    (n,) int32, the number of the stack that the example is a row of, or `FILE`
    row      (n,) int64, its row there, or its place among the tree's entries
    columns  by name, each of n strings
    part     (n,) int64, the number of the piece of its file that the example is, where files are cut into pieces
    """

    headers: tuple[Header, ...]
    header: np.ndarray
    digest: np.ndarray
    split: np.ndarray
    stack: np.ndarray
    row: np.ndarray
    columns: Mapping[str, Texts] = field(default_factory=dict)
    part: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.row)

    def take(self, places: np.ndarray) -> Items:
        return Items(
            headers=self.headers,
            header=self.header[places],
            digest=self.digest[places],
            split=self.split[places],
            stack=self.stack[places],
            row=self.row[places],
            columns={name: texts.take(places) for name, texts in self.columns.items()},
            part=None if self.part is None else self.part[places],
        )

    @staticmethod
    def concat(parts: Sequence[Items]) -> Items:
        place: dict[Header, int] = {}
        codes = []
        for part in parts:
            table = [place.setdefault(header, len(place)) for header in part.headers]
            codes.append(np.array(table, dtype=np.int32)[part.header])
        names = dict.fromkeys(name for part in parts for name in part.columns)
        return Items(
            headers=tuple(place),
            header=np.concatenate(codes),
            digest=np.concatenate([part.digest for part in parts]),
            split=np.concatenate([part.split for part in parts]),
            stack=np.concatenate([part.stack for part in parts]),
            row=np.concatenate([part.row for part in parts]),
            columns={
                name: Texts.concat([part.columns.get(name, Texts.same("", len(part))) for part in parts])
                for name in names
            },
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """A usable set of one medium.

    `common` is what every example is brought to, its size aside; `notes` are the decisions taken, as sentences;
    `parted` is what a split that is not by hash goes by.
    """

    source: str
    medium: Medium[Any, Any]
    items: Items = field(repr=False)
    skipped: tuple[Skipped, ...]
    profiles: tuple[Profile, ...]
    common: Header
    notes: tuple[str, ...]
    parted: str
    tree: Tree | None = field(repr=False)
    stacks: tuple[Stack, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def channels(self) -> int:
        return self.common.channels

    @property
    def mode(self) -> str:
        return self.common.mode

    @cached_property
    def headers(self) -> Counter[Header]:
        """How many examples have each header."""
        return counted(self.items, lambda header: header)

    @cached_property
    def sizes(self) -> Counter[tuple[int, ...]]:
        """(height, width) or whatever extent the medium's examples have -> how many of them."""
        return counted(self.items, lambda header: header.size)

    @cached_property
    def modes(self) -> Counter[str]:
        return counted(self.items, lambda header: header.mode)

    @cached_property
    def dtypes(self) -> Counter[str]:
        return counted(self.items, lambda header: header.dtype)

    def duplicates(self) -> list[np.ndarray]:
        """Groups of places that share one content; all are kept, on one side of the split."""
        codes = distinct(self.items.digest)
        often = np.flatnonzero((np.bincount(codes) > 1)[codes])
        order = often[np.argsort(codes[often], kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else []
        return sorted(groups, key=lambda group: group[0])

    def names(self, places: Sequence[int] | np.ndarray) -> Iterator[str]:
        """Where examples come from: the names of their files, with the row in brackets for arrays."""
        return names(self.items, self.tree, self.stacks, places)

    def header(self, place: int) -> Header:
        return self.items.headers[self.items.header[place]]

    def read(self, place: int, codec: Codec) -> np.ndarray:
        """An example as `codec.store` takes it.  Raises Unreadable with the reason."""
        stack, row = int(self.items.stack[place]), int(self.items.row[place])
        if stack != FILE:
            pixels = self.stacks[stack].pixels
            return pixels.read(row, codec) if isinstance(pixels, Scalable) else np.asarray(pixels[row])
        assert self.tree is not None, "an entry lies in a tree"
        return self.medium.read(read(self.tree, self.tree.entries[row]), self.header(place), codec)

    def rows(self, start: int, stop: int) -> np.ndarray | None:
        """The pixels (n, h, w, c) of the examples start … stop-1 if they are rows of one array, in its own order."""
        stacks, rows = self.items.stack[start:stop], self.items.row[start:stop]
        if stacks[0] == FILE or (stacks != stacks[0]).any() or (np.diff(rows) != 1).any():
            return None
        pixels = self.stacks[stacks[0]].pixels
        return pixels[rows[0] : rows[-1] + 1] if isinstance(pixels, np.ndarray) else None


def links_note(skipped: Sequence[Skipped]) -> str:
    """How many of the files left out are links to others of the set, and the first three; empty without any."""
    links = [file.name for file in skipped if file.link]
    if not links:
        return ""
    count = f"{len(links):,} link{'s' * (len(links) > 1)} to other files of the set"
    return f"{count} ({', '.join(links[:3])}{', ...' if len(links) > 3 else ''}), which are kept once"


def names(
    items: Items, tree: Tree | None, stacks: Sequence[Stack], places: Sequence[int] | np.ndarray
) -> Iterator[str]:
    """The names of the examples at `places`."""
    where = np.asarray(places, dtype=np.int64)
    for start in range(0, len(where), _CHUNK):
        some = where[start : start + _CHUNK]
        parts = itertools.repeat("") if items.part is None else (f"[{part}]" for part in items.part[some].tolist())
        for stack, row, part in zip(items.stack[some].tolist(), items.row[some].tolist(), parts, strict=False):
            if stack == FILE:
                assert tree is not None, "an entry lies in a tree"
                yield tree.entries.names[row] + part
            else:
                of = stacks[stack]
                yield of.names[row] if of.names else of.name if of.single else f"{of.name}[{row}]"


def counted(items: Items, what: Callable[[Header], T]) -> Counter[T]:
    """How many examples have each property of their headers."""
    counts: Counter[T] = Counter()
    number = np.bincount(items.header, minlength=len(items.headers))
    for header, n in zip(items.headers, number, strict=True):
        counts[what(header)] += int(n)
    return +counts


def harmonise(
    items: Items, medium: Medium[Any, Any], named: Callable[[np.ndarray], Iterable[str]]
) -> tuple[Items, list[Skipped]]:
    """The largest family of the examples, and the others with a reason.  `named` gives the names of places."""
    family = counted(items, medium.family).most_common(1)[0][0]
    fits = np.array([medium.family(header) == family for header in items.headers])[items.header]
    odd, skipped = np.flatnonzero(~fits), []
    for name, code in zip(named(odd), items.header[odd].tolist(), strict=True):
        header = items.headers[code]
        why = f"{header.mode} of {header.dtype}, unlike most of the set ({family}): train on it by itself"
        skipped.append(Skipped(name=name, reason=why))
    return items if fits.all() else items.take(np.flatnonzero(fits)), skipped
