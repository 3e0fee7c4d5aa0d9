"""Distances between two sets of examples, each given by its features.

Fréchet distance   the squared 2-Wasserstein distance between the Gaussians fitted to both sets: blind to what two
                   moments do not see, and biased upwards by about (tr of the covariance) / n at small n.
kernel distance    the unbiased squared MMD under a cubic kernel: zero on average for equal laws at any n, and it comes
                   with its own standard error.
manifolds          k-nearest-neighbour balls tell quality (precision, density) from variety (recall, coverage).

No number here means anything alone.  `judge` puts each beside the same number for held-out data and for known
corruptions, all at one n, so that the bias is shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fromnoise.types import FromNoiseError


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean (f,) and unbiased covariance (f, f) of a set of `count` features, in float64."""

    mean: Tensor
    cov: Tensor
    count: int

    @staticmethod
    def of(features: Float[Tensor, "n f"]) -> Moments:
        if len(features) < 2:
            raise FromNoiseError(f"A distance needs at least 2 examples on each side, not {len(features)}: give more.")
        x = features.double()
        mean = x.mean(0)
        centred = x - mean
        return Moments(mean=mean, cov=centred.T @ centred / (len(x) - 1), count=len(x))


def times(ratio: float) -> str:
    """How many times one distance is another, as precisely as that means something: 1.3, 13, 1,300."""
    return f"{ratio:{',.0f' if ratio >= 10 else '.2g'}}"


def frechet(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance of two Gaussians, in squared units of the features (Dowson & Landau 1982, eq. 4).

    `|μa - μb|² + tr(A + B - 2 (A^½ B A^½)^½)`.  The trace of the last root is a sum over eigenvalues of a symmetric
    matrix, which is stable where the usual root of the product A·B is complex or fails, and exact for singular
    covariances: n below the number of features is allowed, only biased.
    """
    root = _sqrtm(a.cov)
    cross = torch.linalg.eigvalsh(root @ b.cov @ root).clamp(min=0).sqrt().sum()
    gap = (a.mean - b.mean).square().sum()
    return max(0.0, float(gap + a.cov.trace() + b.cov.trace() - 2 * cross))


def _sqrtm(m: Float[Tensor, "f f"]) -> Float[Tensor, "f f"]:
    """The symmetric root of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(m)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its standard error."""

    value: float
    error: float


def kernel_distance(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"], *, blocks: int = 10) -> Estimate:
    """Squared MMD under `k(x, y) = (x·y/f + 1)³` (Bińkowski et al. 2018, "Demystifying MMD GANs", section 4).

    Both sets are cut into `blocks` disjoint blocks in the order given (shuffle first if it carries meaning).  The mean
    of their unbiased estimates (Gretton et al. 2012, eq. 3) is the value, and because the blocks are independent their
    spread gives an honest standard error.  May be negative: that is what unbiased near zero looks like.
    """
    size = min(len(a), len(b)) // blocks
    if size < 2:
        raise FromNoiseError(
            f"The kernel distance in {blocks} blocks needs {2 * blocks} examples a side, not {min(len(a), len(b))}."
        )
    x, y = (s.double()[: blocks * size].reshape(blocks, size, -1) for s in (a, b))
    parts = _off_diagonal_mean(_cubic(x, x)) + _off_diagonal_mean(_cubic(y, y)) - 2 * _cubic(x, y).mean((1, 2))
    return Estimate(value=float(parts.mean()), error=float(parts.std() / blocks**0.5))


def _cubic(x: Float[Tensor, "k n f"], y: Float[Tensor, "k m f"]) -> Float[Tensor, "k n m"]:
    return (x @ y.mT / x.shape[-1] + 1) ** 3


def _off_diagonal_mean(gram: Float[Tensor, "k n n"]) -> Float[Tensor, "k"]:
    n = gram.shape[-1]
    return (gram.sum((1, 2)) - gram.diagonal(dim1=1, dim2=2).sum(1)) / (n * (n - 1))


@dataclass(frozen=True, kw_only=True)
class Manifold:
    """Quality and variety from k-nearest-neighbour balls; all but `density` lie in [0, 1].

    precision  share of generated examples inside some real ball   (Kynkäänniemi et al. 2019, eq. 1-2)
    recall     share of real examples inside some generated ball   (the same, with the roles exchanged)
    density    mean number of real balls a generated example lies in, over k     (Naeem et al. 2020, eq. 3)
    coverage   share of real balls that hold a generated example                 (Naeem et al. 2020, eq. 4)
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Float[Tensor, "n f"], fake: Float[Tensor, "m f"], *, k: int = 5) -> Manifold:
    """Compare at equal n only: every one of these falls with the size of the sets.  Memory is O(n·m)."""
    if min(len(real), len(fake)) <= k:
        raise FromNoiseError(f"Coverage with {k} neighbours needs more than {k} examples on each side: give more.")
    real, fake = real.double(), fake.double()
    between = torch.cdist(real, fake)
    in_real = between <= _radius(real, k)[:, None]
    in_fake = between <= _radius(fake, k)[None, :]
    return Manifold(
        precision=float(in_real.any(0).double().mean()),
        recall=float(in_fake.any(1).double().mean()),
        density=float(in_real.double().sum(0).mean() / k),
        coverage=float(in_real.any(1).double().mean()),
    )


def _radius(x: Float[Tensor, "n f"], k: int) -> Float[Tensor, "n"]:
    """Distance to the k-th nearest other example; the nearest of all is the example itself."""
    return torch.cdist(x, x).kthvalue(k + 1, dim=1).values
