"""Columns of strings: n codes into the distinct words, so that a label costs four bytes an example however it is spelt.

Word 0 is "", the value of an example that has none.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """`words[codes[i]]` is the value of example i; words may be there that no example has."""

    words: tuple[str, ...]
    codes: np.ndarray

    @staticmethod
    def of(values: Iterable[str]) -> Texts:
        column = Growing()
        for row, value in enumerate(values):
            column.put(row, value)
        return column.texts(len(column.codes))

    @staticmethod
    def of_array(values: np.ndarray) -> Texts:
        """Labels, numbers or strings (n,), written as numpy writes them."""
        distinct, places = np.unique(values, return_inverse=True)
        spelt = distinct.astype(str).tolist()
        codes = np.arange(1, len(spelt) + 1, dtype=np.int32)
        codes[[word == "" for word in spelt]] = 0
        return Texts(words=("", *spelt), codes=codes[places.reshape(-1)])

    @staticmethod
    def same(word: str, n: int) -> Texts:
        """One word n times."""
        return Texts(words=("", word), codes=np.full(n, 1 if word else 0, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, place: int) -> str:
        return self.words[self.codes[place]]

    def counts(self) -> dict[str, int]:
        """How many examples have each word, for the words that some have, in order of the words; "" aside."""
        number = np.bincount(self.codes, minlength=len(self.words))
        return {self.words[code]: int(number[code]) for code in np.flatnonzero(number) if code}

    def take(self, places: np.ndarray) -> Texts:
        """The values at `places`; a negative place is absent."""
        return Texts(words=self.words, codes=np.where(places < 0, np.int32(0), self.codes[places]))

    def over(self, below: Texts) -> Texts:
        """These values, and those of `below` where they are absent."""
        joined = Texts.concat([self, below])
        ours, theirs = joined.codes[: len(self)], joined.codes[len(self) :]
        return Texts(words=joined.words, codes=np.where(ours > 0, ours, theirs))

    @staticmethod
    def concat(parts: Sequence[Texts]) -> Texts:
        place: dict[str, int] = {"": 0}
        codes = []
        for part in parts:
            table = np.fromiter((place.setdefault(w, len(place)) for w in part.words), np.int32, len(part.words))
            codes.append(table[part.codes])
        return Texts(words=tuple(place), codes=np.concatenate(codes))

    def ordered(self) -> Texts:
        """The same values with the words in the order of their first examples, and no others."""
        used, first = np.unique(self.codes, return_index=True)
        used = used[np.argsort(first)]
        used = used[used > 0]
        table = np.zeros(len(self.words), dtype=np.int32)
        table[used] = np.arange(1, len(used) + 1)
        return Texts(words=("", *(self.words[code] for code in used)), codes=table[self.codes])


class Growing:
    """A column in the making."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {"": 0}
        self.codes = array("i")

    def put(self, row: int, value: str) -> None:
        """The value of `row`; rows come in order, and those left out are absent."""
        self.codes.extend([0] * (row - len(self.codes)))
        self.codes.append(self.places.setdefault(value, len(self.places)))

    def texts(self, n: int) -> Texts:
        self.codes.extend([0] * (n - len(self.codes)))
        return Texts(words=tuple(self.places), codes=np.array(self.codes, dtype=np.int32))
