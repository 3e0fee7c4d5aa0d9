"""Images that belong to images: masks, depths, sketches, small or grey versions.  Each is a condition, none an example.
Clips belong to clips in the same ways.

A column of maps is found in three ways:

sidecar   `X_mask.png` beside `X.png`: the column is called by the word at the end
folder    `masks/X.png` beside `X.png` or beside `images/X.png`: called by the folder
table     a column whose values are images of the set, other than those that the table describes

Scans have maps in the same ways, which lie on them voxel by voxel: `X_mask`, `X_seg`, `X_label`, `X_dseg` beside `X` or
beside scans called `X_t1`, `X_T2w`; `labels/X` beside `images/X`.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from fromnoise.data.table import Table
from fromnoise.data.tree import suffix

WORDS = {
    "mask": "mask", "masks": "mask", "seg": "mask", "segmentation": "mask", "segmentations": "mask",
    "depth": "depth", "depths": "depth", "edges": "edges", "edge": "edges", "sketch": "sketch", "sketches": "sketch",
    "normals": "normals", "condition": "condition", "conditioning": "condition",
}  # fmt: skip
# What is called a map of scans: normals are people there.
OF_SCANS = {word: name for word, name in WORDS.items() if name == "mask"}
OF_SCANS |= dict.fromkeys(("label", "labels", "labelstr", "dseg"), "labels")
_IMAGES = frozenset(
    {"image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "imagestr"}
    | {"clip", "clips", "video", "videos"}
)
_ENDING = re.compile(r"^(.+)[_\-. ]([a-z]+)$", re.IGNORECASE)


def beside(names: Iterable[str], words: Mapping[str, str] = WORDS) -> dict[str, dict[str, str]]:
    """Column -> example -> map, from the names of files alone; `words` say what is called a map."""
    names, owners = list(names), defaultdict[str, list[str]](list)
    for name in names:
        if _map_of(name, words) is None:
            key = _key(name)
            # Of scans the last word may be the kind: a map is of all kinds of one body.
            for one in {key, key.rpartition("_")[0]} if words is OF_SCANS else {key}:
                owners[one].append(name)
    told = [(*said, name) for name in names if (said := _map_of(name, words)) is not None]
    found: dict[str, dict[str, str]] = {}
    for column, key, name in sorted(told, key=lambda one: len(one[1])):  # the one of the same name last, and so kept
        for owner in owners.get(key, ()):
            found.setdefault(column, {})[owner] = name
    return found


def is_map(name: str) -> bool:
    """Whether a file is called a map of another."""
    return _map_of(name, WORDS) is not None


def _map_of(name: str, words: Mapping[str, str]) -> tuple[str, str] | None:
    """(the column, the key of the example) of a file that may be a map by its name."""
    folder, base = posixpath.split(name)
    stem, parts = base[: len(base) - len(suffix(base))], folder.split("/") if folder else []
    ending = _ENDING.match(stem)
    said = words.get(ending[2].lower()) if ending else None
    stem = ending[1] if ending and said else stem
    for place, part in enumerate(parts):
        if part.lower() in words:
            rest = "/".join([*parts[:place], *parts[place + 1 :]])
            return words[part.lower()], _plain(rest, stem)
    return (said, _plain(folder, stem)) if said else None


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return _plain(folder, base[: len(base) - len(suffix(base))])


def _plain(folder: str, stem: str) -> str:
    """A file without its ending and without folders that only say that images lie there."""
    return "/".join([*(part for part in folder.split("/") if part and part.lower() not in _IMAGES), stem])


def in_tables(tables: Iterable[tuple[str, Table]]) -> dict[str, dict[str, str]]:
    """Column -> example -> map, for columns of paths to other files of the set."""
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
