"""Vocabularies of text: a string as whole numbers and back, exactly, for any Unicode.

Bytes        the 256 bytes of UTF-8
Characters   the characters of the training text, then the 256 bytes, which spell whatever else may come
Merges       byte pair encoding (Sennrich et al. 2016) of those bytes, trained on the training text: common words are
             one symbol, rare ones several

Symbols are 0 … size-1.  `decode` takes what a model makes up too: bytes that are no UTF-8, as of a character that is
broken off, are left out, and not written as U+FFFD, which no text has that was learned from.  Of `kinds`,
the characters that training texts have, `barred` are the symbols that a sample never gets: those of bytes that no text
has, and, where there is an alphabet, the bytes of all characters beyond ASCII, which would be put together wrongly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from fromnoise.errors import FromNoiseError


@runtime_checkable
class Vocabulary(Protocol):
    @property
    def size(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, symbols: Sequence[int]) -> str: ...

    def barred(self, kinds: Iterable[str]) -> set[int]: ...

    def to_json(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class Bytes:
    size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, symbols: Sequence[int]) -> str:
        return bytes(symbols).decode(errors="ignore")

    def barred(self, kinds: Iterable[str]) -> set[int]:
        return set(range(256)) - set("".join(kinds).encode())

    def to_json(self) -> dict[str, object]:
        return {"kind": "bytes"}


@dataclass(frozen=True)
class Characters:
    """Symbol i is `alphabet[i]`, and len(alphabet) + i the byte i of a character that is not in it."""

    alphabet: str

    @staticmethod
    def of(texts: Iterable[str], least: int = 2) -> Characters:
        """The characters that occur at least `least` times in the texts."""
        counts = Counter[str]()
        for text in texts:
            counts.update(text)
        return Characters("".join(sorted(c for c, n in counts.items() if n >= least)))

    @property
    def size(self) -> int:
        return len(self.alphabet) + 256

    @cached_property
    def _place(self) -> dict[str, int]:
        return {c: i for i, c in enumerate(self.alphabet)}

    def encode(self, text: str) -> list[int]:
        place, first = self._place, len(self.alphabet)
        if place.keys() >= set(text):
            return [place[c] for c in text]
        spelt = ([place[c]] if c in place else [first + byte for byte in c.encode()] for c in text)
        return [symbol for symbols in spelt for symbol in symbols]

    def decode(self, symbols: Sequence[int]) -> str:
        first = len(self.alphabet)
        pieces = (self.alphabet[s].encode() if s < first else bytes([s - first]) for s in symbols)
        return b"".join(pieces).decode(errors="ignore")

    def barred(self, kinds: Iterable[str]) -> set[int]:
        first, most = len(self.alphabet), 128 if self.alphabet else 256
        spelt = set("".join(set(kinds) - set(self.alphabet)).encode())
        return {first + byte for byte in range(256) if byte not in spelt or byte >= most}

    def to_json(self) -> dict[str, object]:
        return {"kind": "characters", "alphabet": self.alphabet}


@dataclass(frozen=True)
class Merges:
    """Byte-level BPE; `model` is JSON of the `tokenizers` library.  A word's symbol includes the space before it."""

    model: str

    @staticmethod
    def of(texts: Iterable[str], size: int) -> Merges:
        """At most `size` symbols, fewer where the texts have no more pairs that occur twice."""
        # Imported here: most data is not text, and the library takes a while to load.
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return Merges(tokenizer.to_str())

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.model)

    @property
    def size(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    @cached_property
    def _spelt(self) -> list[bytes]:
        """The bytes of each symbol, whose name has a character for each: its own if that is printable (Latin-1), else
        one from U+0100 on, in order."""
        own = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
        byte = {chr(b): b for b in own} | {chr(0x100 + i): b for i, b in enumerate(sorted(set(range(256)) - own))}
        return [bytes(byte[c] for c in self._tokenizer.id_to_token(symbol)) for symbol in range(self.size)]

    def decode(self, symbols: Sequence[int]) -> str:
        # Not by the tokenizer, which writes U+FFFD.
        return b"".join(self._spelt[s] for s in symbols).decode(errors="ignore")

    def barred(self, kinds: Iterable[str]) -> set[int]:
        # The tokenizer writes each byte as one character; so does its answer about all kinds of them.
        seen = set("".join(piece for piece, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str("".join(kinds))))
        return {symbol for symbol in range(self.size) if not seen.issuperset(self._tokenizer.id_to_token(symbol))}

    def to_json(self) -> dict[str, object]:
        return {"kind": "bpe", "model": self.model}


def vocabulary_from_json(data: Mapping[str, object]) -> Vocabulary:
    """The vocabulary that `to_json` described.  Raises FromNoiseError for an unknown one."""
    match data.get("kind"):
        case "bytes":
            return Bytes()
        case "characters":
            return Characters(str(data["alphabet"]))
        case "bpe":
            return Merges(str(data["model"]))
        case kind:
            raise FromNoiseError(f"This version has no vocabulary {kind!r}: use a newer fromnoise.")
