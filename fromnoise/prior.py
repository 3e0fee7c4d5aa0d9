"""What is expected of data before any of it is seen: a Gaussian, by conditions.

Where noise is some times as strong as data, the law of x_t is all but that of Gaussian data with the same mean and
covariance, whatever the data (Wang and Vastola 2024, "The unreasonable effectiveness of Gaussian score approximation").
So the steps that lead there need not be made.  The flow of Gaussian data is known: with c the conditions, it goes from
noise eps to

    x_t = (1-t)·E[x0 | c] + t·eps + Σ_k (√((1-t)²·|a_k|² + t²) - t)·(u_k·eps)·u_k,    a_k = |a_k|·u_k,             (1)

where E[x0 | c] = offset + φ(c)·coefficients·basis is a ridge regression on simple features of conditions, and the axes
a_k are the principal ones of what it leaves open, on average over all conditions, as long as their standard deviation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fromnoise.cond import Column, Cond
from fromnoise.data import Dataset
from fromnoise.types import Data, Time

KNOTS = 9  # of the broken lines that numbers are told by
MOST_FEATURES = 2048  # of a column; one of more is left out, and so are maps
RIDGE = 4.0  # examples that speak for no effect of a feature
MOST_AXES = 256
OF_EACH = 16  # examples for every axis, so that none is of few of them
SHORT = 1e-5  # of the longest axis, below which there is rounding alone
KEPT = 2**20  # numbers in the axes of a model, and in its basis
SUMMED, HELD = 2**26, 2**24  # numbers in the examples that moments are found from, and those that the basis is
_CHUNK = 2**20


@dataclass(frozen=True, eq=False)
class Expected:
    """Eq. (1): f features of `columns`, m of their effects on x0 (c, *d), r axes."""

    columns: tuple[Column, ...]
    offset: Float[Tensor, " *x"]
    coefficients: Float[Tensor, "f m"]
    basis: Float[Tensor, "m *x"]
    axes: Float[Tensor, "r *x"]

    def flow(self, eps: Data, t: float | Time, cond: Cond | None) -> Data:
        """x_t, where noise (b, c, *d) comes to under `cond`, without conditions if there are none; at t = 1 it is eps.

        Of another shape than the examples' only the mean is known, as far stretched.
        """
        x = self.mean(Cond.empty(len(eps)) if cond is None else cond).to(eps)
        if eps.shape[1:] != x.shape[1:]:
            return (1 - t) * F.interpolate(x, size=eps.shape[2:]) + t * eps
        axes, at = self.axes.flatten(1).to(eps), torch.as_tensor(t, dtype=eps.dtype).reshape(-1, 1)
        # (√(…) - t)/|a|², without a difference of nearly equal numbers
        moved = (1 - at) ** 2 / (((1 - at) ** 2 * axes.square().sum(1) + at**2).sqrt() + at)
        along = (moved * (eps.flatten(1) @ axes.T)) @ axes
        return (1 - t) * x + t * eps + along.view_as(eps)

    def tensors(self) -> dict[str, Tensor]:
        """All but the columns, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "columns"}

    def mean(self, cond: Cond) -> Data:
        told = features(self.columns, cond).to(self.offset)
        return self.offset + torch.tensordot(told @ self.coefficients, self.basis, 1)


def features(columns: tuple[Column, ...], cond: Cond) -> Float[Tensor, "b f"]:
    """φ(c), on the CPU; all zero where a column is absent."""
    parts = [torch.zeros(len(cond), 0)]
    for column in columns:
        size = _size(column)
        if size == 0:
            continue
        if column.name not in cond.values:
            parts.append(torch.zeros(len(cond), size))
            continue
        told = _features(column, cond.values[column.name].cpu())
        parts.append(told * cond.present[column.name].cpu()[:, None])
    return torch.cat(parts, 1)


def find_expected(dataset: Dataset) -> Expected:
    """By the training examples alone; the same for the same data.

    All of it lies among the principal axes of the data, where regression and covariance need no more than moments.
    """
    columns, shape = dataset.columns, dataset.codec.shape
    size = int(np.prod(shape))
    order = np.random.default_rng(0).permutation(dataset.indices("train"))
    seen = order[: max(1, SUMMED // size)]
    offset, basis = _principal(dataset, np.sort(order[: max(1, HELD // size)]))
    f, m = features(columns, Cond.empty(1)).shape[1], len(basis)
    moments = torch.zeros(f + m, f + m, dtype=torch.float64)
    for x0, cond in _chunks(dataset, np.sort(seen)):
        both = torch.cat([features(columns, cond), (x0.flatten(1) - offset) @ basis.T], 1)
        moments += both.T @ both
    among, along = moments[:f, :f], moments[:f, f:]
    effects = torch.linalg.solve(among + RIDGE * torch.eye(f), along)
    open_ = moments[f:, f:] - effects.T @ along - along.T @ effects + effects.T @ among @ effects
    squares, axes = torch.linalg.eigh(open_ / len(seen))
    lengths = squares.clamp_min(0).sqrt()
    axes = (lengths * axes)[:, lengths > SHORT * lengths.max()].T.flip(0)[: len(seen) // OF_EACH].float() @ basis
    return Expected(
        columns, offset.reshape(shape), effects.float(), basis.reshape(-1, *shape), axes.reshape(-1, *shape)
    )


def _principal(dataset: Dataset, indices: np.ndarray) -> tuple[Float[Tensor, " n"], Float[Tensor, "m n"]]:
    """Mean and principal axes, of length one, of these examples."""
    x = torch.cat([x0.flatten(1) for x0, _ in _chunks(dataset, indices)])
    offset = x.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rank = min(MOST_AXES, max(1, KEPT // x.shape[1]), *x.shape)
        _, _, axes = torch.pca_lowrank(x, q=rank, niter=4)
    return offset, axes.T.contiguous()


def _chunks(dataset: Dataset, indices: np.ndarray) -> Iterator[tuple[Data, Cond]]:
    chunk = max(1, _CHUNK // int(np.prod(dataset.codec.shape)))
    for start in range(0, len(indices), chunk):
        part = indices[start : start + chunk]
        yield dataset.x0(part).float(), dataset.cond(part)


def _size(column: Column) -> int:
    """Features of a column, 0 if it has too many to be told so."""
    of = {"class": len(column.labels), "number": KNOTS, "tokens": column.size, "map": 0}
    size = of.get(column.kind, column.size)
    return size if size <= MOST_FEATURES else 0


def _features(column: Column, value: Tensor) -> Float[Tensor, "b f"]:
    """Of a class which it is, of a number the knots that it lies between, of symbols which there are."""
    if column.kind == "class":
        return F.one_hot(value.long(), len(column.labels)).float()
    if column.kind == "tokens":
        there = torch.zeros(len(value), column.size).scatter_(1, value.long(), 1.0)
        there[:, 0] = 0  # padding
        return there
    if column.kind == "number":
        low, high = ((edge - column.mean) / column.std for edge in (column.low, column.high))
        at = ((value.float() - low) / max(high - low, 1e-6)).clamp(0, 1) * (KNOTS - 1)
        return (1 - (at[:, None] - torch.arange(KNOTS)).abs()).clamp_min(0)
    return value.float()
