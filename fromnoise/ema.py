"""Power-function averages of the weights, two lengths tracked, any length reconstructed afterwards.

After n steps the average gives step i the weight (i^k - (i-1)^k) / n^k with k = gamma + 1: the profile tau^gamma of
Karras et al. 2024 (EDM2, section 3.1), which stretches with the run and is followed exactly by

    avg <- beta_n·avg + (1 - beta_n)·theta,    beta_n = (1 - 1/n)^(gamma + 1)                           (eq. 127)

Since beta_1 = 0 the random initialisation never enters.  The length is given as sigma_rel, the profile's standard
deviation as a part of the run.  Snapshots of the tracked averages span a space of profiles; the one that lies nearest
to a wanted profile in the least-squares sense is the post-hoc average (section 3.2 and appendix C.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

SIGMAS = (0.05, 0.10)


def sigma_of(gamma: float) -> float:
    """sigma_rel of the profile tau^gamma: sqrt((gamma+1) / ((gamma+2)²·(gamma+3))) (EDM2 eq. 123)."""
    return ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5


@cache
def gamma_of(sigma_rel: float) -> float:
    """The gamma >= 0 whose profile has length `sigma_rel`, which lies in (0, 12^-.5 = .2887]."""
    assert 0 < sigma_rel <= 12**-0.5, f"sigma_rel {sigma_rel} is not in (0, .2887]"
    return float(np.roots([1, 7, 16 - sigma_rel**-2, 12 - sigma_rel**-2]).real.max())


class PowerEma:
    """Averages of a model's parameters, one per length in `sigmas`, in float32; buffers are copied as they are."""

    def __init__(self, model: nn.Module, sigmas: Sequence[float] = SIGMAS) -> None:
        self.model = model
        self.averages = {s: [p.detach().float().clone() for p in model.parameters()] for s in sigmas}

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Takes in the weights after step `n`, counted from 1; every step once and in order."""
        assert n >= 1, "steps are counted from 1"
        params = [p.detach().float() for p in self.model.parameters()]
        for sigma, averages in self.averages.items():
            beta = (1 - 1 / n) ** (gamma_of(sigma) + 1)
            torch._foreach_lerp_(averages, params, 1 - beta)

    def weights(self, sigma: float) -> dict[str, Tensor]:
        """A state dict of the model with the averaged parameters, which are not copied."""
        names = [name for name, _ in self.model.named_parameters()]
        return self.model.state_dict() | dict(zip(names, self.averages[sigma], strict=True))

    def pack(self) -> dict[str, Tensor]:
        """The averages alone as `<sigma_rel>/<parameter>`, not copied."""
        names = [name for name, _ in self.model.named_parameters()]
        return {f"{s}/{name}": x for s, avg in self.averages.items() for name, x in zip(names, avg, strict=True)}

    @torch.no_grad()
    def unpack(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `pack` gave."""
        ours = self.pack()
        assert ours.keys() == tensors.keys(), "these averages are of another model or of other lengths"
        for name, x in ours.items():
            x.copy_(tensors[name])


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A tracked average as it was after `step` steps; `load` reads its state dict."""

    step: int
    sigma_rel: float
    load: Callable[[], Mapping[str, Tensor]]


def reconstruct(snapshots: Sequence[Snapshot], sigma_rel: float, step: int | None = None) -> dict[str, Tensor]:
    """The state dict of the average of length `sigma_rel` as of `step` (by default the latest), though never tracked.

    Snapshots are read one at a time; integer entries are taken from the latest one.
    """
    assert snapshots, "nothing to reconstruct from"
    latest = max(snapshots, key=lambda s: s.step)
    shares = coefficients(
        [(float(s.step), gamma_of(s.sigma_rel)) for s in snapshots], (float(step or latest.step), gamma_of(sigma_rel))
    )
    total = {
        name: torch.zeros_like(x, dtype=torch.float32) if x.is_floating_point() else x.clone()
        for name, x in latest.load().items()
    }
    for snapshot, share in zip(snapshots, shares, strict=True):
        if share:
            for name, x in snapshot.load().items():
                if x.is_floating_point():
                    total[name].add_(x.float(), alpha=float(share))
    return total


def coefficients(known: Sequence[tuple[float, float]], wanted: tuple[float, float]) -> Float[np.ndarray, "n"]:
    """How much of each known profile (step, gamma) makes the wanted one: least squares with shares summing to 1.

    Minimises the integral of (sum_i x_i·p_i - p)² under sum_i x_i = 1 by its Lagrange system, so that weights that have
    stopped moving come back unchanged.  EDM2 (algorithm 3) solves without the constraint and rescales afterwards.
    """
    t, gamma = np.array(known, dtype=np.float64).T
    n = len(t)
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = _inner(t[:, None], gamma[:, None], t, gamma)
    system[n, n] = 0
    right = np.append(_inner(t, gamma, *wanted), 1.0)
    # Norms of profiles differ with t; scaling rows and columns alike keeps the system well conditioned.
    scale = np.append(system.diagonal()[:n] ** -0.5, 1.0)
    scale[n] = 1 / scale[:n].max()
    solved = np.linalg.lstsq(system * scale * scale[:, None], right * scale, rcond=1e-13)[0] * scale
    return solved[:n]


def _inner(t_a, gamma_a, t_b, gamma_b):
    """The inner product of two profiles (gamma+1)·tau^gamma/t^(gamma+1) on [0, t], whose integrals are 1 (eq. 151)."""
    early, late = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    later_gamma = np.where(t_a < t_b, gamma_b, gamma_a)
    power = (early / late) ** later_gamma
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * power / late
