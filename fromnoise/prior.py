"""What is expected of data before any of it is seen: a Gaussian, by conditions.

Where noise is some times as strong as data, the law of x_t is all but that of Gaussian data with the same mean and
covariance, whatever the data (Wang and Vastola 2024, "The unreasonable effectiveness of Gaussian score approximation").
So the steps that lead there need not be made.  With c the conditions, samples may begin at

    x_t = t·eps + (1-t)·(E[x0 | c] + Σ_k z_k·axes_k),    eps, z standard normal,                                  (1)

where E[x0 | c] = offset + φ(c)·coefficients·basis is a ridge regression on simple features of conditions, and the axes
are the principal ones of what it leaves open, on average over all conditions, as long as their standard deviation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fromnoise.cond import Column, Cond
from fromnoise.data import Dataset
from fromnoise.rng import Rng
from fromnoise.types import Data, Shape

KNOTS = 9  # of the broken lines that numbers are told by
MOST_FEATURES = 2048  # of a column; one of more is left out, and so are maps
RIDGE = 4.0  # examples that speak for no effect of a feature
MOST_AXES = 256
OF_EACH = 16  # examples for every axis, so that none is of few of them
KEPT = 2**20  # numbers in the axes of a model, and in its basis
SUMMED, HELD = 2**28, 2**25  # numbers in the examples that the mean is found from, and those that the axes are
_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Expected:
    """Eq. (1): f features of `columns`, m of their effects on x0 (c, *d), r axes."""

    columns: tuple[Column, ...]
    offset: Float[Tensor, " *x"]
    coefficients: Float[Tensor, "f m"]
    basis: Float[Tensor, "m *x"]
    axes: Float[Tensor, "r *x"]

    def draw(self, shape: Shape, rng: Rng, cond: Cond | None) -> Data:
        """Data (b, c, *d) as it is expected under `cond`, without conditions if there are none.

        Of another shape than the examples' it is the mean alone, as far stretched.
        """
        x = self.mean(Cond.empty(shape[0]) if cond is None else cond)
        if shape[1:] != tuple(x.shape[1:]):
            return F.interpolate(x, size=shape[2:])
        return x + torch.tensordot(rng.normal((shape[0], len(self.axes)), like=x), self.axes, 1)

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
    """By the training examples alone; the same for the same data."""
    columns, shape = dataset.columns, dataset.codec.shape
    size = int(np.prod(shape))
    order = np.random.default_rng(0).permutation(dataset.indices("train"))
    offset, among, along = _sums(dataset, np.sort(order[: max(1, SUMMED // size)]))
    effects = torch.linalg.solve(among + RIDGE * torch.eye(len(among)), along)
    most = max(1, KEPT // size)
    held = np.sort(order[: max(1, HELD // size)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(effects, q=min(most, *effects.shape), niter=4)
        expected = Expected(
            columns, offset.reshape(shape), u * s, v.T.reshape(-1, *shape).contiguous(), torch.zeros(0, *shape)
        )
        rest = torch.cat([(x0 - expected.mean(cond)).flatten(1) for x0, cond in _chunks(dataset, held)])
        rank = min(MOST_AXES, len(rest) // OF_EACH, size, most)
        _, lengths, axes = torch.pca_lowrank(rest, q=rank, niter=4)
    axes = (axes * lengths / len(rest) ** 0.5).T.reshape(-1, *shape).contiguous()
    return replace(expected, axes=axes)


def _sums(dataset: Dataset, indices: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of x0 (size), Σ φᵀφ (f, f) and Σ φᵀ(x0 - mean) (f, size)."""
    f, size = features(dataset.columns, Cond.empty(1)).shape[1], int(np.prod(dataset.codec.shape))
    total, count, among, along = (torch.zeros(shape) for shape in (size, f, (f, f), (f, size)))
    for x0, cond in _chunks(dataset, indices):
        told, x = features(dataset.columns, cond), x0.flatten(1)
        total += x.sum(0)
        count += told.sum(0)
        among += told.T @ told
        along += told.T @ x
    mean = total / len(indices)
    return mean, among, along - count[:, None] * mean


def _chunks(dataset: Dataset, indices: np.ndarray) -> Iterator[tuple[Data, Cond]]:
    for start in range(0, len(indices), _CHUNK):
        part = indices[start : start + _CHUNK]
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
