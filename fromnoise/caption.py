"""Captions as symbols: each word of the training captions is one, the most frequent first.

A word is a run of letters, marks and digits, or one ideograph or kana, without regard to case and width (NFKC).
Symbol 0 is padding; i is word i - 1 of the column's labels.  Words that no training caption holds have no symbol: they
are left out, and `unknown` names them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache

import numpy as np

from fromnoise.cond import Column
from fromnoise.errors import FromNoiseError

MOST_WORDS = 8_000  # symbols of a column
LONGEST = 64  # words of a caption that count
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # written without spaces: kana, ideographs
_SIGNS = r"\s!-/:-@\[-`{-\u00bf\u00d7\u00f7\u2000-\u2bff\u3000-\u303f\ufe00-\ufe0f"
_WORD = re.compile(rf"[{_ALONE}]|[^{_SIGNS}{_ALONE}]+")


def words(text: str) -> list[str]:
    """The words of a text in order, folded."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def caption_column(name: str, captions: Mapping[str, int]) -> Column:
    """The column for training `captions`, each with how many examples have it.

    Raises FromNoiseError where they hold no word.
    """
    counts, longest = Counter[str](), 0
    for text, n in captions.items():
        found = words(text)
        longest = max(longest, len(found))
        for word in found:
            counts[word] += n
    if not counts:
        raise FromNoiseError(f"No training example has a word in column {name!r}: leave the column out.")
    known = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS]
    return Column(name=name, kind="tokens", labels=tuple(known), size=len(known) + 1, length=min(longest, LONGEST))


def symbols(column: Column, texts: Sequence[str]) -> np.ndarray:
    """(n, length) int16: the known words of each text, the first `length` of them, then padding."""
    place = _places(column.labels)
    out = np.zeros((len(texts), column.length), dtype=np.int16)
    for row, text in zip(out, texts, strict=True):
        found = [place[word] for word in words(text) if word in place][: column.length]
        row[: len(found)] = found
    return out


def spoken(column: Column, row: Iterable[int]) -> str:
    """The words that symbols stand for."""
    return " ".join(column.labels[symbol - 1] for symbol in row if symbol)


def unknown(column: Column, text: str) -> str:
    """A sentence on the words of `text` that have no symbol, with those that are spelt alike; "" where all have one.

    Raises FromNoiseError where none has.
    """
    place, found = _places(column.labels), words(text)
    strange = list(dict.fromkeys(word for word in found if word not in place))
    near = {word: get_close_matches(word, column.labels, n=1, cutoff=0.7) for word in strange}
    if len(strange) == len(set(found)):
        some = ", ".join(dict.fromkeys([*(one for close in near.values() for one in close), *column.labels[:8]]))
        raise FromNoiseError(f"No training caption has a word of {text!r}: use words such as {some}.")
    told = [f"{word!r}" + (f" (did you mean {near[word][0]!r}?)" if near[word] else "") for word in strange]
    one = len(told) == 1
    return f"No training caption has the word{'s' * (not one)} {', '.join(told)}: left out." if told else ""


@lru_cache(maxsize=16)
def _places(labels: tuple[str, ...]) -> dict[str, int]:
    return {word: i for i, word in enumerate(labels, 1)}
