"""From a network to a posterior: preconditioning, readout and the precision boundary.

`NetDenoiser` feeds its network `x_t / √n`, n = (1-t)²·sigma_data² + t² (unit variance at every t), and reads the answer
out by the target's row.  Inside, autocast may run in bfloat16; what comes in and goes out has the caller's dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fromnoise.cond import Cond
from fromnoise.nets import Conditioner
from fromnoise.path import Path, scale
from fromnoise.posterior import Logits, Mean, Posterior
from fromnoise.process import Gaussian, Masked, Process
from fromnoise.target import Eps, Target, input_variance, readout
from fromnoise.types import Data, FromNoiseError, Time

EPS_START = 0.998
STRIDE = 16


@runtime_checkable
class Denoiser(Protocol):
    @property
    def process(self) -> Process: ...

    def __call__(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Posterior:
        """The posterior of x0 given x_t.  `s` is the destination of the step; flow maps answer for it."""
        ...


class NetDenoiser(nn.Module):
    """A network and its conditioner as a denoiser of continuous data; `start` is the noisiest time it can be asked at.

    A plain model ignores the destination (its network only ever saw s = t).  A flow map answers with the average
    velocity from t to s, read as x0_hat = x_t - t·u, so that a DDIM step to any s is exact (Geng et al. 2025).
    """

    net: nn.Module
    conditioner: Conditioner

    def __init__(
        self,
        net: nn.Module,
        conditioner: Conditioner,
        target: Target,
        *,
        sigma_data: float = 0.5,
        time_axes: tuple[int, ...] = (),
        flow_map: bool = False,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        super().__init__()
        self.process = Gaussian()
        self.net, self.conditioner = net, conditioner
        self.target, self.sigma_data, self.flow_map = target, sigma_data, flow_map
        self.time_axes, self.autocast = time_axes, autocast
        # A network that predicts noise says nothing about the data at t = 1.
        self.start = EPS_START if isinstance(target, Eps) else 1.0

    def forward(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Mean:
        check_time(x_t, t, self.time_axes)
        s = t if s is None or not self.flow_map else s
        # Networks compute in their own precision; float64 callers keep their digits outside.
        dtype = next(self.net.parameters()).dtype
        scaled = (x_t / input_variance(t, self.sigma_data).sqrt()).to(dtype)
        with self.autocast():
            y, mid = self.net(scaled, t.to(dtype), s.to(dtype), self.conditioner(cond))
        a, b = readout(self.target, t)

        def read(y: Tensor) -> Tensor:
            return a * y.to(x_t.dtype) + b * x_t

        return Mean(read(y), None if mid is None else read(mid))


class TokenDenoiser(nn.Module):
    """A network over tokens as a denoiser of the masked process.

    The mask symbol is never predicted, and a token already shown is certain (MDLM's two substitutions).  Where data has
    a `padding`, a symbol that only itself comes after, all behind one that is shown is certain too; the network is not
    even asked about it, which saves most of the work on examples shorter than the window.
    """

    net: nn.Module
    conditioner: Conditioner

    def __init__(
        self,
        net: nn.Module,
        conditioner: Conditioner,
        vocab: int,
        *,
        padding: int | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        super().__init__()
        self.process = Masked(vocab)
        self.net, self.conditioner, self.autocast = net, conditioner, autocast
        self.padding = padding
        self.start = 1.0

    def forward(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Logits:
        sites = self.open_sites(x_t)
        answers = self.at_open(x_t, t, cond)
        # Whatever is neither open nor shown is padding.
        certain = x_t if self.padding is None else torch.where(x_t == self.process.vocab, self.padding, x_t)
        logits = answers.new_zeros(*x_t.shape, self.process.vocab)
        logits[sites] = answers
        return Logits(logits).pin(certain.masked_fill(sites, 0), ~sites)

    def open_sites(self, x_t: Data) -> Bool[Tensor, "b n"]:
        """Where x_t does not say what x0 is."""
        return (x_t == self.process.vocab) & (torch.arange(x_t.shape[1], device=x_t.device) < self._end(x_t)[:, None])

    def at_open(self, x_t: Data, t: Time, cond: Cond) -> Float[Tensor, "k vocab"]:
        """The logits of the open sites alone, in order: all that a loss needs."""
        sites, encoded = self.open_sites(x_t), self.conditioner(cond)
        # Cut to steps of STRIDE by each example itself, so that no answer depends on what else is in the batch.
        lengths = (-((self._end(x_t) + 1) // -STRIDE) * STRIDE).clamp_max(x_t.shape[1])
        answers, places = [], []
        order = torch.arange(x_t.numel(), device=x_t.device).view_as(x_t)
        for n in lengths.unique().tolist():
            rows = lengths == n
            time, some = t[rows], sites[rows, :n]
            with self.autocast():
                logits, _ = self.net(x_t[rows, :n], time, time, encoded.rows(rows), some)
            answers.append(logits.float())
            places.append(order[rows, :n][some])
        return torch.cat(answers)[torch.cat(places).argsort()]

    def _end(self, x_t: Data) -> Int[Tensor, " b"]:
        """The place of the first padding that is shown, the length where there is none."""
        n = x_t.shape[1]
        if self.padding is None:
            return x_t.new_full((len(x_t),), n)
        shown = x_t == self.padding
        return torch.where(shown.any(1), shown.int().argmax(1), n)


# What can be trained, averaged and released.
ModelDenoiser = NetDenoiser | TokenDenoiser


class Foreign:
    """A network trained on another path, as a denoiser on the line.

    `net(x, u)` takes its own coordinates and its own time (b, 1, …, 1), and regresses `target`, whose row in (x0, eps)
    is the same in any coordinates.  Its grid starts at the path's own noisy end, `line_time(path, u_max)`.
    """

    def __init__(self, net: Callable[[Tensor, Tensor], Tensor], path: Path, target: Target) -> None:
        self.process = Gaussian()
        self.net, self.path, self.target = net, path, target

    def __call__(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Mean:
        u = self.path.own_time(t)
        a, b = readout(self.target, t)
        return Mean(a * self.net(scale(self.path, u) * x_t, u) + b * x_t)


def check_time(x: Data, t: Time, time_axes: tuple[int, ...]) -> None:
    """Refuses a noise level per element from a model that was not trained so (`time_axes` count spatial axes)."""
    varying = [axis - 2 for axis in range(1, t.ndim) if t.shape[axis] != 1]
    wrong = [axis for axis in varying if axis not in time_axes]
    if t.ndim != x.ndim or wrong:
        raise FromNoiseError(
            f"Time of shape {tuple(t.shape)} does not fit data of shape {tuple(x.shape)}: this model was trained with "
            f"one noise level for {'each index of axes ' + str(time_axes) if time_axes else 'the whole example'}."
        )
