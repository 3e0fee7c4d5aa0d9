"""What users hold: `train` and `load`, and the `Run` they return.

The only place that joins training events with sampling, evaluation and the run folder.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from fromnoise.appraise import appraise, way
from fromnoise.build import build_denoiser, build_objective
from fromnoise.config import Config, from_json, override, to_json
from fromnoise.data import Dataset, open_dataset
from fromnoise.data.scan import BUNDLED
from fromnoise.denoise import ModelDenoiser
from fromnoise.errors import FromNoiseError, TrainingStopped
from fromnoise.evaluate import Judgement
from fromnoise.folder import RunFolder, default_folder
from fromnoise.generate import Samples, configure, generate
from fromnoise.recipes import Facts, reasons, recipe
from fromnoise.release import MAX_ROWS, Release, load_release
from fromnoise.runtime import Runtime, autocast, barrier, best_device, detect, from_main, reuse_memory
from fromnoise.session import Event, Reading, Session, Stopped
from fromnoise.trainer import Trainer
from fromnoise.version import __version__

Watch = Callable[[Event | str], None]
Source = str | Path | np.ndarray
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DEFAULT_BUDGET = "10m"
SPLITS = ("train", "val", "test")


def train(
    data: Source,
    *,
    out: str | Path | None = None,
    budget: str | float | None = None,
    steps: int | None = None,
    size: int | tuple[int, int] | None = None,
    columns: Sequence[str] | None = None,
    channels_first: bool = False,
    settings: Sequence[str] = (),
    seed: int = 0,
    resume: bool = False,
    watch: Watch | None = None,
) -> Run:
    """Trains a model of `data` for `budget` ("10m", "90s", "2h" or seconds) or for `steps` steps.

    data            a folder, archive, array, table, "emoji" or "digits"; see `fromnoise.data`
    out             the run folder, made new; by default runs/<data>-<time>
    size            side or (height, width) of the pictures; by default proposed from the data
    columns         the data's columns to condition on
    channels_first  arrays are (n, c, h, w) rather than (n, h, w, c)
    settings        overrides, each "a.b=value"
    resume          go on with the run in `out`, with the settings it has but for `settings` and its length; start it
                    if there is none
    watch           called with every event and every line worth saying

    Raises FromNoiseError, in one sentence, for anything that the caller can mend, and TrainingStopped on Ctrl-C.
    """
    begun = time.perf_counter()
    say = watch or (lambda event: None)
    if budget is not None and steps is not None:
        raise FromNoiseError("Give either a budget or steps, not both.")
    if resume and out is None:
        raise FromNoiseError("Say which run to go on with: resume needs --out.")

    def reading(done: int, total: int) -> None:
        say(Reading(done=done, total=total))

    seconds = None if budget is None else parse_budget(budget)
    layout = {"size": size, "columns": columns and list(columns), "channels_first": channels_first}
    if out is not None and resume and RunFolder(Path(out)).facts.exists():
        longer = {"run.steps": steps, "run.budget": seconds}
        settings = [*settings, *(f"{name}={value}" for name, value in longer.items() if value is not None)]
        plan = reopen(data, RunFolder(Path(out)), layout, settings, progress=reading)
    else:
        seconds = parse_budget(DEFAULT_BUDGET) if steps is None and budget is None else seconds
        plan = begin(data, out, layout, settings, budget=seconds, steps=steps, seed=seed, progress=reading)
    for line in plan.notes:
        say(line)
    session = make_session(plan, begun)
    if plan.finished:
        say("this run is finished; a larger --budget or --steps goes on with it.")
        return Run(plan.folder)
    if plan.resumed:
        session.resume()
        say(f"going on from step {session.trainer.position.step}.")
    for event in session.run():
        say(event)
        if isinstance(event, Stopped):
            raise TrainingStopped(f"stopped at step {event.step} and saved. Go on with: {going_on(data, plan.folder)}")
    if plan.runtime.is_main:
        plan.folder.write_facts(plan.folder.read_facts() | {"finished": length(plan.config)})
    barrier(plan.runtime)
    return Run(plan.folder)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run about to train: what, how, where, and what is worth saying about it."""

    folder: RunFolder
    dataset: Dataset
    config: Config
    runtime: Runtime
    resumed: bool
    finished: bool = False
    notes: list[str]


def begin(
    data: Source,
    out: str | Path | None,
    layout: Mapping[str, Any],
    settings: Sequence[str],
    *,
    budget: float | None,
    steps: int | None,
    seed: int,
    progress: Callable[[int, int], None],
) -> Plan:
    """A new run: its folder claimed before the data is read, its settings chosen and written down."""
    runtime = detect(_precision(settings))
    reuse_memory()
    # One clock names the folder: ranks that read their own may differ by a second.
    folder = RunFolder(default_folder(data, from_main(time.time(), runtime)) if out is None else Path(out))
    with folder.claimed() if runtime.is_main else nullcontext():
        dataset = open_as(data, layout, progress)
        facts = measure(dataset)
        config, speed = recipe(facts, runtime, budget=budget, steps=steps, seed=seed)
        config = override(config, settings)
        notes = [*dataset.notes, *reasons(config, facts, runtime, speed)]
        if runtime.is_main:
            split = {name: dataset.names(dataset.indices(name)) for name in SPLITS}
            folder.create(run_facts(data, dataset, config, runtime, layout, notes), split)
    return Plan(folder=folder, dataset=dataset, config=config, runtime=runtime, resumed=False, notes=notes)


def reopen(
    data: Source,
    folder: RunFolder,
    layout: Mapping[str, Any],
    settings: Sequence[str],
    *,
    progress: Callable[[int, int], None],
) -> Plan:
    """A run that exists, with its own settings but for `settings`, in the precision that it began in.

    Raises FromNoiseError if `layout` names a size or columns that are not the run's.
    """
    facts = folder.read_facts()
    for name, asked in json.loads(json.dumps(layout)).items():
        if asked and asked != facts["data"][name]:
            raise FromNoiseError(f"The run in {folder.path} has another {name}: leave it out, or start a new run.")
    runtime = detect(_precision(settings) or facts["environment"]["precision"])
    reuse_memory()
    dataset = open_as(data, facts["data"], progress)
    check_same_data(facts["data"], dataset)
    before = from_json(facts["config"])
    config = override(before, settings)
    if runtime.is_main and config != before:
        folder.write_facts(facts | {"config": to_json(config)})
    finished = facts.get("finished") == length(config)
    return Plan(
        folder=folder, dataset=dataset, config=config, runtime=runtime, resumed=True, finished=finished, notes=[]
    )


def length(config: Config) -> dict[str, float | None]:
    """How long a run is, as run.json records it when it has come to its end."""
    return {"steps": config.run.steps, "budget": config.run.budget}


def going_on(data: Source, folder: RunFolder) -> str:
    """The command that goes on with a run."""
    name = "DATA" if isinstance(data, np.ndarray) else shlex.quote(str(data))
    return f"fromnoise train {name} --out {shlex.quote(str(folder.path))} --resume"


def make_session(plan: Plan, begun: float) -> Session:
    """The objects of a run, joined.  `begun` is the moment on `time.perf_counter` that its budget counts from."""
    config, dataset, runtime = plan.config, plan.dataset, plan.runtime
    channels, space = dataset.codec.shape[0], len(dataset.codec.shape) - 1
    denoiser = build_denoiser(config, dataset.columns, channels, space, partial(autocast, runtime))
    trainer = Trainer(
        config=config,
        denoiser=denoiser.to(runtime.device),
        objective=build_objective(config),
        data=dataset,
        indices=dataset.indices("train"),
        runtime=runtime,
        clock=lambda: time.perf_counter() - begun,
    )
    held = dataset.indices("val")
    held = np.sort(np.random.default_rng(0).permutation(held)[: config.run.held_examples])
    train_rows = dataset.indices("train")
    rows = np.random.default_rng(0).permutation(train_rows)[:MAX_ROWS]
    return Session(trainer, plan.folder, dataset.codec, held, dataset.cond(np.sort(rows)))


def measure(dataset: Dataset) -> Facts:
    """What the recipe needs to know; the standard deviation is that of up to 512 training examples."""
    indices = dataset.indices("train")
    some = np.random.default_rng(0).permutation(indices)[:512]
    std = float(dataset.x0(np.sort(some)).std())
    return Facts(
        examples=len(indices),
        held=len(dataset.indices("val")),
        shape=dataset.codec.shape,
        columns=dataset.columns,
        std=min(max(std, 0.05), 2.0),
    )


def open_as(data: Source, layout: Mapping[str, Any], progress: Callable[[int, int], None] | None = None) -> Dataset:
    """A data set the way a run reads it: size, columns and channels_first, as run.json records them."""
    return open_dataset(
        data,
        size=tuple(layout["size"]) if isinstance(layout["size"], list) else layout["size"],
        columns=layout["columns"],
        channels_first=layout["channels_first"],
        progress=progress,
    )


def run_facts(
    data: Source,
    dataset: Dataset,
    config: Config,
    runtime: Runtime,
    layout: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    """What run.json records.  A path is kept whole, so that the run can be judged from any directory."""
    in_memory = isinstance(data, np.ndarray)
    bundled = isinstance(data, str) and data in BUNDLED and not Path(data).exists()
    return {
        "config": to_json(config),
        "data": {
            **layout,
            "source": None if in_memory else data if bundled else str(Path(data).resolve()),
            "fingerprint": dataset.fingerprint,
            "examples": {name: len(dataset.indices(name)) for name in SPLITS},
            "shape": list(dataset.codec.shape),
            "skipped": [[s.name, s.reason] for s in dataset.listing.skipped],
        },
        "environment": {
            "fromnoise": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "device": str(runtime.device),
            "precision": runtime.precision,
            "threads": runtime.threads,
            "ranks": runtime.world,
        },
        "notes": notes,
    }


def check_same_data(facts: Mapping[str, Any], dataset: Dataset) -> None:
    if facts["fingerprint"] != dataset.fingerprint:
        raise FromNoiseError(
            f"The data at {dataset.source} is not what this run began with: restore it, or start a new run."
        )


def load(path: str | Path) -> Run:
    """The run in a folder, or a lone release file.  Raises FromNoiseError where there is none."""
    return Run(RunFolder(Path(path)))


class Run:
    """A trained model and what is known of it."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.release_file = folder.path if folder.path.is_file() else folder.model
        if not self.release_file.exists():
            folder.read_facts()
            raise FromNoiseError(
                f"The run {folder.path} has no finished model yet: go on with it by --resume, or train anew."
            )

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r})"

    @cached_property
    def release(self) -> Release:
        # In float32 whatever the training's precision: a sample is then the same in any batch to an 8-bit level.
        release = load_release(self.release_file)
        release.denoiser.to(best_device())
        return release

    @property
    def denoiser(self) -> ModelDenoiser:
        """The model as a denoiser: `(x_t, t, cond) -> posterior`."""
        return self.release.denoiser

    @property
    def config(self) -> Config:
        return self.release.config

    def sample(
        self,
        n: int = 16,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        where: Mapping[str, str | float] | None = None,
        seed: int = 0,
        batch: int = 64,
    ) -> np.ndarray:
        """n samples in the data's own layout, dtype and range; sample i of a seed is the same whatever n and batch."""
        return self.generate(
            n, steps=steps, sampler=sampler, guidance=guidance, where=where, seed=seed, batch=batch
        ).samples

    def generate(
        self,
        n: int = 16,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        where: Mapping[str, str | float] | None = None,
        seed: int = 0,
        batch: int = 64,
        progress: Callable[[int], None] | None = None,
    ) -> Samples:
        """`sample` with each sample's conditions and recipe, and `save` to files."""
        config = configure(self.release, steps=steps, sampler=sampler, guidance=guidance)
        return generate(self.release, n, config, seed=seed, where=where, batch=batch, progress=progress)

    def strip(
        self, n: int = 4, *, seed: int = 0, where: Mapping[str, str | float] | None = None, steps: int = 9
    ) -> Image:
        """The way from noise to sample as one picture: x_t, and below it what the model guesses x0 to be."""
        return way(self.release, seed, n, steps, where)

    def dataset(self, data: Source | None = None) -> Dataset:
        """The data this run was trained on: where it then was, or `data`.

        Raises FromNoiseError if it is gone or has changed, or was an array in memory and is not given.
        """
        facts = self.folder.read_facts()["data"]
        source = facts["source"] if data is None else data
        if source is None:
            raise FromNoiseError("This run was trained on an array in memory: pass the same array as data.")
        dataset = open_as(source, facts)
        check_same_data(facts, dataset)
        return dataset

    def evaluate(
        self,
        *,
        n: int | None = None,
        seed: int = 1,
        data: Source | None = None,
        watch: Watch | None = None,
    ) -> Judgement:
        """Judges samples beside training and held-out data; writes evaluation.json and report.html.

        Raises FromNoiseError for a set that is too small to judge, after writing its report.
        """
        say = watch or (lambda event: None)
        return appraise(self.folder, self.release, self.dataset(data), n=n, seed=seed, say=say)


def _precision(settings: Sequence[str]) -> str | None:
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "run.precision" and value != "null":
            return value
    return None


def parse_budget(budget: str | float) -> float:
    """Seconds from "10m", "90s", "1.5h" or a number of seconds."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", str(budget))
    if not match or float(match[1]) <= 0:
        raise FromNoiseError(f"Cannot read the budget {budget!r}: write it like 90s, 10m or 2h.")
    return float(match[1]) * UNITS[match[2] or "s"]
