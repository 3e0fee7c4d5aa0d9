"""Do samples do as they were told?  A judge learned from real examples says what each sample is.

One small convolutional network learns on the training split to tell every condition from an example alone:

    class    its label                                met where the judge names the label that was asked for
    number   its value                                off by |told - asked|, in units of the range in training
    vector   its entries                              likewise, their mean
    tokens, embedding: which caption it goes with     met where of `CAPTIONS` captions the one asked for is the nearest
    map      the map                                  off by |told - asked|, of the map's range, mean over its places

Examples and captions, as bags of words or by their encoder, lie in one space, learned by telling the pairs of a batch
apart (Radford et al. 2021).

The same judge looks at held-out real examples, whose conditions are true.  What it scores there is what samples can
reach, and no more than that can be read from a score: a judge that tells nothing of real examples tells nothing at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fromnoise.cond import CAPTIONED, Column, Cond
from fromnoise.evaluate.features import CONVOLUTIONS, DIM, Examples, Pyramid
from fromnoise.rng import derive_seed

CAPTIONS = 32  # from which the one that was asked for is to be found
STEPS, BATCH, PEAK_LR = 500, 64, 3e-3
NOISE = 0.05  # on what the judge learns from, so that a sample's last grain of noise does not mislead it
SHARPNESS = 10.0


@dataclass(frozen=True, kw_only=True)
class Obeyed:
    """One condition of samples and of held-out real examples, by one judge.

    `met` are shares, where more is better; otherwise the numbers are errors in units of the training range.  `chance`
    is what answers would score that do not look.
    """

    column: str
    kind: str
    met: bool
    samples: float
    held: float
    chance: float
    among: int = 0

    @property
    def sentence(self) -> str:
        if self.kind in CAPTIONED:
            what = f"of {self.among} captions the one asked for fits best"
        else:
            what = "the judge finds what was asked for" if self.met else "what the judge reads is off"
        if self.met:
            ours, real, chance = f"in {self.samples:.0%} of the", f"in {self.held:.0%} of", f"{self.chance:.0%}"
        else:
            ours, real, chance = (
                f"by {self.samples:.1%} of the range in",
                f"by {self.held:.1%} in",
                f"{self.chance:.1%}",
            )
        return f"Obedience, {self.column}: {what} {ours} samples, and {real} held-out real examples (chance: {chance})."


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Examples x (n, c, *d), and the conditions that they should meet."""

    x: Float[Tensor, "n c *d"]
    cond: Cond = field(repr=False)


def obedience(
    columns: Sequence[Column],
    train: Examples,
    cond: Cond,
    samples: Asked,
    held: Asked,
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> tuple[Obeyed, ...]:
    """A row for each column that some samples, and some held-out examples, were asked for.

    `cond` are the conditions of the training examples, which the judge learns from in so many steps.  Deterministic in
    the data and seed.
    """
    columns = [c for c in columns if all(bool(part.present[c.name].any()) for part in (cond, samples.cond, held.cond))]
    if not columns or len(train) < 2:
        return ()
    judge = _learn(columns, train, cond, steps, seed)
    rows = []
    with torch.no_grad():
        told = [judge.seen(part.x) for part in (samples, held)]
        for column in columns:
            (ours, among), (real, _) = (
                judge.score(column, features, part.cond) for features, part in zip(told, (samples, held), strict=True)
            )
            rows.append(
                Obeyed(
                    column=column.name,
                    kind=column.kind,
                    met=column.kind in ("class", *CAPTIONED),
                    samples=ours,
                    held=real,
                    chance=_chance(column, cond, samples.cond, among),
                    among=among,
                )
            )
    return tuple(rows)


class _Judge(nn.Module):
    """A pyramid that sees where it looks, with one readout a column."""

    def __init__(self, channels: int, space: Sequence[int], columns: Sequence[Column]) -> None:
        super().__init__()
        self.trunk = Pyramid(channels + len(space), space)
        self.places = {column.name: str(i) for i, column in enumerate(columns)}
        self.heads = nn.ModuleDict({self.places[c.name]: _head(c, channels, space) for c in columns})
        self.columns = tuple(columns)

    def features(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b f"]:
        ticks = [torch.linspace(-1, 1, n) for n in x.shape[2:]]
        grid = torch.stack(torch.meshgrid(*ticks, indexing="ij")).expand(len(x), *(-1,) * (x.ndim - 1))
        return F.silu(self.trunk(torch.cat([x, grid], 1)))

    def seen(self, x: Float[Tensor, "n c *d"]) -> tuple[Tensor, Tensor]:
        """(features, x), a few at a time."""
        return torch.cat([self.features(part.float()) for part in x.split(256)]), x

    def loss(self, x: Tensor, cond: Cond) -> Tensor:
        seen, total = (self.features(x), x), x.new_zeros(())
        for column in self.columns:
            here = cond.present[column.name]
            if bool(here.any()):
                value, mine = cond.values[column.name][here], tuple(part[here] for part in seen)
                head = self.heads[self.places[column.name]]
                total = total + _loss(column, head, mine, value)
        return total

    def score(self, column: Column, seen: tuple[Tensor, Tensor], cond: Cond) -> tuple[float, int]:
        """The mean over examples with the column, and among how many captions one was to be found."""
        here = cond.present[column.name]
        value, (features, x) = cond.values[column.name][here], (part[here] for part in seen)
        head = self.heads[self.places[column.name]]
        match column.kind:
            case "class":
                return float((head(features).argmax(1) == value).float().mean()), len(column.labels)
            case "tokens" | "embedding":
                return _retrieved(head(features, value), value)
            case "map":
                return float((head(x) - value).abs().mean()) / 2, 0
            case _:
                told = head(features).reshape(value.shape)
                return float((told - value).abs().mean()) * column.std / _range(column), 0


def _head(column: Column, channels: int, space: Sequence[int]) -> nn.Module:
    match column.kind:
        case "class":
            return nn.Linear(DIM, len(column.labels))
        case "tokens" | "embedding":
            return _Captions(column)
        case "map":
            return _Map(column, channels, space)
        case _:
            return nn.Sequential(nn.Linear(DIM, DIM), nn.SiLU(), nn.Linear(DIM, column.size))


class _Captions(nn.Module):
    """How well each example goes with each caption: (b, b')."""

    def __init__(self, column: Column) -> None:
        super().__init__()
        bags = nn.EmbeddingBag(column.size, DIM, mode="sum", padding_idx=0)
        self.read = bags if column.kind == "tokens" else nn.Linear(column.size, DIM)
        self.project = nn.Linear(DIM, DIM)

    def forward(self, features: Float[Tensor, "b f"], captions: Shaped[Tensor, "k n"]) -> Float[Tensor, "b k"]:
        read = self.read(captions.float() if captions.is_floating_point() else captions)
        return SHARPNESS * F.normalize(self.project(features), dim=1) @ F.normalize(read, dim=1).T


class _Map(nn.Module):
    """The map at every place, from three convolutions over the example itself."""

    def __init__(self, column: Column, channels: int, space: Sequence[int]) -> None:
        super().__init__()
        conv = CONVOLUTIONS[len(space) - 1]
        self.layers = nn.Sequential(
            conv(channels, 32, 5, padding=2), nn.SiLU(), conv(32, 32, 5, padding=2), nn.SiLU(),
            conv(32, column.size, 5, padding=2),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b m *d"]:
        return self.layers(x.float())


def _loss(column: Column, head: nn.Module, seen: tuple[Tensor, ...], value: Tensor) -> Tensor:
    features, x = seen
    match column.kind:
        case "class":
            return F.cross_entropy(head(features), value)
        case "tokens" | "embedding":
            alike = head(features, value)
            # Equal captions in one batch are all right answers.
            right = (value[:, None] == value[None]).all(-1).float()
            right = right / right.sum(1, keepdim=True)
            return (F.cross_entropy(alike, right) + F.cross_entropy(alike.T, right)) / 2
        case "map":
            return F.mse_loss(head(x), value)
        case _:
            return F.mse_loss(head(features).reshape(value.shape), value)


def _learn(columns: Sequence[Column], train: Examples, cond: Cond, steps: int, seed: int) -> _Judge:
    first = train[np.arange(1)]
    generator = torch.Generator().manual_seed(derive_seed(seed, "obedience"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "obedience", "weights"))
        judge = _Judge(first.shape[1], first.shape[2:], columns)
    optimiser = torch.optim.AdamW(judge.parameters(), PEAK_LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LR, total_steps=steps)
    for _ in range(steps):
        index = torch.randint(len(train), (BATCH,), generator=generator)
        x = train[index.numpy()].float()
        x = x + NOISE * torch.randn(x.shape, generator=generator)
        optimiser.zero_grad()
        judge.loss(x, cond.rows(index)).backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return judge.eval()


def _retrieved(alike: Float[Tensor, "n n"], captions: Shaped[Tensor, "n k"]) -> tuple[float, int]:
    """How often the caption asked for is the nearest of `CAPTIONS` that stand together, and how many these are."""
    met, size = [], min(CAPTIONS, len(alike))
    for start in range(0, len(alike) - size + 1, size):
        part = slice(start, start + size)
        best = alike[part, part].argmax(1)
        met.append((captions[part][best] == captions[part]).all(1))
    return float(torch.cat(met).float().mean()), size


def _range(column: Column) -> float:
    return (column.high - column.low) or 1.0


def _chance(column: Column, train: Cond, asked: Cond, among: int) -> float:
    """What the commonest label, any caption, the mean number or the mean map would score."""
    seen = train.values[column.name][train.present[column.name]]
    value = asked.values[column.name][asked.present[column.name]]
    match column.kind:
        case "class":
            return float((value == seen.bincount().argmax()).float().mean())
        case "tokens" | "embedding":
            return 1 / among
        case "map":
            return float((value - seen.mean(0)).abs().mean()) / 2
        case _:
            return float((value - seen.mean(0)).abs().mean()) * column.std / _range(column)
