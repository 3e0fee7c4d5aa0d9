"""Is it the language, is it varied, is it new?  Text judged in bits per character and by its runs of words.

A text of c characters has c + 1 to be told, its end among them, whoever tells it: the model, gzip, bzip2 (which get one
text a line) or the n-gram model (`ngram.py`).
"""

from __future__ import annotations

import bz2
import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.objectives import MaskedCrossEntropy
from fromnoise.rng import Rng

_SQUEEZE = {"gzip": lambda data: gzip.compress(data, 9), "bzip2": lambda data: bz2.compress(data, 9)}


@dataclass(frozen=True, kw_only=True)
class Bits:
    """Bits per character; `error` is the standard error over texts (and over masks, where there are any)."""

    value: float
    error: float = 0.0

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f}" if self.error else f"{self.value:.3f}"


def per_character(bits: Float[np.ndarray, " n"], texts: Sequence[str]) -> Bits:
    """From the bits of each text: their ratio to all characters, with the error of a ratio of sums."""
    characters = np.array([len(text) + 1 for text in texts], dtype=np.float64)
    value = bits.sum() / characters.sum()
    spread = (bits - value * characters).std(ddof=1) if len(bits) > 1 else math.nan
    return Bits(value=float(value), error=float(spread * math.sqrt(len(bits)) / characters.sum()))


@torch.no_grad()
def masked_bits(
    denoise: Denoiser, windows: Int[Tensor, "m n"], *, draws: int = 4, seed: int = 0, batch: int = 64
) -> Float[np.ndarray, " m"]:
    """An upper bound on -log2 p of each window, in expectation over masks (the ELBO of `objectives/masked.py`).

    The numbers of masked sites are stratified over a window's draws and over all windows; no model changes them.
    """
    objective, bits = MaskedCrossEntropy(), torch.zeros(len(windows), dtype=torch.float64)
    count = len(windows) * draws
    for draw in range(draws):
        strata = draw * len(windows) + np.random.default_rng([seed, draw]).permutation(len(windows))
        for start in range(0, len(windows), batch):
            x0 = windows[start : start + batch]
            places = strata[start : start + len(x0)].tolist()
            rng = Rng.of(seed, places, "bits", total=count)
            value = objective(denoise, x0, Cond.empty(len(x0)), rng).value
            bits[start : start + len(x0)] += value.double().cpu() * windows.shape[1] / math.log(2) / draws
    return bits.numpy()


def document_bits(denoise: Denoiser, documents: Sequence[Tensor], *, draws: int = 4, seed: int = 0) -> np.ndarray:
    """`masked_bits` of each document, given as its windows (k, n): the sum over them."""
    bits = masked_bits(denoise, torch.cat(list(documents)), draws=draws, seed=seed)
    starts = np.cumsum([0, *(len(windows) for windows in documents)])[:-1]
    return np.add.reduceat(bits, starts)


def squeezed(texts: Sequence[str], by: str) -> Bits:
    """Bits per character of the texts, one a line, after "gzip" or "bzip2" at their best setting."""
    data = "".join(f"{text}\n" for text in texts)
    return Bits(value=8 * len(_SQUEEZE[by](data.encode())) / len(data))


@dataclass(frozen=True, kw_only=True)
class Variety:
    """Words and runs of words in some texts.

    distinct  share of the runs of 1, 2 and 3 words that are not repeats; falls with the amount of text
    copied    share of the runs of five words that training contains verbatim
    whole     share of texts that training contains whole
    words     in how many words
    """

    distinct: tuple[float, float, float]
    copied: float
    whole: float
    words: int


class Known:
    """The runs of words of the training texts."""

    def __init__(self, train: Sequence[str], run: int = 5) -> None:
        self.run, self.texts = run, set(train)
        self.runs = {piece for text in train for piece in _runs(text.split(), run)}

    def variety(self, texts: Sequence[str], words: int) -> Variety:
        """Of the first texts, up to `words` words in all: compare equal amounts of samples and of held-out text."""
        kept, total = [], 0
        for text in texts:
            if total >= words:
                break
            kept.append(text.split()[: words - total])
            total += len(kept[-1])
        runs = [piece for text in kept for piece in _runs(text, self.run)]
        return Variety(
            distinct=(_distinct(kept, 1), _distinct(kept, 2), _distinct(kept, 3)),
            copied=sum(piece in self.runs for piece in runs) / max(len(runs), 1),
            whole=sum(text in self.texts for text in texts) / max(len(texts), 1),
            words=total,
        )


def _distinct(texts: Sequence[list[str]], n: int) -> float:
    runs = [piece for text in texts for piece in _runs(text, n)]
    return len(set(runs)) / max(len(runs), 1)


def _runs(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
