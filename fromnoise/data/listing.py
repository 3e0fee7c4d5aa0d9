"""The result of a scan: the examples of one usable set, and what makes them one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fromnoise.data.columns import Profile
from fromnoise.data.image import Header, decode, mode_name
from fromnoise.data.stack import Stack
from fromnoise.data.tree import Entry, Skipped, Tree, read

_MODES = ("grey", "grey-alpha", "RGB", "RGBA")  # from the narrowest to the widest


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One example: its header, the hash of its content, its fixed split if it has one, its columns, and its place.

    The place is a file of the tree (`entry`), or row `row` of the stack number `stack`.
    """

    name: str
    header: Header
    digest: bytes
    split: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    entry: Entry | None = None
    stack: int = -1
    row: int = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """A usable set.

    `channels`, `alpha` and `dtype` are those that every example is brought to; `notes` are the decisions taken, as
    sentences.
    """

    source: str
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...]
    profiles: tuple[Profile, ...]
    channels: int
    alpha: bool
    dtype: str
    notes: tuple[str, ...]
    tree: Tree | None = field(repr=False)
    stacks: tuple[Stack, ...] = field(repr=False)

    @property
    def mode(self) -> str:
        """grey, grey-alpha, RGB, RGBA, or the number of channels."""
        return mode_name(self.channels, self.alpha)

    @property
    def fixed_split(self) -> bool:
        """Whether names fix the split; otherwise it is by hash of content."""
        return any(item.split for item in self.items)

    @cached_property
    def sizes(self) -> Counter[tuple[int, int]]:
        """(height, width) -> how many examples."""
        return Counter((item.header.height, item.header.width) for item in self.items)

    @cached_property
    def modes(self) -> Counter[str]:
        return Counter(item.header.mode for item in self.items)

    @cached_property
    def dtypes(self) -> Counter[str]:
        return Counter(item.header.dtype for item in self.items)

    @cached_property
    def duplicates(self) -> tuple[tuple[str, ...], ...]:
        """Groups of names that share one content; all are kept, on one side of the split."""
        groups: dict[bytes, list[str]] = defaultdict(list)
        for item in self.items:
            groups[item.digest].append(item.name)
        return tuple(tuple(names) for names in groups.values() if len(names) > 1)

    def column(self, name: str) -> list[str]:
        """A column's strings, "" where an example has none."""
        return [item.values.get(name, "") for item in self.items]

    def read(self, item: Item, at_least: tuple[int, int] | None = None) -> np.ndarray:
        """An example's pixels (h, w, c) in its own channels and dtype.

        A JPEG may come smaller, but no smaller than `at_least`.  Raises Unreadable with the reason.
        """
        if item.entry is None:
            return np.asarray(self.stacks[item.stack].pixels[item.row])
        assert self.tree is not None, "an entry lies in a tree"
        return decode(read(self.tree, item.entry), item.header, at_least)


def harmonise(items: Sequence[Item]) -> tuple[list[Item], list[Skipped], list[str]]:
    """The largest part of the examples that can be one set, the others with a reason, and what was decided.

    Grey, grey-alpha, RGB and RGBA images of 8 and 16 bits go together: the widest of these modes and the widest depth
    that are present win.  Any other number of channels, and any other dtype, must be equal throughout.
    """
    families = Counter(_family(item.header) for item in items)
    family = families.most_common(1)[0][0]
    kept = [item for item in items if _family(item.header) == family]
    skipped = [
        Skipped(name=item.name, reason=f"{item.header.mode} of {item.header.dtype}, unlike most of the set ({family})")
        for item in items
        if _family(item.header) != family
    ]
    notes = []
    for what, counts in (
        ("mode", Counter(i.header.mode for i in kept)),
        ("depth", Counter(i.header.dtype for i in kept)),
    ):
        if len(counts) > 1:
            found = ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
            order = _MODES if what == "mode" else ("uint8", "uint16")
            notes.append(f"images of {found}: all become {max(counts, key=order.index)}, the widest {what} present.")
    return kept, skipped, notes


def widest(items: Sequence[Item]) -> tuple[int, bool, str]:
    """(channels, alpha, dtype) that every example of a harmonised set is brought to."""
    header = max((item.header for item in items), key=lambda h: _MODES.index(h.mode) if h.mode in _MODES else 0)
    dtype = max({item.header.dtype for item in items}, key=lambda name: np.dtype(name).itemsize)
    return header.channels, header.alpha, dtype


def _family(header: Header) -> str:
    if header.mode in _MODES and header.dtype in ("uint8", "uint16"):
        return "8- or 16-bit images"
    return f"{header.channels} channel{'s' * (header.channels > 1)} of {header.dtype}"
