"""What an example is conditioned on: named columns, each present or absent for each example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from fromnoise.rng import Rng

Kind = Literal["class", "number", "vector", "tokens", "map"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A named condition of the model, as recorded in the release.

    kind     value per example                    uses
    class    int64 index into `labels`            labels
    number   float32, standardised outside        low, high (training range), mean, std
    vector   float32 (size,)                      size
    tokens   int64 (length,), 0 is padding        size (vocabulary), length
    map      float32 (size, *space)               size (channels)
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

    def rows(self, mask: Bool[Tensor, " b"]) -> Cond:
        return self._map(lambda x: x[mask], int(mask.sum()))

    def null(self) -> Cond:
        """The same columns with nothing present: the reference of classifier-free guidance."""
        return Cond(self.values, {k: torch.zeros_like(p) for k, p in self.present.items()}, self.batch)

    def drop(self, rate: float, rng: Rng) -> Cond:
        """Each column absent with probability `rate`, and all at once with probability `rate`, per example."""
        if rate == 0 or not self.values:
            return self
        keep = rng.uniform((self.batch, len(self.values) + 1)) >= rate
        columns = {
            name: p & (keep[:, i] & keep[:, -1]).to(p.device) for i, (name, p) in enumerate(self.present.items())
        }
        return Cond(self.values, columns, self.batch)

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
