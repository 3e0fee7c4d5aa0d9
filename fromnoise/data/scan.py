"""What is in the data: every file looked at once, by its header and the hash of its bytes, without decoding a pixel.

`scan` turns any source into a `Listing`: the examples that make one usable set, with their columns and splits, and
every other file with the reason why it is left out.  Damage that neither a header nor the end of a file shows is
found when the cache decodes it, and listed in the same way.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

from fromnoise.data import columns, files, table
from fromnoise.data.files import Kinds
from fromnoise.data.image import Header, probe
from fromnoise.data.listing import Item, Listing, harmonise, widest
from fromnoise.data.splits import folder_roles, split_of, split_word
from fromnoise.data.stack import Stack, as_stack, common_stem, open_array, open_npz
from fromnoise.data.table import Table
from fromnoise.data.tree import Entry, Skipped, Tree, Unreadable, open_tree, read
from fromnoise.errors import FromNoiseError

__all__ = ["BUNDLED", "Item", "Listing", "Progress", "Skipped", "scan"]

Progress = Callable[[int, int], None]
_ASSETS = Path(__file__).parent / "assets"
BUNDLED = {"emoji": _ASSETS / "emoji.zip", "digits": _ASSETS / "digits.npz"}
_WORKERS = 2  # reading and hashing large files overlap; parsing holds the interpreter's lock, so more gain nothing
_CHUNK = 64


def scan(source: str | Path | np.ndarray, *, channels_first: bool = False, progress: Progress | None = None) -> Listing:
    """Lists a folder, archive, array file, table, bundled set (`emoji`, `digits`) or array (n, h, w[, c]).

    `progress` is called with (files done, files in all).  Raises FromNoiseError where nothing usable is found.
    """
    if isinstance(source, np.ndarray):
        try:
            stack = as_stack(source, channels_first=channels_first)
        except Unreadable as error:
            raise FromNoiseError(f"The array {error}.") from error
        return _listing("array", list(_rows("array", 0, stack, {})), [], None, [stack])
    # A folder of the user's own by that name comes first.
    bundled = BUNDLED.get(source) if isinstance(source, str) and not os.path.exists(source) else None
    path = bundled or Path(source).expanduser()
    skipped: list[Skipped] = []
    if os.path.isfile(path) and path.suffix.lower() in table.SUFFIXES:
        tree, tables = files.from_table(path, skipped)
        kinds = files.sort(tree)
    else:
        tree = open_tree(path)
        kinds = files.sort(tree)
        tables = files.tables(tree, kinds, skipped)
    skipped += [*tree.skipped, *kinds.skipped]
    stacks: list[Stack] = []
    alone = os.path.isfile(path) and len(tree.entries) == 1
    items = list(_arrays(tree, kinds, stacks, skipped, channels_first=channels_first, alone=alone))
    images = list(_images(tree, kinds.images, skipped, progress))
    items += _described(images, tables, files.captions(tree, kinds, skipped))
    return _listing(str(source), items, skipped, tree, stacks)


def _images(tree: Tree, entries: list[Entry], skipped: list[Skipped], progress: Progress | None) -> Iterator[Item]:
    """Probes and hashes the image files, each read once."""

    def look(entry: Entry) -> tuple[Header, bytes] | Unreadable:
        try:
            data = read(tree, entry)
            return probe(data), blake2b(data, digest_size=16).digest()
        except Unreadable as error:
            return error

    with ThreadPoolExecutor(1 if tree.sequential else _WORKERS) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower, and says so
        for start in range(0, len(entries), _CHUNK):
            chunk = entries[start : start + _CHUNK]
            for entry, seen in zip(chunk, pool.map(look, chunk), strict=True):
                if isinstance(seen, Unreadable):
                    skipped.append(Skipped(name=entry.name, reason=str(seen)))
                else:
                    yield Item(name=entry.name, header=seen[0], digest=seen[1], entry=entry)
            if progress is not None:
                progress(start + len(chunk), len(entries))


def _described(items: list[Item], tables: Sequence[tuple[str, Table]], captions: Mapping[str, str]) -> list[Item]:
    """The items with their columns (class and folder, caption, tables) and the split that names give them."""
    splits, classes, folders = folder_roles([item.name for item in items])
    deeper = classes != folders
    described = []
    for item, split, label, folder in zip(items, splits, classes, folders, strict=True):
        values = {"class": label} if label else {}
        if deeper and folder:
            values["folder"] = folder
        if item.name in captions:
            values["caption"] = captions[item.name]
        for name, table_ in tables:
            row = table_.rows.get(item.name)
            if row is not None:
                values |= row
                split = split or split_of(split_word(Path(name).stem)) or split_of(row.get("split", ""))
        described.append(replace(item, values=values, split=split))
    return described


def _arrays(
    tree: Tree, kinds: Kinds, stacks: list[Stack], skipped: list[Skipped], *, channels_first: bool, alone: bool
) -> Iterator[Item]:
    """The rows of array files; arrays of one axis are the labels of images of the same stem."""
    labels: dict[str, np.ndarray] = {}
    opened: list[tuple[Entry, Stack]] = []
    for entry in kinds.arrays:
        lone = alone or bool(split_word(entry.name))
        try:
            if entry.suffix == ".npz":
                opened += [(entry, stack) for stack in open_npz(tree, entry, channels_first=channels_first)]
            elif (array := open_array(tree, entry)).ndim == 1:
                labels[entry.name] = array.astype(str)
            else:
                opened.append((entry, as_stack(array, channels_first=channels_first, lone=lone)))
        except Unreadable as error:
            skipped.append(Skipped(name=entry.name, reason=str(error)))
    splits, classes, _ = folder_roles([entry.name for entry, _ in opened])
    for (entry, stack), split, label in zip(opened, splits, classes, strict=True):
        columns_ = {name: values.tolist() for name, values in stack.columns.items()}
        for name in [
            n for n in labels if common_stem(n) == common_stem(entry.name) and len(labels[n]) == len(stack.pixels)
        ]:
            columns_["label"] = labels.pop(name).tolist()
        if label and stack.single:
            columns_["class"] = [label]
        word = split_word(stack.key) or split_word(Path(entry.name).name.split(".")[0])
        stacks.append(stack)
        where = f"{entry.name}:{stack.key}" if stack.key else entry.name
        yield from _rows(where, len(stacks) - 1, stack, columns_, split or split_of(word))
    for name in labels:
        skipped.append(Skipped(name=name, reason="labels without as many images of the same name beside them"))


def _rows(
    where: str, number: int, stack: Stack, columns_: Mapping[str, Sequence[str]], split: str | None = None
) -> Iterator[Item]:
    header = stack.header
    layout = f"{header.height} {header.width} {header.channels} {header.dtype}".encode()
    for row, pixels in enumerate(stack.pixels):
        yield Item(
            name=where if stack.single else f"{where}[{row}]",
            header=header,
            digest=blake2b(np.ascontiguousarray(pixels).data, digest_size=16, key=layout).digest(),
            split=split,
            values={name: values[row] for name, values in columns_.items() if values[row]},
            stack=number,
            row=row,
        )


def _listing(source: str, items: list[Item], skipped: list[Skipped], tree: Tree | None, stacks: list[Stack]) -> Listing:
    if not items:
        raise FromNoiseError(_nothing(source, skipped))
    items, odd, notes = harmonise(items)
    if all(item.split in ("val", "test") for item in items):
        items = [replace(item, split=None) for item in items]
        notes.append("every example is named for validation or test: the names are ignored.")
    channels, alpha, dtype = widest(items)
    names = list(dict.fromkeys(name for item in items for name in item.values))
    profiles = [columns.profile(name, [item.values.get(name, "") for item in items]) for name in names]
    return Listing(
        source=source,
        items=tuple(items),
        skipped=tuple(sorted([*skipped, *odd], key=lambda file: file.name)),
        profiles=tuple(p for p in profiles if p.distinct > 1 or p.role == "text"),
        channels=channels,
        alpha=alpha,
        dtype=dtype,
        notes=tuple(notes),
        tree=tree,
        stacks=tuple(stacks),
    )


def _nothing(source: str, skipped: list[Skipped]) -> str:
    remedy = "point to a folder, archive or table of images (PNG, JPEG, WebP, GIF, BMP, TIFF), or an array file"
    if not skipped:
        return f"{source} holds no files: {remedy}."
    first = skipped[0]
    return f"{source} holds no usable image ({len(skipped):,} skipped, such as {first.name}: {first.reason}): {remedy}."
