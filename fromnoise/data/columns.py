"""What columns of strings hold, and which of them a model is given; `encoded.py` makes values of these.

What a column is, by its values (empty ones aside):

class    2 to 1,000 distinct labels, each with 5 examples or more on average; if they are numbers, at most 20 of them.
         A column that says it is a label (class folders, IDX labels, `label`, `class`, `target`, `y`) may have more
         numbers, and needs 2 examples a label, also of its second most frequent one.
         `word`, of names, has a rule of its own (`names.py`), and what is called a caption and has more than one word
         is none.
map      images or clips that belong to the examples, as masks do (`pairs.py`, `maps.py`, `clipmaps.py`).
vector   lists of numbers, all of one length, written as JSON: [0.2, 0.8].
number   numbers otherwise, two or more and none beyond 1e100; as a condition smooth in between and a little beyond.
text     anything else: captions, names, identifiers.  As a condition its words count (`caption.py`).

Without being asked a model is conditional on the one class that says it is a label, and on what the words of the set
say: the caption (`caption`, `text`, `prompt`, `description`; of speech `transcript`), or else the word of the files'
names; on maps; and on `position`, where in a whole its parts lie, which is never a class.
Asked for as "size:number" a column is what stands after the colon, and as "caption:minilm" it is text that a pretrained
encoder reads (`textencoder.py`).  Where all other cells are numbers, a word for what is missing (`MISSING`) is an empty
cell.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, get_args

from fromnoise.caption import words
from fromnoise.codec.medium import POSITION
from fromnoise.data.textencoder import is_encoder
from fromnoise.data.texts import Texts
from fromnoise.errors import FromNoiseError

Role = Literal["class", "number", "vector", "map", "text"]
ROLES: dict[str, Role] = {role: role for role in get_args(Role)}
LABEL_NAMES = frozenset({"label", "labels", "class", "target", "targets", "y"})
CAPTION_NAMES = frozenset({"caption", "captions", "text", "prompt", "description", "transcript", "transcription"})
WORD = "word"
MISSING = frozenset({"na", "n/a", "nan", "null", "none", "-", "?"})  # in any case
_MOST_LABELS = 1_000
_MOST_NUMERIC_LABELS = 20
_EXAMPLES_A_LABEL = 5
LARGEST = 1e100  # of numbers; the squares of larger ones are none
UNCONDITIONAL = "unconditional"  # how the note of such a set begins


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a column holds: its role, how many examples have a value, its labels, range or length, an example of it.

    `missing` are the words that count as empty cells, and how many cells have each; `encoder` reads the column's texts.
    """

    name: str
    role: Role
    filled: int
    distinct: int
    labels: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    size: int = 1
    example: str = ""
    encoder: str = ""
    missing: Mapping[str, int] = field(default_factory=dict)

    @property
    def said_missing(self) -> str:
        """How many cells have words for what is missing, and which; empty without any."""
        count, words = sum(self.missing.values()), ", ".join(map(repr, islice(self.missing, 3)))
        return f"{count:,} that say{'s' * (count == 1)} {words} count{'s' * (count == 1)} as empty" if count else ""

    @property
    def natural(self) -> bool:
        """Whether this is the class of the examples by its very name or place, and so a condition without asking."""
        return self.role == "class" and self.name.lower() in LABEL_NAMES

    @property
    def of_names(self) -> bool:
        """Whether this is the word of the files' names: a condition without asking, beside at most one other."""
        return self.role == "class" and self.name == WORD

    @property
    def place(self) -> bool:
        """Whether this says where in a whole its parts lie, and so is a condition without asking."""
        return self.role in ("number", "vector") and self.name == POSITION

    @property
    def caption(self) -> bool:
        """Whether this is the caption of the examples by its very name, and so a condition without asking."""
        return self.role == "text" and self.name.lower() in CAPTION_NAMES


def profile(name: str, values: Texts, role: Role | None = None) -> Profile:
    """What the column `name` is, by the rule above or as `role` says.  A value of "" is absent.

    Raises FromNoiseError where the values cannot be what `role` says.
    """
    counts, missing = values.counts(), {}
    if role in (None, "class", "number"):
        counts, missing = _told_apart(counts)
    role = _role(name, counts) if role is None else _checked(name, counts, role)
    numbers = {value: n for value in counts if (n := as_number(value)) is not None and math.isfinite(n)}
    if role == "number":
        missing |= {value: n for value, n in counts.items() if value not in numbers and value not in missing}
        counts = {value: counts[value] for value in numbers}
    return Profile(
        name=name,
        role=role,
        filled=sum(counts.values()),
        distinct=len(counts),
        labels=tuple(sorted(counts, key=_order)) if role == "class" else (),
        low=min(numbers.values()) if role == "number" else 0.0,
        high=max(numbers.values()) if role == "number" else 0.0,
        size=len(as_vector(next(iter(counts))) or ()) if role == "vector" else 1,
        example=max(islice(counts, 100), key=len, default="")[:80],
        missing=missing,
    )


def _told_apart(counts: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """The values, and apart from them the words for what is missing where all others are numbers, two or more: beside
    one alone, as in 1 and -, such a word may well be a value."""
    missing = {value: n for value, n in counts.items() if value.lower() in MISSING}
    others = {value: n for value, n in counts.items() if value not in missing}
    return (others, missing) if len(others) > 1 and None not in map(as_number, others) else (counts, {})


def _role(name: str, counts: Mapping[str, int]) -> Role:
    if _are_vectors(counts):
        return "vector"
    numbers = [as_number(value) for value in counts]
    numeric = bool(counts) and None not in numbers
    said = name.lower() in LABEL_NAMES
    least = (2 if said else _EXAMPLES_A_LABEL) * len(counts)
    repeated = 2 <= len(counts) <= _MOST_LABELS and sum(counts.values()) >= least
    repeated = repeated and sorted(counts.values())[-2] >= 2
    phrases = name.lower() in CAPTION_NAMES and any(len(words(value)) > 1 for value in counts)
    if repeated and not phrases and name != POSITION and (not numeric or said or len(counts) <= _MOST_NUMERIC_LABELS):
        return "class"
    numeric = numeric and not too_large(counts) and any(math.isfinite(n) for n in numbers if n is not None)
    return "number" if numeric else "text"


def _are_vectors(counts: Mapping[str, int]) -> bool:
    lengths = {len(as_vector(value) or ()) for value in counts}
    return len(lengths) == 1 and 0 not in lengths


def _checked(name: str, counts: Mapping[str, int], role: Role) -> Role:
    """`role`, if the values can be that."""
    odd = [value for value in counts if as_number(value) is None and value.lower() not in MISSING]
    if role == "number" and odd:
        number = f"{sum(map(counts.__getitem__, odd)):,} of {sum(counts.values()):,} cells are none"
        raise FromNoiseError(
            f"Column {name!r} cannot be a number, since {number}, the first {odd[0][:40]!r}: empty them, or name the "
            "column without the role."
        )
    if role == "number" and not any(n is not None and math.isfinite(n) for n in map(as_number, counts)):
        raise FromNoiseError(f"Column {name!r} cannot be a number, since no cell is one: name it without the role.")
    if role == "number" and (huge := too_large(counts)):
        raise FromNoiseError(
            f"Column {name!r} cannot be a number, since {huge[0][:40]!r} is beyond {LARGEST:g}: correct or empty it."
        )
    if role == "vector" and not _are_vectors(counts):
        raise FromNoiseError(f"Column {name!r} cannot be a vector: write lists of one length, such as [0.2, 0.8].")
    if role == "class" and len(counts) > _MOST_LABELS:
        raise FromNoiseError(f"Column {name!r} has {len(counts):,} values, more than {_MOST_LABELS:,} classes.")
    return role


def roles(columns: Mapping[str, Texts], profiles: Sequence[Profile], wanted: Sequence[str]) -> list[Profile]:
    """The profiles, but for columns of `wanted` that are written with their role, as "size:number", or encoder."""
    found = {p.name: p for p in profiles}
    for asked in wanted:
        name, said = told(asked, columns)
        encoder = "" if said in ROLES else said
        role = "text" if encoder else ROLES.get(said)
        if asked in columns or name not in columns or role is None:
            continue
        if "map" in (role, found[name].role if name in found else "") and found[name].role != role:
            raise FromNoiseError(f"Column {name!r} cannot be a {role}: images, and only they, are maps.")
        found[name] = replace(profile(name, columns[name], role), encoder=encoder)
    return list(found.values())


def plain(wanted: Sequence[str], profiles: Sequence[Profile]) -> list[str]:
    """The names of `wanted` without the roles and encoders that some are written with."""
    known = {p.name for p in profiles}
    return [asked if asked in known else told(asked, known)[0] for asked in wanted]


def told(asked: str, known: Container[str]) -> tuple[str, str]:
    """(name, role or encoder) of "size:number" or "caption:minilm"; the second is "" where none is told."""
    name, _, said = asked.rpartition(":")
    if name and said in ROLES:
        return name, said
    # Folders may have colons in their names, as those of Windows do.
    ends = (place for place, sign in enumerate(asked) if sign == ":")
    name = next((asked[:end] for end in ends if asked[:end] in known), "")
    said = asked[len(name) + 1 :]
    return (name, said) if name and is_encoder(said) else (asked, "")


def as_number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def too_large(values: Iterable[str]) -> list[str]:
    """The finite numbers among the values that are so large that nothing can be computed with them."""
    numbers = ((value, as_number(value)) for value in values)
    return [value for value, n in numbers if n is not None and LARGEST < abs(n) < math.inf]


def as_vector(value: str) -> list[float] | None:
    """The numbers of a list such as "[0.2, 0.8]", None for anything else, also where one is beyond `LARGEST`."""
    if not (value.startswith("[") and value.endswith("]")):
        return None
    numbers = [as_number(part) for part in value[1:-1].split(",")]
    return [n for n in numbers if n is not None] if all(n is not None and abs(n) <= LARGEST for n in numbers) else None


def _order(label: str) -> tuple[float, str]:
    number = as_number(label)
    return (math.inf if number is None or math.isnan(number) else number, label)


def choose(profiles: Sequence[Profile], wanted: Sequence[str] | None) -> tuple[tuple[Profile, ...], str]:
    """The columns to condition on, and why, as a sentence.

    `wanted` None takes the one natural class column if there is exactly one, and the caption or the word of names.
    Raises FromNoiseError for a name that does not exist.
    """
    if wanted is None:
        return _proposed(profiles)
    named = {p.name: p for p in profiles}
    for name in wanted:
        if name not in named:
            base, _, role = name.rpartition(":")
            if base in named:
                known = f"write {base}, or {base}: and one of {', '.join(ROLES)}, or minilm or the folder of an encoder"
                raise FromNoiseError(f"Column {base!r} cannot be {role!r}, which is no role and no folder: {known}.")
            if name == "none" and len(wanted) > 1:
                raise FromNoiseError("The word none stands alone and means no column: leave it out, or the others.")
            exist = f"the columns are {', '.join(named)}" if named else "the data has none"
            raise FromNoiseError(f"There is no column {name!r} with more than one value: {exist}.")
    chosen = tuple(named[name] for name in dict.fromkeys(wanted))
    return chosen, f"conditional on {', '.join(wanted)}, as asked." if wanted else f"{UNCONDITIONAL}, as asked."


def _proposed(profiles: Sequence[Profile]) -> tuple[tuple[Profile, ...], str]:
    natural, names = [p for p in profiles if p.natural], [p for p in profiles if p.of_names]
    captions = sorted((p for p in profiles if p.caption), key=lambda p: -p.filled)[:1]
    beside = {p.name: "a map beside each" for p in profiles if p.role == "map"}
    beside |= {p.name: "where each part lies" for p in profiles if p.place}
    said = {p.name: "the caption" for p in captions} or {p.name: "a word of each file's name" for p in names}
    if len(natural) <= 1 and (natural or said or beside):
        why = {p.name: "the only class that the data itself names" for p in natural} | said | beside
        chosen = tuple(p for p in profiles if p.name in why)
        chosen = (*natural, *(p for p in chosen if p not in natural))
        sizes = {p.name: f" ({len(p.labels)} labels)" if p.role == "class" else "" for p in chosen}
        named = " and ".join(f"{p.name}{sizes[p.name]}, {why[p.name]}" for p in chosen)
        return chosen, f"conditional on {named}; --columns for others."
    why = "no column is a class, a caption or a map by its name or place"
    if natural:
        why = "several columns could be the class"
    offer = f"; --columns {' or '.join(p.name for p in profiles)} would condition it" if profiles else ""
    return (), f"{UNCONDITIONAL}: {why}{offer}."
