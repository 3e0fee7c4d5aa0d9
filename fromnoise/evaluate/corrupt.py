"""Reference corruptions: known harms done to real data, so that a distance can be read beside them.

A Fréchet distance of 4.1 says nothing; "between faint noise (2.0) and blur (6.3)" does.  Every corruption works on
encoded data x0 (b, c, *d) in about [-1, 1] with one to three spatial axes, and keeps shape and dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """`apply(x0, generator)` harms a batch; `says` is what a reader is told it does."""

    name: str
    says: str
    apply: Callable[[Tensor, torch.Generator], Tensor]


def noise(x0: Float[Tensor, "b c *d"], sigma: float, generator: torch.Generator) -> Float[Tensor, "b c *d"]:
    """Gaussian noise of standard deviation `sigma`, kept within the data's own range."""
    noisy = x0 + sigma * torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    return noisy.clamp(x0.min(), x0.max())


def blur(x0: Float[Tensor, "b c *d"], passes: int = 1) -> Float[Tensor, "b c *d"]:
    """The binomial filter (1 2 1)/4 along every spatial axis, edges repeated; its variance is `passes`/2 per axis."""
    for axis in list(range(2, x0.ndim)) * passes:
        n = x0.shape[axis]
        at = torch.arange(n)
        left, right = (x0.index_select(axis, i) for i in ((at - 1).clamp(min=0), (at + 1).clamp(max=n - 1)))
        x0 = (left + 2 * x0 + right) / 4
    return x0


def erase(x0: Float[Tensor, "b c *d"], share: float, generator: torch.Generator) -> Float[Tensor, "b c *d"]:
    """A random block, `share` of each side, replaced by the example's mean; elsewhere nothing changes."""
    out = x0.clone()
    sides = [max(1, round(share * n)) for n in x0.shape[2:]]
    for row, source in zip(out, x0, strict=True):
        corner = [_below(n - side + 1, generator) for n, side in zip(x0.shape[2:], sides, strict=True)]
        block = (slice(None), *(slice(i, i + side) for i, side in zip(corner, sides, strict=True)))
        row[block] = source.mean(tuple(range(1, source.ndim)), keepdim=True)
    return out


def shuffle_blocks(x0: Float[Tensor, "b c *d"], generator: torch.Generator) -> Float[Tensor, "b c *d"]:
    """Quarters (along one axis), quadrants or octants change places: every part is right, the whole is not."""
    space = x0.shape[2:]
    cuts = 4 if len(space) == 1 else 2
    sides = [n // cuts for n in space]
    cells = [
        (slice(None), *(slice(i * side, (i + 1) * side) for i, side in zip(index, sides, strict=True)))
        for index in product(range(cuts), repeat=len(space))
    ]
    out = x0.clone()
    for row, source in zip(out, x0, strict=True):
        # A random cyclic order never leaves a part in its own place, so every example is harmed.
        order = torch.randperm(len(cells), generator=generator).tolist()
        for to, come in zip(order, order[1:] + order[:1], strict=True):
            row[cells[to]] = source[cells[come]]
    return out


def repeat_few(x0: Float[Tensor, "b c *d"], share: float, generator: torch.Generator) -> Float[Tensor, "b c *d"]:
    """Perfect examples, but only `share` of them distinct: a model that has dropped most modes."""
    few = torch.randperm(len(x0), generator=generator)[: max(1, round(share * len(x0)))]
    return x0[few[torch.arange(len(x0)) % len(few)]]


def _below(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator))


REFERENCES = (
    Corruption(
        name="faint noise",
        says="Gaussian noise of 8 % of the range",
        apply=lambda x0, g: noise(x0, 0.16, g),
    ),
    Corruption(
        name="strong noise",
        says="Gaussian noise of 20 % of the range",
        apply=lambda x0, g: noise(x0, 0.40, g),
    ),
    Corruption(name="blur", says="smoothed by a binomial filter three wide", apply=lambda x0, g: blur(x0)),
    Corruption(name="strong blur", says="the same filter eight times", apply=lambda x0, g: blur(x0, 8)),
    Corruption(name="erased block", says="a block of half of each axis erased", apply=lambda x0, g: erase(x0, 0.5, g)),
    Corruption(
        name="shuffled parts", says="parts of half of each axis exchanged", apply=lambda x0, g: shuffle_blocks(x0, g)
    ),
    Corruption(
        name="few, repeated",
        says="perfect, but only one in twenty distinct",
        apply=lambda x0, g: repeat_few(x0, 0.05, g),
    ),
)
