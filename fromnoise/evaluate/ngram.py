"""A character n-gram model, the yardstick of text: interpolated Kneser-Ney (Chen & Goodman 1999).

    p(c | h) = max(n(hc) - D, 0)/n(h·) + D·N(h·)/n(h·) · p(c | h'),

where h' is h without its first character, N(h·) the number of kinds that follow h, and n, below the highest order, not
how often hc was seen but after how many kinds of character it was.  D = n₁/(n₁ + 2·n₂) for each order, by the counts
that are one and two; at the bottom all symbols are equally likely.  Texts are framed by their beginnings and ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

END, UNSEEN = 0, 1
SPELLING = 21.0  # bits for naming a character that training never showed


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """Sorted codes of what was seen, hc and h, with n(hc), n(h·), N(h·)."""

    grams: Int[np.ndarray, " g"]
    counts: Int[np.ndarray, " g"]
    contexts: Int[np.ndarray, " h"]
    totals: Int[np.ndarray, " h"]
    kinds: Int[np.ndarray, " h"]
    discount: float


@dataclass(frozen=True, kw_only=True, eq=False)
class NGram:
    """Symbol 0 is the end (and, in contexts, the beginning) of a text, 1 any unseen character, then `alphabet`."""

    alphabet: str
    orders: tuple[Order, ...]

    @staticmethod
    def of(texts: Iterable[str], n: int = 5) -> NGram:
        """The model of `n`-grams, trained on the texts."""
        texts = list(texts)
        alphabet = "".join(sorted(set().union(*texts)))
        grams = _grams(_symbols(texts, alphabet), n)
        base = len(alphabet) + 2
        assert base**n < 2**63, "this many kinds of character do not fit: use a smaller n"
        seen, counts = np.unique(_codes(grams, base), return_counts=True)
        orders = [_order(seen, counts, base)]
        for k in range(n - 1, 0, -1):
            # n(hc): how many kinds of character stand before it.
            seen, counts = np.unique(seen % base**k, return_counts=True)
            orders.append(_order(seen, counts, base))
        return NGram(alphabet=alphabet, orders=tuple(reversed(orders)))

    @property
    def size(self) -> int:
        return len(self.alphabet) + 2

    def bits(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        """-log2 p of each text with its end; an unseen character costs `SPELLING` beside its symbol."""
        symbols = _symbols(texts, self.alphabet)
        bits = -np.log2(self.probability(_grams(symbols, len(self.orders)))) + SPELLING * (symbols == UNSEEN)
        ends = np.cumsum([len(text) + 1 for text in texts])
        return np.diff(np.concatenate([[0.0], np.cumsum(bits)])[np.concatenate([[0], ends])])

    def law(self, context: Sequence[int]) -> Float[np.ndarray, " v"]:
        """p of every symbol after the last n-1 symbols."""
        assert len(context) == len(self.orders) - 1, context
        grams = np.column_stack([np.tile(np.array(context, np.int64), (self.size, 1)), np.arange(self.size)])
        return self.probability(grams)

    def probability(self, grams: Int[np.ndarray, "m n"]) -> Float[np.ndarray, " m"]:
        """p of each n-gram's last symbol after the others."""
        p = np.full(len(grams), 1 / self.size)
        for k, order in enumerate(self.orders, start=1):
            codes = _codes(grams[:, -k:], self.size)
            count = _look_up(order.grams, order.counts, codes)
            total = _look_up(order.contexts, order.totals, codes // self.size)
            kinds = _look_up(order.contexts, order.kinds, codes // self.size)
            mixed = (np.maximum(count - order.discount, 0) + order.discount * kinds * p) / np.maximum(total, 1)
            p = np.where(total > 0, mixed, p)
        return p


def _order(seen: np.ndarray, counts: np.ndarray, base: int) -> Order:
    contexts, first, kinds = np.unique(seen // base, return_index=True, return_counts=True)
    ones, twos = int((counts == 1).sum()), int((counts == 2).sum())
    # A corpus without single grams knows them all: there is next to nothing to hold back.
    discount = ones / (ones + 2 * twos) if ones else 1e-3
    return Order(
        grams=seen,
        counts=counts,
        contexts=contexts,
        totals=np.add.reduceat(counts, first),
        kinds=kinds,
        discount=min(discount, 0.999),
    )


def _symbols(texts: Sequence[str], alphabet: str) -> Int[np.ndarray, " m"]:
    """All texts one after the other, each followed by `END`."""
    place = {c: i + 2 for i, c in enumerate(alphabet)}
    return np.array([s for text in texts for s in (*(place.get(c, UNSEEN) for c in text), END)], dtype=np.int64)


def _grams(symbols: Int[np.ndarray, " m"], n: int) -> Int[np.ndarray, "m n"]:
    """Each symbol with the n-1 before it; before the beginning of a text there is only `END`."""
    padded = np.concatenate([np.zeros(n - 1, np.int64), symbols])
    grams = np.lib.stride_tricks.sliding_window_view(padded, n).copy()
    for place in range(n - 3, -1, -1):
        # Once an end is met going back, what is before it belongs to another text.
        grams[:, place] = np.where(grams[:, place + 1] == END, END, grams[:, place])
    return grams


def _codes(grams: Int[np.ndarray, "m k"], base: int) -> Int[np.ndarray, " m"]:
    codes = np.zeros(len(grams), np.int64)
    for column in grams.T:
        codes = codes * base + column
    return codes


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value at each wanted key, 0 where there is none."""
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
