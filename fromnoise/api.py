"""What users hold: `train` and `load`, and the `Run` they return.

The only place that joins training events with sampling, evaluation and the run folder.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
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
from fromnoise.denoise import NetDenoiser
from fromnoise.errors import FromNoiseError, TrainingStopped
from fromnoise.evaluate import Judgement
from fromnoise.folder import RunFolder
from fromnoise.generate import Samples, configure, generate
from fromnoise.recipes import Facts, reasons, recipe
from fromnoise.release import MAX_ROWS, Release, load_release
from fromnoise.runtime import Runtime, autocast, barrier, detect, reuse_memory
from fromnoise.session import Event, Session, Stopped
from fromnoise.trainer import Trainer
from fromnoise.version import __version__

Watch = Callable[[Event | str], None]
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DEFAULT_BUDGET = "10m"
SPLITS = ("train", "val", "test")


def train(
    data: str | Path | np.ndarray,
    *,
    out: str | Path | None = None,
    budget: str | float | None = None,
    steps: int | None = None,
    size: int | tuple[int, int] | None = None,
    columns: Sequence[str] | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    resume: bool = False,
    watch: Watch | None = None,
) -> Run:
    """Trains a model of `data` for `budget` ("10m", "90s", "2h" or seconds) or for `steps` steps.

    data       a folder, archive, array, table, "emoji" or "digits"; see `fromnoise.data`
    out        the run folder, made new; by default runs/<data>-<time>
    size       side or (height, width) of the pictures; by default proposed from the data
    columns    the data's columns to condition on
    settings   overrides, each "a.b=value"
    resume     go on with the run in `out`, with its own settings
    watch      called with every event and every line worth saying

    Raises FromNoiseError, in one sentence, for anything that the caller can mend.
    """
    begun = time.perf_counter()
    say = watch or (lambda event: None)
    if budget is not None and steps is not None:
        raise FromNoiseError("Give either a budget or steps, not both.")
    folder = RunFolder(Path(out) if out is not None else default_folder(data))
    precision = _precision(settings)
    if resume:
        facts = folder.read_facts()
        size, columns = facts["data"]["size"], facts["data"]["columns"]
        precision = precision or facts["environment"]["precision"]
    else:
        folder.check_free()
    runtime = detect(precision)
    reuse_memory()
    dataset = open_dataset(data, size=tuple(size) if isinstance(size, list) else size, columns=columns)
    if resume:
        check_same_data(facts["data"], dataset)
        config = override(from_json(facts["config"]), settings)
    else:
        seconds = None if steps is not None else parse_budget(budget or DEFAULT_BUDGET)
        measured = measure(dataset)
        config, speed = recipe(measured, runtime, budget=seconds, steps=steps, seed=seed)
        config = override(config, settings)
        notes = [*dataset.notes, *reasons(config, measured, runtime, speed)]
        if runtime.is_main:
            facts = run_facts(dataset, config, runtime, size, columns, notes)
            folder.create(facts, {name: dataset.names(dataset.indices(name)) for name in SPLITS})
        for line in notes:
            say(line)
    session = make_session(config, dataset, runtime, folder, begun)
    if resume:
        session.resume()
        say(f"going on from step {session.trainer.position.step}.")
    for event in session.run():
        say(event)
        if isinstance(event, Stopped):
            again = f"fromnoise train {data} --out {folder.path} --resume"
            raise TrainingStopped(f"stopped at step {event.step} and saved. Go on with: {again}")
    barrier(runtime)
    return Run(folder)


def make_session(config: Config, dataset: Dataset, runtime: Runtime, folder: RunFolder, begun: float) -> Session:
    """The objects of a run, joined.  `begun` is the moment on `time.perf_counter` that its budget counts from."""
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
        reserve=min(10.0, 0.03 * (config.run.budget or 0)),
    )
    held = dataset.indices("val")
    held = np.sort(np.random.default_rng(0).permutation(held)[: config.run.held_examples])
    train_rows = dataset.indices("train")
    rows = np.random.default_rng(0).permutation(train_rows)[:MAX_ROWS]
    return Session(trainer, folder, dataset.codec, held, dataset.cond(np.sort(rows)))


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


def run_facts(
    dataset: Dataset,
    config: Config,
    runtime: Runtime,
    size: int | tuple[int, int] | None,
    columns: Sequence[str] | None,
    notes: list[str],
) -> dict[str, Any]:
    """What run.json records."""
    return {
        "config": to_json(config),
        "data": {
            "source": str(dataset.source),
            "fingerprint": dataset.fingerprint,
            "size": size,
            "columns": None if columns is None else list(columns),
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
        runtime = detect()
        release = load_release(self.release_file, partial(autocast, runtime))
        release.denoiser.to(runtime.device)
        return release

    @property
    def denoiser(self) -> NetDenoiser:
        """The model as a denoiser: `(x_t, t, cond) -> Mean`."""
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
        where: Mapping[str, str] | None = None,
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
        where: Mapping[str, str] | None = None,
        seed: int = 0,
        batch: int = 64,
        progress: Callable[[int], None] | None = None,
    ) -> Samples:
        """`sample` with each sample's conditions and recipe, and `save` to files."""
        config = configure(self.release, steps=steps, sampler=sampler, guidance=guidance)
        return generate(self.release, n, config, seed=seed, where=where, batch=batch, progress=progress)

    def strip(self, n: int = 4, *, seed: int = 0, where: Mapping[str, str] | None = None, steps: int = 9) -> Image:
        """The way from noise to sample as one picture: x_t, and below it what the model guesses x0 to be."""
        return way(self.release, seed, n, steps, where)

    def dataset(self, data: str | Path | np.ndarray | None = None) -> Dataset:
        """The data this run was trained on: where it then was, or `data`.

        Raises FromNoiseError if it is gone or has changed, or was an array in memory and is not given.
        """
        facts = self.folder.read_facts()["data"]
        if data is None and facts["source"] == "array":
            raise FromNoiseError("This run was trained on an array in memory: pass the same array as data.")
        size = tuple(facts["size"]) if isinstance(facts["size"], list) else facts["size"]
        dataset = open_dataset(facts["source"] if data is None else data, size=size, columns=facts["columns"])
        check_same_data(facts, dataset)
        return dataset

    def evaluate(
        self,
        *,
        n: int | None = None,
        seed: int = 1,
        data: str | Path | np.ndarray | None = None,
        watch: Watch | None = None,
    ) -> Judgement:
        """Judges samples beside training and held-out data; writes evaluation.json and report.html."""
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


def default_folder(data: str | Path | np.ndarray) -> Path:
    """runs/<data>-<time>, never one that exists."""
    name = "array" if isinstance(data, np.ndarray) else re.sub(r"\W+", "-", Path(data).stem).strip("-") or "run"
    base = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, k = base, 1
    while path.exists():
        path, k = base.with_name(f"{base.name}-{k}"), k + 1
    return path
