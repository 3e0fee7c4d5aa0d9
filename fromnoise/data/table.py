"""Tables and captions: what stands beside the images as text.

A table is a `.csv`, `.tsv` or `.jsonl` file with one column that names files, relative to the table's own folder.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from fromnoise.data.image import SUFFIXES as IMAGES
from fromnoise.data.texts import Growing, Texts

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl"})
_FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_path", "img", "filepath", "name", "id")

_SHARE = 0.9  # of a column's values, to be images
_LONGEST = 1 << 24  # characters of a cell; the library's own limit gives up the whole table for one long caption


@dataclass(frozen=True, kw_only=True)
class Table:
    """`columns` of as many rows as the table has; `rows` says which one describes a file.

    `images` are the columns of paths to image files that exist, a file or "" a row;
    `missing` are files that it names and that are not there; `note` says what was assumed in reading it.
    """

    file_column: str
    rows: Mapping[str, int]
    columns: Mapping[str, Texts]
    missing: tuple[str, ...]
    note: str | None = None
    images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def parse_columns(name: str, text: str) -> dict[str, Texts]:
    """The columns of a table, all of one length; a cell that is empty, null or an object is absent, a list
    of numbers is a vector.

    Raises ValueError where the text is not such a table.
    """
    growing: dict[str, Growing] = {}
    rows = 0
    for cells in _json_rows(text) if name.lower().endswith(".jsonl") else _csv_rows(name, text):
        for key, value in cells:
            if key and (cell := _cell(value)):
                growing.setdefault(key, Growing()).put(rows, cell)
        rows += 1
    return {key: column.texts(rows) for key, column in growing.items()}


def _json_rows(text: str) -> Iterator[list[tuple[str, object]]]:
    for line in io.StringIO(text):
        if line.strip():
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("a line of it is not a JSON object")
            yield list(record.items())


def _csv_rows(name: str, text: str) -> Iterator[list[tuple[str, object]]]:
    csv.field_size_limit(_LONGEST)
    separator = "\t" if name.lower().endswith(".tsv") else _separator(text)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    head = next(lines, [])
    for row in lines:
        if row:
            yield list(dict(zip(head, row, strict=False)).items())


def _separator(text: str) -> str:
    first = text.partition("\n")[0]
    return max(",;\t", key=first.count)


def _cell(value: object) -> str:
    if value is None or isinstance(value, dict):
        return ""
    if isinstance(value, list):  # of numbers a vector
        return json.dumps(value) if value and all(isinstance(one, int | float) for one in value) else ""
    return str(int(value)) if isinstance(value, bool) else str(value).strip()


def match(name: str, columns: Mapping[str, Texts], exists: Callable[[str], bool]) -> Table | None:
    """The table at `name` joined with the files that exist, or None where no column of it names one of them."""
    folder = posixpath.dirname(name)
    likely = sorted(columns, key=lambda key: _FILE_COLUMNS.index(key.lower()) if key.lower() in _FILE_COLUMNS else 99)
    for column in likely:
        names = columns[column]
        targets = [
            posixpath.normpath(posixpath.join(folder, word.replace("\\", "/"))) if word else "" for word in names.words
        ]
        there = np.array([bool(target) and exists(target) for target in targets])
        if there[names.codes].any():
            rows = {targets[code]: row for row, code in enumerate(names.codes) if there[code]}
            lost = (target for target, here in zip(targets, there, strict=True) if target and not here)
            others = {key: texts for key, texts in columns.items() if key != column}
            images = {key: paths for key, texts in others.items() if (paths := _images(folder, texts, exists))}
            return Table(
                file_column=column,
                rows=rows,
                columns={key: texts for key, texts in others.items() if key not in images},
                missing=tuple(dict.fromkeys(lost)),
                images=images,
            )
    return None


def _images(folder: str, texts: Texts, exists: Callable[[str], bool]) -> tuple[str, ...] | None:
    """The files that a column names a row, if nearly all that it names are images that are there."""
    used = [word for word in texts.counts() if posixpath.splitext(word)[1].lower() in IMAGES]
    if len(used) < _SHARE * max(1, len(texts.counts())):
        return None
    targets = {word: posixpath.normpath(posixpath.join(folder, word.replace("\\", "/"))) for word in used}
    there = {word: target for word, target in targets.items() if exists(target)}
    return (
        tuple(there.get(word, "") for word in map(texts.__getitem__, range(len(texts))))
        if len(there) >= _SHARE * len(used)
        else None
    )
