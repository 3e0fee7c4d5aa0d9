"""Denoisers that know part of the answer: inpainting."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.posterior import Posterior
from fromnoise.types import Data, Time


class Pinned:
    """Certain of `y` where `mask` is true.  Always the outermost wrapper, so that nothing moves what is known.

    On a plain grid this is replacement of the posterior; a restart grid makes it RePaint (Lugmayr et al. 2022).  Known
    tokens are shown to the denoiser from the first step on: unlike known pixels they need no noise to fit in.
    """

    def __init__(self, denoise: Denoiser, y: Data, mask: Bool[Tensor, "b *#d"]) -> None:
        self.denoise, self.y, self.mask, self.process = denoise, y, mask, denoise.process

    def __call__(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Posterior:
        if not self.process.continuous:
            x_t = torch.where(self.mask, self.y, x_t)
        return self.denoise(x_t, t, cond, s).pin(self.y, self.mask)
