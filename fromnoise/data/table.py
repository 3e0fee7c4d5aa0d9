"""Tables and captions: what stands beside the images as text.

A table is a `.csv`, `.tsv` or `.jsonl` file with one column that names files, relative to the table's own folder.  What
is wrong with some of its rows is said, and the others count.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fromnoise.data.image import SUFFIXES as IMAGES
from fromnoise.data.nifti import SUFFIXES as SCANS
from fromnoise.data.texts import Growing, Texts
from fromnoise.data.tree import suffix
from fromnoise.data.video import Videos

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl"})
_FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_path", "img", "filepath", "name", "id")

_SHARE = 0.9  # of a column's values, to be images
_LONGEST = 1 << 24  # characters of a cell; the library's own limit gives up the whole table for one long caption


@dataclass(frozen=True, kw_only=True)
class Table:
    """`columns` of as many rows as the table has; `rows` says which one describes a file.

    `images` are the columns of paths to images, clips or scans that exist, a file or "" a row;
    `missing` are files that it names and that are not there; `notes` say what was assumed in reading it and what is
    wrong with it, without the names of files.
    """

    file_column: str
    rows: Mapping[str, int]
    columns: Mapping[str, Texts]
    missing: tuple[str, ...]
    notes: tuple[str, ...] = ()
    images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """The columns of a table, all of one length; the line that each row ends at; what is wrong with others, as in
    `Table`."""

    columns: Mapping[str, Texts]
    lines: np.ndarray
    notes: tuple[str, ...] = ()


def parse(name: str, text: str) -> Parsed:
    """The columns of a table; a cell that is empty, null or an object is absent, a list of numbers is a vector.

    Raises ValueError where the text is not such a table.
    """
    growing: dict[str, Growing] = {}
    lines, odd, twice = array("q"), array("q"), dict[str, array]()
    json_lines = name.lower().endswith(".jsonl")
    for line, cells in _json_rows(text, odd, twice) if json_lines else _csv_rows(name, text, odd, twice):
        for key, value in cells:
            if key and (cell := _cell(value)):
                growing.setdefault(key, Growing()).put(len(lines), cell)
        lines.append(line)
    if json_lines and odd and not lines:
        raise ValueError("no line of it is a JSON object")
    notes = [_broken(name, odd, len(lines)) if json_lines else _too_long(name, odd)] if odd else []
    notes += [_twice(name, key, found) for key, found in twice.items()]
    columns = {key: column.texts(len(lines)) for key, column in growing.items()}
    return Parsed(columns=columns, lines=np.array(lines, dtype=np.int64), notes=tuple(notes))


def _broken(name: str, lines: Sequence[int], rows: int) -> str:
    rest = f"the other {rows:,} row{'s count' if rows != 1 else ' counts'}"
    if len(lines) == 1:
        return f"{name}: line {lines[0]:,} is not a JSON object: mend it; {rest}."
    return f"{name}: {len(lines):,} lines are not JSON objects, the first is line {lines[0]:,}: mend them; {rest}."


def _too_long(name: str, lines: Sequence[int]) -> str:
    what = f"line {lines[0]:,} has" if len(lines) == 1 else f"{len(lines):,} rows, the first at line {lines[0]:,}, have"
    return f"{name}: {what} more cells than the first line, and the last are dropped: quote texts with separators."


def _twice(name: str, key: str, lines: Sequence[int]) -> str:
    """On columns of one name, at the head of a table or in each of some `lines`."""
    if not lines:
        return f"{name}: several columns are called {key!r}: rename all but one; the first counts."
    what = f"line {lines[0]:,} has" if len(lines) == 1 else f"{len(lines):,} lines, the first line {lines[0]:,}, have"
    return f"{name}: {what} the key {key!r} more than once: keep one; the last counts."


def _json_rows(text: str, broken: array, twice: dict[str, array]) -> Iterator[tuple[int, list[tuple[str, object]]]]:
    """The number of each line and its cells; the numbers of lines that are none go to `broken`, and of those that have
    a key more than once, of which the last counts, to `twice`."""
    for number, line in enumerate(io.StringIO(text), start=1):
        if line.strip():
            try:
                record = json.loads(line, object_pairs_hook=_Pairs)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, _Pairs):
                for key, count in Counter(key for key, _ in record).items():
                    if count > 1:
                        twice.setdefault(key, array("q")).append(number)
                yield number, list(dict(record).items())
            else:
                broken.append(number)


class _Pairs(list):
    """A JSON object as its keys and values in order, so that none is lost."""


def _csv_rows(
    name: str, text: str, too_long: array, twice: dict[str, array]
) -> Iterator[tuple[int, list[tuple[str, object]]]]:
    """The line that each row ends at and its cells; those with more than the first row has go to `too_long`, too, and
    names of several columns, of which the first counts, to `twice`."""
    csv.field_size_limit(_LONGEST)
    separator = "\t" if name.lower().endswith(".tsv") else _separator(text)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    head = next(lines, [])
    first: dict[str, int] = {}
    for place, key in enumerate(head):
        first.setdefault(key, place)
    twice |= {key: array("q") for key, count in Counter(head).items() if key and count > 1}
    for row in lines:
        if row:
            if any(row[len(head) :]):
                too_long.append(lines.line_num)
            yield lines.line_num, [(key, row[place]) for key, place in first.items() if place < len(row)]


def _separator(text: str) -> str:
    first = text.partition("\n")[0]
    return max(",;\t", key=first.count)


def _cell(value: object) -> str:
    if value is None or isinstance(value, _Pairs):
        return ""
    if isinstance(value, list):  # of numbers a vector
        return json.dumps(value) if value and all(isinstance(one, int | float) for one in value) else ""
    return str(int(value)) if isinstance(value, bool) else str(value).strip()


def match(name: str, parsed: Parsed, exists: Callable[[str], bool]) -> Table | None:
    """The table at `name` joined with the files that exist, or None where no column of it names one of them.

    Of several rows on one file the last value that is given counts, in each column.
    """
    folder, columns = posixpath.dirname(name), parsed.columns
    likely = sorted(columns, key=lambda key: _FILE_COLUMNS.index(key.lower()) if key.lower() in _FILE_COLUMNS else 99)
    for column in likely:
        names = columns[column]
        targets = [
            posixpath.normpath(posixpath.join(folder, word.replace("\\", "/"))) if word else "" for word in names.words
        ]
        there = np.array([bool(target) and exists(target) for target in targets])
        if there[names.codes].any():
            rows = {targets[code]: row for row, code in enumerate(names.codes.tolist()) if there[code]}
            last = np.array([rows.get(target, -1) for target in targets])[names.codes]
            lost = (target for target, here in zip(targets, there, strict=True) if target and not here)
            given = {key: texts for key, texts in columns.items() if key != column}
            others = {key: replace(texts, codes=texts.codes[_givers(texts, last)]) for key, texts in given.items()}
            images = {key: paths for key, texts in others.items() if (paths := _images(folder, texts, exists))}
            return Table(
                file_column=column,
                rows=rows,
                columns={key: texts for key, texts in others.items() if key not in images},
                missing=tuple(dict.fromkeys(lost)),
                notes=(
                    *parsed.notes,
                    *_unnamed(name, column, names, parsed),
                    *_several(name, last, given, parsed),
                    *_without_map(name, {key: (others[key], paths) for key, paths in images.items()}),
                ),
                images=images,
            )
    return None


def _unnamed(name: str, column: str, names: Texts, parsed: Parsed) -> Iterator[str]:
    """A sentence on rows that name no file."""
    empty = np.flatnonzero(names.codes == 0)
    if len(empty):
        line = f"line {parsed.lines[empty[0]]:,}"
        what = f"{line} has" if len(empty) == 1 else f"{len(empty):,} rows, the first at {line}, have"
        yield f"{name}: {what} no {column} and belong{'s' * (len(empty) == 1)} to no file: fill it in."


def _givers(texts: Texts, last: np.ndarray) -> np.ndarray:
    """The row that gives each row's value: for the last row on a file the last that has one, and otherwise itself;
    `last` is the last row on each row's file, or -1."""
    givers, told = np.arange(len(last)), np.flatnonzero((last >= 0) & (texts.codes > 0))
    givers[last[told]] = told  # of several on one place the last stays
    return givers


def _several(name: str, last: np.ndarray, given: Mapping[str, Texts], parsed: Parsed) -> Iterator[str]:
    """A sentence on files that several rows describe, and not alike; `last` is that of `_givers`."""
    against = np.full(len(last), -1)
    for texts in given.values():
        giver = _givers(texts, last)[last]
        against = np.where((last >= 0) & (texts.codes > 0) & (texts.codes != texts.codes[giver]), giver, against)
    odd = np.flatnonzero(against >= 0)
    if len(odd):
        count = len(np.unique(last[odd]))
        lines = f"{parsed.lines[odd[0]]:,} and {parsed.lines[against[odd[0]]]:,}"
        what = f"lines {lines} name the same file" if count == 1 else f"{count:,} files are named by several rows"
        such = "" if count == 1 else f", such as lines {lines}"
        yield f"{name}: {what} with different values{such}: keep one a file; the last counts."


def _without_map(name: str, maps: Mapping[str, tuple[Texts, tuple[str, ...]]]) -> Iterator[str]:
    """A sentence on each column of maps that names some that are not there."""
    for key, (texts, paths) in maps.items():
        lost = dict.fromkeys(texts[row] for row, path in enumerate(paths) if not path and texts[row])
        if lost:
            which = f"{len(lost):,} files that are" if len(lost) > 1 else "a file that is"
            yield f"{name}: {key} names {which} not there, such as {next(iter(lost))}: what it belongs to has no map."


def _images(folder: str, texts: Texts, exists: Callable[[str], bool]) -> tuple[str, ...] | None:
    """The files that a column names a row, if nearly all that it names are such files that are there."""
    used = [word for word in texts.counts() if suffix(word) in IMAGES | SCANS | Videos.suffixes]
    if len(used) < _SHARE * max(1, len(texts.counts())):
        return None
    targets = {word: posixpath.normpath(posixpath.join(folder, word.replace("\\", "/"))) for word in used}
    there = {word: target for word, target in targets.items() if exists(target)}
    return (
        tuple(there.get(word, "") for word in map(texts.__getitem__, range(len(texts))))
        if len(there) >= _SHARE * len(used)
        else None
    )
