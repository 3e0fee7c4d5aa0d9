"""Masked diffusion's loss: cross-entropy on masked tokens, weighted by 1/t (Sahoo et al. 2024, eq. 11, for the linear
schedule).  Its expectation bounds the negative log-likelihood of a token in nats from above.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.objectives.loss import Loss
from fromnoise.posterior import Logits
from fromnoise.process import Masked
from fromnoise.rng import Rng
from fromnoise.types import Data, Time


@dataclass(frozen=True, kw_only=True)
class MaskedCrossEntropy:
    """t is stratified over the global batch on (t_min, 1); below t_min hardly a token is masked and 1/t explodes."""

    t_min: float = 1e-3

    def __call__(self, denoise: Denoiser, x0: Data, cond: Cond, rng: Rng, progress: float = 0.0) -> Loss:
        t = (self.t_min + (1 - self.t_min) * rng.stratified()).float().to(x0.device)
        t = t.reshape(-1, *(1,) * (x0.ndim - 1))
        return Loss(self.at(denoise, x0, cond, t, rng), t.flatten())

    def at(self, denoise: Denoiser, x0: Data, cond: Cond, t: Time, rng: Rng) -> Float[Tensor, " b"]:
        assert isinstance(denoise.process, Masked)
        x_t = denoise.process.forward(x0, t * 0, t, rng)
        post = denoise(x_t, t, cond)
        assert isinstance(post, Logits)
        masked = x_t == denoise.process.vocab
        nats = F.cross_entropy(post.logits.movedim(-1, 1), x0, reduction="none")
        return (nats * masked / t).flatten(1).mean(1)
