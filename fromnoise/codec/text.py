"""Text: raw strings <-> x0 (window,), whole numbers.

A document is its symbols (`vocabulary.py`), and what is left of the window is filled with one more symbol, the padding.
The padding belongs to the alphabet, so a model learns where texts end, and a length can be asked for by giving it.  A
document longer than the window is seen through it: at a place drawn anew each time in training, else at its beginning.

One document a window, and not windows cut from a stream of documents: a sample is then one whole document with an end,
what a table says of a document (its columns, its split) holds for the window, and held-out bits are those of documents
whose neighbours are not known.  The usual price, work on padding, is next to nothing here, because all that stands
behind a shown padding is certain (`denoise.TokenDenoiser`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fromnoise.codec.page import pages
from fromnoise.codec.vocabulary import Bytes, Characters, Merges, Vocabulary, vocabulary_from_json
from fromnoise.errors import FromNoiseError
from fromnoise.rng import Rng
from fromnoise.types import Shape

LARGEST_WINDOW = 256
STRINGS = np.dtypes.StringDType()


@dataclass(frozen=True, kw_only=True)
class TextCodec:
    """Texts through windows of `window` symbols."""

    vocabulary: Vocabulary
    window: int

    @property
    def shape(self) -> Shape:
        """(window,)."""
        return (self.window,)

    @property
    def padding(self) -> int:
        """The symbol after the end of a text."""
        return self.vocabulary.size

    @property
    def symbols(self) -> int:
        """How many symbols x0 may have, the padding among them: the `vocab` of process and network."""
        return self.vocabulary.size + 1

    @property
    def stored_dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if self.symbols <= 1 << 16 else np.uint32)

    def store(self, raw: np.ndarray | str) -> np.ndarray:
        """One text, a string or an array () of one -> its symbols (m,), whatever their number."""
        return np.array(self.vocabulary.encode(str(raw)), dtype=self.stored_dtype)

    def store_many(self, raws: np.ndarray) -> np.ndarray:
        """Texts (n,) -> (n, m), each filled up with padding to the longest."""
        rows = [self.store(raw) for raw in raws]
        stored = np.full((len(rows), max(map(len, rows), default=0)), self.padding, self.stored_dtype)
        for place, row in zip(stored, rows, strict=True):
            place[: len(row)] = row
        return stored

    def encode(self, stored: np.ndarray, rng: Rng | None = None) -> Int[Tensor, "b n"]:
        """(b, m) as stored -> x0, int64.  Where a text is longer than the window `rng` draws the place of the window,
        one draw an example whether it is needed or not; without it the window is at the beginning."""
        start = np.zeros(len(stored), dtype=np.int64)
        if rng is not None:
            spare = np.maximum((stored != self.padding).sum(1) - self.window, 0)
            start = (rng.uniform((len(stored),)).numpy() * (spare + 1)).astype(np.int64)
        places = start[:, None] + np.arange(self.window)
        inside = places < stored.shape[1]
        rows = np.take_along_axis(stored, np.where(inside, places, 0), axis=1) if stored.shape[1] else self.padding
        return torch.from_numpy(np.where(inside, rows, self.padding).astype(np.int64))

    def windows(self, stored: np.ndarray) -> Int[Tensor, "k n"]:
        """One document (m,) cut into windows one after the other, the last of which ends in padding.

        What a reader of the windows could put together again: so their likelihoods multiply to one of the document.
        """
        tokens = stored[stored != self.padding].astype(np.int64)
        count = len(tokens) // self.window + 1
        cut = np.full(count * self.window, self.padding, dtype=np.int64)
        cut[: len(tokens)] = tokens
        return torch.from_numpy(cut.reshape(count, self.window))

    def decode(self, x0: Int[Tensor, "b n"]) -> np.ndarray:
        """x0 -> texts (b,), each up to its first padding."""
        texts = []
        for row in x0.cpu().tolist():
            end = row.index(self.padding) if self.padding in row else len(row)
            texts.append(self.vocabulary.decode(row[:end]))
        return np.array(texts, dtype=STRINGS)

    def preview(self, samples: np.ndarray) -> np.ndarray:
        """Decoded texts (n,) as pages (n, h, w, 3) uint8 of one size."""
        return pages([str(text) for text in samples])

    def save(self, path: Path, sample: np.ndarray | str, recipe: Mapping[str, object]) -> Path:
        """Writes the text to `path` plus .txt, and its recipe beside it, plus .json; returns the text's file."""
        file = path.with_name(path.name + ".txt")
        file.write_bytes(str(sample).encode())
        path.with_name(path.name + ".json").write_text(json.dumps(dict(recipe), ensure_ascii=True), encoding="utf-8")
        return file

    def to_json(self) -> dict[str, object]:
        return {"kind": "text", "window": self.window, "vocabulary": self.vocabulary.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> TextCodec:
        """The codec that `to_json` described.  Raises FromNoiseError for another kind or version."""
        vocabulary = data.get("vocabulary")
        if data.get("kind") != "text" or set(data) != {"kind", "window", "vocabulary"}:
            raise FromNoiseError(
                "This is not the description of a text codec: use the version of fromnoise that wrote it, or a newer."
            )
        assert isinstance(vocabulary, Mapping)
        return TextCodec(vocabulary=vocabulary_from_json(vocabulary), window=int(str(data["window"])))


def fit_text_codec(
    texts: Sequence[str], *, vocabulary: str | None = None, size: int | None = None, window: int | None = None
) -> tuple[TextCodec, list[str]]:
    """The codec for training texts, and what was chosen and why, a sentence each.

    vocabulary  "bytes", "characters" or "bpe"; by default what `propose` says
    size        of a BPE
    window      in symbols; by default the least multiple of 16 that holds 98 % of the texts and an end, at most 256
    """
    named, sized, why = propose(texts)
    kind = vocabulary or named
    if kind not in ("bytes", "characters", "bpe"):
        raise FromNoiseError(f"No vocabulary {kind!r}: use bytes, characters or bpe.")
    if vocabulary is not None:
        why = f"{vocabulary} as asked"
    made = Bytes() if kind == "bytes" else Characters.of(texts) if kind == "characters" else None
    made = made or Merges.of(texts, size or sized)
    lengths = np.array([len(made.encode(text)) for text in texts])
    notes = [f"vocabulary: {made.size:,} symbols, {why}."]
    if window is None:
        wanted = -(-(int(np.quantile(lengths, 0.98, method="higher")) + 1) // 16) * 16
        window = min(wanted, LARGEST_WINDOW)
    whole = float((lengths < window).mean())
    rest = "" if whole == 1 else "; of the others a part at a time is seen"
    notes.append(f"window: {window} symbols, which hold {whole:.1%} of the texts from beginning to end{rest}.")
    return TextCodec(vocabulary=made, window=window), notes


def propose(texts: Sequence[str]) -> tuple[str, int, str]:
    """(vocabulary, size of a BPE, why), by how much text there is and how long the documents are.

    A BPE of v symbols pays where each is seen some 100 times: v = characters/500, a power of two from 512 to 8,192.
    Below, and where documents are words or names (95 % within 32 characters, whose spelling is what is to be learned),
    single characters; bytes where the text has so many kinds of them (above 512) that most would hardly be seen.
    """
    total = sum(map(len, texts))
    short = bool(np.quantile([len(text) for text in texts], 0.95) <= 32)
    if total >= 256_000 and not short:
        size = 1 << min(13, max(9, int(np.log2(total / 500) + 0.5)))
        return "bpe", size, f"byte pair encoding trained on the {total:,} characters"
    kinds = len(set().union(*texts))
    if kinds > 512:
        return "bytes", 0, f"bytes, as {total:,} characters of {kinds:,} kinds are too few to learn each"
    reason = "the texts are short" if short else f"{total:,} characters are too few for a BPE"
    return "characters", 0, f"single characters, as {reason}"
