"""Muon for the hidden matrices, AdamW for everything else, in one optimiser with one learning-rate multiplier.

Muon (Jordan et al. 2024): with momentum m <- mu·m + (1-mu)·g and Nesterov's look-ahead u = mu·m + (1-mu)·g, a matrix
moves along the orthogonal factor U·V^T of u = U·S·V^T, approached by Newton-Schulz iterations, so that every direction
of the gradient counts alike.  The step is scaled by .2·sqrt(max(fan_out, fan_in)), the root mean square of a typical
AdamW step (Liu et al. 2025, "Muon is scalable", eq. 4), so that both rules share weight decay and magnitude.
A kernel of any rank is the matrix (out, in·k·k).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adamw import adamw

from fromnoise.config import OptimConfig

# Quintic coefficients of Jordan et al.: steep at zero, so that five iterations carry small singular values near 1.
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muonw(torch.optim.Optimizer):
    """Muon for groups of rule "muon", AdamW for groups of rule "adamw"; build it with `make_optimizer`.

    `dtype` is the precision of Newton-Schulz: bfloat16 halves its time where products in it are fast, and costs no
    accuracy that matters, since the iteration is itself rough.
    """

    def __init__(self, groups: Sequence[dict], dtype: torch.dtype) -> None:
        super().__init__(groups, {})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One step of every parameter that has a gradient."""
        assert closure is None, "neither rule evaluates the loss again"
        for group in self.param_groups:
            params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if params:
                (self._muon if group["rule"] == "muon" else self._adamw)(group, params)

    def _muon(self, group: dict, params: list[Tensor]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, momenta, group["momentum"])
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        for p, direction in zip(params, _orthogonal_all(updates, self.dtype), strict=True):
            fan_out, fan_in = direction.shape
            p.add_(direction.reshape(p.shape), alpha=-group["lr"] * 0.2 * math.sqrt(max(fan_out, fan_in)))

    def _adamw(self, group: dict, params: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = {"mean": torch.zeros_like(p), "square": torch.zeros_like(p), "step": p.new_zeros(())}
        adamw(
            params,
            [p.grad for p in params if p.grad is not None],
            [self.state[p]["mean"] for p in params],
            [self.state[p]["square"] for p in params],
            [],
            [self.state[p]["step"] for p in params],
            fused=True,
            amsgrad=False,
            beta1=group["momentum"],
            beta2=group["beta2"],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def make_optimizer(
    model: nn.Module,
    hidden: list[nn.Parameter],
    *,
    muon_lr: float,
    adam_lr: float,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    momentum: float = 0.95,
    dtype: torch.dtype = torch.float32,
) -> Muonw:
    """Muon on `hidden` (kernels laid out (out, in, ...)), AdamW on the model's other parameters.

    Weight decay is decoupled (each step shrinks by lr·weight_decay) and spares gains and biases, which have no scale
    to lose.  Learning rates are per step of RMS about 0.2·lr for both rules.
    """
    ours = {id(p) for p in hidden}
    assert all(p.ndim >= 2 for p in hidden), "Muon takes matrices and kernels"
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in ours]
    muon = {"rule": "muon", "initial_lr": muon_lr, "initial_momentum": momentum, "weight_decay": weight_decay}
    adam = {"rule": "adamw", "initial_lr": adam_lr, "initial_momentum": betas[0], "beta2": betas[1]}
    groups = [
        muon | {"params": list(hidden)},
        adam | {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
        adam | {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = Muonw([group for group in groups if group["params"]], dtype)
    set_lr(optimizer, 1.0)
    limit_momentum(optimizer, 1.0)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's rate becomes `factor` times the one it was built with."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def limit_momentum(optimizer: torch.optim.Optimizer, most: float) -> None:
    """Every group's momentum, which is AdamW's first beta, becomes the one it was built with, but at most `most`."""
    for group in optimizer.param_groups:
        group["momentum"] = min(group["initial_momentum"], most)


def schedule(progress: float, step: int, optim: OptimConfig) -> float:
    """The learning-rate multiplier: a linear warm-up, then 1, then a cosine from progress `decay_from` to 0 at 1.

    From `drop_at` on it is `drop_to` times that, to which a cosine leads from `drop_from` on.
    `progress` is the part of the run that is done, in steps or in time, so a budget in minutes decays as one in steps.
    """
    warm = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else 1.0
    low = optim.drop_to if progress >= optim.drop_at else 1.0
    if optim.drop_from < progress < optim.drop_at:
        done = (progress - optim.drop_from) / (optim.drop_at - optim.drop_from)
        low = optim.drop_to + (1 - optim.drop_to) * _cosine(done)
    if progress <= optim.decay_from:
        return warm * low
    done = min(1.0, (progress - optim.decay_from) / (1 - optim.decay_from))
    return warm * low * _cosine(done)


def _cosine(done: float) -> float:
    """From 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * done))


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All state as tensors named `<position of the parameter>/<name>`, not copied.

    Rates and betas are not in it: they follow from the configuration that a resumed run builds its optimiser with.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return {f"{i}/{name}": x for i, p in enumerate(params) for name, x in optimizer.state[p].items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `pack_optimizer` gave, in each parameter's own memory layout and on its device."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p in params:
        optimizer.state[p] = {}
    for key, x in tensors.items():
        i, name = key.split("/")
        p = params[int(i)]
        place = torch.empty_like(p) if x.shape == p.shape else torch.empty_like(x, device=p.device)
        optimizer.state[p][name] = place.copy_(x)


def orthogonal(x: Float[Tensor, "k n m"], steps: int = 5) -> Float[Tensor, "k n m"]:
    """U·V^T of each x = U·S·V^T, roughly: singular values within about .3 of 1, by the quintic Newton-Schulz iteration.

    x <- (a·I + b·G + c·G²)·x with the Gram matrix G = x·x^T of the smaller side; small singular values stay below 1.
    Computed in x's own dtype.
    """
    if x.shape[1] > x.shape[2]:
        return orthogonal(x.mT, steps).mT
    # The Frobenius norm bounds the spectral norm, so every singular value starts in [0, 1], where the quintic acts.
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    # Rounding in G grows with each step, so that only float32 has the digits to follow G instead of x.
    if x.dtype == torch.float32 and x.shape[2] > 2 * x.shape[1]:
        return _polar_factor(x @ x.mT, steps) @ x
    for _ in range(steps):
        x = _quintic(x @ x.mT) @ x
    return x


def _quintic(gram: Float[Tensor, "k n n"]) -> Float[Tensor, "k n n"]:
    a, b, c = QUINTIC
    p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    p.diagonal(dim1=1, dim2=2).add_(a)
    return p


def _polar_factor(gram: Float[Tensor, "k n n"], steps: int) -> Float[Tensor, "k n n"]:
    """The product of the iteration's polynomials, which the Gram matrix alone determines: G <- P·G·P.

    Wide matrices are then multiplied twice instead of 2·steps times, a third of the work for a 3x3 kernel.
    """
    total = p = _quintic(gram)
    for _ in range(steps - 1):
        gram = p @ gram @ p
        p = _quintic(gram)
        total = p @ total
    return total


def _orthogonal_all(updates: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """`orthogonal` of each update as a matrix (out, rest), with equal shapes in one batch."""
    matrices = [u.reshape(len(u), -1) for u in updates]
    alike = defaultdict(list)
    for i, matrix in enumerate(matrices):
        alike[matrix.shape].append(i)
    for places in alike.values():
        batch = orthogonal(torch.stack([matrices[i] for i in places]).to(dtype))
        for i, direction in zip(places, batch, strict=True):
            matrices[i] = direction
    return matrices
