"""A training session: the loop's events joined with what a user keeps of them.

Between two steps the session measures the held-out loss, keeps the best average as the release, draws previews, saves,
and rolls back a run that has blown up.  Nothing it does touches the weights, so the loop stays reproducible.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from fromnoise import checkpoint
from fromnoise.codec import Codec
from fromnoise.cond import Cond
from fromnoise.ema import reconstruct
from fromnoise.folder import RunFolder
from fromnoise.generate import generate
from fromnoise.release import Release, load_release, save_release
from fromnoise.runtime import from_main
from fromnoise.sheet import sheet
from fromnoise.trainer import Skipped, Stepped, Trainer, held_out_loss
from fromnoise.types import FromNoiseError

SKIPS_BEFORE_ROLLBACK = 5
MAX_ROLLBACKS = 4
PREVIEW_EXAMPLES = 32
SNAPSHOT_EVERY = 2  # held-out evaluations
EMA_CHOICES = (0.03, 0.05, 0.075, 0.1, 0.14)


@dataclass(frozen=True, kw_only=True)
class Held:
    """The held-out loss of the averaged weights: per noise level, and as one number."""

    step: int
    seconds: float
    levels: list[tuple[float, float]]
    loss: float
    best: bool


@dataclass(frozen=True, kw_only=True)
class Previewed:
    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class RolledBack:
    """The run went back to `step` with half the learning rate."""

    step: int
    factor: float


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The user asked to stop; everything is saved."""

    step: int


Event = Stepped | Skipped | Held | Previewed | RolledBack | Stopped


class Session:
    """Runs a trainer in a run folder.  Only the main rank measures and writes."""

    def __init__(self, trainer: Trainer, folder: RunFolder, codec: Codec, held: np.ndarray, rows: Cond) -> None:
        self.trainer, self.folder, self.codec, self.held, self.rows = trainer, folder, codec, held, rows
        self.runtime, self.config = trainer.runtime, trainer.config
        self.columns = (*trainer.denoiser.conditioner.columns, *trainer.denoiser.conditioner.map_columns)
        self.best = math.inf
        self.evaluated = 0
        self.saved_at = self.previewed_at = trainer.elapsed()
        self.previews = 0

    # ---- going on and keeping -----------------------------------------------------------------------------------

    def resume(self) -> None:
        """Goes on from the last checkpoint, or from the start if none was saved yet."""
        if not self.folder.last.exists():
            self._forget_after(0)
            return
        tensors, meta = checkpoint.load(self.folder.last)
        self.trainer.restore(tensors, meta["position"])
        self.best, self.evaluated = meta["best"] or math.inf, meta["evaluated"]
        self.saved_at = self.previewed_at = self.trainer.elapsed()
        self._forget_after(self.trainer.position.step)

    def _forget_after(self, step: int) -> None:
        if self.runtime.is_main:
            self.folder.drop_metrics_after(step)
            checkpoint.drop_snapshots_after(self.folder.ema, step)

    def save(self) -> None:
        if self.runtime.is_main:
            best = None if math.isinf(self.best) else self.best
            meta = {"position": asdict(self.trainer.position), "best": best, "evaluated": self.evaluated}
            checkpoint.save(self.folder.last, self.trainer.tensors(), meta)
        self.saved_at = self.trainer.elapsed()

    # ---- the run ------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Event]:
        """Trains to the end of the run and writes the release; ends early, with everything saved, on Ctrl-C."""
        with _interrupt() as asked:
            for event in self.trainer.run():
                yield event
                self._log(event)
                if isinstance(event, Skipped):
                    if event.consecutive >= SKIPS_BEFORE_ROLLBACK:
                        yield self._roll_back()
                    continue
                yield from self._measure_if_due()
                yield from self._preview_if_due()
                if self.trainer.elapsed() - self.saved_at > self.config.run.save_every:
                    self.save()
                if from_main(float(asked()), self.runtime):
                    self.save()
                    yield Stopped(step=event.step)
                    return
        yield from self._finish()

    def _measure_if_due(self) -> Iterator[Event]:
        # A new evaluation each time the run's progress passes a multiple of 1/held_evaluations.
        if math.floor(self.trainer.progress() * self.config.run.held_evaluations) > self.evaluated:
            self.evaluated = math.floor(self.trainer.progress() * self.config.run.held_evaluations)
            if self.runtime.is_main:
                yield self._measure()
                if self.evaluated % SNAPSHOT_EVERY == 0 and self.evaluated * 4 >= self.config.run.held_evaluations:
                    checkpoint.save_snapshot(self.folder.ema, self.trainer.ema, self.trainer.position.step)

    def _measure(self) -> Held:
        average = self.trainer.average()
        levels = self._held(average)
        loss, best = mean_loss(levels), False
        if loss < self.best:
            self.best, best = loss, True
            self._release(average, self.folder.best)
        event = Held(
            step=self.trainer.position.step, seconds=self.trainer.elapsed(), levels=levels, loss=loss, best=best
        )
        self.folder.append_metrics({"kind": "held", **asdict(event)})
        return event

    def _held(self, denoiser: nn.Module) -> list[tuple[float, float]]:
        return held_out_loss(denoiser, self.trainer.objective, self.trainer.data, self.held)

    def _preview_if_due(self) -> Iterator[Event]:
        run = self.config.run
        wait = run.preview_every if self.previews else run.preview_first
        if self.trainer.elapsed() - self.previewed_at > wait:
            self.previews += 1
            if self.runtime.is_main:
                yield self._preview()
            self.previewed_at = self.trainer.elapsed()

    def _preview(self) -> Previewed:
        # The same noise every time, so that previews can be compared.
        release = Release(
            denoiser=self.trainer.average(),
            codec=self.codec,
            columns=self.columns,
            rows=self.rows,
            config=self.config,
            digest="",
        )
        quick = replace(self.config.sample, sampler="multistep", steps=10, guidance=1.0)
        samples = generate(release, PREVIEW_EXAMPLES, quick, batch=PREVIEW_EXAMPLES)
        path = self.folder.previews / f"step-{self.trainer.position.step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        sheet(samples.pictures()).save(path)
        return Previewed(step=self.trainer.position.step, path=path)

    def _roll_back(self) -> RolledBack:
        if self.trainer.position.damping <= 2.0**-MAX_ROLLBACKS or not self.folder.last.exists():
            raise FromNoiseError(
                f"Training keeps diverging at step {self.trainer.position.step}: lower --set optim.muon_lr and "
                "optim.adam_lr, or look for broken values in the data with fromnoise doctor."
            )
        damping = self.trainer.position.damping / 2
        self.resume()
        self.trainer.position = replace(self.trainer.position, damping=damping)
        return RolledBack(step=self.trainer.position.step, factor=damping)

    def _finish(self) -> Iterator[Event]:
        self.save()
        if not self.runtime.is_main:
            return
        yield self._measure()
        # The length of the average is chosen now that the run is over, by the loss on held-out data.
        snapshots = checkpoint.read_snapshots(self.folder.ema)
        if len(snapshots) >= 4:
            twin = self.trainer.average()
            for sigma in EMA_CHOICES:
                twin.load_state_dict(reconstruct(snapshots, sigma))
                loss = mean_loss(self._held(twin))
                if loss < self.best:
                    self.best = loss
                    self._release(twin, self.folder.best)
        best = load_release(self.folder.best)
        self._release(best.denoiser, self.folder.model)
        yield self._preview()

    def _release(self, denoiser: nn.Module, path: Path) -> None:
        save_release(path, denoiser, self.codec, self.columns, self.rows, self.config)

    def _log(self, event: Event) -> None:
        if self.runtime.is_main:
            kind = {Stepped: "step", Skipped: "skipped"}[type(event)]
            self.folder.append_metrics({"kind": kind, **asdict(event)})


def mean_loss(levels: list[tuple[float, float]]) -> float:
    """One number for a model: the mean over the noise levels."""
    return float(np.mean([loss for _, loss in levels]))


@contextmanager
def _interrupt() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a question asked between steps; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handler)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
