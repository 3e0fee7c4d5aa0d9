"""What a peer is: a network of some library with its way to train and to sample.

Pictures are x0 (b, c, h, w) in [-1, 1].  All randomness comes from torch's shared stream, as these libraries draw from
it; whoever calls seeds it before each step, so that a resumed run draws what an unbroken one would have drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from fromnoise.runtime import Precision


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a peer is trained, by AdamW.

    warmup     steps over which the rate rises
    horizon    step at which the cosine after it ends; None: it ends with the budget
    constant   no cosine at all
    clip       greatest norm of the gradient, None: any
    average    how the decay of the averaged weights grows: see `decay`
    """

    batch: int
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    warmup: int = 0
    horizon: int | None = None
    constant: bool = False
    clip: float | None = None
    average: Literal["power", "ramp"] = "power"
    most_decay: float = 0.9999
    precision: Precision = "float32"
    channels_last: bool = False
    keep_memory: bool = False  # tells the allocator to reuse buffers, as fromnoise does

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of `step`, counted from 1, at `progress` of the budget."""
        if step < self.warmup:
            return self.lr * step / self.warmup
        if self.constant:
            return self.lr
        if self.horizon is not None:
            progress = (step - self.warmup) / max(1, self.horizon - self.warmup)
        return self.lr * 0.5 * (1 + cos(pi * min(1.0, progress)))

    def decay(self, step: int) -> float:
        """Weight of the old average at `step`, counted from 1.

        power: `EMAModel` of diffusers as its example sets it; ramp: torch_ema, which smalldiffusion's example uses.
        """
        grown = 1 - step**-0.75 if self.average == "power" else (1 + step) / (10 + step)
        return min(self.most_decay, grown)


@runtime_checkable
class Peer(Protocol):
    """`ways` are "sampler steps": of several the better is found by measuring.  `about` is written beside samples."""

    @property
    def net(self) -> nn.Module: ...

    @property
    def recipe(self) -> Recipe: ...

    @property
    def ways(self) -> tuple[str, ...]: ...

    @property
    def packages(self) -> tuple[str, ...]: ...

    @property
    def about(self) -> str: ...

    def loss(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """The training loss of a batch under fresh noise."""
        ...

    def sample(self, n: int, way: str) -> Float[Tensor, "n c h w"]:
        """n pictures from the network as it stands, in about [-1, 1]."""
        ...
