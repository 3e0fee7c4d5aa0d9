"""Images that belong to images: masks, depths, sketches, small or grey versions.  Each is a condition, none an example.

A column of maps is found in three ways:

sidecar   `X_mask.png` beside `X.png`: the column is called by the word at the end
folder    `masks/X.png` beside `X.png` or beside `images/X.png`: called by the folder
table     a column whose values are images of the set, other than those that the table describes
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Mapping

from fromnoise.data.table import Table

WORDS = {
    "mask": "mask", "masks": "mask", "seg": "mask", "segmentation": "mask", "segmentations": "mask",
    "depth": "depth", "depths": "depth", "edges": "edges", "edge": "edges", "sketch": "sketch", "sketches": "sketch",
    "normals": "normals", "condition": "condition", "conditioning": "condition",
}  # fmt: skip
_IMAGES = frozenset({"image", "images", "img", "imgs", "picture", "pictures", "photo", "photos"})
_ENDING = re.compile(r"^(.+)[_\-. ]([a-z]+)$", re.IGNORECASE)


def beside(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Column -> example -> map, from the names of image files alone."""
    names = list(names)
    examples = {_key(name): name for name in names if _map_of(name) is None}
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if (told := _map_of(name)) is not None and told[1] in examples:
            found.setdefault(told[0], {})[examples[told[1]]] = name
    return found


def _map_of(name: str) -> tuple[str, str] | None:
    """(the column, the key of the example) of a file that may be a map by its name."""
    folder, base = posixpath.split(name)
    stem, parts = posixpath.splitext(base)[0], folder.split("/") if folder else []
    ending = _ENDING.match(stem)
    said = WORDS.get(ending[2].lower()) if ending else None
    stem = ending[1] if ending and said else stem
    for place, part in enumerate(parts):
        if part.lower() in WORDS:
            rest = "/".join([*parts[:place], *parts[place + 1 :]])
            return WORDS[part.lower()], _plain(rest, stem)
    return (said, _plain(folder, stem)) if said else None


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return _plain(folder, posixpath.splitext(base)[0])


def _plain(folder: str, stem: str) -> str:
    """A file without its ending and without folders that only say that images lie there."""
    return "/".join([*(part for part in folder.split("/") if part and part.lower() not in _IMAGES), stem])


def in_tables(tables: Iterable[tuple[str, Table]]) -> dict[str, dict[str, str]]:
    """Column -> example -> map, for columns of paths to other images of the set."""
    found: dict[str, dict[str, str]] = {}
    for _, table in tables:
        for column, targets in table.images.items():
            pairs = {name: targets[row] for name, row in table.rows.items() if targets[row]}
            if not set(pairs.values()) & table.rows.keys():
                found.setdefault(column, {}).update(pairs)
    return found


def taken(found: Mapping[str, Mapping[str, str]]) -> Collection[str]:
    """The files that are maps."""
    return {name for pairs in found.values() for name in pairs.values()}
