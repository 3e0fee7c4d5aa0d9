"""What the names of files say: one word that sorts them, and all their words.

word    Of a name's words the one that is found in most folders, the first of equals, in lower case: `drum` of
        `drum_heavy_kick.flac` where all lie in one folder, `kick` of `Pearl Kick 03.wav` where other folders hold some.
        A word has two letters or more and ends at a sign, a digit or a capital.  It is a column where nine names of ten
        have one, of 2 to 1,000 words of five examples or more on average, and where the class of folders does not
        imply it.
name    All words of the name, which is what is said or seen in many sets (`please-try-again.wav`); for at most 100,000
        files, most of them with a word of three letters, where nothing else describes them.  It is text, as captions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import PurePosixPath

import numpy as np

from fromnoise.data.columns import WORD
from fromnoise.data.texts import Texts

_WORDS = re.compile(r"[A-Z]{2,}(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_SPELT = re.compile(r"[^\W_]+")
_LOOKED_AT = 1000
_MOST = 100_000
_EXAMPLES_A_WORD = 5
_SHARE = 0.9


def of_names(names: Sequence[str], classes: Texts, described: bool) -> dict[str, Texts]:
    """The columns that the names of files give; `classes` is what their folders say, `described` whether others do."""
    found: dict[str, Texts] = {}
    some = [_words(name) for name in islice(names, _LOOKED_AT)]
    if sum(bool(words) for words in some) >= _SHARE * len(some):
        texts = Texts.of(map(_most_shared(names), names))
        if _repeated(texts) and not _implied(texts, classes):
            found[WORD] = texts
    if not described and len(names) <= _MOST and sum(max(map(len, w), default=0) > 2 for w in some) > len(some) / 2:
        found["name"] = Texts.of(" ".join(_SPELT.findall(PurePosixPath(name).stem)).lower() for name in names)
    return found


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(PurePosixPath(name).stem) if len(word) > 1]


def _most_shared(names: Iterable[str]) -> Callable[[str], str]:
    """From a name to its word that is found in most folders, "" where it has none."""
    pairs = {(name.rpartition("/")[0], word) for name in names for word in _words(name)}
    folders = Counter(word for _, word in pairs)
    return lambda name: max(_words(name), key=folders.__getitem__, default="")


def _repeated(texts: Texts) -> bool:
    counts = texts.counts()
    filled = sum(counts.values())
    return 2 <= len(counts) <= 1000 and filled >= max(_SHARE * len(texts), _EXAMPLES_A_WORD * len(counts))


def _implied(texts: Texts, by: Texts) -> bool:
    """Whether every value of `by` has one word."""
    pairs = np.unique(np.stack([by.codes, texts.codes]), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1]
