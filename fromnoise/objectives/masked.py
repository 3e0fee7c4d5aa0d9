"""Masked diffusion's loss: cross-entropy of masked tokens, weighted by 1/t (Sahoo et al. 2024, eq. 11, for the linear
schedule).

Its expectation bounds the negative log-likelihood of a token in nats from above.  It is that of a model of any order of
the n tokens (Ou et al. 2024; Hoogeboom et al. 2022): the number k of masked sites is uniform on 1 … n, every set of k
is equally likely, and what counts is the mean over the k sites.  So k is drawn instead of a mask of rate t, which
leaves out the noise of k around t·n and a weight that explodes at t = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser, TokenDenoiser
from fromnoise.objectives.loss import Loss
from fromnoise.posterior import Logits
from fromnoise.process import Masked
from fromnoise.rng import Rng
from fromnoise.types import Data, Time


@dataclass(frozen=True, kw_only=True)
class MaskedCrossEntropy:
    """t is stratified over the global batch, so that every batch has few masks and many."""

    def __call__(self, denoise: Denoiser, x0: Data, cond: Cond, rng: Rng, progress: float = 0.0) -> Loss:
        t = (1 - rng.stratified()).float().to(x0.device).reshape(-1, *(1,) * (x0.ndim - 1))
        return Loss(self.at(denoise, x0, cond, t, rng), t.flatten())

    def at(self, denoise: Denoiser, x0: Data, cond: Cond, t: Time, rng: Rng) -> Float[Tensor, " b"]:
        """Mean nats of the ⌈t·n⌉ masked tokens of each example, for 0 < t <= 1."""
        assert isinstance(denoise.process, Masked)
        masked = masks(t, x0, rng)
        x_t = x0.masked_fill(masked, denoise.process.vocab)
        # Whatever x_t makes certain costs nothing.
        sites = denoise.open_sites(x_t) if isinstance(denoise, TokenDenoiser) else masked
        nats = F.cross_entropy(_logits(denoise, x_t, t, cond, sites), x0[sites], reduction="none")
        per_site = nats.new_zeros(x0.shape).masked_scatter(sites, nats)
        return per_site.flatten(1).sum(1) / masked.flatten(1).sum(1)


def masks(t: Time, x0: Data, rng: Rng) -> Bool[Tensor, "b *d"]:
    """Of the n sites of each example ⌈t·n⌉, at least one, each set equally likely; t is one number an example."""
    n = x0[0].numel()
    count = (t.reshape(len(x0), 1) * n).ceil().clamp(1, n)
    rank = rng.uniform((len(x0), n)).argsort(1).argsort(1).to(x0.device)
    return (rank < count).view(x0.shape)


def _logits(denoise: Denoiser, x_t: Data, t: Time, cond: Cond, sites: Bool[Tensor, "b *d"]) -> Float[Tensor, "k vocab"]:
    """What the denoiser believes of some sites alone."""
    if isinstance(denoise, TokenDenoiser):
        return denoise.at_open(x_t, t, cond)
    post = denoise(x_t, t, cond)
    assert isinstance(post, Logits)
    return post.logits[sites]
