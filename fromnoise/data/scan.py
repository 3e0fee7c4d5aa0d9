"""What is in the data: every file looked at once, by its header and the hash of its bytes, without decoding a pixel.

`scan` turns any source into a `Listing`: the examples that make one usable set, with their columns and splits, and
every other file with the reason why it is left out.  Damage that neither a header nor the end of a file shows is
found when the cache decodes it, and listed in the same way.  What a scan found out is kept in an index (`index.py`).
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.codec import Gathered, Gathering, Medium, Size
from fromnoise.data import columns, files, frames, nifti, pairs, table
from fromnoise.data.arrays import Arrays, Reading, in_memory, rows
from fromnoise.data.fields import Axes, parse_axes
from fromnoise.data.files import Kinds
from fromnoise.data.gathered import Contents, items_of, stack_of, without_names
from fromnoise.data.index import Index, index_file, load_index, save_index
from fromnoise.data.listing import Items, Listing, counted, harmonise, names
from fromnoise.data.look import look_at_files, look_at_rows
from fromnoise.data.media import IMAGE, TEXT, VIDEO, VOLUME, formats
from fromnoise.data.names import of_names
from fromnoise.data.remarks import remarks
from fromnoise.data.splits import BY_NAMES, OPEN, TRAIN, folder_roles, split_of, split_word
from fromnoise.data.stack import Stack
from fromnoise.data.store import default_cache
from fromnoise.data.table import Table
from fromnoise.data.texts import Texts
from fromnoise.data.tree import Entry, Skipped, Tree, Unreadable, open_tree, suffix
from fromnoise.errors import FromNoiseError

__all__ = ["BUNDLED", "Listing", "Progress", "Skipped", "scan"]

Progress = Callable[[int, int], None]
_ASSETS = Path(__file__).parent / "assets"
BUNDLED = {"emoji": _ASSETS / "emoji.zip", "digits": _ASSETS / "digits.npz"}


def scan(
    source: str | Path | np.ndarray,
    *,
    channels_first: bool = False,
    axes: str | None = None,
    fps: float | None = None,
    size: Size | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Listing:
    """Lists a folder, archive, file, table, bundled set (`emoji`, `digits`), array (n, h, w[, c]) or strings (n,).

    `channels_first` and `axes` say how arrays are read, where the rule of `fields.py` would not; TIFF of several pages
    are scans by `axes` of `zyx`, and pictures by `hw`; `fps` says that folders of numbered pictures are clips of so
    many frames a second, or 0 that they are none, where `frames.py` would not;
    `size` is what `open_dataset` will be asked for, since what an example is may depend on it.
    `progress` is called with (files or rows done, in all).  Raises FromNoiseError where nothing usable is found.
    """
    reading = Reading(channels_first=channels_first, axes=parse_axes(axes))
    if isinstance(source, np.ndarray):
        return _in_memory(source, reading, progress)
    skipped, stacks = list[Skipped](), list[Stack]()
    path = _path(source)
    tree, kinds, tables = _sorted(path, reading.axes, fps, skipped)
    notes = [*kinds.notes, *(note for _, one in tables for note in one.notes)]
    medium = kinds.medium
    maps = _maps(tree, kinds, tables) if medium in (IMAGE, VIDEO, VOLUME) and not kinds.clips else {}
    skipped = _as_maps(tree, kinds, skipped) if medium is VIDEO else skipped
    if maps:
        kinds = _without(tree, kinds, pairs.taken(maps))
    if isinstance(medium, Gathering) and len(kinds.examples):
        contents, beside = _contents(tree, kinds, maps)
        gathered = _enough(str(source), lambda: medium.gather(contents, size, beside))
        return _gathered(str(source), medium, gathered, tree, tables, skipped, notes)
    file = index_file(cache_dir or default_cache(), path)
    known = load_index(file)
    of_rows: dict[str, np.ndarray] = {}
    hashed = partial(_hashed, known.arrays, of_rows, reading, progress)
    parts: list[Items] = []
    if kinds.arrays:
        alone, images = len(kinds.arrays) == 1 and not kinds.examples, len(kinds.examples) >= len(kinds.arrays)
        arrays = Arrays(tree, kinds.arrays, reading, alone=alone, images=images)
        if medium is not arrays.medium:
            kinds, others = files.apart(tree, kinds, arrays.medium)
            skipped += others
        medium, parts = arrays.medium, arrays.parts(stacks, hashed)
        skipped += arrays.skipped
        notes += arrays.notes
    found = look_at_files(tree, kinds.examples, medium, known, skipped, progress)
    _remember(file, known, tree, medium, found, of_rows)
    own = [tree.entries.names[row] for row in found.row]
    if kinds.clips:
        medium, (found, clips, left, told) = VIDEO, frames.join(tree, kinds.clips, found, tables)
        stacks, own = [clips], clips.names
        skipped += left
        notes += told
    captions = files.captions(tree, kinds, own, skipped, notes)
    known = _joined(_described(found, own, captions, bool(tables)), own, tables)
    of_maps = {column: Texts.of(of.get(name, "") for name in own) for column, of in maps.items()}
    parts.append(replace(known, columns={**known.columns, **of_maps}))
    return _listing(str(source), medium, parts, skipped, tree, stacks, notes, maps)


def _sorted(
    path: Path, axes: Axes | None, fps: float | None, skipped: list[Skipped]
) -> tuple[Tree, Kinds, list[tuple[str, Table]]]:
    """The tree at a path, its files by kind, and the tables among them."""
    if os.path.isfile(path) and path.suffix.lower() in table.SUFFIXES:
        tree, tables = files.from_table(path, skipped)
        kinds = files.sort(tree, axes, fps or 0)
    else:
        tree = open_tree(path)
        kinds = files.sort(tree, axes, fps)
        tables = files.tables(tree, kinds, skipped)
    if kinds.clips and frames.described(kinds.clips, tables):
        if fps is None:
            kinds = files.sort(tree, axes, 0)
        else:
            kinds.notes.append(
                "a table describes frames, and clips take what it says of their folders: name these in it."
            )
    skipped += [*tree.skipped, *kinds.skipped]
    return tree, kinds, tables


def _path(source: str | Path) -> Path:
    """Where the data lie; a folder of the user's own comes before a bundled set of that name."""
    if isinstance(source, str) and not source.strip():
        raise FromNoiseError("The name of the data is empty: give a folder, archive or file; . is this folder.")
    bundled = BUNDLED.get(source) if isinstance(source, str) and not os.path.exists(source) else None
    return bundled or Path(source).expanduser()


def _in_memory(source: np.ndarray, reading: Reading, progress: Progress | None) -> Listing:
    if source.dtype.kind in "TU":
        gathered = _enough("these strings", lambda: TEXT.gather_rows(source))
        return _listing(
            "strings", TEXT, [items_of(gathered)], [], None, [stack_of("strings", gathered)], gathered.notes
        )
    try:
        medium, stack, notes = in_memory(source, reading)
    except Unreadable as error:
        raise FromNoiseError(f"The array {error}.") from error
    return _listing("array", medium, [rows(0, stack, look_at_rows(stack, progress))], [], None, [stack], notes)


def _gathered(
    source: str,
    medium: Medium[Any, Any],
    gathered: Gathered,
    tree: Tree,
    tables: Sequence[tuple[str, Table]],
    skipped: Sequence[Skipped],
    notes: Sequence[str],
) -> Listing:
    left = without_names(skipped) if gathered.nameless else list(skipped)
    for name, _ in tables if gathered.nameless else ():
        notes = [note.replace(name, "a table") for note in notes]
    left += [Skipped(name=name, reason=why) for name, why in gathered.broken.items()]
    items, stacks = items_of(gathered), [stack_of(source, gathered)]
    items = items if gathered.nameless else _described(items, gathered.files)
    items = _joined(items, gathered.files, tables)
    return _listing(source, medium, [items], left, tree, stacks, [*notes, *gathered.notes], gathered.maps, gathered.why)


def _maps(tree: Tree, kinds: Kinds, tables: Sequence[tuple[str, Table]]) -> dict[str, dict[str, str]]:
    """Column -> example -> the image, clip or NIfTI that belongs to it (`pairs.py`)."""
    scans = kinds.medium is VOLUME
    words = pairs.OF_SCANS if scans else pairs.WORDS
    own = {tree.entries.names[place]: None for place in kinds.examples}
    found = pairs.beside(own, words) | pairs.in_tables(tables)
    found = {
        column: {one: map_ for one, map_ in of.items() if map_ in own and (suffix(map_) in nifti.SUFFIXES) == scans}
        for column, of in found.items()
    }
    return {column: of for column, of in found.items() if of}


def _as_maps(tree: Tree, kinds: Kinds, skipped: Sequence[Skipped]) -> list[Skipped]:
    """The same files left out of a set of clips, with the reason of those that are still pictures beside a clip."""
    stills = {file.name for file in skipped if suffix(file.name) in IMAGE.suffixes}
    beside = pairs.taken(pairs.beside([*(tree.entries.names[place] for place in kinds.examples), *sorted(stills)]))
    why = "a still picture beside a clip, whose maps are clips: save it as an animated WebP or GIF of as many frames"
    return [replace(file, reason=why) if file.name in stills & {*beside} else file for file in skipped]


def _contents(tree: Tree, kinds: Kinds, maps: Mapping[str, Mapping[str, str]]) -> tuple[Contents, dict[str, Contents]]:
    """The examples, and by column the maps that belong to them."""
    names = tree.entries.names
    where = {name: place for place, name in enumerate(names)} if maps else {}
    own = {column: {one: where[map_] for one, map_ in of.items() if map_ in where} for column, of in maps.items()}
    examples = Contents(tree, {names[place]: place for place in kinds.examples})
    return examples, {column: Contents(tree, places) for column, places in own.items()}


def _without(tree: Tree, kinds: Kinds, taken: Collection[str]) -> Kinds:
    left = array("q", (place for place in kinds.examples if tree.entries.names[place] not in taken))
    return replace(kinds, examples=left)


def _enough(source: str, gather: Callable[[], Gathered]) -> Gathered:
    try:
        return gather()
    except Unreadable as error:
        raise FromNoiseError(f"Nothing can be learned from {source}: {error}.") from error


def _hashed(
    known: Mapping[str, np.ndarray],
    rows: dict[str, np.ndarray],
    reading: Reading,
    progress: Progress | None,
    entry: Entry,
    stack: Stack,
) -> np.ndarray:
    """The digests of a stack's rows, from the index where they are known; kept in `rows` for the next one."""
    key = f"{entry.stamp.hex()} {stack.key} {reading}"
    digests = known.get(key)
    if digests is None or len(digests) != len(stack.pixels):
        digests = look_at_rows(stack, progress)
    if any(entry.stamp):
        rows[key] = digests
    return digests


def _remember(
    file: Path, known: Index, tree: Tree, medium: Medium[Any, Any], found: Items, rows: dict[str, np.ndarray]
) -> None:
    stamps = tree.entries.stamps[found.row]
    stamped = np.flatnonzero(stamps.any(axis=1))
    if known.arrays.keys() == rows.keys() and len(known.stamps) == len(stamped) == (known.find(stamps) >= 0).sum():
        return
    save_index(
        file,
        Index(
            medium=medium.name,
            headers=found.headers,
            header=found.header[stamped],
            digests=found.digest[stamped],
            stamps=stamps[stamped],
            arrays=rows,
        ),
    )


def _described(examples: Items, names: Sequence[str], captions: Texts | None = None, described: bool = False) -> Items:
    """The examples with what their names say, and the captions beside them; `described` says that tables describe them.

    Without `captions` the examples are texts themselves, which nothing needs to describe.
    """
    split, found = _folders(names)
    split = np.where(split == OPEN, examples.split, split).astype(np.int8)
    if captions is not None:
        found["caption"] = captions
    found |= of_names(names, found["class"], described or captions is None or any(captions.words[1:]))
    return replace(examples, split=split, columns={**found, **examples.columns})


def _joined(examples: Items, names: Sequence[str], tables: Sequence[tuple[str, Table]]) -> Items:
    """The examples with the columns of tables, and the split that these or their names give."""
    split, found = examples.split, dict(examples.columns)
    for name, table_ in tables:
        row = np.fromiter((table_.rows.get(one, -1) for one in names), np.int64, len(names))
        for column, texts in table_.columns.items():
            below = found.get(column, Texts.same("", len(names)))
            found[column] = texts.take(row).over(below)
        said: int | np.ndarray = split_of(split_word(Path(name).stem))
        if said == OPEN and "split" in table_.columns:
            words = table_.columns["split"].take(row)
            said = np.array([split_of(word) for word in words.words])[words.codes]
            if said.max(initial=OPEN) != OPEN:  # what is a split is no property of an example
                del found["split"]
        split = np.where((split == OPEN) & (row >= 0), said, split).astype(np.int8)
    return replace(examples, split=split, columns=found)


def _folders(names: Sequence[str]) -> tuple[np.ndarray, dict[str, Texts]]:
    """The split, class and folder of files, by the folders that they lie in."""
    folders = Texts.of(name.rpartition("/")[0] for name in names)
    used, place = np.unique(folders.codes, return_inverse=True)
    splits, classes, deeper = folder_roles([folders.words[code] for code in used])
    found = {"class": Texts.of(classes).take(place)}
    if classes != deeper:
        found["folder"] = Texts.of(deeper).take(place)
    return np.array(splits, dtype=np.int8)[place], found


def _listing(
    source: str,
    medium: Medium[Any, Any],
    parts: Sequence[Items],
    skipped: list[Skipped],
    tree: Tree | None,
    stacks: list[Stack],
    notes: Sequence[str] = (),
    maps: Collection[str] = (),
    why: str = "",
) -> Listing:
    items = Items.concat(parts)
    if len(items) == 0:
        raise FromNoiseError(_nothing(source, medium, skipped))
    items, odd = harmonise(items, medium, lambda places: names(items, tree, stacks, places))
    common, said = medium.common(counted(items, lambda header: header))
    notes = [*notes, *said]
    if (items.split > TRAIN).all():
        items = replace(items, split=np.full_like(items.split, OPEN))
        notes.append("every example is named for validation or test: the names are ignored.")
    profiles = [columns.profile(name, texts, "map" if name in maps else None) for name, texts in items.columns.items()]
    profiles = tuple(p for p in profiles if p.distinct > 1 or (p.distinct and p.role in ("text", "map")))
    return Listing(
        source=source,
        medium=medium,
        items=items,
        skipped=tuple(sorted([*skipped, *odd], key=lambda file: file.name)),
        profiles=profiles,
        common=common,
        notes=(*notes, *remarks(items.columns, profiles)),
        parted=why or BY_NAMES,
        tree=tree,
        stacks=tuple(stacks),
    )


def _nothing(source: str, medium: Medium[Any, Any], skipped: list[Skipped]) -> str:
    remedy = f"point to a folder, archive or table of {formats()} files, or an array file"
    if not skipped:
        return f"{source} holds no files: {remedy}."
    first, what = skipped[0], f"no usable {medium.name} ({len(skipped):,} skipped"
    return f"{source} holds {what}, such as {first.name}: {first.reason}): {remedy}."
