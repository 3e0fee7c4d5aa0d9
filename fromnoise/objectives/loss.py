"""What every objective returns: one value per example, with the noise level it was measured at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.rng import Rng
from fromnoise.types import Data, Time


@dataclass(frozen=True)
class Loss:
    value: Float[Tensor, " b"]
    t: Float[Tensor, " b"]


@runtime_checkable
class Objective(Protocol):
    def __call__(self, denoise: Denoiser, x0: Data, cond: Cond, rng: Rng, progress: float) -> Loss:
        """The training loss at noise levels of the objective's own choice; `progress` is the part of the run done."""
        ...

    def at(self, denoise: Denoiser, x0: Data, cond: Cond, t: Time, rng: Rng) -> Float[Tensor, " b"]:
        """The loss at given noise levels, for measuring on held-out data."""
        ...


@runtime_checkable
class Lasting(Objective, Protocol):
    """An objective that makes of a batch what is too costly to make anew for each of `lasts` steps."""

    lasts: int

    def prepare(self, x0: Data, cond: Cond, rng: Rng) -> None:
        """Told before the first of those steps, and anew where a run goes on in their midst."""
        ...
