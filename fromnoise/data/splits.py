"""Which examples are held out: by the names of folders and files, otherwise by a hash of their content.

By hash: an example's digest, read as a number u in [0, 1), puts it in `val` where u is among the lowest tenth.  Exact
duplicates have one digest, so they fall on the same side, and the choice does not depend on names, order or seeds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

HELD_OUT_SHARE = 0.1
HELD_OUT_MOST = 5_000
_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing", "t10k"), "test"),
}


def split_word(name: str) -> str:
    """The word of a name that names a split, as it stands there: `X_Train.npy` -> `Train`, otherwise empty."""
    words = re.split(r"[_\-.\s]", PurePosixPath(name).name)
    return next((word for word in words if word.lower() in _NAMES), "")


def split_of(word: str) -> str | None:
    """train, val or test for any of the words that mean it."""
    return _NAMES.get(word.lower())


def folder_roles(names: Sequence[str]) -> tuple[list[str | None], list[str], list[str]]:
    """What the folders of POSIX names mean: per name its split (or None), its class and its whole folder.

    A level of folders that all names share says nothing.  A level with `train` and with `val` or `test` beside it is
    the split.  The first level that remains is the class; the whole remaining path is the
    folder.  Names without such a folder have the empty string.
    """
    folders = [list(PurePosixPath(name).parts[:-1]) for name in names]
    splits: list[str | None] = [None] * len(names)
    level = 0
    while any(len(parts) > level for parts in folders):
        here = {parts[level] if len(parts) > level else "" for parts in folders}
        found = {split_of(name) for name in here} - {None}
        if len(here) == 1:
            for parts in folders:
                del parts[level]
        elif len(found) >= 2 and "train" in found:
            for i, parts in enumerate(folders):
                if len(parts) > level and split_of(parts[level]):
                    splits[i] = split_of(parts.pop(level))
        else:
            level += 1
    return splits, [parts[0] if parts else "" for parts in folders], ["/".join(parts) for parts in folders]


def hash_split(digests: Sequence[bytes]) -> np.ndarray:
    """(n,) bool, held out: about a tenth, at most 5,000 and at least one, as long as one distinct example is left."""
    count = Counter(digests)
    ranked = sorted(count)
    scale = float(1 << 64)
    lowest = [digest for digest in ranked if int.from_bytes(digest[:8], "big") / scale < HELD_OUT_SHARE]
    held, total = set(), 0
    for digest in lowest[: len(ranked) - 1] or ranked[: min(1, len(ranked) - 1)]:
        if total + count[digest] <= HELD_OUT_MOST or not held:
            held.add(digest)
            total += count[digest]
    return np.array([digest in held for digest in digests], dtype=bool)


def assign(hints: Sequence[str | None], digests: Sequence[bytes]) -> tuple[np.ndarray, str]:
    """(n,) of "train", "val" and "test", and how it was decided, as a sentence.

    Names that fix a part fix all: what they leave open is for training.  With one distinct example all is "train".
    """
    fixed = np.array([hint or "train" for hint in hints])
    if (fixed != "train").any():
        counts = ", ".join(f"{(fixed == name).sum():,} {name}" for name in ("train", "val", "test"))
        seen = {digest for digest, name in zip(digests, fixed, strict=True) if name == "train"}
        copies = sum(digest in seen for digest, name in zip(digests, fixed, strict=True) if name != "train")
        leak = f"; {copies:,} of those held out are exact copies of training examples" if copies else ""
        return fixed, f"split by the names of folders or files: {counts}{leak}."
    held = hash_split(digests)
    if not held.any():
        return (
            fixed,
            "one distinct example: it is both trained on and held out, so the held-out loss shows memory only.",
        )
    splits = np.where(held, "val", "train")
    return splits, f"split by hash of content: {(~held).sum():,} train, {held.sum():,} held out."
