"""Sorts the files of a tree by what they may be: examples, arrays, tables, captions; the rest is left out by name.

The suffix decides, and the first bytes where it says nothing; animated pictures share theirs with still ones, stacks of
slices with pictures, so a few are looked at.  A set is of one medium, that of most of its files.
"""

from __future__ import annotations

import csv
import json
import os
import posixpath
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from fromnoise.codec import Medium, Sharing
from fromnoise.codec.medium import HEAD
from fromnoise.data import frames, table
from fromnoise.data.documents import decode
from fromnoise.data.fields import Axes
from fromnoise.data.frames import Clips
from fromnoise.data.media import IMAGE, MEDIA, TEXT, formats
from fromnoise.data.pairs import is_map
from fromnoise.data.splits import NAMES
from fromnoise.data.stack import is_array
from fromnoise.data.table import Table
from fromnoise.data.texts import Growing, Texts
from fromnoise.data.tree import (
    TAR_SUFFIXES,
    ZIP_SUFFIXES,
    Entry,
    Folder,
    Skipped,
    Tree,
    Unreadable,
    read,
    reason,
    suffix,
)
from fromnoise.errors import FromNoiseError

_NOTES = ("readme", "license", "licence", "notice", "copying", "copyright", "authors", "changelog", "credits", "index")
_NOTE_SUFFIXES = (".md", ".rst", ".txt", ".html", ".htm", ".pdf", ".doc", ".docx", ".url", ".log", ".cff", ".bib")
_UNREAD = (".svg", ".heic", ".heif", ".avif", ".psd", ".eps", ".ico", ".m4a", ".aac", ".wma")
_RUN, _SPLIT = "run.json", "split.jsonl"  # what makes a folder a run, see `folder.py`
_LINE = 1 << 16  # bytes
_CAPTION_LIMIT = 1 << 20
_LOOKED = 32  # by how many files it is decided whose a shared ending is


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """The files of a tree by kind; `examples`, all of `medium`, are places among its entries, frames where there are
    `clips`; `notes` are sentences."""

    medium: Medium[Any, Any]
    examples: array
    arrays: list[Entry]
    tables: list[Entry]
    captions: dict[str, int] = field(default_factory=dict)
    skipped: list[Skipped]
    notes: list[str] = field(default_factory=list)
    clips: Clips | None = None


def sort(tree: Tree, axes: Axes | None = None, fps: float | None = None) -> Kinds:
    """The files by kind; a `.txt` beside an example of the same stem is its caption.

    Any other text is a note, unless there are no other examples: then it is what the set is made of.  Axes that are
    asked for say whose shared endings are: those of pictures the picture's, three of space the other medium's.  `fps`
    is that of `scan`.
    """
    found = {name: array("q") for name in MEDIA}
    endings = {ending: name for name, medium in MEDIA.items() for ending in medium.suffixes}
    sharing = {
        ending: name for name, medium in MEDIA.items() if isinstance(medium, Sharing) for ending in medium.shared
    }
    shared: dict[str, array] = defaultdict(partial(array, "q"))
    arrays, tables, texts = [], [], array("q")
    runs, skipped, notes = _runs(tree)
    for place, name in enumerate(tree.entries.names):
        ending = suffix(name)
        if place in runs:
            continue
        if ending in TEXT.suffixes:
            texts.append(place)
        elif ending in endings:
            found[endings[ending]].append(place)
            if ending in sharing:
                shared[sharing[ending]].append(place)
        elif is_array(name):
            arrays.append(tree.entries[place])
        elif ending in table.SUFFIXES:
            tables.append(tree.entries[place])
        elif (told := _sniffed(tree, tree.entries[place])) in MEDIA:
            found[told].append(place)
        else:
            skipped.append(Skipped(name=name, reason=told))
    for medium, places in shared.items():
        if axes.space == 3 if axes else _claimed(tree, MEDIA[medium], places):
            _give(MEDIA[medium], places, found)
    if not arrays and not any(found.values()):
        chosen = [place for place in texts if not _is_note(tree.entries.names[place])] or texts
        found[TEXT.name] = array("q", chosen)
        texts = array("q", sorted(set(texts) - set(chosen)))
    medium = _majority(tree, found, len(arrays))
    for other, places in found.items():
        skipped += _others(tree, other, places, medium) if other != medium.name else []
    if medium is not IMAGE:
        why = f"an array, and most of the set is {medium.name}: train on it by itself"
        skipped += [Skipped(name=entry.name, reason=why) for entry in arrays]
        arrays = []
    examples = found[medium.name]
    kinds = Kinds(medium=medium, examples=examples, arrays=arrays, tables=tables, skipped=skipped, notes=notes)
    kinds, stems = _in_clips(tree, kinds, texts, fps)
    for place in texts:
        name = tree.entries.names[place]
        if suffix(name) == ".txt" and _stem(name) in stems and tree.entries.sizes[place] <= _CAPTION_LIMIT:
            kinds.captions[_stem(name)] = place
        else:
            why = "a note, not an example" if _is_note(name) else "a note: no example of the same name is beside it"
            kinds.skipped.append(Skipped(name=name, reason=why))
    return kinds


def _in_clips(tree: Tree, kinds: Kinds, texts: Iterable[int], fps: float | None) -> tuple[Kinds, Collection[str]]:
    """The same with pictures as frames of clips, where they are (`frames.py`), and what captions are called.

    Raises FromNoiseError where a rate is asked for and there are none.
    """
    names, found = tree.entries.names, (None, [], [])
    stems = {_stem(names[place]) for place in kinds.examples} if texts else set()
    if fps is None and any(_stem(names[place]) in stems for place in texts):
        fps = 0  # frames are not described one by one
    if kinds.medium is IMAGE and len(kinds.examples):
        found = frames.find(tree, kinds.examples, fps)
    clips, others, notes = found
    if fps and not (clips and clips.folders):
        raise FromNoiseError(
            f"{tree.name} holds no folders of numbered pictures, which alone have --fps: leave it out."
        )
    if clips is None:
        return replace(kinds, notes=[*kinds.notes, *notes]), stems
    why = "an array, and most of the set is folders of frames: train on it by itself"
    left = [Skipped(name=entry.name, reason=why) for entry in kinds.arrays]
    places = array("q", sorted(place for one in clips.folders.values() for place in one.places.tolist()))
    kinds = replace(kinds, clips=clips, examples=places, arrays=[], skipped=[*kinds.skipped, *others, *left])
    return kinds, clips.folders.keys()


def _runs(tree: Tree) -> tuple[frozenset[int], list[Skipped], list[str]]:
    """The places of what lies in run folders of fromnoise inside the tree, each folder with its reason, and a sentence.

    A model would learn from what an earlier one made, of which a run folder is full.
    """
    names, skipped, inside = tree.entries.names, [], set[int]()
    splits = {name.removesuffix(_SPLIT): place for place, name in enumerate(names) if name.endswith("/" + _SPLIT)}
    found = [name.removesuffix(_RUN) for name in names if name.endswith("/" + _RUN)]
    for folder in sorted(folder for folder in found if folder in splits and _is_split(tree, splits[folder])):
        places = {place for place, name in enumerate(names) if name.startswith(folder)} - inside
        if places:  # otherwise it lies in another run, as a student does
            why = f"a run folder of fromnoise, left out with its {len(places):,} files"
            skipped.append(Skipped(name=folder + _RUN, reason=why))
        inside |= places
    what = "a run folder" if len(skipped) == 1 else f"{len(skipped):,} run folders"
    said = [f"{len(inside):,} files of {what} inside the data are left out."] if inside else []
    return frozenset(inside), skipped, said


def _is_split(tree: Tree, place: int) -> bool:
    """Whether a file begins with a split and the name of an example, as a run's does."""
    with suppress(Exception):  # of an archive of any kind
        with tree.open(tree.entries[place]) as file:
            first = json.loads(file.readline(_LINE))
        return len(first) == 2 and first[0] in NAMES
    return False


def apart(tree: Tree, kinds: Kinds, medium: Medium[Any, Any]) -> tuple[Kinds, list[Skipped]]:
    """The same as a set of another medium, that of its arrays, and its examples as what is left out."""
    others = _others(tree, kinds.medium.name, kinds.examples, medium)
    return replace(kinds, medium=medium, examples=array("q")), others


def _others(tree: Tree, name: str, places: Iterable[int], medium: Medium[Any, Any]) -> list[Skipped]:
    why = f"{name}, and most of the set is {medium.name}: train on it by itself"
    return [Skipped(name=tree.entries.names[place], reason=why) for place in places]


def _claimed(tree: Tree, medium: Medium[Any, Any], places: array) -> bool:
    """Whether `medium` claims its share of the files at `places`, whose endings another has, too.

    The others are then what is left out.
    """
    assert isinstance(medium, Sharing)
    some, claimed = places[:: -(-len(places) // _LOOKED) or 1], 0
    for place in some:
        with suppress(Unreadable):  # which is said when all are looked at
            claimed += medium.claims(read(tree, tree.entries[place]))
    return claimed >= max(1, medium.share * len(some))


def _give(medium: Medium[Any, Any], places: array, found: dict[str, array]) -> None:
    """Makes the files at `places` those of `medium`."""
    its = set(places)
    for name, others in found.items():
        found[name] = array("q", [place for place in others if place not in its])
    found[medium.name] = array("q", sorted({*found[medium.name], *its}))


def _majority(tree: Tree, found: dict[str, array], arrays: int) -> Medium[Any, Any]:
    """The medium of most files, without those that are called maps of others where media differ; arrays are of images,
    and so is what is equally many."""
    counts = {name: len(places) for name, places in found.items()}
    if sum(map(bool, counts.values())) > 1:
        names = tree.entries.names
        own = {name: sum(not is_map(names[place]) for place in places) for name, places in found.items()}
        counts = own if any(own.values()) else counts
    counts[IMAGE.name] += arrays
    return MEDIA[max(counts, key=counts.__getitem__)]


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _is_note(name: str) -> bool:
    return PurePosixPath(name).name.lower().startswith(_NOTES)


def _sniffed(tree: Tree, entry: Entry) -> str:
    """The medium of a file whose ending says nothing, or why it is none."""
    name = PurePosixPath(entry.name).name.lower()
    if _is_note(name) or name.endswith(_NOTE_SUFFIXES):
        return "a note, not an example"
    if name.endswith(ZIP_SUFFIXES + TAR_SUFFIXES):
        return "an archive inside the set: unpack it, or give it on its own"
    if name.endswith(_UNREAD):
        return f"{suffix(name)} is not read: convert it to one of {formats()}"
    try:
        with tree.open(entry) as file:
            head = file.read(HEAD)
    except Exception as error:  # zipfile and tarfile raise many kinds for a broken member
        return f"cannot be read: {reason(error)}"
    known = (medium.name for medium in MEDIA.values() if medium.sniff(head))
    return next(known, f"none of {', '.join(MEDIA)}, array and table")


def captions(
    tree: Tree, kinds: Kinds, names: Sequence[str], skipped: list[Skipped], notes: list[str] | None = None
) -> Texts:
    """The texts of the sidecars of the examples `names`; those that cannot be read go to `skipped`, and what was
    assumed in reading the first of the others to `notes`."""
    column, assumed = Growing(), []
    for row, name in enumerate(names if kinds.captions else ()):
        place = kinds.captions.get(name if kinds.clips else _stem(name))
        if place is not None:
            entry = tree.entries[place]
            try:
                text, said = decode(read(tree, entry), entry.name)
                column.put(row, " ".join(text.split()))
                assumed += [said] * bool(said)
            except Unreadable as error:
                skipped.append(Skipped(name=entry.name, reason=str(error)))
    if notes is not None:
        notes += assumed[:1]
    return column.texts(len(names))


def tables(tree: Tree, kinds: Kinds, skipped: list[Skipped]) -> list[tuple[str, Table]]:
    """The tables that name files or clips of the tree; the others, and the files that they miss, go to `skipped`."""
    clips = kinds.clips.folders if kinds.clips else ()
    names = {*tree.entries.names, *clips, *(file.name for file in tree.skipped)} if kinds.tables else set()
    found = []
    for entry in kinds.tables:
        try:
            joined = _join(tree, entry, names.__contains__)
        except (ValueError, Unreadable, csv.Error) as error:
            skipped.append(Skipped(name=entry.name, reason=f"not a readable table: {reason(error)}"))
            continue
        if joined is None:
            skipped.append(Skipped(name=entry.name, reason="a table that names no file of the set"))
        else:
            found.append((entry.name, joined))
            skipped.extend(_missing(entry.name, joined.missing, os.path.abspath(tree.name)))
    return found


def from_table(file: Path, skipped: list[Skipped]) -> tuple[Tree, list[tuple[str, Table]]]:
    """A table that is itself the data: the files that it names, relative to its folder or absolute."""
    alone = Folder(file.parent, only=[file.name])
    try:
        joined = _join(alone, alone.entries[0], lambda name: (file.parent / name).is_file())
    except (ValueError, Unreadable, csv.Error) as error:
        raise FromNoiseError(
            f"The table {file} cannot be read ({reason(error)}): save it as CSV or JSON lines in UTF-8."
        ) from error
    if joined is None:
        raise FromNoiseError(
            f"No column of the table {file} names files that exist: give paths relative to its folder, as `file_name`."
        )
    skipped.extend(_missing(file.name, joined.missing))
    maps = dict.fromkeys(target for targets in joined.images.values() for target in targets if target)
    return Folder(file.parent, only=list(dict.fromkeys([*joined.rows, *maps]))), [(file.name, joined)]


def _join(tree: Tree, entry: Entry, exists: Callable[[str], bool]) -> Table | None:
    text, said = decode(read(tree, entry), entry.name)
    found = table.match(entry.name, table.parse(entry.name, text), exists)
    return found and replace(found, notes=(*([said] if said else []), *found.notes))


def _missing(where: str, names: Iterable[str], folder: str = "") -> Iterator[Skipped]:
    """The files that a table names and that are not in the set, which is a `folder` or else the table's own."""
    for name in names:
        why = "not there"
        if folder and posixpath.isabs(name) and name.startswith(f"{folder}/"):
            why = "by its whole path: name it from the table's folder on"
        elif folder and (posixpath.isabs(name) or name.startswith("../")):
            why = "it lies outside the folder: give the table itself as the data"
        yield Skipped(name=name, reason=f"named in {where}, but {why}")
