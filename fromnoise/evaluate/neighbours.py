"""Does the model copy?  Nearest training neighbours of samples, beside those of held-out data.

Held-out examples are what honest samples should look like: new, from the same law.  So the distance from a sample to
its nearest training example is compared with the distance from a held-out example to *its* nearest training example.
Both search the same training set, whole; nearest distances depend on the size of the set searched, and the number of
searchers may differ, because every statistic here is about the law of one searcher's distance.

Where too few are held out, training examples take their place, each searching among all the others (`among`): a set
that is smaller by one, so a little farther.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from fromnoise.evaluate.features import Examples
from fromnoise.types import Data, FromNoiseError

ALARM = 1e-3  # the largest p-value that is reported as a finding
TIMES_NEARER = 3.0  # d1 < d2 / 3 marks a memorised sample (Yoon et al. 2023, "Diffusion probabilistic models generalize
#                     when they fail to memorize", section 3)


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The k nearest of each query, nearest first: Euclidean distance and index into the base."""

    distance: Float[Tensor, "n k"]
    index: Int[Tensor, "n k"]

    def __getitem__(self, part: slice) -> Neighbours:
        return Neighbours(distance=self.distance[part], index=self.index[part])


def nearest(
    queries: Float[Tensor, "n *d"], base: Iterable[Float[Tensor, "m *d"]], *, k: int = 1, chunk: int = 512
) -> Neighbours:
    """Exact k nearest neighbours of `queries` among the batches of `base`, read once, in constant memory.

    Candidates come from |q|² + |b|² - 2 q·b, which is fast but loses digits just where copies are, so the distances of
    the candidates are computed again as plain differences.
    """
    flat = queries.flatten(1)
    best = torch.full((len(flat), k), torch.inf)
    where = torch.full((len(flat), k), -1)
    start = 0
    for batch in base:
        rows = batch.flatten(1)
        for at in range(0, len(flat), chunk):
            part = slice(at, at + chunk)
            q = flat[part]
            rough = rows.square().sum(1) - 2 * q @ rows.T
            found = rough.topk(min(k, len(rows)), largest=False).indices
            exact = torch.stack([(q - rows[column]).norm(dim=1) for column in found.T], 1).float()
            both = torch.cat([best[part], exact], 1)
            best[part], order = both.topk(k, largest=False)
            where[part] = torch.cat([where[part], found + start], 1).gather(1, order)
        start += len(rows)
    if start < k:
        raise FromNoiseError(f"There are {start} training examples, fewer than the {k} neighbours asked for.")
    return Neighbours(distance=best, index=where)


def batches(examples: Examples, size: int = 512) -> Iterator[Tensor]:
    """The examples in order, a few at a time."""
    for start in range(0, len(examples), size):
        yield examples[np.arange(start, min(start + size, len(examples)))]


def among(train: Examples, *, k: int = 2) -> Neighbours:
    """The k nearest of each training example among the others."""
    found = nearest(torch.cat(list(batches(train))), batches(train), k=k + 1)
    return Neighbours(distance=found.distance[:, 1:], index=found.index[:, 1:])  # the nearest is the example itself


def beside(queries: Data, train: Examples, found: Neighbours) -> Tensor:
    """Each query followed by its k neighbours: the rows of a sheet, (n, 1 + k, …)."""
    n, k = found.index.shape
    neighbours = train[found.index.flatten().numpy()]
    return torch.cat([queries[:, None], neighbours.reshape(n, k, *queries.shape[1:])], 1)


@dataclass(frozen=True, kw_only=True)
class CopyCheck:
    """Distances of samples to the training set against those of held-out data, in one space.

    median_ratio      median distance of samples over that of held-out data; 1 is ideal, far below 1 is suspicious
    share_below_1pc   share of samples nearer than the nearest 1 % of held-out data are; 0.01 is expected
    share_below_5pc   the same for the nearest 5 %
    memorised         share of samples `TIMES_NEARER` times nearer to one training example than to any other
    memorised_held    the same for held-out data: above zero where the data hold near-duplicates
    p_nearer          one-sided Mann-Whitney test: samples nearer on the whole
    p_tail            precedence test on the nearest 5 %: too many samples before the held-out data's own
    p_memorised       one-sided Fisher test: more memorised samples than memorised held-out examples
    among             whether training examples among themselves stand in for held-out data
    """

    space: str
    samples: int
    held: int
    median_ratio: float
    share_below_1pc: float
    share_below_5pc: float
    memorised: float
    memorised_held: float
    p_nearer: float
    p_tail: float
    p_memorised: float
    among: bool = False

    @property
    def level(self) -> str:
        """`copies` (single samples stand out), `nearer` (only the whole does) or `none`."""
        if self.p_memorised < ALARM:
            return "copies"
        return "nearer" if min(self.p_nearer, self.p_tail) < ALARM else "none"

    @property
    def verdict(self) -> str:
        """One sentence for the reader of a report."""
        if self.level == "none":
            new = "training examples are to each other" if self.among else "new data are"
            return f"No sign of copying: by {self.space}, samples are no nearer to the training data than {new}."
        others, do = ("training examples", "lie to each other") if self.among else ("held-out data", "do")
        start = f"By {self.space}, samples lie nearer to the training data than {others} {do}: "
        if self.level == "copies":
            return start + (
                f"{self.memorised:.1%} of them are three times nearer to one training example than to any other "
                f"({others}: {self.memorised_held:.1%})."
            )
        return start + (
            f"their median distance is {self.median_ratio:.2f} times that of {others} and "
            f"{self.share_below_5pc:.1%} are nearer than the nearest 5 % of these, but no single sample stands out as "
            "a copy; blurred samples and samples of few kinds do this too."
        )


def copy_check(sample: Neighbours, held: Neighbours, *, space: str, among: bool = False) -> CopyCheck:
    """Judge the first two neighbours (k >= 2) of samples and of held-out data in one training set.

    `among` says that the latter are of training examples among themselves.
    """
    assert sample.distance.shape[1] >= 2 and held.distance.shape[1] >= 2, "the memorised share needs two neighbours"
    s, h = (x.distance.double().numpy() for x in (sample, held))
    near_s, near_h = s[:, 0], np.sort(h[:, 0])
    first, fifth = (near_h[_rank(share, len(near_h)) - 1] for share in (0.01, 0.05))
    copied_s, copied_h = (int((x[:, 0] * TIMES_NEARER < x[:, 1]).sum()) for x in (s, h))
    return CopyCheck(
        space=space,
        samples=len(s),
        held=len(h),
        median_ratio=float(np.median(near_s) / max(np.median(near_h), 1e-12)),
        share_below_1pc=float((near_s < first).mean()),
        share_below_5pc=float((near_s < fifth).mean()),
        memorised=copied_s / len(s),
        memorised_held=copied_h / len(h),
        p_nearer=float(stats.mannwhitneyu(near_s, near_h, alternative="less").pvalue),
        p_tail=_precedence(int((near_s < fifth).sum()), len(s), _rank(0.05, len(h)), len(h)),
        p_memorised=float(stats.hypergeom.sf(copied_s - 1, len(s) + len(h), copied_s + copied_h, len(s))),
        among=among,
    )


def _rank(share: float, n: int) -> int:
    """The order statistic of n that stands for the quantile `share`, counted from 1."""
    return max(1, round(share * n))


def _precedence(before: int, samples: int, rank: int, held: int) -> float:
    """P(at least `before` of `samples` fall under the `rank`-th smallest of `held`) if both have one law: exact.

    The number that precedes is negative hypergeometric (Nelson 1963, the precedence test), so the uncertainty of the
    held-out quantile itself is counted in, however few held-out examples there are.
    """
    return float(stats.nhypergeom.sf(before - 1, samples + held, samples, rank))
