"""Plain text as a medium: the rules by which files become one set of documents.

documents   one a line, a file or a passage, see `documents.py`; all text is one set
window      by default what holds nearly all documents, at most 256 symbols, or at most what is asked; it is found with
            the vocabulary when the documents have been read (`codec/text.py`)
split       files called train, valid or test are that, as are folders; otherwise by the hash of documents
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from fromnoise.codec.medium import Gathered, Size
from fromnoise.codec.text import LARGEST_WINDOW, STRINGS, TextCodec
from fromnoise.data.documents import Documents, decode, documents
from fromnoise.errors import FromNoiseError, Unreadable
from fromnoise.types import Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class TextHeader:
    """What is known of a document: its characters."""

    characters: int
    channels: int = 1
    mode: str = "text"
    dtype: str = "Unicode"

    @property
    def size(self) -> Shape:
        return (self.characters,)


class Writings:
    name = "text"
    formats = "TXT, MD"
    suffixes = frozenset({".txt", ".text", ".md"})
    axes = ("characters",)
    header = TextHeader
    codec = TextCodec

    def sniff(self, head: bytes) -> bool:
        return False

    def probe(self, data: bytes) -> TextHeader:
        return TextHeader(characters=len(decode(data, "text")[0]))

    def read(self, data: bytes, header: TextHeader, codec: TextCodec) -> np.ndarray:
        return np.array(decode(data, "text")[0], dtype=STRINGS)

    def gather(
        self, files: Mapping[str, bytes], size: Size | None, maps: Mapping[str, Mapping[str, bytes]]
    ) -> Gathered:
        return _gathered(documents(files))

    def gather_rows(self, rows: np.ndarray) -> Gathered:
        """Strings (n,) that are in memory, of which blank ones are left out."""
        kept = {f"text[{i}]": text for i, text in enumerate(rows.tolist()) if text.strip()}
        note = f"{len(kept):,} documents of {len(rows):,} strings."
        texts, names = tuple(kept.values()), tuple(kept)
        return _gathered(Documents(texts=texts, files=("",) * len(kept), names=names, notes=(note,), broken={}))

    def family(self, header: TextHeader) -> str:
        return "texts"

    def common(self, headers: Counter[TextHeader]) -> tuple[TextHeader, list[str]]:
        return TextHeader(characters=max(header.characters for header in headers)), []

    def choose(
        self, common: TextHeader, headers: Counter[TextHeader], size: Size | None
    ) -> tuple[TextCodec, list[str]]:
        if size is not None and not (isinstance(size, int) and size >= 2):
            raise FromNoiseError(f"A size of {size} is no window of text: give symbols, such as --size 128.")
        return TextCodec(window=size or LARGEST_WINDOW), []

    def remarks(self, header: TextHeader, codec: TextCodec, headers: Counter[TextHeader]) -> list[str]:
        return []


def _gathered(found: Documents) -> Gathered:
    """Raises Unreadable for a single document: nothing could be held out."""
    if len(found.texts) < 2:
        count = "is one document" if found.texts else "has no text"
        raise Unreadable(f"it {count}: give a file of many lines, each of which is one, or many files")
    digests = b"".join(blake2b(text.encode(), digest_size=16).digest() for text in found.texts)
    return Gathered(
        raws=np.array(found.texts, dtype=STRINGS),
        headers=tuple(TextHeader(characters=len(text)) for text in found.texts),
        files=found.files,
        names=found.names,
        digests=np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2),
        notes=found.notes,
        broken=found.broken,
    )
