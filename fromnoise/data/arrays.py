"""The array files of a tree as examples: pictures or fields, with the columns and labels that lie beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fromnoise.codec import Medium
from fromnoise.data.containers import SUFFIXES, Array
from fromnoise.data.fields import Axes, as_field, field_stacks, pictured, too_short
from fromnoise.data.listing import Items
from fromnoise.data.media import FIELD, IMAGE
from fromnoise.data.splits import OPEN, folder_roles, split_of, split_word
from fromnoise.data.stack import Stack, as_stack, common_stem, open_arrays, picture_stacks
from fromnoise.data.texts import Texts
from fromnoise.data.tree import Entry, Skipped, Tree, Unreadable


class Reading(NamedTuple):
    """How the user says that arrays are to be read."""

    channels_first: bool
    axes: Axes | None

    def options(self, lone: bool) -> dict[str, bool]:
        """What pictures are read by."""
        if self.axes is None:
            return {"channels_first": self.channels_first, "lone": lone, "certain": False}
        return {"channels_first": self.axes.layout == "first", "lone": self.axes.many, "certain": True}


def in_memory(array: np.ndarray, reading: Reading) -> tuple[Medium[Any, Any], Stack, list[str]]:
    """An array's medium, its examples, and what is said of them.  Raises Unreadable."""
    alone = [(Entry(name="array", size=0), {"": Array.of(array)}, True)]
    masked = isinstance(array, np.ma.MaskedArray)
    if reading.axes.pictures if reading.axes else not masked and pictured(alone):
        stack = as_stack(array, "array", **reading.options(True))
        return IMAGE, stack, _told([stack], reading)
    stack, note = as_field(array, "array", axes=reading.axes, channels_first=reading.channels_first, lone=True)
    return FIELD, stack, [note]


class Arrays:
    """The array files `entries`, opened; `skipped` and `notes` fill up.

    `alone` says that one of them is all there is, `images` that there are as many files of pictures
    besides, or more.
    """

    def __init__(self, tree: Tree, entries: Sequence[Entry], reading: Reading, *, alone: bool, images: bool) -> None:
        self.reading, self.images, self.skipped, self.notes = reading, images, list[Skipped](), list[str]()
        self.found: list[tuple[Entry, Mapping[str, Array], bool]] = []
        for entry in entries:
            try:
                self.found.append((entry, open_arrays(tree, entry), alone or bool(split_word(entry.name))))
            except Unreadable as error:
                self._skip(entry.name, error)
        # Arrays of one axis are labels of others, unless there are no others.
        flat = [[array.ndim for array in arrays.values()] == [1] for _, arrays, _ in self.found]
        loose = images or not all(flat)
        self.labels: dict[str, np.ndarray] = {}
        beside = [one for one, single in zip(self.found, flat, strict=True) if single and loose]
        for entry, arrays, _ in beside:
            try:
                self.labels[entry.name] = next(iter(arrays.values())).load()
            except Unreadable as error:
                self._skip(entry.name, error)
        self.found = [one for one in self.found if one not in beside]

    @cached_property
    def medium(self) -> Medium[Any, Any]:
        """What the arrays are, by the rule of `fields.py` or as the user says."""
        axes = self.reading.axes
        if self.images:
            return IMAGE
        return IMAGE if (axes.pictures if axes else pictured(self.found)) else FIELD

    @property
    def _beside_images(self) -> bool:
        """Whether the set is of pictures whatever its arrays are, so that each of them must show that it is one."""
        return self.images and self.reading.axes is None

    def parts(self, stacks: list[Stack], digests: Callable[[Entry, Stack], np.ndarray]) -> list[Items]:
        """The rows of all files, whose stacks are appended to `stacks`."""
        opened = self._opened()
        for place, why in sorted(too_short([stack for _, stack in opened]).items(), reverse=True):
            self._skip(opened.pop(place)[1].name, why)
        splits, classes, _ = folder_roles([entry.name.rpartition("/")[0] for entry, _ in opened])
        parts, labels = [], dict(self.labels)
        for (entry, stack), split, label in zip(opened, splits, classes, strict=True):
            found, stem = dict(stack.columns), common_stem(entry.name)
            for name in [n for n in labels if common_stem(n) == stem and len(labels[n]) == len(stack.pixels)]:
                found["label"] = Texts.of_array(labels.pop(name))
            if label and stack.single:
                found["class"] = Texts.same(label, 1)
            word = split_word(stack.key) or split_word(Path(entry.name).name.split(".")[0])
            stacks.append(stack)
            fixed = split_of(word) if split == OPEN else split
            parts.append(rows(len(stacks) - 1, stack, digests(entry, stack), found, fixed))
        for name in labels:
            self._skip(name, "labels without as many examples of the same name beside them")
        return parts

    def _opened(self) -> list[tuple[Entry, Stack]]:
        opened: list[tuple[Entry, Stack]] = []
        for entry, arrays, lone in self.found:
            try:
                if self.medium is IMAGE:
                    if entry.suffix in SUFFIXES or (self._beside_images and not pictured([(entry, arrays, lone)])):
                        raise Unreadable("is a field, and most of the set is pictures: train on it by itself")
                    found = picture_stacks(entry, arrays, **self.reading.options(lone))
                    said = _told(found, self.reading)
                else:
                    found, said = field_stacks(
                        entry, arrays, axes=self.reading.axes, channels_first=self.reading.channels_first, lone=lone
                    )
                opened += [(entry, stack) for stack in found]
                # Of a folder of like files the first two say it.
                self.notes += [note for note in said if note not in self.notes and len(self.notes) < 2]
            except Unreadable as error:
                self._skip(entry.name, error)
        return opened

    def _skip(self, name: str, why: object) -> None:
        self.skipped.append(Skipped(name=name, reason=str(why)))


def _told(stacks: Sequence[Stack], reading: Reading) -> list[str]:
    """What is said of pictures that could be fields."""
    if reading.axes or not any(stack.header and np.dtype(stack.header.dtype).kind == "f" for stack in stacks):
        return []
    return ["floats from 0 to 1 on two axes are read as pictures; --axes nyx for fields."]


def rows(
    number: int, stack: Stack, digest: np.ndarray, found: Mapping[str, Texts] | None = None, split: int = OPEN
) -> Items:
    """The examples of stack `number`."""
    n = len(stack.pixels)
    assert stack.header is not None, "arrays have headers"
    return Items(
        headers=(stack.header,),
        header=np.zeros(n, dtype=np.int32),
        digest=digest,
        split=np.full(n, split, dtype=np.int8),
        stack=np.full(n, number, dtype=np.int32),
        row=np.arange(n),
        columns=found or {},
    )
