"""What is odd about columns as a whole, as sentences: numbers that are not read as such, names that mean something."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from fromnoise.data.columns import LARGEST, MISSING, Profile, as_number, too_large
from fromnoise.data.texts import Texts

NONE = "none"  # what --columns and --where call no column at all
_NEARLY = 0.9  # of a column's distinct values
_UNIT = r"(?:[%‰°]|°?[a-zµμω]{1,4}[²³23]?(?:/[a-zµμω]{1,3}[²³23]?)?)"
_SPELT = re.compile(rf"[€$£]?\s?[+-]?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?\s?(?:{_UNIT}|[€$£])?", re.IGNORECASE)


def remarks(columns: Mapping[str, Texts], profiles: Iterable[Profile]) -> Iterator[str]:
    """Sentences on the columns that have profiles, each with its remedy."""
    for profile in profiles:
        if profile.role == "text":
            yield from _numbers(profile.name, columns[profile.name].counts())
        if NONE in profile.labels:
            what = f"--where {profile.name}={NONE} asks for it and cannot hide the column"
            yield f"{profile.name}: one of its labels is called {NONE}, so that {what}: rename it."
        if profile.name == NONE:
            yield f"a column is called {NONE}, which for --columns means no column at all: rename it."


def _numbers(name: str, counts: Mapping[str, int]) -> Iterator[str]:
    """A sentence on a column of numbers that a few of its cells, or how all are written, make a text."""
    values = [value for value in counts if value.lower() not in MISSING]
    spelt = [value for value in values if as_number(value) is None and _SPELT.fullmatch(value)]
    plain = sum(as_number(value) is not None for value in values)
    if spelt and plain + len(spelt) >= _NEARLY * len(values):
        what = f"nearly all cells are numbers, {'some' if plain else 'all'} of them with a unit or a comma"
        yield f"{name}: {what} as in {spelt[0]!r}, and count as text: write them as 5.31."
    elif huge := too_large(values) if plain == len(values) else []:
        cells = sum(counts[value] for value in huge)
        what = f"{cells:,} of its numbers {'is' if cells == 1 else 'are'} beyond {LARGEST:g}, as {huge[0][:40]!r}"
        yield f"{name}: {what}, so that it counts as text: correct or empty {'it' if cells == 1 else 'them'}."
