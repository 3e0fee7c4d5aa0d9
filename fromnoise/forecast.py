"""Prediction before training: what `train` would do with these data, this budget and this machine.

A plan is a very short run of the real thing, in a folder that is removed: the same data, network and batch, held-out
evaluations, previews and saves.  What each of them took is put together the way a session spends a budget,

    steps = (budget - start - settling - interruptions - ending) / step.

Quality is not predicted by a number, since a loss after seconds says nothing of minutes: the plan tells what was seen
after as many images in runs that were looked at (docs/benchmarks.md).
"""

from __future__ import annotations

import gc
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from scipy.stats import trim_mean

from fromnoise.api import DEFAULT_BUDGET, Watch, parse_budget, seconds_of
from fromnoise.codec import Size
from fromnoise.config import Config, RunConfig
from fromnoise.data import Dataset
from fromnoise.errors import TrainingStopped
from fromnoise.folder import RunFolder
from fromnoise.generate import configure, generate
from fromnoise.gridsearch import BATCH
from fromnoise.memory import Peak, peak
from fromnoise.prepare import (
    Choice,
    Given,
    Prepared,
    Source,
    asked_precision,
    choose,
    in_one,
    layout_of,
    make_ready,
    make_session,
    open_as,
    scan_as,
)
from fromnoise.recipes import training_flops
from fromnoise.release import load_release
from fromnoise.runtime import Runtime
from fromnoise.session import Event, Reading, Session, Stopped, searching, snapshot_due
from fromnoise.trainer import Stepped

PILOT = 3  # steps that tell how many fit into MEASURED seconds
MEASURED = 5.0
FEWEST, MOST = 24, 500
EVALUATIONS = 3  # the fewest after which a session chooses the length of its average, as it does after a whole run
SETTLING = 8  # steps until buffers have come to rest in the allocator
SAMPLES = 16
FACTORS = (0.5, 2.0, 4.0, 12.0)
NEVER = 1e9  # seconds

# What the previews of two runs showed after so many images (docs/benchmarks.md), by how much the pictures differ.
SEEN = {
    "varied pictures, as of emoji at 32 pixels": (
        (5_700, "patches of colour"),
        (14_000, "outlines, no details"),
        (24_000, "clear outlines, few things to recognise"),
        (33_000, "some things to recognise, most vague"),
    ),
    "pictures of a kind, as of garments at 28 pixels": (
        (8_200, "most recognisable, ragged edges"),
        (32_000, "nearly all recognisable, details vague"),
        (56_000, "clean outlines, details vague"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds: before the first step; lost until steps are steady; a step; what comes between steps and after them."""

    start: float
    settling: float
    step: float
    measure: float
    preview: float
    save: float
    ending: float

    def slower(self, factor: float) -> Pace:
        """The pace of a network that computes `factor` times as much."""
        scaled = ("settling", "step", "measure", "preview", "save", "ending")
        return replace(self, **{name: factor * getattr(self, name) for name in scaled})


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """A run as it would go: `seconds` to the model, passes over the training examples."""

    config: Config
    seconds: float
    steps: int
    passes: float

    @property
    def examples(self) -> int:
        return self.steps * self.config.optim.batch

    @property
    def rate(self) -> float:
        """Examples a second over the whole run."""
        return self.examples / self.seconds


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What `train` would do, as it is known beforehand.

    notes       the choices made in reading the data, as sentences
    run         the run as asked for; `others` the same with less and more time
    memory      the peak that run.json would record, by the definition of `memory`; its `data` is the most there can be
    sampling    samples a second in the release's default way
    cache       MB of decoded data, kept so that `train` need not decode again
    disk        MB of the run folder
    """

    medium: str
    notes: tuple[str, ...]
    parameters: int
    run: Outlook
    others: tuple[Outlook, ...]
    pace: Pace
    memory: Peak
    sampling: float
    cache: float
    disk: float

    @property
    def config(self) -> Config:
        return self.run.config


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a short run showed.  `pace.start` is what making its objects took; files are in MB."""

    pace: Pace
    parameters: int
    memory: Peak
    sampling: float
    snapshot: float
    preview: float
    rest: float


def plan(
    data: Given,
    *,
    budget: str | float | None = None,
    steps: int | None = None,
    size: Size | None = None,
    columns: Sequence[str] | None = None,
    channels_first: bool = False,
    axes: str | None = None,
    fps: float | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    watch: Watch | None = None,
    begun: float | None = None,
) -> Forecast:
    """What `train` with the same arguments would do, from some steps of it on this machine, which are thrown away.

    Takes as long as reading the data and about half a minute.  Leaves nothing but the decoded data in the cache.
    Raises FromNoiseError where `train` would, and TrainingStopped on Ctrl-C.
    """
    begun = time.perf_counter() if begun is None else begun
    say = watch or (lambda event: None)
    seconds = parse_budget(DEFAULT_BUDGET) if budget is None and steps is None else seconds_of(budget, steps)
    layout = layout_of(size, columns, channels_first=channels_first, axes=axes, fps=fps)
    dataset, decoding = _open(in_one(data), layout, lambda done, total: say(Reading(done=done, total=total)))
    # After decoding, whose memory a run does not take that finds the data in the cache.
    runtime = make_ready(asked_precision(settings))
    chosen = choose(dataset, runtime, settings, budget=seconds, steps=steps, seed=seed)
    reading = time.perf_counter() - begun - decoding
    say("taking some steps, which are thrown away.")
    seen = calibrate(dataset, chosen.config, runtime)
    pace = replace(seen.pace, start=reading + seen.pace.start)
    run = foresee(chosen, pace)
    others = []
    for length in _lengths(chosen.config.run):
        name = "run.budget" if length["steps"] is None else "run.steps"
        more = [*settings, f"{name}={length[name.removeprefix('run.')]}"]
        other = choose(dataset, runtime, more, **length, seed=seed)
        work = training_flops(other.config, other.facts) / training_flops(chosen.config, chosen.facts)
        others.append(foresee(other, pace.slower(work)))
    return Forecast(
        medium=dataset.listing.medium.name,
        notes=dataset.notes,
        parameters=seen.parameters,
        run=run,
        others=tuple(others),
        pace=pace,
        memory=replace(seen.memory, data=dataset.stored.nbytes / 1e6),  # pages around an example come with it
        sampling=seen.sampling,
        cache=dataset.stored.nbytes / 1e6,
        disk=_disk(seen, run, pace),
    )


def foresee(choice: Choice, pace: Pace) -> Outlook:
    """How a run of these settings goes at this pace."""
    config, run = choice.config, choice.config.run
    ending = pace.ending + math.prod(searching(config, pace.preview))
    if run.budget is None:
        assert run.steps is not None
        steps, end = run.steps, pace.start
        for _ in range(20):  # what comes between steps depends on the length, and adds to it
            end = pace.start + pace.settling + steps * pace.step + interruptions(run, pace, steps, end)
        seconds = end + ending
    else:
        end, seconds, steps = run.budget - ending, run.budget, 0
        for _ in range(20):
            left = end - pace.start - pace.settling - interruptions(run, pace, steps, end)
            steps = max(int(pace.start < run.budget), round(left / pace.step))  # the first step is always taken
    return Outlook(
        config=config, seconds=seconds, steps=steps, passes=steps * config.optim.batch / choice.facts.examples
    )


def likely(examples: int) -> dict[str, str]:
    """What was seen after about as many examples, for each kind of pictures in SEEN."""
    words = {}
    for kind, milestones in SEEN.items():
        reached = [what for count, what in milestones if count <= 1.1 * examples]
        if not reached:
            words[kind] = f"less than {milestones[0][1]}"
        elif len(reached) == len(milestones) and examples > 2 * milestones[-1][0]:
            words[kind] = f"at least {reached[-1]}"
        else:
            words[kind] = reached[-1]
    return words


def interruptions(run: RunConfig, pace: Pace, steps: int, end: float) -> float:
    """Seconds between the steps of a run whose last step ends at `end`; its last evaluation comes after that."""
    evaluations = max(0, min(run.held_evaluations, steps) - 1)
    saves = max(0.0, end - pace.start) // (run.save_every + pace.save)
    return evaluations * pace.measure + previews(run, pace, end) * pace.preview + saves * pace.save


def previews(run: RunConfig, pace: Pace, end: float) -> int:
    """How many previews are drawn before the last step's end; one more follows it."""
    after_first = end - pace.start - run.preview_first
    return 0 if after_first < 0 else 1 + int(after_first // (run.preview_every + pace.preview))


def calibrate(dataset: Dataset, config: Config, runtime: Runtime) -> Calibration:
    """Runs a few steps with everything that a run has, in a folder that is removed."""
    with tempfile.TemporaryDirectory(prefix="fromnoise-plan-") as folder:
        pilot, _ = _rehearsal(dataset, config, runtime, Path(folder) / "pilot", PILOT, priors=0)
        early = _durations(list(pilot.trainer.run()))
        del pilot
        gc.collect()  # an optimiser is in a cycle; two of them at once would count as memory that a run takes
        steps = int(min(max(MEASURED / early[-1], FEWEST), MOST))
        # A search of grids takes the most memory, in its second batch; a preview is about three steps' work.
        batches, _ = searching(config, 3 * early[-1])
        session, making = _rehearsal(
            dataset, config, runtime, Path(folder) / "run", steps, priors=BATCH * min(batches, 2)
        )
        events: list[Event] = []
        for event in session.run():
            events.append(event)
            if isinstance(event, Stopped):
                raise TrainingStopped("stopped; a plan leaves nothing behind.")
        durations = _durations(events)
        step = float(trim_mean(durations[SETTLING:], 0.1))
        session.cost["step"] = step
        memory = peak(runtime.device)
        files = session.folder
        return Calibration(
            pace=Pace(
                start=making,
                settling=sum(max(0.0, d - step) for d in early + durations[:SETTLING]),
                step=step,
                measure=session.cost["measure"],
                preview=session.cost["preview"],
                save=session.cost["save"],
                ending=session.ending(),
            ),
            parameters=sum(p.numel() for p in session.trainer.denoiser.parameters()),
            memory=memory,
            sampling=_sampling(files, runtime),
            snapshot=max(_size(p) for p in files.ema.iterdir()),
            preview=max(_size(p) for p in files.previews.iterdir()),
            rest=_size(files.last) + _size(files.best) + _size(files.model),
        )


def _open(data: Source, layout: Mapping[str, Any], progress: Callable[[int, int], None]) -> tuple[Dataset, float]:
    """The data set, and the seconds that a run will not need again for it, as the cache then holds it."""
    listing = scan_as(data, layout, progress)
    scanned = decoded = time.perf_counter()

    def decoding(done: int, total: int) -> None:
        nonlocal decoded
        decoded = time.perf_counter()
        progress(done, total)

    return open_as(listing, layout, decoding), decoded - scanned


def _rehearsal(
    dataset: Dataset, config: Config, runtime: Runtime, folder: Path, steps: int, priors: int
) -> tuple[Session, float]:
    """A session of so many steps, with a preview after the first step, and what making it took."""
    begun = time.perf_counter()
    run = replace(
        config.run,
        steps=steps,
        budget=None,
        held_evaluations=EVALUATIONS,
        grid_priors=priors,
        preview_first=1 / NEVER,
        preview_every=NEVER,
        save_every=NEVER,
    )
    folder.mkdir()
    prepared = Prepared(
        folder=RunFolder(folder),
        dataset=dataset,
        config=replace(config, run=run),
        runtime=runtime,
        resumed=False,
        notes=[],
    )
    session = make_session(prepared, begun)
    return session, time.perf_counter() - begun


def _durations(events: Sequence[Event]) -> list[float]:
    """Of every step that follows another one directly."""
    return [b.seconds - a.seconds for a, b in pairwise(events) if isinstance(a, Stepped) and isinstance(b, Stepped)]


def _sampling(folder: RunFolder, runtime: Runtime) -> float:
    release = load_release(folder.model).to(runtime.device)
    begun = time.perf_counter()
    generate(release, SAMPLES, configure(release))
    return SAMPLES / (time.perf_counter() - begun)


def _lengths(run: RunConfig) -> list[dict[str, Any]]:
    """Other lengths of a run, as `choose` takes them."""
    if run.steps is not None:
        return [{"steps": max(1, round(factor * run.steps)), "budget": None} for factor in FACTORS]
    assert run.budget is not None
    return [{"steps": None, "budget": factor * run.budget} for factor in FACTORS]


def _disk(seen: Calibration, run: Outlook, pace: Pace) -> float:
    moments = run.config.run.held_evaluations
    snapshots = sum(snapshot_due(k - 1, k, moments) for k in range(1, moments + 1))
    pictures = 1 + previews(run.config.run, pace, run.seconds)
    return seen.rest + snapshots * seen.snapshot + pictures * seen.preview


def _size(path: Path) -> float:
    return path.stat().st_size / 1e6
