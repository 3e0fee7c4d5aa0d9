"""The judgement: samples, held-out data and known harms, all measured in one way, and what that means in words.

Every row of the table is a set of examples compared with the same training examples, in parts of one size n, so that
the finite-sample bias is the same in all rows:

    samples      what is judged
    floor        held-out data: as near as anything honest can come
    corruptions  training examples harmed in known ways (`corrupt.REFERENCES`): the marks of the ruler
    copies       training examples that are compared with: a distance praises them, so it cannot see copying

Corrupted examples and those they are compared with are disjoint.  Copying has its own check, against held-out data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fromnoise.evaluate.corrupt import REFERENCES
from fromnoise.evaluate.distance import Moments, frechet, kernel_distance, manifold
from fromnoise.evaluate.features import Examples, Features
from fromnoise.evaluate.motion import Measure
from fromnoise.evaluate.neighbours import CopyCheck, batches, copy_check, nearest
from fromnoise.evaluate.obey import Obeyed
from fromnoise.evaluate.physics import Quantity
from fromnoise.rng import derive_seed
from fromnoise.types import FromNoiseError

FEWEST, MOST = 20, 5000  # examples a part: the kernel distance needs 20, and beyond 5,000 the bias no longer matters
COMPARED = 10_000  # training examples that every row is compared with, at most
SEARCHERS = 2000  # samples and held-out examples whose neighbours are searched, at most
REDRAWS = 16
EXCHANGES = 199
MOST_TOLD = 4  # quantities that have a sentence
TOLD_APART = 0.01  # the largest p-value at which samples are called farther than held-out data

Role = Literal["samples", "floor", "corruption", "copies"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One set beside the training data.  Distances: less is nearer; shares in [0, 1] (see `distance.Manifold`)."""

    name: str
    says: str
    role: Role
    frechet: float
    kernel: float
    kernel_error: float
    precision: float
    recall: float
    coverage: float


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """`rows` in units of `features`, each from parts of `count` examples against `compared` training examples.

    `noise` is the standard deviation of the difference between the Fréchet distances of two draws of one law;
    `p_floor` the chance that data of one law with the held-out would seem as much farther than these as samples do.
    """

    features: str
    count: int
    compared: int
    noise: float
    p_floor: float
    rows: tuple[Row, ...]
    copies: tuple[CopyCheck, ...]
    obedience: tuple[Obeyed, ...] = ()
    physics: tuple[Quantity, ...] = ()
    motion: tuple[Measure, ...] = ()
    sentences: tuple[str, ...] = ()

    def obeyed(self, rows: tuple[Obeyed, ...]) -> Judgement:
        """The same with how conditions are met."""
        return replace(self, obedience=rows, sentences=self._told(rows))

    def measured(self, quantities: tuple[Quantity, ...]) -> Judgement:
        """The same with physical statistics."""
        return replace(self, physics=quantities, sentences=self._told(quantities[:MOST_TOLD]))

    def moved(self, measures: tuple[Measure, ...]) -> Judgement:
        """The same with how clips move."""
        return replace(self, motion=measures, sentences=self._told(measures))

    def _told(self, rows: Sequence[Obeyed | Quantity | Measure]) -> tuple[str, ...]:
        """All sentences with those of `rows`, which stand before the last, which is about numbers."""
        return (*self.sentences[:-1], *(row.sentence for row in rows), *self.sentences[-1:])

    def to_json(self) -> dict:
        verdicts = [asdict(c) | {"level": c.level, "verdict": c.verdict} for c in self.copies]
        return asdict(self) | {"copies": verdicts, "physics": [quantity.to_json() for quantity in self.physics]}

    def table(self) -> list[str]:
        """The distances, a line a row."""
        return [
            f"{row.name:24} Fréchet {row.frechet:9.3g}   kernel {row.kernel:9.3g} ± {row.kernel_error:.2g}"
            for row in self.rows
        ]

    def row(self, role: Role) -> Row:
        return next(r for r in self.rows if r.role == role)


def judge(
    samples: Float[Tensor, "n c *d"],
    train: Examples,
    held: Float[Tensor, "m c *d"],
    features: Features,
    *,
    seed: int = 0,
) -> Judgement:
    """Judge encoded samples x0 against the training set (read in batches) and held-out data.

    Raises `FromNoiseError` below `FEWEST` samples, `FEWEST` held-out or `4 * FEWEST` training examples.
    """
    count = min(len(samples), len(held), len(train) // 4, MOST)
    if count < FEWEST:
        raise FromNoiseError(
            f"A judgement needs at least {FEWEST} samples, {FEWEST} held-out and {4 * FEWEST} training examples, not "
            f"{len(samples)}, {len(held)} and {len(train)}: give it more data."
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "judge"))
    order = torch.randperm(len(train), generator=generator).numpy()
    source, compared = train[order[:count]], order[count : count + COMPARED]
    real = torch.cat([features(train[part]) for part in np.array_split(compared, ceil(len(compared) / 512))])
    measure = _measure(real, count)
    ours, floor = features(samples), features(held)
    rows = [
        measure("your samples", "what the model makes", "samples", ours),
        measure("held-out data", "real examples the model never saw: the floor", "floor", floor),
        measure(
            "copies", "training examples themselves: a distance cannot see copying", "copies", real[count : 2 * count]
        ),
    ]
    for c in REFERENCES:
        rows.append(measure(c.name, c.says, "corruption", features(c.apply(source, generator))))
    judgement = Judgement(
        features=features.name,
        count=count,
        compared=len(real),
        noise=_noise(real, count, generator),
        p_floor=_exchange_test(ours[:count], floor[:count], real, generator),
        rows=tuple(rows),
        copies=_copies(samples[:SEARCHERS], train, held[:SEARCHERS], features),
    )
    return replace(judgement, sentences=_sentences(judgement))


def _measure(real: Float[Tensor, "n f"], count: int) -> Callable[[str, str, Role, Tensor], Row]:
    """The one way in which every row is made; the Fréchet distance is the mean over all whole parts of `count`."""
    moments = Moments.of(real)

    def measure(name: str, says: str, role: Role, fake: Tensor) -> Row:
        parts = [part for part in fake.split(count) if len(part) == count]
        kernel = kernel_distance(real[:count], parts[0])
        near = manifold(real[:count], parts[0])
        return Row(
            name=name,
            says=says,
            role=role,
            frechet=sum(frechet(Moments.of(part), moments) for part in parts) / len(parts),
            kernel=kernel.value,
            kernel_error=kernel.error,
            precision=near.precision,
            recall=near.recall,
            coverage=near.coverage,
        )

    return measure


def _noise(real: Float[Tensor, "n f"], count: int, generator: torch.Generator) -> float:
    """`Judgement.noise`, from redraws of training examples against all the others."""
    draws = []
    for _ in range(REDRAWS):
        order = torch.randperm(len(real), generator=generator)
        draws.append(frechet(Moments.of(real[order[:count]]), Moments.of(real[order[count:]])))
    return float(2**0.5 * torch.tensor(draws).std())


def _exchange_test(
    ours: Float[Tensor, "n f"], floor: Float[Tensor, "n f"], real: Float[Tensor, "m f"], generator: torch.Generator
) -> float:
    """The permutation test of "samples are no farther than held-out data": exact at any n (Fisher 1935)."""
    moments, pool = Moments.of(real), torch.cat([ours, floor])

    def farther(order: Tensor) -> float:
        a, b = (frechet(moments, Moments.of(pool[half])) for half in order.chunk(2))
        return a - b

    seen = farther(torch.arange(len(pool)))
    exchanged = (farther(torch.randperm(len(pool), generator=generator)) for _ in range(EXCHANGES))
    return (1 + sum(d >= seen for d in exchanged)) / (1 + EXCHANGES)


def _copies(samples: Tensor, train: Examples, held: Tensor, features: Features) -> tuple[CopyCheck, ...]:
    """The copy check in the data's own values and in features, each in one pass over the whole training set."""
    checks = []
    for space, see in (("values", lambda x: x), ("features", features)):
        found = nearest(see(torch.cat([samples, held])), map(see, batches(train)), k=2)
        checks.append(copy_check(found[: len(samples)], found[len(samples) :], space=space))
    return tuple(checks)


def _sentences(j: Judgement) -> tuple[str, ...]:
    worst = max(j.copies, key=lambda c: ("none", "nearer", "copies").index(c.level))
    ours, floor = j.row("samples"), j.row("floor")
    return (
        _place(j),
        f"Quality: {ours.precision:.0%} of the samples fall where training data lie (held-out data: "
        f"{floor.precision:.0%}).",
        f"Variety: the samples reach {ours.coverage:.0%} of the neighbourhoods of the training data (held-out data: "
        f"{floor.coverage:.0%}).",
        worst.verdict,
        f"Every row was measured with {j.count} examples at a time; differences in the Fréchet distance below "
        f"{2 * j.noise:.2g} mean nothing, and numbers of another data set or other features cannot be compared.",
    )


def _place(j: Judgement) -> str:
    """Where the samples stand on the ruler of corruptions."""
    ours, floor = j.row("samples"), j.row("floor")
    marks = sorted((r for r in j.rows if r.role == "corruption"), key=lambda r: r.frechet)
    below = [r for r in marks if r.frechet <= ours.frechet]
    above = [r for r in marks if r.frechet > ours.frechet]
    start, end = f"Your samples ({_plain(ours.frechet)})", f"held-out data stand at {_plain(floor.frechet)}."
    if ours.frechet <= floor.frechet or j.p_floor > TOLD_APART:
        return f"{start} cannot be told from new data by this distance: {end}"
    if not below:
        return f"{start} stand nearer to the data than every reference corruption, {_mark(above[0])} first; {end}"
    if not above:
        return f"{start} stand farther from the data than every reference corruption, {_mark(below[-1])} last; {end}"
    return f"{start} stand between {_mark(below[-1])} and {_mark(above[0])}; {end}"


def _mark(row: Row) -> str:
    return f"“{row.name}” ({_plain(row.frechet)})"


def _plain(distance: float) -> str:
    """To two digits, without a power of ten where the number is large."""
    return f"{distance:.2g}" if distance < 100 else f"{distance:,.0f}"
