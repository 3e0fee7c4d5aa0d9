"""The training loop: a generator of events.  Callers own files, previews and what is printed.

Nothing random is remembered: the examples of step n, their noise and their noise levels are functions of (seed, n), so
a run resumed from its checkpoint goes on bit for bit, and N ranks follow one rank at the same global batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from fromnoise.checkpoint import part
from fromnoise.codec.augment import augmented
from fromnoise.cond import Cond
from fromnoise.config import Config, OptimConfig
from fromnoise.denoise import ModelDenoiser
from fromnoise.ema import PowerEma
from fromnoise.nets import hidden_matrices
from fromnoise.objectives import Lasting, Objective
from fromnoise.optim import Muonw, limit_momentum, make_optimizer, pack_optimizer, schedule, set_lr, unpack_optimizer
from fromnoise.rng import Rng
from fromnoise.runtime import Runtime, all_sum, all_sum_gradients, from_main
from fromnoise.sample import as_time
from fromnoise.shuffle import shuffled
from fromnoise.types import Data, FromNoiseError

HELD_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


@runtime_checkable
class Examples(Protocol):
    """Data as the loop sees it: x0 and conditions by index; `rng` draws the parts of examples longer than x0."""

    def x0(self, indices: np.ndarray, rng: Rng | None = None) -> Tensor: ...
    def cond(self, indices: np.ndarray, rng: Rng | None = None) -> Cond: ...


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """One optimiser step done.

    `step` counts from 1, `progress` is after it, `loss` is the mean over the global batch.
    """

    step: int
    progress: float
    seconds: float
    loss: float
    gradient: float
    rate: float
    """Learning-rate multiplier."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A step whose gradient was not finite was not taken.  `consecutive` counts those in a row."""

    step: int
    progress: float
    seconds: float
    examples: tuple[int, ...]
    """Data indices of this rank whose own loss was not finite; empty when only the gradient was."""
    consecutive: int


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands; all of it goes into the checkpoint."""

    step: int = 0
    updates: int = 0
    elapsed: float = 0.0
    rollbacks: int = 0
    """Each halves the learning rate, and changes the noise drawn: the same draws would fail the same way."""


class Trainer:
    """A model in training: weights, optimiser state, averages, and its position in the run.

    `clock` gives the seconds since this process began the run; the elapsed time of earlier processes is added.
    A `companion` is a second model that the objective asks and trains along; it is in checkpoints and in no release.
    The caller may set `reserve`, the seconds of the budget that it needs after the last step.
    """

    def __init__(
        self,
        *,
        config: Config,
        denoiser: ModelDenoiser,
        objective: Objective,
        data: Examples,
        indices: np.ndarray,
        runtime: Runtime,
        clock: Callable[[], float],
        companion: ModelDenoiser | None = None,
    ) -> None:
        self.config, self.denoiser, self.objective, self.data = config, denoiser, objective, data
        self.indices, self.runtime, self.clock = indices, runtime, clock
        self.companion = companion
        self.trained = nn.ModuleList([denoiser] if companion is None else [denoiser, companion])
        self.optimizer = optimizer_of(denoiser, config.optim, runtime.dtype)
        if companion is not None:
            # No drop of rates is meant for it, since it has to keep up.
            for group in optimizer_of(companion, config.optim, runtime.dtype, 1 / config.optim.drop_to).param_groups:
                self.optimizer.add_param_group(group)
        # Two lengths span a space of profiles from which any other is made afterwards.
        self.ema = PowerEma(denoiser, (config.run.ema, 2 * config.run.ema))
        self.position = Position()
        self.reserve = self.carried = 0.0
        self.prepared: dict[range, int] = {}  # where in the batch, and in which step, a lasting objective was prepared
        self.consecutive = 0

    # ---- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Stepped | Skipped]:
        """Steps until the run's end.  The caller may save, restore or stop between events."""
        while (progress := self.progress()) < 1:
            event = self._step(progress)
            yield replace(event, progress=self.progress())

    def progress(self) -> float:
        """The part of the run that is done, by steps or by the main rank's clock."""
        run = self.config.run
        if run.steps is not None:
            return min(1.0, self.position.step / run.steps)
        assert run.budget is not None
        return from_main(min(1.0, self.elapsed() / max(run.budget - self.reserve, 1e-9)), self.runtime)

    def elapsed(self) -> float:
        return self.carried + self.clock()

    def _step(self, progress: float) -> Stepped | Skipped:
        step, optim = self.position.step, self.config.optim
        self.denoiser.train()
        self.optimizer.zero_grad(set_to_none=True)
        mine = share(optim.batch, self.runtime.rank, self.runtime.world)
        total, bad = 0.0, []
        for places in chunks(mine, optim.micro or optim.batch):
            values = self._losses(step, places, progress)
            (values.sum() / optim.batch).backward()
            total += float(values.detach().double().sum()) / optim.batch
            if not bool((finite := torch.isfinite(values.detach())).all()):
                bad += self._examples(step, places)[~finite.cpu().numpy()].tolist()
        all_sum_gradients(self.trained.parameters(), self.runtime)
        loss = float(all_sum(torch.tensor(total, dtype=torch.float32), self.runtime))
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained.parameters(), optim.clip))
        seconds, updates = self.elapsed(), self.position.updates
        self.position = replace(self.position, step=step + 1, elapsed=seconds)
        if not np.isfinite(norm):
            self.consecutive += 1
            return Skipped(
                step=step + 1,
                progress=progress,
                seconds=seconds,
                examples=tuple(bad),
                consecutive=self.consecutive,
            )
        self.consecutive = 0
        rate = schedule(progress, updates, optim) * 0.5**self.position.rollbacks
        set_lr(self.optimizer, rate)
        limit_momentum(self.optimizer, optim.drop_momentum if progress >= optim.drop_at else 1.0)
        self.optimizer.step()
        self.ema.update(updates + 1)
        self.position = replace(self.position, updates=updates + 1)
        return Stepped(step=step + 1, progress=progress, seconds=seconds, loss=loss, gradient=norm, rate=rate)

    def _losses(self, step: int, places: range, progress: float) -> Tensor:
        if isinstance(self.objective, Lasting):
            first = step - step % self.objective.lasts
            if self.prepared.get(places) != first:
                self.objective.prepare(*self._batch("prepare", first, places))
                self.prepared[places] = first
        return self.objective(self.denoiser, *self._batch("train", step, places), progress).value

    def _batch(self, use: str, step: int, places: range) -> tuple[Data, Cond, Rng]:
        """The examples at these places of a step's batch, with streams of random numbers for one use."""
        examples = self._examples(step, places)
        rng = Rng.of(self.config.run.seed, places, use, step, self.position.rollbacks, total=self.config.optim.batch)
        cond, x0 = self.data.cond(examples, rng), self.data.x0(examples, rng)
        cond = cond.drop(self.config.loss.drop, rng)
        if self.config.loss.augment:
            x0, cond = augmented(x0, cond, self.config.loss.augment, rng, self.config.loss.augment_flip)
        x0 = x0.to(self.runtime.device)
        if x0.ndim == 4:
            x0 = x0.to(memory_format=torch.channels_last)
        return x0, cond.to(self.runtime.device), rng

    def _examples(self, step: int, places: range) -> np.ndarray:
        """Their data indices."""
        everyone = order(self.indices, step, self.config.optim.batch, self.config.run.seed)
        return everyone[places.start : places.stop]

    # ---- what is kept -------------------------------------------------------------------------------------------

    def average(self) -> ModelDenoiser:
        """A copy of the denoiser with the averaged weights of the release; the weights themselves before step 1."""
        twin = copy.deepcopy(self.denoiser).eval()
        if self.position.updates:
            twin.load_state_dict(self.ema.weights(self.config.run.ema))
        return twin

    def tensors(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, not copied."""
        parts = {"model": self.denoiser.state_dict(), "optim": pack_optimizer(self.optimizer), "ema": self.ema.pack()}
        if self.companion is not None:
            parts["companion"] = self.companion.state_dict()
        return {f"{part}/{name}": x for part, tensors in parts.items() for name, x in tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        """Goes on from what `tensors` and `position` gave."""

        averages = part(tensors, "ema/")
        try:
            self.denoiser.load_state_dict(part(tensors, "model/"))
            if self.companion is not None:
                self.companion.load_state_dict(part(tensors, "companion/"))
        except RuntimeError:
            averages = {}
        if averages.keys() != self.ema.pack().keys():
            raise FromNoiseError(
                "The checkpoint holds another network or other averages than these settings describe: resume without "
                "--set net… and run.ema, or start a new run."
            )
        unpack_optimizer(self.optimizer, part(tensors, "optim/"))
        self.ema.unpack(averages)
        self.position = Position(**position)
        self.consecutive = 0
        self.prepared.clear()


def optimizer_of(model: ModelDenoiser, optim: OptimConfig, dtype: torch.dtype, times: float = 1.0) -> Muonw:
    """The optimiser of a model as the settings say, with `times` their learning rates."""
    return make_optimizer(
        model,
        hidden_matrices(model.net),
        muon_lr=times * optim.muon_lr,
        adam_lr=times * optim.adam_lr,
        weight_decay=optim.weight_decay,
        dtype=dtype,
    )


@torch.no_grad()
def held_out_loss(
    denoiser: ModelDenoiser, objective: Objective, data: Examples, indices: np.ndarray, batch: int = 64
) -> list[tuple[float, float]]:
    """[(t, the objective's mean loss)] on fixed noise at fixed levels: comparable at any two moments of a run."""
    device = next(denoiser.parameters()).device
    sums = dict.fromkeys(HELD_LEVELS, 0.0)
    for start in range(0, len(indices), batch):
        rows = indices[start : start + batch]
        x0, cond = data.x0(rows).to(device), data.cond(rows).to(device)
        for level in HELD_LEVELS:
            rng = Rng.of(0, range(start, start + len(rows)), "held", int(level * 1000))
            sums[level] += float(objective.at(denoiser, x0, cond, as_time(level, x0), rng).sum())
    return [(level, total / len(indices)) for level, total in sums.items()]


def order(indices: np.ndarray, step: int, batch: int, seed: int) -> np.ndarray:
    """The data indices of step `step` (from 0): epochs of fresh permutations, read end to end without a break."""
    n = len(indices)
    places = np.arange(step * batch, (step + 1) * batch)
    return np.concatenate(
        [indices[shuffled(places[places // n == epoch] % n, n, seed, int(epoch))] for epoch in np.unique(places // n)]
    )


def share(batch: int, rank: int, world: int) -> range:
    """The positions of the global batch that belong to this rank."""
    return range(batch * rank // world, batch * (rank + 1) // world)


def chunks(part: range, size: int) -> list[range]:
    return [part[i : i + size] for i in range(0, len(part), size)]
