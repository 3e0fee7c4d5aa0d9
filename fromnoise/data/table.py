"""Tables and captions: what stands beside the images as text.

A table is a `.csv`, `.tsv` or `.jsonl` file with one column that names files, relative to the table's own folder.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fromnoise.data.texts import Growing, Texts

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl"})
_FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_path", "img", "filepath", "name", "id")


@dataclass(frozen=True, kw_only=True)
class Table:
    """`columns` of as many rows as the table has; `rows` says which one describes a file.

    `missing` are files that it names and that are not there.
    """

    file_column: str
    rows: Mapping[str, int]
    columns: Mapping[str, Texts]
    missing: tuple[str, ...]


def parse_columns(name: str, data: bytes) -> dict[str, Texts]:
    """The columns of a table, all of one length; a cell that is empty, null, a list or an object is absent.

    Raises ValueError where the text is not such a table.
    """
    text = data.decode("utf-8-sig")
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
    if value is None or isinstance(value, list | dict):
        return ""
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
            return Table(file_column=column, rows=rows, columns=others, missing=tuple(dict.fromkeys(lost)))
    return None
