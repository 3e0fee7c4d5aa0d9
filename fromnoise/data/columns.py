"""From columns of strings to conditions.

What a column is, by its values (empty ones aside):

class    2 to 1,000 distinct labels, each with 5 examples or more on average; if they are numbers, at most 20 of them.
         A column that says it is a label (class folders, IDX labels, `label`, `class`, `target`, `y`) may have more
         numbers, and needs 2 examples a label, also of its second most frequent one.
         `word`, of names, has a rule of its own (`names.py`).
number   numbers otherwise.
text     anything else: captions, names, identifiers.  Kept and shown, but not yet a condition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from fromnoise.cond import Column
from fromnoise.data.texts import Texts
from fromnoise.errors import FromNoiseError

Role = Literal["class", "number", "text"]
LABEL_NAMES = frozenset({"label", "labels", "class", "target", "targets", "y"})
WORD = "word"
_MOST_LABELS = 1_000
_MOST_NUMERIC_LABELS = 20
_EXAMPLES_A_LABEL = 5


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a column holds: its role, how many examples have a value, its labels or its range, an example of it."""

    name: str
    role: Role
    filled: int
    distinct: int
    labels: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    example: str = ""

    @property
    def natural(self) -> bool:
        """Whether this is the class of the examples by its very name or place, and so a condition without asking."""
        return self.role == "class" and self.name.lower() in LABEL_NAMES

    @property
    def of_names(self) -> bool:
        """Whether this is the word of the files' names: a condition without asking, beside at most one other."""
        return self.role == "class" and self.name == WORD


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A condition's values (n,): int64 indices into the labels, or float32 (number - mean)/std; and where present."""

    column: Column
    values: np.ndarray
    present: np.ndarray


def profile(name: str, values: Texts) -> Profile:
    """What the column `name` is, by the rule above.  A value of "" is absent."""
    counts = values.counts()
    filled = sum(counts.values())
    numbers = [_number(value) for value in counts]
    numeric = bool(counts) and None not in numbers
    finite = [number for number in numbers if number is not None and math.isfinite(number)]
    said = name.lower() in LABEL_NAMES
    repeated = 2 <= len(counts) <= _MOST_LABELS and filled >= (2 if said else _EXAMPLES_A_LABEL) * len(counts)
    repeated = repeated and sorted(counts.values())[-2] >= 2
    role: Role = "number" if numeric and finite else "text"
    if repeated and (not numeric or said or len(counts) <= _MOST_NUMERIC_LABELS):
        role = "class"
    return Profile(
        name=name,
        role=role,
        filled=filled,
        distinct=len(counts),
        labels=tuple(sorted(counts, key=_order)) if role == "class" else (),
        low=min(finite) if role == "number" else 0.0,
        high=max(finite) if role == "number" else 0.0,
        example=max(islice(counts, 100), key=len, default="")[:80],
    )


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _order(label: str) -> tuple[float, str]:
    number = _number(label)
    return (math.inf if number is None or math.isnan(number) else number, label)


def choose(profiles: Sequence[Profile], wanted: Sequence[str] | None) -> tuple[tuple[Profile, ...], str]:
    """The columns to condition on, and why, as a sentence.

    `wanted` None takes the one natural class column if there is exactly one, and the word of names.
    Raises FromNoiseError for a name that does not exist or a column of text.
    """
    usable = [p.name for p in profiles if p.role != "text"]
    if wanted is None:
        natural, words = [p for p in profiles if p.natural], [p for p in profiles if p.of_names]
        if len(natural) <= 1 and (natural or words):
            chosen = (*natural, *words)
            why = ["the only class that the data itself names"] * len(natural)
            why += ["a word of each file's name"] * len(words)
            named = " and ".join(f"{p.name} ({len(p.labels)} labels), {w}" for p, w in zip(chosen, why, strict=True))
            return chosen, f"conditional on {named}; --columns for others."
        why = "no column is a class by its name or place" if not natural else "several columns could be the class"
        offer = f"; --columns {' or '.join(usable)} would condition it" if usable else ""
        return (), f"unconditional: {why}{offer}."
    named = {p.name: p for p in profiles}
    for name in wanted:
        if name not in named:
            exist = f"the columns are {', '.join(named)}" if named else "the data has none"
            raise FromNoiseError(f"There is no column {name!r}: {exist}.")
        if named[name].role == "text":
            offer = f"choose among {', '.join(usable)}" if usable else "train without columns"
            raise FromNoiseError(f"Column {name!r} holds free text, which cannot be a condition yet: {offer}.")
    chosen = tuple(named[name] for name in dict.fromkeys(wanted))
    return chosen, f"conditional on {', '.join(wanted)}, as asked." if wanted else "unconditional, as asked."


def encode(profile: Profile, values: Texts, train: np.ndarray) -> Encoded:
    """The column as a condition; `train` (n,) bool says which examples its mean and spread are taken from."""
    if profile.role == "class":
        place = {label: i for i, label in enumerate(profile.labels)}
        codes = np.array([place.get(word, -1) for word in values.words], dtype=np.int64)[values.codes]
        column = Column(name=profile.name, kind="class", labels=profile.labels)
        return Encoded(column=column, values=np.maximum(codes, 0), present=codes >= 0)
    assert profile.role == "number", "text is refused by choose"
    used = values.counts()
    parsed = np.array([float(word) if word in used else math.nan for word in values.words])[values.codes]
    present = np.isfinite(parsed)
    seen = parsed[present & train] if (present & train).any() else parsed[present]
    column = Column(
        name=profile.name,
        kind="number",
        mean=float(seen.mean()),
        std=float(seen.std()) or 1.0,
        low=float(seen.min()),
        high=float(seen.max()),
    )
    standard = np.where(present, (parsed - column.mean) / column.std, 0)
    return Encoded(column=column, values=standard.astype(np.float32), present=present)


def lonely(encoded: Sequence[Encoded]) -> list[str]:
    """A sentence for every class column with labels of a single example, which cannot be learned but only repeated."""
    notes = []
    for one in encoded:
        if one.column.kind == "class":
            counts = np.bincount(one.values[one.present], minlength=len(one.column.labels))
            alone = [label for label, n in zip(one.column.labels, counts, strict=True) if n == 1]
            if alone:
                shown = ", ".join(alone[:5]) + (", …" if len(alone) > 5 else "")
                notes.append(
                    f"{one.column.name}: {len(alone)} label{'s' * (len(alone) > 1)} with a single example ({shown}), "
                    "which a model can only repeat; add examples or merge labels."
                )
    return notes
