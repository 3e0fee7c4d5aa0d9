"""The judgement of text: bits per character beside what others need, and whether samples are varied and new.

Bits are those of held-out documents, the model's an upper bound (`text.py`).  Words and their runs are compared between
equal amounts of samples and of held-out text: what training holds of the former is copied, of the latter the language.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from fromnoise.codec import TextCodec
from fromnoise.denoise import ModelDenoiser
from fromnoise.evaluate.ngram import NGram
from fromnoise.evaluate.text import Bits, Known, Variety, document_bits, per_character, squeezed

RUN = 5  # words
DRAWS = 2  # masks of each window
MORE = 1.5  # times the held-out share of runs that training has: what is still no copying
SLACK = 0.03  # of shares
MODEL, GZIP, BZIP2 = "this model, at most", "gzip -9", "bzip2 -9"


@dataclass(frozen=True, kw_only=True)
class TextJudgement:
    """Bits per character of `documents` held-out texts, by the model and others; words of samples and of held-out text.

    `whole` is the share of samples of `RUN` words or more that training contains whole, `chance` that of new texts that
    would be there: of n training texts n1 are there once, hence 1 - n1/n (Good 1953).
    """

    documents: int
    bits: dict[str, Bits]
    samples: Variety
    held: Variety
    whole: float
    chance: float
    sentences: tuple[str, ...] = ()

    def to_json(self) -> dict:
        return asdict(self)

    @property
    def copies(self) -> bool:
        return self.whole > self.chance + SLACK or self.samples.copied > MORE * self.held.copied + SLACK

    @property
    def tables(self) -> list[list[tuple[str, ...]]]:
        """Two tables, the first row of each its heading."""
        bits = [(name, str(value)) for name, value in self.bits.items()]
        words = [
            (name, *(f"{share:.3f}" for share in v.distinct), f"{v.copied:.1%}")
            for name, v in (("samples", self.samples), ("held-out text", self.held))
        ]
        return [
            [(f"bits a character of {self.documents:,} held-out texts", ""), *bits],
            [(f"in {self.samples.words:,} words", "words", "pairs", "triples", f"{RUN}-word runs copied"), *words],
        ]

    def table(self) -> list[str]:
        lines = []
        for table in self.tables:
            first = max(len(row[0]) for row in table)
            widths = [max(len(row[i]) for row in table) for i in range(1, len(table[0]))]
            for name, *cells in table:
                right = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
                lines.append(f"{name:<{first}}  {right}".rstrip())
        return lines


def judge_text(
    denoise: ModelDenoiser, codec: TextCodec, samples: Sequence[str], train: Sequence[str], held: Sequence[str]
) -> TextJudgement:
    """Judges samples and the model itself by some training and held-out documents."""
    device = next(denoise.parameters()).device
    windows = [codec.windows(codec.store(text)).to(device) for text in held]
    grams = NGram.of(train, _order(train))
    bits = {
        MODEL: per_character(document_bits(denoise, windows, draws=DRAWS), held),
        f"a {len(grams.orders)}-gram model": per_character(grams.bits(held), held),
        BZIP2: squeezed(held, "bzip2"),
        GZIP: squeezed(held, "gzip"),
    }
    known = Known(train, RUN)
    words = min(sum(len(text.split()) for text in texts) for texts in (samples, held))
    long = [text for text in samples if len(text.split()) >= RUN]
    counts = Counter(text for text in train if len(text.split()) >= RUN)
    found = TextJudgement(
        documents=len(held),
        bits=bits,
        samples=known.variety(samples, words),
        held=known.variety(held, words),
        whole=sum(text in known.texts for text in long) / max(len(long), 1),
        chance=1 - sum(n == 1 for n in counts.values()) / max(counts.total(), 1),
    )
    verdicts = [_compared(bits[MODEL], name, bits[name]) for name in bits if name not in (MODEL, BZIP2)]
    return replace(found, sentences=(*verdicts, _copying(found), _varied(found)))


def _order(texts: Sequence[str], most: int = 5) -> int:
    """The longest n-grams whose codes fit into 63 bits."""
    kinds = len(set().union(*texts)) + 2
    return next(n for n in range(most, 0, -1) if kinds**n < 2**63)


def _compared(ours: Bits, name: str, other: Bits) -> str:
    error = math.hypot(ours.error, other.error)
    numbers = f"at most {ours.value:.3f} bits a character against {other.value:.3f}"
    if ours.value + 2 * error < other.value:
        return f"It beats {name}: {numbers}."
    if ours.value - 2 * error > other.value:
        return f"It does not beat {name}: {numbers}; train longer, or give more text."
    return f"It is about as good as {name}: {numbers}."


def _copying(found: TextJudgement) -> str:
    shares = (
        f"{found.samples.copied:.1%} of the samples' runs of {RUN} words are in the training text, and "
        f"{found.held.copied:.1%} of the held-out texts'; {found.whole:.1%} of the longer samples are there "
        f"whole, where {found.chance:.1%} of new texts would be"
    )
    if found.copies:
        return f"It copies: {shares}. Do not publish before you have looked; more text or a shorter budget help."
    return f"It does not copy: {shares}."


def _varied(found: TextJudgement) -> str:
    ours, theirs = found.samples.distinct[1], found.held.distinct[1]
    word = "less varied than" if ours < 0.9 * theirs else "as varied as"
    return (
        f"Samples are {word} held-out text: {ours:.1%} of their pairs of words are no repeats, of as many held-out "
        f"words {theirs:.1%}."
    )
