"""Which examples are held out: by the names of folders and files, otherwise by a hash of their content.

By hash: an example's digest, read as a number u in [0, 1), puts it in `val` where u is among the lowest tenth; of a
small set among the lowest 15 %, as a judgement needs some twenty.  Exact
duplicates have one digest, so they fall on the same side, and the choice does not depend on names, order or seeds.
What has to stay together, such as the slices of one subject, is held out by groups (`hold_groups`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

BY_NAMES = "the names of folders or files, or what a table says"
NAMES = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
OPEN = -1
HELD_OUT_SHARE, HELD_OUT_SMALL = 0.1, 0.15
HELD_OUT_WANTED = 25
HELD_OUT_MOST = 5_000
CARVED_MOST = 1_000  # where a test set is named the rest has only the best model to choose
_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation"), VAL),
    **dict.fromkeys(("test", "testing", "t10k"), TEST),
}


def split_word(name: str) -> str:
    """The word of a name that names a split, as it stands there: `X_Train.npy` -> `Train`, otherwise empty."""
    words = re.split(r"[_\-.\s]", PurePosixPath(name).name)
    return next((word for word in words if split_of(word) != OPEN), "")


def split_of(word: str) -> int:
    """The place in `NAMES` for any of the words that mean a split, -1 otherwise."""
    return _WORDS.get(word.lower(), OPEN)


def folder_roles(folders: Sequence[str]) -> tuple[list[int], list[str], list[str]]:
    """What folders mean: per POSIX path its split (a place in `NAMES`, or -1), its class and its whole folder.

    A level of folders that all share says nothing.  A level with `train` and with `val` or `test` beside it is the
    split.  The first level that remains is the class; the whole remaining path is the folder.  Where no folder remains
    both are the empty string.
    """
    parts = [list(PurePosixPath(folder).parts) for folder in folders]
    splits, level = [OPEN] * len(folders), 0
    while any(len(path) > level for path in parts):
        here = {path[level] if len(path) > level else "" for path in parts}
        found = {split_of(name) for name in here} - {OPEN}
        if len(here) == 1:
            for path in parts:
                del path[level]
        elif len(found) >= 2 and TRAIN in found:
            for i, path in enumerate(parts):
                if len(path) > level and split_of(path[level]) != OPEN:
                    splits[i] = split_of(path.pop(level))
        else:
            level += 1
    return splits, [path[0] if path else "" for path in parts], ["/".join(path) for path in parts]


def distinct(digests: np.ndarray) -> np.ndarray:
    """(n, 2) uint64 -> (n,) codes from 0, equal where the digests are, in the order of the digests."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ranked = digests[order]
    codes = np.zeros(len(digests), dtype=np.int64)
    codes[order[1:]] = np.cumsum((ranked[1:] != ranked[:-1]).any(axis=1))
    return codes


def hash_split(digests: np.ndarray, most: int = HELD_OUT_MOST) -> np.ndarray:
    """(n,) bool, held out: about a tenth, of few somewhat more, at most `most` and at least one.

    One distinct example is left in any case.
    """
    first, held = digests[:, 0], np.zeros(len(digests), dtype=bool)
    if len(held) == 0:
        return held
    lowest = np.flatnonzero(first < np.uint64(_share(len(held)) * 2.0**64))
    if len(lowest) == 0:
        lowest = np.flatnonzero(first == first.min())
    codes = distinct(digests[lowest])
    count = np.bincount(codes)
    # Some example must stay: if no other is there, the highest of these.
    last = len(count) - (len(lowest) == len(digests))
    chosen, total = np.zeros(len(count), dtype=bool), 0
    for code in range(last):
        if total + count[code] <= most or total == 0:
            chosen[code] = True
            total += int(count[code])
        if total >= most:
            break
    held[lowest] = chosen[codes]
    return held


def hold_groups(digests: np.ndarray) -> np.ndarray:
    """(n,) bool, held out: whole groups of examples, which are those of one digest, about as many examples as by hash.

    Few groups would by chance be held out by halves or not at all.  So groups are gone through from the lowest digest
    on, and each is held out that brings the number of examples nearer to what is wanted; where none does, the smallest.
    At least one group is held out and one left, where there are two.
    """
    codes = distinct(digests)
    sizes = np.bincount(codes).tolist()
    held = np.zeros(len(sizes), dtype=bool)
    if len(sizes) < 2:
        return np.zeros(len(digests), dtype=bool)
    left = min(_share(len(digests)) * len(digests), HELD_OUT_MOST)
    for code, size in enumerate(sizes):
        if size < 2 * left:
            held[code] = True
            left -= size
    if not held.any():
        held[sizes.index(min(sizes))] = True
    return held[codes]


def _share(count: int) -> float:
    """The share of so many examples that is held out."""
    return min(max(HELD_OUT_SHARE, HELD_OUT_WANTED / count), HELD_OUT_SMALL)


def assign(named: np.ndarray, digests: np.ndarray, by: str = BY_NAMES) -> tuple[np.ndarray, str]:
    """(n,) int8 places in `NAMES`, and how it was decided, as a sentence.

    `named` (n,) are the splits that names give, or what else `by` says, -1 where they give none.  Names that fix a
    part fix all: what they leave open is for training.  Where they name a test set and no validation set, that is
    taken from training by hash, so that nothing is chosen by looking at the test set.  With one distinct example all
    is for training.
    """
    splits = np.where(named == OPEN, TRAIN, named).astype(np.int8)
    if (splits == TRAIN).all():
        held = hash_split(digests)
        if not held.any():
            return splits, (
                "one distinct example: it is both trained on and held out, so the held-out loss shows memory only."
            )
        splits[held] = VAL
        return splits, f"split by hash of content: {(~held).sum():,} train, {held.sum():,} held out."
    carved = ""
    if not (splits == VAL).any():
        train = np.flatnonzero(splits == TRAIN)
        held = hash_split(digests[train], CARVED_MOST)
        splits[train[held]] = VAL
        carved = "; none is named for validation, so "
        if held.any():
            carved += f"{held.sum():,} of those for training, by hash of content, choose the best model"
        else:
            carved += "the best model is chosen on the test set, which then flatters it"
    # Where one part is held out it is both what the best model is chosen by and what it is judged by.
    called = NAMES if (splits == TEST).any() else ("train", "held out")
    counts = ", ".join(f"{(splits == place).sum():,} {name}" for place, name in enumerate(called))
    return splits, f"split by {by}: {counts}{carved}{_leak(splits, digests)}."


def _leak(splits: np.ndarray, digests: np.ndarray) -> str:
    codes = distinct(digests)
    seen = np.zeros(len(digests), dtype=bool)
    seen[codes[splits == TRAIN]] = True
    copies = int(seen[codes[splits != TRAIN]].sum())
    return f"; {copies:,} of those held out are exact copies of training examples" if copies else ""
