"""Tables and captions: what stands beside the images as text.

A table is a `.csv`, `.tsv` or `.jsonl` file with one column that names files, relative to the table's own folder.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl"})
_FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_path", "img", "filepath", "name", "id")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows by the file that they describe; `missing` are files that it names and that are not there."""

    file_column: str
    rows: Mapping[str, Mapping[str, str]]
    missing: tuple[str, ...]


def parse_rows(name: str, data: bytes) -> list[dict[str, str]]:
    """The rows of a table as strings; a cell that is empty, null, a list or an object has no entry.

    Raises ValueError where the text is not such a table.
    """
    text = data.decode("utf-8-sig")
    if name.lower().endswith(".jsonl"):
        records = [json.loads(line) for line in text.splitlines() if line.strip()]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("a line of it is not a JSON object")
    else:
        separator = "\t" if name.lower().endswith(".tsv") else _separator(text)
        records = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
    return [{key: _cell(value) for key, value in row.items() if key and _cell(value)} for row in records]


def _separator(text: str) -> str:
    first = text.partition("\n")[0]
    return max(",;\t", key=first.count)


def _cell(value: object) -> str:
    if value is None or isinstance(value, list | dict):
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value).strip()


def match(name: str, rows: Sequence[Mapping[str, str]], exists: Callable[[str], bool]) -> Table | None:
    """The table at `name` joined with the files that exist, or None where no column of it names one of them."""
    folder = posixpath.dirname(name)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns.sort(key=lambda key: _FILE_COLUMNS.index(key.lower()) if key.lower() in _FILE_COLUMNS else 99)

    def resolve(value: str) -> str:
        return posixpath.normpath(posixpath.join(folder, value.replace("\\", "/")))

    for column in columns:
        targets = [resolve(row[column]) if column in row else "" for row in rows]
        there = [bool(target) and exists(target) for target in targets]
        if any(there):
            found = {
                target: {key: value for key, value in row.items() if key != column}
                for target, row, here in zip(targets, rows, there, strict=True)
                if here
            }
            lost = (target for target, here in zip(targets, there, strict=True) if target and not here)
            return Table(file_column=column, rows=found, missing=tuple(dict.fromkeys(lost)))
    return None
