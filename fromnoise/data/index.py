"""What earlier scans of a source found out, so that a file is read and hashed once and not at every opening.

An index is one file beside the cache: for each file's stamp (`tree.py`), which changes when name, size, times or inode
do, the digest of its content and its header; for each array file the digests of its rows.  It holds what the last scan
found and nothing older.  Losing it costs a scan.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fromnoise.codec import Header
from fromnoise.data.media import MEDIA
from fromnoise.data.store import keep
from fromnoise.version import __version__

_FORMAT = 4
_NONE = np.zeros((0, 2), dtype=np.uint64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """`stamps` and `digests` (n, 2) uint64 and `header` (n,), a place in `headers`, of files; digests of arrays' rows.

    All headers are of the medium called `medium`.
    `arrays` goes by the stamp of the file, in hexadecimal, and the array's layout.
    """

    medium: str = ""
    headers: tuple[Header, ...] = ()
    header: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    digests: np.ndarray = field(default_factory=lambda: _NONE)
    stamps: np.ndarray = field(default_factory=lambda: _NONE)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def find(self, stamps: np.ndarray) -> np.ndarray:
        """(n,) int64, the places of `stamps` (n, 2) in this index, -1 for those that are not there."""
        if len(self.stamps) == 0:
            return np.full(len(stamps), -1)
        order = np.argsort(self.stamps[:, 0])
        place = np.searchsorted(self.stamps[:, 0], stamps[:, 0], sorter=order).clip(max=len(order) - 1)
        found = order[place]
        known = (self.stamps[found] == stamps).all(axis=1) & stamps.any(axis=1)
        return np.where(known, found, -1)


def index_file(cache: Path, source: Path) -> Path:
    name = blake2b(os.path.realpath(source).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return cache / "index" / f"{name}.safetensors"


def load_index(file: Path) -> Index:
    """The index in `file`; an empty one where there is none, or another version wrote it."""
    try:
        with safe_open(file, framework="numpy") as stored:
            meta = json.loads((stored.metadata() or {}).get("fromnoise", "{}"))
            known = (meta.get("format"), meta.get("version")) == (_FORMAT, __version__)
            if not known or meta.get("medium") not in MEDIA:
                return Index()
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, ValueError):
        return Index()
    of_medium = MEDIA[meta["medium"]].header
    return Index(
        medium=meta["medium"],
        headers=tuple(of_medium(**header) for header in meta["headers"]),
        header=tensors.pop("header"),
        digests=tensors.pop("digests"),
        stamps=tensors.pop("stamps"),
        arrays=tensors,
    )


def save_index(file: Path, index: Index) -> None:
    """Writes what can be written: without an index the next scan reads every file again, and nothing else is lost."""
    headers = [asdict(header) for header in index.headers]  # pyright: ignore[reportArgumentType]
    meta = {"format": _FORMAT, "version": __version__, "medium": index.medium, "headers": headers}
    tensors = {"header": index.header, "digests": index.digests, "stamps": index.stamps, **index.arrays}
    whole = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    with suppress(SafetensorError):
        keep(file, lambda path: save_file(whole, path, {"fromnoise": json.dumps(meta)}))
