"""Text: raw strings <-> x0 (window,), whole numbers.

Stored is a document's UTF-8.  In x0 it is its symbols (`vocabulary.py`), and what is left of the window is filled with
one more symbol, the padding.  It belongs to the alphabet, so a model learns where texts end, and a length can be asked
for by giving it.  A document longer than the window is seen through it: at a place drawn anew each time in training,
else at its beginning.

One document a window, and not windows cut from a stream of documents: a sample is then one whole document with an end,
what a table says of a document (its columns, its split) holds for the window, and held-out bits are those of documents
whose neighbours are not known.  The usual price, work on padding, is next to nothing here, because all that stands
behind a shown padding is certain (`denoise.TokenDenoiser`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fromnoise.codec.codec import described
from fromnoise.codec.page import pages
from fromnoise.codec.vocabulary import Bytes, Characters, Merges, Vocabulary, vocabulary_from_json
from fromnoise.errors import FromNoiseError
from fromnoise.rng import Rng
from fromnoise.types import Shape

LARGEST_WINDOW = 256
_LENGTHS = 64  # quantiles of them that are kept
_MEASURED = 20_000  # texts whose lengths choose the window
STRINGS = np.dtypes.StringDType()


@dataclass(frozen=True, kw_only=True)
class TextCodec:
    """Texts through windows of `window` symbols; before the codec is `fitted`, of at most so many.

    lengths  how many symbols training texts have, their quantiles; what gaps of a template are drawn from
    barred   symbols that samples never get, as no training text has them (`vocabulary.py`)
    """

    vocabulary: Vocabulary = field(default_factory=Bytes)
    window: int = LARGEST_WINDOW
    lengths: tuple[int, ...] = ()
    barred: tuple[int, ...] = ()

    @property
    def shape(self) -> Shape:
        """(window,)."""
        return (self.window,)

    @property
    def axes(self) -> tuple[str, ...]:
        return ("symbols",)

    @property
    def ragged(self) -> bool:
        return True

    @property
    def vocab(self) -> int:
        """How many symbols x0 may have, the padding among them."""
        return self.vocabulary.size + 1

    @property
    def padding(self) -> int:
        """The symbol after the end of a text, the last of all."""
        return self.vocabulary.size

    def store(self, raw: np.ndarray | str) -> np.ndarray:
        """One text, a string or an array () of one -> its UTF-8 (m,) uint8."""
        return np.frombuffer(str(raw).encode(), np.uint8)

    def store_many(self, raws: np.ndarray) -> np.ndarray:
        """Texts (n,) -> (n,) of objects, each as `store` gives it."""
        stored = np.empty(len(raws), dtype=object)
        for place, raw in enumerate(raws):
            stored[place] = self.store(raw)
        return stored

    @staticmethod
    def text(stored: np.ndarray) -> str:
        """The text that is stored."""
        return stored.tobytes().decode()

    def fitted(
        self, smallest: float, largest: float, some: Sequence[np.ndarray] = ()
    ) -> tuple[TextCodec, Sequence[str]]:
        """The codec for the texts `some`, by the rules of `fit_text_codec`."""
        return fit_text_codec([self.text(one) for one in some], most=self.window)

    def encode(self, stored: np.ndarray | Sequence[np.ndarray], rng: Rng | None = None) -> Int[Tensor, "b n"]:
        """Stored texts -> x0, int64.  Where a text is longer than the window `rng` draws the place of the window,
        one draw an example whether it is needed or not; without it the window is at the beginning."""
        start = np.zeros(len(stored)) if rng is None else rng.uniform((len(stored),)).double().numpy()
        x0 = torch.full((len(stored), self.window), self.padding)
        for out, one, u in zip(x0, stored, start, strict=True):
            symbols = self.vocabulary.encode(self.text(one))
            first = int(u * (max(len(symbols) - self.window, 0) + 1))
            part = torch.tensor(symbols[first : first + self.window], dtype=torch.int64)
            out[: len(part)] = part
        return x0

    def windows(self, stored: np.ndarray) -> Int[Tensor, "k n"]:
        """One document (m,) cut into windows one after the other, the last of which ends in padding.

        What a reader of the windows could put together again: so their likelihoods multiply to one of the document.
        """
        symbols = self.vocabulary.encode(self.text(stored))
        count = len(symbols) // self.window + 1
        cut = torch.full((count * self.window,), self.padding)
        cut[: len(symbols)] = torch.tensor(symbols, dtype=torch.int64)
        return cut.view(count, self.window)

    def decode(self, x0: Int[Tensor, "b n"]) -> np.ndarray:
        """x0 -> texts (b,), each up to its first padding; symbols that are masked still are written `_`."""
        texts = []
        for row in x0.cpu().tolist():
            end = row.index(self.padding) if self.padding in row else len(row)
            parts = [(masked, list(some)) for masked, some in groupby(row[:end], lambda symbol: symbol > self.padding)]
            texts.append("".join("_" * len(some) if masked else self.vocabulary.decode(some) for masked, some in parts))
        return np.array(texts, dtype=STRINGS)

    def percept(self, x0: Int[Tensor, "b n"]) -> Float[Tensor, "b e n"]:
        """Symbols as one-hot vectors."""
        return F.one_hot(x0, self.vocab).movedim(-1, 1).float()

    def preview(self, samples: np.ndarray) -> np.ndarray:
        """Decoded texts (n,) as pages (n, h, w, 3) uint8 of one size."""
        return pages([str(text) for text in samples])

    @property
    def legend(self) -> str:
        return ""

    def save(self, path: Path, sample: np.ndarray | str, recipe: Mapping[str, object]) -> Path:
        """Writes the text to `path` plus .txt, and its recipe beside it, plus .json; returns the text's file."""
        file = path.with_name(path.name + ".txt")
        file.write_bytes(str(sample).encode())
        path.with_name(path.name + ".json").write_text(json.dumps(dict(recipe), ensure_ascii=True), encoding="utf-8")
        return file

    def to_json(self) -> dict[str, object]:
        vocabulary = self.vocabulary.to_json()
        lists = {"lengths": list(self.lengths), "barred": list(self.barred)}
        return {"kind": "text", "window": self.window, **lists, "vocabulary": vocabulary}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> TextCodec:
        """The codec that `to_json` described.  Raises FromNoiseError for another kind or version."""
        # Older releases bar nothing.
        values = described({"barred": (), **data}, "text", ("window", "lengths", "barred", "vocabulary"))
        lists = {name: tuple(values[name]) for name in ("lengths", "barred")}
        return TextCodec(vocabulary=vocabulary_from_json(values["vocabulary"]), window=values["window"], **lists)


def fit_text_codec(
    texts: Sequence[str],
    *,
    vocabulary: str | None = None,
    size: int | None = None,
    window: int | None = None,
    most: int = LARGEST_WINDOW,
) -> tuple[TextCodec, list[str]]:
    """The codec for training texts, and what was chosen and why, a sentence each.

    vocabulary  "bytes", "characters" or "bpe"; by default what `propose` says
    size        of a BPE
    window      in symbols; by default the least multiple of 16 that holds 98 % of the texts and an end, at most `most`
    """
    named, sized, why = propose(texts)
    kind = vocabulary or named
    if kind not in ("bytes", "characters", "bpe"):
        raise FromNoiseError(f"No vocabulary {kind!r}: use bytes, characters or bpe.")
    if vocabulary is not None:
        why = f"{vocabulary} as asked"
    made = Bytes() if kind == "bytes" else Characters.of(texts) if kind == "characters" else None
    made = made or Merges.of(texts, size or sized)
    lengths = np.array([len(made.encode(text)) for text in texts[:_MEASURED]])
    notes = [f"vocabulary: {made.size:,} symbols, {why}."]
    if window is None:
        wanted = -(-(int(np.quantile(lengths, 0.98, method="higher")) + 1) // 16) * 16
        window = min(wanted, most)
    whole = float((lengths < window).mean())
    rest = "" if whole == 1 else "; of the others a part at a time is seen"
    notes.append(f"window: {window} symbols, which hold {whole:.1%} of the texts from beginning to end{rest}.")
    kept = np.quantile(lengths, (np.arange(_LENGTHS) + 0.5) / _LENGTHS, method="nearest")
    barred = tuple(sorted(made.barred(set().union(*texts))))
    return TextCodec(vocabulary=made, window=window, lengths=tuple(int(n) for n in kept), barred=barred), notes


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
