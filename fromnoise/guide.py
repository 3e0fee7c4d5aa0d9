"""Guidance: denoisers that push a posterior away from a weaker one, `ref + w·(main - ref)`; w = 1 means off.

One class is classifier-free guidance (Ho & Salimans 2022; the reference is the model without its condition),
autoguidance (Karras et al. 2024; a smaller or less trained model) and the guidance interval (Kynkäänniemi et al. 2024;
the weight is a function of log-SNR).  Internal guidance reads the reference from the network's own mid-depth output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.path import logsnr
from fromnoise.posterior import Mean, Posterior
from fromnoise.types import Data, FromNoiseError, Time

Weight = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A weight inside an interval of log-SNR, 1 outside."""

    weight: float
    low: float = -torch.inf
    high: float = torch.inf

    def __call__(self, logsnr: Tensor) -> Tensor:
        inside = (logsnr >= self.low) & (logsnr <= self.high)
        return torch.where(inside, self.weight, 1.0).to(logsnr.dtype)


class Null:
    """The same model asked without any condition."""

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise, self.process = denoise, denoise.process

    def __call__(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Posterior:
        return self.denoise(x_t, t, cond.null(), s)


class Guided:
    """`ref.lerp(main, w(log-SNR))`; the reference is run for those examples alone whose weight is not 1.

    With `ref = Null(main)` both run as one batch.
    """

    def __init__(self, main: Denoiser, ref: Denoiser, weight: Weight) -> None:
        self.main, self.ref, self.weight, self.process = main, ref, weight, main.process

    def __call__(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Posterior:
        w = self.weight(logsnr(t))
        rows = (w != 1).flatten(1).any(1)
        if not bool(rows.any()):
            return self.main(x_t, t, cond, s)
        if isinstance(self.ref, Null) and self.ref.denoise is self.main:
            return self._one_batch(x_t, t, cond, s, w)
        main = self.main(x_t, t, cond, s)
        if bool(rows.all()):
            return self.ref(x_t, t, cond, s).lerp(main, w)
        ref = self.ref(x_t[rows], t[rows], cond.rows(rows), None if s is None else s[rows])
        return main.put(rows, ref.lerp(main[rows], w[rows]))

    def _one_batch(self, x_t: Data, t: Time, cond: Cond, s: Time | None, w: Tensor) -> Posterior:
        def twice(x: Tensor) -> Tensor:
            return torch.cat([x, x])

        both = self.main(twice(x_t), twice(t), Cond.cat([cond, cond.null()]), None if s is None else twice(s))
        b = len(x_t)
        return both[b:].lerp(both[:b], w)


class Internal:
    """Guidance by the network's mid-depth output, at no extra pass: `mid + w·(final - mid)`."""

    def __init__(self, main: Denoiser, weight: Weight) -> None:
        self.main, self.weight, self.process = main, weight, main.process

    def __call__(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Posterior:
        post = self.main(x_t, t, cond, s)
        if not isinstance(post, Mean) or post.mid is None:
            raise FromNoiseError(
                "Internal guidance needs a network with a mid-depth output: train with --set net.mid_head=true, "
                "or use classifier-free guidance."
            )
        return Mean(post.mid).lerp(post, self.weight(logsnr(t)))
