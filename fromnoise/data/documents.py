"""Plain text as documents: bytes to strings, and strings to documents, with every choice said.

Text is UTF-8, or UTF-16 that says so by its mark, or Windows-1252 (the superset of Latin-1) where nothing speaks
against it.  One file is a document a line, several files are one document each, or a line where they have `MANY` lines;
a file whose lines are the broken lines of running text, and any document longer than `PASSAGE` characters, is cut
between paragraphs into passages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fromnoise.errors import Unreadable

PASSAGE = 2000
MANY = 100  # lines, the median of several files, that make each of them a document
_HEAD = 1 << 16  # bytes that an encoding is told by
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Texts with the file of each, its name (that file, with the line's number where a line is one) and notes, as
    sentences; `broken` are files that are no text, with the reason."""

    texts: tuple[str, ...]
    files: tuple[str, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...]
    broken: Mapping[str, str]


def decode(data: bytes, name: str) -> tuple[str, str | None]:
    """(the text, what was assumed if anything was).  Raises Unreadable where `data` is no text to be trusted."""
    mark = next((encoding for start, encoding in _MARKS.items() if data.startswith(start)), None)
    if mark is None and _unmarked(data):
        raise Unreadable("looks like UTF-16 without its mark, every second byte is NUL: save it as UTF-8")
    fault = None
    try:
        text = data.decode(mark or "utf-8")
    except UnicodeDecodeError as error:
        if mark == "utf-16":
            raise Unreadable(f"is broken UTF-16 at byte {error.start:,}: save it as UTF-8") from None
        text, fault = data.decode("latin-1"), error  # a character a byte, as far as it matters here
    if found := _CONTROL.search(text):
        what = f"a NUL byte at byte {data.find(0):,}" if found[0] == "\0" else f"the control character {ord(found[0])}"
        raise Unreadable(f"is no plain text (it has {what}): export it as text")
    return (text, None) if fault is None else _decode_latin(data, name, fault)


def _unmarked(data: bytes) -> bool:
    """Whether nearly every second byte is NUL and hardly another, as in UTF-16 of letters below U+0100."""
    head = data[:_HEAD]
    few, many = sorted(head[start::2].count(0) for start in (0, 1))
    return many >= max(4, 0.4 * len(head)) and few <= 0.02 * len(head)


def _decode_latin(data: bytes, name: str, error: UnicodeDecodeError) -> tuple[str, str]:
    """Windows-1252, unless some of `data` is UTF-8 beyond ASCII: then it is UTF-8 with a fault, and a guess would spoil
    what is right in it."""
    broken = Unreadable(f"is broken UTF-8 at byte {error.start:,}: save it as UTF-8 again")
    if any(ord(c) > 127 for c in data.decode(errors="ignore")):
        raise broken
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        raise broken from None
    high = [c for c in text if ord(c) > 127]
    if sum(c.isalpha() or c in "‘’“”–—…€£«»°§" for c in high) < 0.9 * len(high):
        raise broken
    return text, f"{name} is read as Windows-1252 (Latin-1): it is not UTF-8."


def documents(files: Mapping[str, bytes], *, by: Literal["line", "file"] | None = None) -> Documents:
    """The documents of some files, by the rule above or as asked; empty ones are left out.

    Raises Unreadable where no file has any text.
    """
    texts, broken, notes = {}, {}, []
    for name in files:
        try:
            text, said = decode(files[name], name)
        except Unreadable as error:
            broken[name] = str(error)
            continue
        if not text.strip():
            broken[name] = f"{'holds blank lines only' if text else 'is empty'}: give a file with text"
            continue
        texts[name] = text.replace("\r\n", "\n")
        notes += [said] if said else []
    if not texts:
        raise Unreadable(next((f"{name} {why}" for name, why in broken.items()), "there are no files of text"))
    by, why = (by, "as asked") if by else _proposed(list(texts.values()))
    found: list[tuple[str, str, str]] = []
    wholes = cut = 0
    for name, text in texts.items():
        units = [(name, text)]
        if by == "line":
            units = [(f"{name}:{i}", line) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
        for unit, whole in units:
            pieces = passages(whole)
            wholes, cut = wholes + 1, cut + (len(pieces) > 1)
            names = [unit] if len(pieces) == 1 else [f"{unit}:{i}" for i in range(1, len(pieces) + 1)]
            found += zip([name] * len(pieces), names, pieces, strict=True)
    count = f"{len(found):,} document{'s' * (len(found) != 1)}, {_unit(by, cut, lone=wholes == 1)}, {why}."
    sources, names, parts = zip(*found, strict=True)
    return Documents(texts=parts, files=sources, names=names, notes=(*notes, count), broken=broken)


def _unit(by: Literal["line", "file"], cut: int, lone: bool) -> str:
    """What each document is, where `cut` of the lines or files are too long to be one; `lone` says that there was one
    in all."""
    if cut and lone:
        return f"passages of at most {PASSAGE:,} characters cut from one long {by}"
    if by == "file":
        return "one a file, long ones in passages"
    return f"one a line, but for {cut:,} longer than {PASSAGE:,} characters, in passages" if cut else "one a line"


def _proposed(texts: Sequence[str]) -> tuple[Literal["line", "file"], str]:
    """What a document is, and why."""
    if any(map(wrapped, texts)):
        return "file", "as lines are broken running text" if len(texts) == 1 else "as there are several files"
    if len(texts) == 1:
        return "line", "as there is one file"
    many = np.median([len(text.splitlines()) for text in texts]) >= MANY
    return ("line", "as the files have many lines") if many else ("file", "as there are several files")


def wrapped(text: str) -> bool:
    """Whether lines end where the page ends, not where a sense does: paragraphs between blank lines, and three quarters
    of all lines within their paragraphs nearly as long as the longest."""
    paragraphs = [p.splitlines() for p in re.split(r"\n\s*\n", text.replace("\r\n", "\n")) if p.strip()]
    inner = [len(line) for lines in paragraphs for line in lines[:-1]]
    if len(paragraphs) < 2 or len(inner) < 20:
        return False
    longest = float(np.quantile(inner, 0.95))
    return longest <= 120 and sum(n >= 0.75 * longest for n in inner) >= 0.75 * len(inner)


def passages(text: str, limit: int = PASSAGE) -> Sequence[str]:
    """The text in pieces of at most `limit` characters, cut between paragraphs where it can be, else between lines,
    else after a sentence, a word or anywhere; nothing but the line ends at the cuts is lost."""
    pieces, rest = [], text.strip("\n")
    while len(rest) > limit:
        head = rest[: limit + 1]
        ends = (
            max((m.end() for m in re.finditer(cut, head)), default=0) for cut in (r"\n\s*\n", r"\n", r"[.!?] ", r"\s")
        )
        end = next((end for end in ends if limit // 4 < end <= limit), limit)
        pieces.append(rest[:end].strip("\n"))
        rest = rest[end:].lstrip("\n")
    return [piece for piece in (*pieces, rest) if piece.strip()]
