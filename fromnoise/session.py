"""A training session: the loop's events joined with what a user keeps of them.

Between two steps the session measures the held-out loss, keeps the best average as the release, draws previews, saves,
and rolls back a run that has blown up.  Only the rollback touches the weights, so the loop stays reproducible.
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

from fromnoise import checkpoint
from fromnoise.checkpoint import writing
from fromnoise.codec import Codec
from fromnoise.codec.augment import COLUMN as AUGMENTATION
from fromnoise.cond import Column, Cond
from fromnoise.config import Config
from fromnoise.denoise import ModelDenoiser
from fromnoise.ema import reconstruct
from fromnoise.folder import RunFolder
from fromnoise.generate import generate
from fromnoise.gridsearch import BATCH, NODES, WALKS, search
from fromnoise.release import Release, keep_grids, load_release, publish, save_release
from fromnoise.runtime import from_main
from fromnoise.trainer import Skipped, Stepped, Trainer, held_out_loss
from fromnoise.types import FromNoiseError

SKIPS_BEFORE_ROLLBACK = 5
MAX_ROLLBACKS = 4
PREVIEW_STEPS = 10
SNAPSHOTS = 8  # at most, of the last three quarters of the run
METRIC_ROWS = 5000
FIRST_SAVE = 5.0  # seconds
EMA_CHOICES = (0.03, 0.05, 0.075, 0.1, 0.14)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The data is being scanned or decoded: so many files of so many are done."""

    done: int
    total: int


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


Event = Reading | Stepped | Skipped | Held | Previewed | RolledBack | Stopped


class Session:
    """Runs a trainer in a run folder.  Only the main rank measures and writes."""

    def __init__(self, trainer: Trainer, folder: RunFolder, codec: Codec, held: np.ndarray, rows: Cond) -> None:
        self.trainer, self.folder, self.codec, self.held, self.rows = trainer, folder, codec, held, rows
        self.runtime, self.config = trainer.runtime, trainer.config
        conditioner = trainer.denoiser.conditioner
        everything: tuple[Column, ...] = (*conditioner.columns, *conditioner.map_columns)
        self.columns = tuple(column for column in everything if column != AUGMENTATION)
        self.best = math.inf
        self.evaluated = self.previews = self.logged = 0
        self.saved_at = self.previewed_at = trainer.elapsed()
        # What each took the last time, in seconds.
        self.cost = {"step": 0.0, "measure": 0.0, "preview": 0.0, "save": 0.0}
        self.ready = trainer.clock()

    # ---- going on and keeping -----------------------------------------------------------------------------------

    def resume(self) -> None:
        """Goes on from the last checkpoint, or from the start if none was saved yet."""
        if not self.folder.last.exists():
            self._forget_after(0)
            return
        self._restore()
        self.trainer.carried = self.trainer.position.elapsed - self.trainer.clock()
        self.evaluated = self._moment(self.trainer.progress())
        self.saved_at = self.previewed_at = self.trainer.elapsed()

    def _restore(self) -> None:
        tensors, meta = checkpoint.load(self.folder.last)
        self.trainer.restore(tensors, meta["position"])
        self.logged = 0  # the steps walked again are logged again
        self.best = checkpoint.load_meta(self.folder.best)["loss"] if self.folder.best.exists() else math.inf
        self._forget_after(self.trainer.position.step)

    def _forget_after(self, step: int) -> None:
        if self.runtime.is_main:
            self.folder.drop_metrics_after(step)
            checkpoint.drop_snapshots_after(self.folder.ema, self.trainer.position.updates)

    def save(self) -> None:
        if self.runtime.is_main:
            with self._timed("save"):
                meta = {"position": asdict(self.trainer.position)}
                checkpoint.save(self.folder.last, self.trainer.tensors(), meta)
        self.saved_at = self.trainer.elapsed()

    def _due(self) -> bool:
        """Whether the last save is too long ago: of a young run, a third of it."""
        now = self.trainer.elapsed()
        return now - self.saved_at > min(self.config.run.save_every, max(FIRST_SAVE, now / 3))

    # ---- the run ------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Event]:
        """Trains to the end of the run and writes the release; ends early, with everything saved, on Ctrl-C."""
        with _interrupt() as asked:
            for event in self.trainer.run():
                self.cost["step"] = self.trainer.clock() - self.ready
                yield event
                self._log(event)
                if isinstance(event, Skipped):
                    if event.consecutive >= SKIPS_BEFORE_ROLLBACK:
                        yield self._roll_back()
                else:
                    yield from self._watch(event.progress)
                if from_main(float(asked()), self.runtime):
                    self.save()
                    yield Stopped(step=event.step)
                    return
                self.ready = self.trainer.clock()
            yield from self._finish()

    def _watch(self, progress: float) -> Iterator[Event]:
        if self._moment(progress) > self.evaluated:
            before, self.evaluated = self.evaluated, self._moment(progress)
            if self.runtime.is_main:
                yield self._measure()
                if snapshot_due(before, self.evaluated, self.config.run.held_evaluations):
                    checkpoint.save_snapshot(self.folder.ema, self.trainer.ema, self.trainer.position.updates)
        wait = self.config.run.preview_every if self.previews else self.config.run.preview_first
        if self.trainer.elapsed() - self.previewed_at > wait:
            self.previews += 1
            if self.runtime.is_main:
                yield self._preview()
            self.previewed_at = self.trainer.elapsed()
        if self._due():
            self.save()
        self.trainer.reserve = self.ending() + math.prod(searching(self.config, self.cost["preview"]))

    def ending(self) -> float:
        """Seconds from the last step to the model but for the search of grids, by what everything took the last time.

        Half a step is among them: a run ends with the step that ends nearest to its budget.
        """
        chosen = (len(EMA_CHOICES) + 1) * self.cost["measure"]
        return self.cost["step"] / 2 + self.cost["save"] + chosen + self.cost["preview"]

    def _moment(self, progress: float) -> int:
        """How many of the run's held-out evaluations are due; rounded, as 3/10·10 is a little less than 3."""
        return math.floor(progress * self.config.run.held_evaluations + 1e-9)

    def _measure(self) -> Held:
        with self._timed("measure"):
            average = self.trainer.average()
            levels = held_out_loss(average, self.trainer.objective, self.trainer.data, self.held)
            loss = mean_loss(levels)
            event = Held(
                step=self.trainer.position.step,
                seconds=self.trainer.elapsed(),
                levels=levels,
                loss=loss,
                best=self._offer(average, loss),
            )
            self.folder.append_metrics({"kind": "held", **asdict(event)})
        return event

    def _offer(self, denoiser: ModelDenoiser, loss: float) -> bool:
        """Keeps the model if it is the best so far, or in any case, as the settings say."""
        if not loss < self.best and self.config.run.keep == "best":
            return False
        self.best = loss
        save_release(self.folder.best, denoiser, self.codec, self.columns, self.rows, self.config, loss)
        return True

    def _preview(self) -> Previewed:
        # The same noise every time, so that previews can be compared.
        with self._timed("preview"):
            release = Release(
                denoiser=self.trainer.average(),
                codec=self.codec,
                columns=self.columns,
                rows=self.rows,
                config=self.config,
                digest="",
            )
            quick = self.config.sample
            if not self.config.model.flow_map:
                sampler = "multistep" if self.codec.vocab is None else quick.sampler
                quick = replace(quick, sampler=sampler, steps=PREVIEW_STEPS, guidance=1.0)
            count = self.config.run.preview_examples
            samples = generate(release, count, quick, batch=count)
            path = self.folder.previews / f"step-{self.trainer.position.step:06d}.png"
            with writing(path):
                path.parent.mkdir(exist_ok=True)
                samples.save_sheet(path)
        return Previewed(step=self.trainer.position.step, path=path)

    def _roll_back(self) -> RolledBack:
        rollbacks = self.trainer.position.rollbacks + 1
        if rollbacks > MAX_ROLLBACKS or not self.folder.last.exists():
            raise FromNoiseError(
                f"Training keeps diverging at step {self.trainer.position.step}: lower --set optim.muon_lr and "
                "optim.adam_lr, or look for broken values in the data with fromnoise doctor."
            )
        self._restore()
        self.evaluated = self._moment(self.trainer.progress())
        self.trainer.position = replace(self.trainer.position, rollbacks=rollbacks)
        event = RolledBack(step=self.trainer.position.step, factor=0.5**rollbacks)
        if self.runtime.is_main:
            self.folder.append_metrics({"kind": "rolled back", **asdict(event)})
        return event

    def _finish(self) -> Iterator[Event]:
        if self.trainer.position.updates == 0 and self.runtime.is_main:
            raise FromNoiseError(
                f"The budget was over before the first step, after {self.trainer.elapsed():.0f} s: give more."
            )
        self.save()
        if not self.runtime.is_main:
            return
        # The length of the average is chosen now that the run is over, by the loss on held-out data.
        snapshots = checkpoint.read_snapshots(self.folder.ema)
        twin = self.trainer.average()
        for sigma in EMA_CHOICES if len(snapshots) > 4 and self.config.run.keep == "best" else ():
            twin.load_state_dict(reconstruct(snapshots, sigma))
            self._offer(twin, mean_loss(held_out_loss(twin, self.trainer.objective, self.trainer.data, self.held)))
        if not self.folder.best.exists():
            raise FromNoiseError("The held-out loss was never a finite number: look at the data with fromnoise doctor.")
        # The first snapshot, of a quarter of the run, is the weaker model of autoguidance.
        weak = min(snapshots, key=lambda s: (s.step, -s.sigma_rel)).load() if len(snapshots) > 4 else None
        publish(self.folder.best, self.folder.model, weak)
        self._search_grids()
        yield self._preview()

    def _search_grids(self) -> None:
        run = self.config.run
        release = load_release(self.folder.model).to(self.runtime.device)
        left = math.inf if run.budget is None else run.budget - self.trainer.elapsed() - self.cost["preview"]
        if grids := search(release, priors=run.grid_priors, seconds=left):
            keep_grids(self.folder.model, grids)

    def _log(self, event: Stepped | Skipped) -> None:
        """Every step of a short run, and five thousand of a long one."""
        mark = math.floor(event.progress * METRIC_ROWS)
        if self.runtime.is_main and (mark > self.logged or isinstance(event, Skipped)):
            self.logged = mark
            kind = "step" if isinstance(event, Stepped) else "skipped"
            self.folder.append_metrics({"kind": kind, **asdict(event)})

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begun = self.trainer.clock()
        yield
        self.cost[what] = self.trainer.clock() - begun


def snapshot_due(before: int, now: int, moments: int) -> bool:
    """Whether the averages are kept at held-out evaluation `now` of `moments`, the one before it having been `before`.

    Decided by progress alone, so that a run that was killed and resumed has the same snapshots; a long step passes
    several moments at once.
    """
    return now * SNAPSHOTS // moments > before * SNAPSHOTS // moments and 4 * now >= moments


def searching(config: Config, preview: float) -> tuple[int, float]:
    """Batches in the search of grids and the seconds of each, from those of a preview; of a budget 5 % at most."""
    evaluations = BATCH * WALKS * NODES * (1 if config.sample.guidance == 1 else 2)
    batch = preview * evaluations / (config.run.preview_examples * PREVIEW_STEPS)
    none = config.model.flow_map or config.net.kind == "tokens"
    batches = 0 if none else math.ceil(config.run.grid_priors / BATCH)
    if config.run.budget is not None and batch > 0:
        batches = min(batches, math.floor(0.05 * config.run.budget / batch))
    return batches, batch


def mean_loss(levels: list[tuple[float, float]]) -> float:
    """One number for a model: the mean over the noise levels."""
    return float(np.mean([loss for _, loss in levels]))


@contextmanager
def _interrupt() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C or SIGTERM into a question asked between steps; a second one acts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handler(number: int, frame: object) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handler)
    try:
        yield asked.is_set
    finally:
        for number, old in before.items():
            signal.signal(number, old)
