"""Everything before the first training step: the data opened, the settings chosen, the run's objects joined."""

from __future__ import annotations

import json
import platform
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fromnoise.build import build_denoiser, build_objective
from fromnoise.codec import Size
from fromnoise.codec.text import STRINGS
from fromnoise.config import Config, from_json, override, to_json
from fromnoise.data import Dataset, open_dataset
from fromnoise.data.groups import of_data, with_groups
from fromnoise.data.listing import Listing
from fromnoise.data.scan import BUNDLED, scan
from fromnoise.denoise import ModelDenoiser, NetDenoiser
from fromnoise.errors import FromNoiseError
from fromnoise.folder import RunFolder, default_folder
from fromnoise.memory import give_back, peak, reset_peak
from fromnoise.objectives import Objective
from fromnoise.prior import find_expected
from fromnoise.process import Gaussian
from fromnoise.recipes import Facts, reasons, recipe
from fromnoise.release import MAX_MAPS, MAX_ROWS
from fromnoise.runtime import Runtime, autocast, detect, from_main, reuse_memory
from fromnoise.session import Session
from fromnoise.trainer import Trainer
from fromnoise.version import __version__

Source = str | Path | np.ndarray
Given = Source | list[str]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run about to train: what, how, where, and what is worth saying about it."""

    folder: RunFolder
    dataset: Dataset
    config: Config
    runtime: Runtime
    resumed: bool
    finished: bool = False
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The settings of a run, what they were chosen by, and the machine's speed in FLOP/s as the recipe guesses it."""

    config: Config
    facts: Facts
    speed: float


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
) -> Prepared:
    """A new run: its folder claimed before the data is read, its settings chosen and written down."""
    runtime = make_ready(asked_precision(settings))
    # One clock names the folder: ranks that read their own may differ by a second.
    folder = RunFolder(default_folder(data, from_main(time.time(), runtime)) if out is None else Path(out))
    with folder.claimed() if runtime.is_main else nullcontext():
        dataset = open_as(data, layout, progress)
        chosen = choose(dataset, runtime, settings, budget=budget, steps=steps, seed=seed)
        notes = [*dataset.notes, *reasons(chosen.config, chosen.facts, runtime, chosen.speed)]
        if runtime.is_main:
            folder.create(run_facts(data, dataset, chosen.config, runtime, layout, notes), dataset.split_rows())
    return Prepared(folder=folder, dataset=dataset, config=chosen.config, runtime=runtime, resumed=False, notes=notes)


def choose(
    dataset: Dataset, runtime: Runtime, settings: Sequence[str], *, budget: float | None, steps: int | None, seed: int
) -> Choice:
    """The recipe's settings for a run of `budget` seconds or `steps` steps, with the user's `settings` on top."""
    facts = measure(dataset)
    config, speed = recipe(facts, runtime, budget=budget, steps=steps, seed=seed)
    return Choice(config=override(config, settings), facts=facts, speed=speed)


def layout_of(
    size: Size | None, columns: Sequence[str] | None, *, channels_first: bool, axes: str | None, fps: float | None
) -> dict[str, Any]:
    """How the user says that data are to be read, as run.json records it."""
    columns = columns and list(columns)
    return {"size": size, "columns": columns, "channels_first": channels_first, "axes": axes, "fps": fps}


def in_one(data: Given) -> Source:
    """A list of strings as an array of them, anything else as it is."""
    return np.array(data, dtype=STRINGS) if isinstance(data, list) else data


def reopen(
    data: Source,
    folder: RunFolder,
    layout: Mapping[str, Any],
    settings: Sequence[str],
    *,
    progress: Callable[[int, int], None],
) -> Prepared:
    """A run that exists, with its own settings but for `settings`, in the precision that it began in.

    Raises FromNoiseError if `layout` names a size or columns that are not the run's.
    """
    facts = folder.read_facts()
    for name, asked in json.loads(json.dumps(layout)).items():
        if asked and asked != facts["data"].get(name):
            raise FromNoiseError(f"The run in {folder.path} has another {name}: leave it out, or start a new run.")
    runtime = make_ready(asked_precision(settings) or facts["environment"]["precision"])
    dataset = open_again(data, facts["data"], progress)
    check_same_data(facts["data"], dataset)
    before = from_json(facts["config"])
    config = override(before, settings)
    if runtime.is_main and config != before:
        folder.write_facts(facts | {"config": to_json(config)})
    finished = facts.get("finished") == length(config)
    return Prepared(
        folder=folder, dataset=dataset, config=config, runtime=runtime, resumed=True, finished=finished, notes=[]
    )


def length(config: Config) -> dict[str, float | None]:
    """How long a run is, as run.json records it when it has come to its end."""
    return {"steps": config.run.steps, "budget": config.run.budget}


def record_end(prepared: Prepared, session: Session) -> None:
    """Notes in run.json that the run has come to its end, what it did and what it took; memory in MB, see `memory`."""
    position = session.trainer.position
    used = {
        "seconds": session.trainer.elapsed(),
        "steps": position.step,
        "examples": position.step * prepared.config.optim.batch,
        "peak_memory": asdict(peak(prepared.runtime.device)),
    }
    facts = prepared.folder.read_facts()
    prepared.folder.write_facts(facts | {"finished": length(prepared.config), "used": used})


def going_on(data: Source, folder: RunFolder) -> str:
    """The command that goes on with a run."""
    name = "DATA" if isinstance(data, np.ndarray) else shlex.quote(str(data))
    return f"fromnoise train {name} --out {shlex.quote(str(folder.path))} --resume"


def make_session(
    prepared: Prepared,
    begun: float,
    objective: Objective | None = None,
    companion: ModelDenoiser | None = None,
    process: Gaussian | None = None,
) -> Session:
    """The objects of a run, joined.  `begun` is the moment on `time.perf_counter` that its budget counts from.

    The objective is that of the settings, unless it is given, with the companion that it trains along.  Continuous data
    begin as `process` has it, by default with what is expected of them.
    """
    config, dataset, runtime = prepared.config, prepared.dataset, prepared.runtime
    shape = dataset.codec.shape
    denoiser = build_denoiser(config, dataset.columns, shape[0], len(shape) - 1, partial(autocast, runtime))
    if isinstance(denoiser, NetDenoiser):
        denoiser.process = Gaussian(find_expected(dataset)) if process is None else process
    trainer = Trainer(
        config=config,
        denoiser=denoiser.to(runtime.device),
        objective=build_objective(config) if objective is None else objective,
        data=dataset,
        indices=dataset.indices("train"),
        runtime=runtime,
        clock=lambda: time.perf_counter() - begun,
        companion=companion,
    )
    held = dataset.indices("val")
    held = np.sort(np.random.default_rng(0).permutation(held)[: config.run.held_examples])
    train_rows = dataset.indices("train")
    most = MAX_MAPS if any(column.kind == "map" for column in dataset.columns) else MAX_ROWS
    rows = np.random.default_rng(0).permutation(train_rows)[:most]
    return Session(trainer, prepared.folder, dataset.codec, held, dataset.cond(np.sort(rows)))


def measure(dataset: Dataset) -> Facts:
    """What the recipe needs to know; the standard deviation is that of up to 512 training examples."""
    indices = dataset.indices("train")
    some = np.random.default_rng(0).permutation(indices)[:512]
    std = float(dataset.x0(np.sort(some)).std()) if dataset.codec.vocab is None else 1.0
    return Facts(
        examples=len(indices),
        held=len(dataset.indices("val")),
        shape=dataset.codec.shape,
        columns=dataset.columns,
        std=min(max(std, 0.05), 2.0),
        medium=dataset.listing.medium.name,
        vocab=dataset.codec.vocab,
        pieces=dataset.listing.items.part is not None,
    )


def open_as(
    data: Source | Listing, layout: Mapping[str, Any], progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """A data set the way a run reads it, as run.json records it."""
    listing = data
    if not isinstance(listing, Listing):
        listing = scan_as(listing, layout, progress)
    columns = layout["columns"]
    dataset = open_dataset(
        listing,
        size=_size(layout),
        columns=columns if columns is None else of_data(listing, columns),
        progress=progress,
    )
    give_back()  # decoding takes much that training does not
    return with_groups(dataset, columns)


def open_again(data: Source, layout: Mapping[str, Any], progress: Callable[[int, int], None] | None = None) -> Dataset:
    """The data of a run that exists.  Raises FromNoiseError that says so where they are not what they were."""
    began = layout["source"]
    if began is None or not isinstance(data, str | Path):
        return open_as(data, layout, progress)
    there = Path(data).expanduser().resolve() == Path(began).expanduser().resolve()
    if there and not Path(began).exists() and began not in BUNDLED:
        raise FromNoiseError(f"The data of this run are not at {began} any more: put them back, or say --data WHERE.")
    try:
        return open_as(data, layout, progress)
    except FromNoiseError as error:
        if there:
            raise
        raise FromNoiseError(f"The data at {data} are not what this run began with: {error}") from error


def scan_as(data: Source, layout: Mapping[str, Any], progress: Callable[[int, int], None] | None = None) -> Listing:
    """What is in the data, by the same record."""
    given = {name: layout.get(name) for name in ("axes", "fps")}
    return scan(data, channels_first=layout["channels_first"], size=_size(layout), progress=progress, **given)


def _size(layout: Mapping[str, Any]) -> Size | None:
    return tuple(layout["size"]) if isinstance(layout["size"], list) else layout["size"]


def run_facts(
    data: Source,
    dataset: Dataset,
    config: Config,
    runtime: Runtime,
    layout: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    """What run.json records."""
    return {
        "config": to_json(config),
        "data": data_facts(data, dataset, layout),
        "environment": environment_facts(runtime),
        "notes": notes,
    }


def data_facts(data: Source, dataset: Dataset, layout: Mapping[str, Any]) -> dict[str, Any]:
    """What was read, and how.  A path is kept whole, so that the run can be judged from any directory."""
    in_memory = isinstance(data, np.ndarray)
    bundled = isinstance(data, str) and data in BUNDLED and not Path(data).exists()
    return {
        **layout,
        "source": None if in_memory else data if bundled else str(Path(data).resolve()),
        "fingerprint": dataset.fingerprint,
        "encoders": encoders(dataset),
        "examples": {name: len(dataset.indices(name)) for name in SPLITS},
        "shape": list(dataset.codec.shape),
        "skipped": [[s.name, s.reason] for s in dataset.listing.skipped],
    }


def environment_facts(runtime: Runtime) -> dict[str, Any]:
    """The machine and the versions that a run computes with."""
    return {
        "fromnoise": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": str(runtime.device),
        "precision": runtime.precision,
        "threads": runtime.threads,
        "ranks": runtime.world,
    }


def encoders(dataset: Dataset) -> dict[str, str]:
    """The hashes of the pretrained encoders that read columns."""
    return {column.name: column.digest for column in dataset.columns if column.digest}


def check_same_data(facts: Mapping[str, Any], dataset: Dataset) -> None:
    if facts["fingerprint"] != dataset.fingerprint:
        raise FromNoiseError(
            f"The data at {dataset.source} is not what this run began with: restore it, or start a new run."
        )
    for name, digest in encoders(dataset).items():
        if facts.get("encoders", {}).get(name, digest) != digest:
            raise FromNoiseError(
                f"The encoder of {name} is another than when this run began: put the former back, or start a new run."
            )


def make_ready(precision: str | None) -> Runtime:
    """The machine as a run uses it; freed memory is kept from here on, and its peak counted."""
    runtime = detect(precision)
    reuse_memory()
    reset_peak(runtime.device)
    return runtime


def asked_precision(settings: Sequence[str]) -> str | None:
    """The value of run.precision among settings that are not applied yet."""
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "run.precision" and value != "null":
            return value
    return None
