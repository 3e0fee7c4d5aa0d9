"""Columns as conditions: the values that a model is given, by what `columns.py` takes a column for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from fromnoise.caption import LONGEST, caption_column, symbols, words
from fromnoise.cond import Column
from fromnoise.data.columns import Profile, as_number, as_vector
from fromnoise.data.texts import Texts


@runtime_checkable
class Rows(Protocol):
    """Values by example, in memory or not; an array (n, …) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A condition's values, and where they are present; `notes` say what is odd about them.

    (n,) int64 indices into the labels, float32 (number - mean)/std, (n,) or of vectors (n, size), (n, length) int16
    symbols of words, (n, size) float16 of captions that an encoder reads, or float32 (n, c, height, width) of maps, of
    clips (n, c, frames, height, width).
    """

    column: Column
    values: Rows
    present: np.ndarray
    notes: tuple[str, ...] = ()


class Coded:
    """A table's rows by the codes of examples, read when asked for: however many examples, few values are held once."""

    def __init__(self, table: np.ndarray, codes: np.ndarray) -> None:
        self.table, self.codes = table, codes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.table[self.codes[rows]]


def fitted_to(present: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(n,) bool, the examples that a column is fitted to: of those that have a value the ones that are trained on, or
    all where these have none."""
    return present & train if (present & train).any() else present


def encode(profile: Profile, values: Texts, train: np.ndarray) -> Encoded:
    """The column as a condition; `train` (n,) bool says which examples its mean, spread and words are taken from."""
    match profile.role:
        case "class":
            return _class(profile, values, train)
        case "number":
            return _number_column(profile, values, train)
        case "vector":
            return _vectors(profile, values, train)
        case "text":
            return _caption(profile, values, train)
        case "map":
            raise AssertionError("maps are read from files: see maps.py")


def _class(profile: Profile, values: Texts, train: np.ndarray) -> Encoded:
    place = {label: i for i, label in enumerate(profile.labels)}
    codes = np.array([place.get(word, -1) for word in values.words], dtype=np.int64)[values.codes]
    column = Column(name=profile.name, kind="class", labels=profile.labels)
    notes = (*_words_for_missing(profile), *lonely(profile, values))
    return Encoded(column=column, values=np.maximum(codes, 0), present=codes >= 0, notes=notes)


def lonely(profile: Profile, values: Texts) -> list[str]:
    """A sentence on labels of a single example, which cannot be learned but only repeated."""
    counts = values.counts()
    alone = [label for label in profile.labels if counts.get(label) == 1]
    if not alone:
        return []
    shown = ", ".join(alone[:5]) + (", …" if len(alone) > 5 else "")
    return [
        f"{profile.name}: {len(alone)} label{'s' * (len(alone) > 1)} with a single example ({shown}), "
        "which a model can only repeat; add examples or merge labels."
    ]


def _number_column(profile: Profile, values: Texts, train: np.ndarray) -> Encoded:
    used = values.counts()
    numbers = (as_number(word) if word in used else None for word in values.words)
    parsed = np.array([math.nan if number is None else number for number in numbers])[values.codes]
    present = np.isfinite(parsed)
    seen = parsed[fitted_to(present, train)]
    column = Column(
        name=profile.name,
        kind="number",
        mean=float(seen.mean()),
        std=float(seen.std()) or 1.0,
        low=float(seen.min()),
        high=float(seen.max()),
    )
    notes = [*_words_for_missing(profile), *missing(column, present, "number")]
    if column.low == column.high:
        notes.append(f"{column.name} is {column.low:g} in all training examples, which teaches nothing: leave it out.")
    standard = np.where(present, (parsed - column.mean) / column.std, 0)
    return Encoded(column=column, values=standard.astype(np.float32), present=present, notes=tuple(notes))


def _vectors(profile: Profile, values: Texts, train: np.ndarray) -> Encoded:
    """One mean and one spread for all entries, so that directions stay what they are."""
    found = [as_vector(word) for word in values.words]
    table = np.array([vector or [0.0] * profile.size for vector in found])
    present = np.array([vector is not None for vector in found])[values.codes]
    seen = table[values.codes[fitted_to(present, train)]]
    column = Column(
        name=profile.name,
        kind="vector",
        size=profile.size,
        mean=float(seen.mean()),
        std=float(seen.std()) or 1.0,
        low=float(seen.min()),
        high=float(seen.max()),
    )
    standard = np.where(present[:, None], (table[values.codes] - column.mean) / column.std, 0)
    notes = tuple(missing(column, present, "vector"))
    return Encoded(column=column, values=standard.astype(np.float32), present=present, notes=notes)


def _caption(profile: Profile, values: Texts, train: np.ndarray) -> Encoded:
    number = np.bincount(values.codes[train], minlength=len(values.words))
    captions = {values.words[code]: int(number[code]) for code in np.flatnonzero(number) if code}
    column = caption_column(profile.name, captions)
    coded = symbols(column, values.words)[values.codes]
    present = np.asarray(coded.any(axis=1))
    notes = missing(column, present, "known word")
    lengths = np.array([len(words(text)) for text in values.words])[values.codes]
    if long := int((lengths > LONGEST).sum()):
        notes.append(f"{column.name}: {long:,} with up to {lengths.max():,} words, of which the first {LONGEST} count.")
    return Encoded(column=column, values=coded, present=present, notes=tuple(notes))


def _words_for_missing(profile: Profile) -> list[str]:
    return [f"{profile.name}: of its cells {profile.said_missing}."] if profile.missing else []


def missing(column: Column, present: np.ndarray, what: str) -> list[str]:
    """A sentence on examples that have no value."""
    count = int((~present).sum())
    return [f"{column.name}: {count:,} of {len(present):,} examples have no {what} and train without it."] * bool(count)
