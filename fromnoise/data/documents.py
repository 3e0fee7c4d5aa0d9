"""Plain text as documents: bytes to strings, and strings to documents, with every choice said.

Text is UTF-8, or UTF-16 that says so by its mark, or Windows-1252 (the superset of Latin-1) where nothing speaks
against it.  One file is a document a line, several files are one document each; a file whose lines are the broken lines
of running text, and any document longer than `PASSAGE` characters, is cut between paragraphs into passages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fromnoise.errors import FromNoiseError

PASSAGE = 2000
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Texts with the name of each (its file, with the line's number where a line is one) and notes, as sentences."""

    texts: tuple[str, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...]


def decode(data: bytes, name: str) -> tuple[str, str | None]:
    """(the text, what was assumed if anything was).  Raises FromNoiseError where `data` is no text to be trusted."""
    mark = next((encoding for start, encoding in _MARKS.items() if data.startswith(start)), None)
    try:
        text, said = data.decode(mark or "utf-8"), None
    except UnicodeDecodeError as error:
        text, said = _decode_latin(data, name, error)
    if found := _CONTROL.search(text):
        raise FromNoiseError(
            f"{name} is no plain text (it has the control character {ord(found[0])}): leave it out, or export it as "
            "text."
        )
    return text, said


def _decode_latin(data: bytes, name: str, error: UnicodeDecodeError) -> tuple[str, str]:
    """Windows-1252, unless some of `data` is UTF-8 beyond ASCII: then it is UTF-8 with a fault, and a guess would spoil
    what is right in it."""
    broken = FromNoiseError(f"{name} is broken UTF-8 at byte {error.start:,}: save it as UTF-8 again, or leave it out.")
    if any(ord(c) > 127 for c in data.decode(errors="ignore")) or data.startswith(tuple(_MARKS)):
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

    Raises FromNoiseError where a file is no text or all are empty.
    """
    texts, notes = {}, []
    for name, data in files.items():
        texts[name], said = decode(data, name)
        notes += [said] if said else []
    asked = by is not None
    if by is None:
        by = "file" if len(texts) > 1 or any(map(wrapped, texts.values())) else "line"
    found: list[tuple[str, str]] = []
    for name, text in texts.items():
        if by == "line":
            found += [(f"{name}:{i}", line) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
        elif text.strip():
            pieces = passages(text.replace("\r\n", "\n"))
            found += [(name if len(pieces) == 1 else f"{name}:{i}", p) for i, p in enumerate(pieces, start=1)]
    if not found:
        raise FromNoiseError(f"There is no text in {', '.join(files) or 'no files'}: give files with at least a line.")
    why = "as asked" if asked else "as there are several files" if len(texts) > 1 else "as there is one file"
    if not asked and len(texts) == 1 and by == "file":
        why = "as its lines are broken running text"
    unit = "line" if by == "line" else "file, long ones in passages"
    notes.append(f"{len(found):,} documents, one a {unit}, {why}.")
    return Documents(texts=tuple(text for _, text in found), names=tuple(name for name, _ in found), notes=tuple(notes))


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
