"""Grids found for one model: for each number of moves the times at which few-step sampling strays least.

A teacher walks some priors once over many times t_0 > … > t_N = 0 and keeps every x_i and x0_hat_i.  A move of the
multistep stepper from node j to k, with node i before it, is linear in what was kept,

    x_k ≈ q·x_j + (1-q)·(x0_hat_j + r·(x0_hat_j - x0_hat_i)),    q = t_k/t_j,  r as in `stepper.extrapolation`,

so the errors of all moves (i, j, k) against the teacher's x_k are quadratic forms in one Gram matrix, without another
evaluation.  An error made at node k has grown when it arrives at the end: tenfold and more from the noisy end, where it
decides which picture it will be.  A second walk, from slightly other priors, measures the growth.  The grid of n moves
with the least Σ (growth_k·error_ijk)², errors of different moves being taken as uncorrelated, is then the shortest
path over pairs of nodes.  This is GITS (Chen et al. 2024, "On the trajectory regularity of diffusion-based sampling")
with second-order moves and measured growth in place of Euler moves and none.

A grid begins at any node, with what the process has the same noise come to (`prior.py`), which costs nothing but its
error, and that is measured, too: the moves in which no more than mean and covariance of the data is decided are saved.

`last`, the last time above 0, is fixed.  Below it a model has hardly been trained, and one jump to 0 gives better
samples than many moves, though they end nearer to the exact solution; so the teacher jumps from there, too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from fromnoise.build import build_guidance
from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.grid import Times
from fromnoise.path import logsnr
from fromnoise.release import Release
from fromnoise.rng import Rng
from fromnoise.sample import Step, finish, sample
from fromnoise.stepper import Multistep, extrapolation
from fromnoise.types import Data, FromNoiseError

STEPS = range(3, 25)
NODES, WALKS = 48, 2  # moves of the teacher, and how often each prior walks them
BATCH = 8
LAST = 0.1
NOISIEST = 5.0  # logit(t) of the first node below t = 1
NUDGE = 0.02  # of the way to another sample: small enough for errors to grow as infinitesimal ones do

Begin = Callable[[float], Data]  # where the same noise comes to at a time, as the process has it


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """What a fine walk leaves behind.

    times   t_0 > … > t_N = 0
    gram    mean products of elements of (x_0, …, x_N, x0_hat_0, …, x0_hat_{N-1}), over examples and elements
    begun   the mean square error of beginning at each node
    growth  by how much a small error at each node has grown at the end; the last is 1
    """

    times: Times
    gram: Float[Tensor, "m m"]
    begun: Float[Tensor, " n"]
    growth: Float[Tensor, " n"]


def search(
    release: Release,
    *,
    steps: Sequence[int] = STEPS,
    last: float = LAST,
    seconds: float = math.inf,
    seed: int = 0,
    priors: int = 64,
    nodes: int = NODES,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Times, ...]:
    """One grid for each number of moves in `steps`, for the release's own guidance and the multistep stepper.

    Walks `priors` of `seed` twice over `nodes` moves, eight priors at a time and as many as fit into `seconds`; 16
    will do.  The result is () where not even eight fit, and for models that multistep does not sample (tokens, flow
    maps).  Without a limit it is a function of the release and `seed` alone.
    """
    if not release.denoiser.process.continuous or release.config.model.flow_map:
        return ()
    denoise = build_guidance(release.config.sample, release.denoiser, release.weak)
    times = teacher_times(release.denoiser.start, last, nodes)
    device = next(release.denoiser.parameters()).device

    def draw(first: int) -> tuple[Begin, Cond]:
        indices, shape = range(first, first + BATCH), (BATCH, *release.codec.shape)
        cond = release.conditions({}, seed, indices)

        def begin(t: float) -> Data:
            return denoise.process.prior(shape, t, Rng.of(seed, indices, "search"), cond=cond).to(device)

        return begin, cond.to(device)

    begun = clock()
    batches = _in_time(denoise, times, map(draw, range(0, priors, BATCH)), lambda: seconds - (clock() - begun))
    teacher = teach(denoise, times, batches)
    return () if teacher is None else tuple(grids(teacher, steps).values())


def teacher_times(start: float, last: float, count: int) -> Times:
    """`start`, then uniform in logit(t), i.e. in log-SNR, down to `last`, then 0: `count` moves."""
    if not 0 < last < start <= 1:
        raise FromNoiseError(f"The last time of a grid lies between 0 and its start {start:g}, not at {last:g}.")
    high = min(NOISIEST, math.log(start / (1 - start)) if start < 1 else math.inf)
    inside = torch.linspace(high, math.log(last / (1 - last)), count, dtype=torch.float64)[1:]
    return (start, *(round(t, 6) for t in inside.sigmoid().tolist()), 0.0)


def teach(denoise: Denoiser, times: Times, batches: Iterable[tuple[Begin, Cond]]) -> Teacher | None:
    """Walks each batch of priors, of at least two, twice over `times`; None if there are no batches."""
    gram = torch.zeros(2 * len(times) - 1, 2 * len(times) - 1, dtype=torch.float64)
    strayed, begun, count = (torch.zeros(size, dtype=torch.float64) for size in ((len(times),), (len(times),), ()))
    for begin, cond in batches:
        x = begin(times[0])
        steps = [(step.x.cpu(), step.post.point().cpu()) for step in _walk(denoise, times, x, cond) if step.post]
        states, guesses = [x.cpu(), *(x_s for x_s, _ in steps)], [guess for _, guess in steps]
        # Towards another sample: errors of moves lie among differences of pictures, not among all directions.
        nudged = x + NUDGE * (states[-1].roll(1, dims=0) - states[-1]).to(x.device)
        walked = (step.x for step in _walk(denoise, times, nudged, cond))
        strayed += torch.stack([_square(a, b) for a, b in zip(states, chain([nudged], walked), strict=True)])
        begun += len(x) * torch.stack([_square(a, begin(t)) for a, t in zip(states, times, strict=True)])
        for example in torch.stack(states + guesses, dim=1):
            rows = example.flatten(1).double()
            gram += rows @ rows.T / rows.shape[1]
        count += len(x)
    if not count:
        return None
    growth = (strayed[-1] / strayed).sqrt()
    return Teacher(times=times, gram=gram / count, begun=begun / count, growth=growth)


def grids(teacher: Teacher, steps: Iterable[int]) -> dict[int, Times]:
    """The best grid for each number of moves, which pass through the teacher's last time above 0."""
    wanted = set(steps)
    if not wanted or min(wanted) < 2 or max(wanted) >= len(teacher.times):
        raise FromNoiseError(f"Grids are searched for 2 to {len(teacher.times) - 1} moves, not {sorted(wanted)}.")
    paths = shortest(*costs(teacher), max(wanted))
    return {n: tuple(teacher.times[i] for i in path) for n, path in enumerate(paths, start=1) if n in wanted}


def costs(teacher: Teacher) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n n n"]]:
    """(growth·error)² of starting at node j and moving to k, and of moving from j to k after i; ∞ where impossible."""
    t = torch.tensor(teacher.times, dtype=torch.float64)
    level, grown = logsnr(t) / 2, teacher.growth.square()
    end = len(t) - 1
    every = torch.arange(end + 1)
    i, j, k = every[:, None, None], every[:, None], every
    guess = (end + 1 + every).clamp_max(2 * end)  # there is no guess at the end, whence no move starts

    def square(*terms: tuple[Tensor, Tensor]) -> Tensor:
        """Mean square of a sum of weight·row."""
        products = (a * b * teacher.gram[m, n] for a, m in terms for b, n in terms)
        return sum(products, torch.zeros(())).clamp_min(0)

    one = torch.ones((), dtype=torch.float64)
    q = torch.where(j < k, t[k] / t[j], 0.0)
    allowed = (j < k) & ((k < end) | (j == end - 1))
    euler = square((one, k), (-q, j), (q - 1, guess[j])) * grown
    first = torch.where(allowed, (teacher.begun * grown)[:, None] + euler, torch.inf)
    r = extrapolation(level[i], level[j], level[k])
    second = square((one, k), (-q, j), ((q - 1) * (1 + r), guess[j]), ((1 - q) * r, guess[i])) * grown
    return first, torch.where(allowed & (i < j), second, torch.inf)


def shortest(first: Float[Tensor, "n n"], second: Float[Tensor, "n n n"], most: int) -> Iterator[list[int]]:
    """Nodes of the cheapest path to the last node in 1, 2, …, `most` moves; moves cost second[i, j, k], the first
    first[j, k]."""
    best, origins = first, []  # best[j, k]: of the paths that end with the move from j to k
    for _ in range(most):
        path = [len(first) - 1, int(best[:, -1].argmin())]
        for origin in reversed(origins):
            path.append(int(origin[path[-1], path[-2]]))
        yield path[::-1]
        best, origin = (best[:, :, None] + second).min(dim=0)
        origins.append(origin)


def _walk(denoise: Denoiser, times: Times, x: Data, cond: Cond) -> Iterator[Step]:
    return sample(denoise, Multistep(), times, x, cond, Rng.of(0, range(len(x))))


def _square(a: Data, b: Data) -> Tensor:
    """Mean square of the difference."""
    return (a - b.to(a.device)).double().square().mean()


def _in_time(
    denoise: Denoiser, times: Times, batches: Iterator[tuple[Begin, Cond]], left: Callable[[], float]
) -> Iterator[tuple[Begin, Cond]]:
    """Batches for as long as another fits into the seconds `left`; the first is judged by one evaluation."""
    cost = 0.0
    for begin, cond in batches:
        x = begin(times[0])
        for _ in range(2 if cost == 0 else 0):  # the first evaluation warms up
            before = left()
            finish(_walk(denoise, times[:2], x, cond)).sum().item()
            cost = WALKS * (len(times) - 1) * (before - left())
        if cost > left():
            return
        before = left()
        yield begin, cond
        cost = before - left()
