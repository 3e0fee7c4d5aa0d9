"""What a denoiser believes about x0: a posterior, not a tensor.

Guidance, multistep extrapolation and inpainting are written against the two operations every posterior has: `lerp`
between two beliefs (or beyond them) and `pin` to known values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fromnoise.types import Data


@runtime_checkable
class Posterior(Protocol):
    """Operations give a posterior of the same kind (`Any` stands for it: beartype has no Self in protocols)."""

    def lerp(self, other: Any, w: Tensor | float) -> Any:
        """self + w·(other - self); w outside [0, 1] extrapolates."""
        ...

    def pin(self, y: Data, mask: Bool[Tensor, "b *#d"]) -> Any:
        """Certain of y where mask is true, unchanged elsewhere."""
        ...

    def point(self) -> Data:
        """One best guess of x0."""
        ...

    def __getitem__(self, part: slice | Bool[Tensor, " b"]) -> Any:
        """The beliefs about some examples of the batch."""
        ...

    def put(self, rows: Bool[Tensor, " b"], part: Any) -> Any:
        """The same with the beliefs about some examples replaced."""
        ...


@dataclass(frozen=True)
class Mean:
    """E[x0 | x_t] of continuous data; `mid` is the weaker estimate of a network's mid-depth output, if it has one."""

    x0: Float[Tensor, "b *d"]
    mid: Float[Tensor, "b *d"] | None = None

    def lerp(self, other: Mean, w: Tensor | float) -> Mean:
        return Mean(self.x0 + w * (other.x0 - self.x0))

    def pin(self, y: Data, mask: Bool[Tensor, "b *#d"]) -> Mean:
        return Mean(torch.where(mask, y, self.x0))

    def point(self) -> Data:
        return self.x0

    def __getitem__(self, part: slice | Bool[Tensor, " b"]) -> Mean:
        return Mean(self.x0[part], None if self.mid is None else self.mid[part])

    def put(self, rows: Bool[Tensor, " b"], part: Mean) -> Mean:
        return Mean(self.x0.index_put((rows,), part.x0))


@dataclass(frozen=True)
class Logits:
    """log p(x0 | x_t) of tokens up to a constant, (b, *d, vocab), independent per site given x_t."""

    logits: Float[Tensor, "b *d vocab"]

    def lerp(self, other: Logits, w: Tensor | float) -> Logits:
        w = w.unsqueeze(-1) if isinstance(w, Tensor) and w.ndim else w
        a, b = (torch.log_softmax(z.logits, dim=-1) for z in (self, other))
        # -inf - -inf: what both call impossible stays impossible.
        return Logits(torch.where(torch.isneginf(a) & torch.isneginf(b), a, a + w * (b - a)))

    def pin(self, y: Data, mask: Bool[Tensor, "b *#d"]) -> Logits:
        certain = torch.full_like(self.logits, -torch.inf).scatter(-1, y.unsqueeze(-1), 0.0)
        return Logits(torch.where(mask.unsqueeze(-1), certain, self.logits))

    def point(self) -> Data:
        return self.logits.argmax(dim=-1)

    def __getitem__(self, part: slice | Bool[Tensor, " b"]) -> Logits:
        return Logits(self.logits[part])

    def put(self, rows: Bool[Tensor, " b"], part: Logits) -> Logits:
        return Logits(self.logits.index_put((rows,), part.logits))
