"""Denoisers that know part of the answer: inpainting."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.posterior import Posterior
from fromnoise.types import Data, Time


class Pinned:
    """Certain of `y` where `mask` is true.  Always the outermost wrapper, so that nothing moves what is known.

    On a plain grid this is replacement of the posterior; a restart grid makes it RePaint (Lugmayr et al. 2022).
    """

    def __init__(self, denoise: Denoiser, y: Data, mask: Bool[Tensor, "b *#d"]) -> None:
        self.denoise, self.y, self.mask, self.process = denoise, y, mask, denoise.process

    def __call__(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Posterior:
        return self.denoise(x_t, t, cond, s).pin(self.y, self.mask)
