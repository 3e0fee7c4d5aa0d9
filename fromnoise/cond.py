"""What an example is conditioned on: named columns, each present or absent for each example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fromnoise.rng import Rng
from fromnoise.types import Shape

Kind = Literal["class", "number", "vector", "tokens", "embedding", "map"]
CAPTIONED: tuple[Kind, ...] = ("tokens", "embedding")  # kinds of columns that say in words what an example is
_SUBSETS = 0.25  # of the examples with several columns


@dataclass(frozen=True, kw_only=True)
class Column:
    """A named condition of the model, as recorded in the release.

    kind       value per example                    uses
    class      int64 index into `labels`            labels
    number     float32, standardised outside        low, high (training range), mean, std
    vector     float32 (size,), standardised        size, and as of numbers, for all entries together
    tokens     int64 (length,), 0 is padding        size (vocabulary), length, labels (words, from symbol 1; `caption`)
    embedding  float16 (size,), standardised        size, mean, std, encoder, digest (`data/textencoder`)
    map        float32 (size, *space)               size (channels)
    """

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()
    size: int = 1
    length: int = 1
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0
    encoder: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Cond:
    """Conditions of a batch: column -> value (b, ...), and column -> present (b,).

    Values of absent entries are arbitrary and never reach the network.  A batch without conditions is `Cond.empty(b)`.
    """

    values: Mapping[str, Tensor]
    present: Mapping[str, Bool[Tensor, " b"]]
    batch: int

    @staticmethod
    def empty(batch: int) -> Cond:
        return Cond({}, {}, batch)

    def __len__(self) -> int:
        return self.batch

    def __getitem__(self, part: slice) -> Cond:
        return self._map(lambda x: x[part], len(range(*part.indices(self.batch))))

    def rows(self, which: Bool[Tensor, " b"] | Int[Tensor, " k"]) -> Cond:
        """The examples that a mask keeps, or those that indices name, in their order."""
        count = int(which.sum()) if which.dtype == torch.bool else len(which)
        return self._map(lambda x: x[which], count)

    def null(self) -> Cond:
        """The same columns with nothing present: the reference of classifier-free guidance."""
        return Cond(self.values, {k: torch.zeros_like(p) for k, p in self.present.items()}, self.batch)

    def drop(self, rate: float, rng: Rng) -> Cond:
        """Each column absent with probability `rate`, and all at once with probability `rate`, per example.

        Of several columns a quarter of the examples have an even choice of any subset, so that sampling may name any;
        of a caption each word is absent with probability `rate`, so that a prompt may say less than captions do.
        """
        if rate == 0 or not self.values:
            return self
        count = len(self.values)
        keep = rng.uniform((self.batch, count + 1)) >= rate
        if count > 1:
            draw = rng.uniform((self.batch, count + 1))
            keep[:, :-1] &= (draw[:, :-1] < 0.5) | (draw[:, -1:] >= _SUBSETS)
        values = {name: _fewer_words(v, rate, rng) if is_caption(v) else v for name, v in self.values.items()}
        columns = {
            name: p & (keep[:, i] & keep[:, -1]).to(p.device) for i, (name, p) in enumerate(self.present.items())
        }
        return Cond(values, columns, self.batch)

    def having(self, name: str, value: Tensor) -> Cond:
        """The same with values (b, ...), or (1, ...) for all, of a column, present in every example."""
        values = {**self.values, name: value.to(self.values[name]).expand(self.batch, *value.shape[1:])}
        present = {**self.present, name: torch.ones_like(self.present[name])}
        return Cond(values, present, self.batch)

    def within(self, seen: tuple[Any, ...], whole: Shape) -> Cond:
        """The same with what is `seen` of maps that are as large as the `whole`."""
        k = len(whole)
        values = {n: v[seen] if v.ndim == k + 2 and v.shape[-k:] == whole else v for n, v in self.values.items()}
        return Cond(values, self.present, self.batch)

    def during(self, first: int, frames: int) -> Cond:
        """The same with `frames` from `first` on of maps of clips (b, c, f, h, w) that stand still at their end."""
        place = torch.arange(first, first + frames)
        values = {
            n: v[:, :, place.clamp(max=v.shape[2] - 1).to(v.device)] if v.ndim == 5 else v
            for n, v in self.values.items()
        }
        return Cond(values, self.present, self.batch)

    def to(self, device: torch.device | str) -> Cond:
        return self._map(lambda x: x.to(device), self.batch)

    @staticmethod
    def cat(parts: Sequence[Cond]) -> Cond:
        """Batches with the same columns, one after the other."""
        first = parts[0]
        return Cond(
            {k: torch.cat([p.values[k] for p in parts]) for k in first.values},
            {k: torch.cat([p.present[k] for p in parts]) for k in first.present},
            sum(p.batch for p in parts),
        )

    def _map(self, f, batch: int) -> Cond:
        return Cond({k: f(v) for k, v in self.values.items()}, {k: f(v) for k, v in self.present.items()}, batch)


def is_caption(value: Tensor) -> bool:
    """Whether a column's values are symbols of words: whole numbers (b, length)."""
    return value.ndim == 2 and not value.is_floating_point()


def _fewer_words(value: Tensor, rate: float, rng: Rng) -> Tensor:
    return value.masked_fill((rng.uniform(tuple(value.shape)) < rate).to(value.device), 0)
