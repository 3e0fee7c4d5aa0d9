"""What is expected of data before any of it is seen: a Gaussian, by conditions.

Where noise is some times as strong as data, the law of x_t is all but that of Gaussian data with the same mean and
covariance, whatever the data (Wang and Vastola 2024, "The unreasonable effectiveness of Gaussian score approximation").
So the steps that lead there need not be made.  The flow of Gaussian data is known: with c the conditions, it goes from
noise eps to

    x_t = (1-t)·E[x0 | c] + t·eps + Σ_k (√((1-t)²·|a_k|² + t²) - t)·(u_k·eps)·u_k,    a_k = |a_k|·u_k,             (1)

where E[x0 | c] = offset + φ(c)·coefficients·basis is a ridge regression on simple features of conditions, and the axes
a_k are the principal ones of what it leaves open, as long as their standard deviation.  How much that is depends on c,
too: sandals differ in more than trousers.  So conditions of like expectations make a kind, which has axes of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.cluster.vq import kmeans2
from torch import Tensor

from fromnoise.cond import Column, Cond
from fromnoise.data import Dataset
from fromnoise.types import Data, Time

KNOTS = 9  # of the broken lines that numbers are told by
MOST_FEATURES = 2048  # of a column; one of more is left out, and so are maps
RIDGE = 4.0  # examples that speak for no effect of a feature
MOST_AXES = 256
OF_EACH = 16  # examples for every axis, so that none is of few of them
SHORT = 1e-4  # of the longest axis, below which there is rounding alone
MOST_KINDS, OF_KIND = 256, 64  # kinds of conditions, and examples to every one on average
SORTED = 2**13  # examples by whose conditions kinds are found, and that are sorted at a time
ALIKE = 32.0  # examples that speak for a kind to differ in what all do
KEPT, KEPT_OF_KINDS = 2**20, 2**22  # numbers in the basis, and in the axes of all kinds
SUMMED, HELD = 2**26, 2**24  # numbers in the examples that moments are found from, and those that the basis is
_CHUNK = 2**20


@dataclass(frozen=True, eq=False)
class Expected:
    """Eq. (1): f features of `columns`, m of their effects on x0 (c, *d); k kinds, and r axes of each.

    basis    orthogonal, of length one
    centres  the effects that are expected of a kind; one belongs to the nearest
    axes     along the basis: first those of examples of which nothing is told, then those of each kind
    """

    columns: tuple[Column, ...]
    offset: Float[Tensor, " *x"]
    coefficients: Float[Tensor, "f m"]
    basis: Float[Tensor, "m *x"]
    centres: Float[Tensor, "k m"]
    axes: Float[Tensor, "k+1 r m"]

    def flow(self, eps: Data, t: float | Time, cond: Cond | None) -> Data:
        """x_t, where noise (b, c, *d) comes to under `cond`, without conditions if there are none; at t = 1 it is eps.

        Of another shape than the examples' only the mean is known, as far stretched.
        """
        told = features(self.columns, Cond.empty(len(eps)) if cond is None else cond).to(self.offset)
        effects = told @ self.coefficients
        mean = (1 - t) * (self.offset + torch.tensordot(effects, self.basis, 1)).to(eps)
        if eps.shape[1:] != mean.shape[1:]:
            return F.interpolate(mean, size=eps.shape[2:]) + t * eps
        basis, kinds = self.basis.flatten(1).to(eps), kinds_of(self.centres, told, effects)
        at = torch.as_tensor(t, dtype=eps.dtype).reshape(-1, 1).expand(len(eps), 1)
        along = eps.flatten(1) @ basis.T
        for kind in kinds.unique().tolist():
            rows, axes = kinds == kind, self.axes[kind].to(eps)
            signal, noise = (1 - at[rows]) ** 2, at[rows]
            # (√(…) - t)/|a|², without a difference of nearly equal numbers
            moved = signal / ((signal * axes.square().sum(1) + noise**2).sqrt() + noise)
            along[rows] = (moved * (along[rows] @ axes.T)) @ axes
        return mean + t * eps + (along @ basis).view_as(eps)

    def tensors(self) -> dict[str, Tensor]:
        """All but the columns, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "columns"}

    @classmethod
    def from_tensors(cls, columns: tuple[Column, ...], tensors: Mapping[str, Tensor]) -> Expected:
        """From `tensors()`, as releases keep them."""
        if "centres" in tensors:
            return cls(columns, **tensors)
        # Of a version that expected the same of all kinds, and kept axes as data.
        basis = tensors["basis"].flatten(1)
        axes = (tensors["axes"].flatten(1) @ basis.T)[None]
        return cls(columns, **{**tensors, "axes": axes, "centres": basis.new_zeros(0, len(basis))})


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


def kinds_of(
    centres: Float[Tensor, "k m"], told: Float[Tensor, "b f"], effects: Float[Tensor, "b m"]
) -> Int[Tensor, " b"]:
    """1 … k by the nearest centre, 0 where nothing is told."""
    if not len(centres):
        return torch.zeros(len(told), dtype=torch.long)
    return torch.where(told.any(1), 1 + torch.cdist(effects, centres).argmin(1), 0)


def find_expected(dataset: Dataset) -> Expected:
    """By the training examples alone; the same for the same data.

    All of it lies among the principal axes of the data, where regression and covariance need no more than moments.
    """
    columns, shape = dataset.columns, dataset.codec.shape
    size = int(np.prod(shape))
    order = np.random.default_rng(0).permutation(dataset.indices("train"))
    seen = np.sort(order[: max(1, SUMMED // size)])
    offset, basis = _principal(dataset, np.sort(order[: max(1, HELD // size)]))
    f, m = features(columns, Cond.empty(1)).shape[1], len(basis)
    moments, x = torch.zeros(f, f + m, dtype=torch.float64), torch.empty(len(seen), m)
    for rows, x0, cond in _chunks(dataset, seen):
        told, x[rows] = features(columns, cond), (x0.flatten(1) - offset) @ basis.T
        moments += told.double().T @ torch.cat([told, x[rows]], 1).double()
    coefficients = torch.linalg.solve(moments[:, :f] + RIDGE * torch.eye(f), moments[:, f:]).float()

    def expected(indices: np.ndarray) -> tuple[Tensor, Tensor]:
        told = features(columns, dataset.cond(indices))
        return told, told @ coefficients

    centres = _centres(expected(np.sort(order[: min(SORTED, len(seen))]))[1], min(MOST_KINDS, len(seen) // OF_KIND))
    axes = _axes(x, lambda rows: expected(seen[rows]), centres)
    return Expected(columns, offset.reshape(shape), coefficients, basis.reshape(-1, *shape), centres, axes)


def _centres(effects: Float[Tensor, "n m"], most: int) -> Float[Tensor, "k m"]:
    """All that is expected of these examples, each once; where that is too much, what most of it is near to.  None
    where all is of one kind."""
    distinct = effects.unique(dim=0)
    if min(len(distinct), most) < 2:
        return effects[:0]
    if len(distinct) <= most:
        return distinct
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of empty kinds, which do no harm
        centres, _ = kmeans2(effects.numpy(), most, iter=20, minit="++", rng=np.random.default_rng(0))
    return torch.from_numpy(centres)


def _axes(
    x: Float[Tensor, "n m"], expected: Callable[[slice], tuple[Tensor, Tensor]], centres: Float[Tensor, "k m"]
) -> Float[Tensor, "k+1 r m"]:
    """Principal axes of examples x, and of what is left open of each kind by what is told and expected of them.

    A kind differs from others as far as its examples outnumber ALIKE.
    """
    n, m = x.shape
    squares, count = torch.zeros(len(centres) + 1, m, m), torch.zeros(len(centres) + 1, 1, 1)
    for start in range(0, n, SORTED):
        rows = slice(start, start + SORTED)
        told, effects = expected(rows)
        kinds = kinds_of(centres, told, effects)
        for kind in kinds.unique().tolist():
            open_ = (x[rows] - effects)[kinds == kind]
            squares[kind] += open_.T @ open_
            count[kind] += len(open_)
    covariance = (squares + ALIKE * squares.sum(0) / n) / (count + ALIKE)
    covariance[0] = x.T @ x / n
    squares, axes = torch.linalg.eigh(covariance)
    lengths = squares.clamp_min(0).sqrt()
    lengths = lengths.where(lengths > SHORT * lengths[:, -1:], 0.0)
    kept = min(MOST_AXES, n // OF_EACH, KEPT_OF_KINDS // covariance[:, 0].numel())
    return (lengths[:, None] * axes).mT.flip(1)[:, :kept].half()


def _principal(dataset: Dataset, indices: np.ndarray) -> tuple[Float[Tensor, " n"], Float[Tensor, "m n"]]:
    """Mean and principal axes, of length one, of these examples."""
    x = torch.cat([x0.flatten(1) for _, x0, _ in _chunks(dataset, indices)])
    offset = x.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rank = min(MOST_AXES, max(1, KEPT // x.shape[1]), *x.shape)
        _, _, axes = torch.pca_lowrank(x, q=rank, niter=4)
    return offset, axes.T.contiguous()


def _chunks(dataset: Dataset, indices: np.ndarray) -> Iterator[tuple[slice, Data, Cond]]:
    chunk = max(1, _CHUNK // int(np.prod(dataset.codec.shape)))
    for start in range(0, len(indices), chunk):
        part = indices[start : start + chunk]
        yield slice(start, start + len(part)), dataset.x0(part).float(), dataset.cond(part)


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
