"""A run's report card: samples drawn, judged beside training and held-out data, and written down.

Joins a release with its data, the judgement and the report; leaves evaluation.json and report.html in the run folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from fromnoise.checkpoint import replace_text, writing
from fromnoise.data import Dataset, groups
from fromnoise.errors import FromNoiseError
from fromnoise.evaluate import Examples, Judgement, batches, beside, judge, learn_features, nearest
from fromnoise.evaluate.judge import FEWEST
from fromnoise.folder import RunFolder
from fromnoise.generate import configure, generate, trajectory
from fromnoise.release import Release
from fromnoise.report import write_report
from fromnoise.sheet import sheet, strip

SHOWN = 64  # samples in the report's first sheet
NEIGHBOUR_ROWS, NEIGHBOURS = 8, 5
MOST_SAMPLES = 1000
MOST_TRAINING = 20_000
MOST_HELD = 2000


@dataclass(frozen=True)
class Subset:
    """Some of a data set's examples, read when asked for."""

    dataset: Dataset
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, places: np.ndarray, /) -> Tensor:
        return self.dataset.x0(self.indices[np.asarray(places)])


def appraise(
    folder: RunFolder,
    release: Release,
    dataset: Dataset,
    *,
    n: int | None = None,
    seed: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> Judgement:
    """Judges `n` samples of `seed` and writes evaluation.json and report.html.

    Raises FromNoiseError for a set that is too small to judge, after writing its report.
    """
    train, held = measured_on(dataset)
    # What cannot be judged is not sampled for either: the report shows a sheet.
    enough = len(held) >= FEWEST and len(train) >= 4 * FEWEST
    count = n or (int(np.clip(len(held), SHOWN, MOST_SAMPLES)) if enough else SHOWN)
    say(f"drawing {count} samples{f' and judging them beside {len(held)} held-out examples' if enough else ''}.")
    samples = generate(release, count, configure(release), seed=seed)
    x = encoded(dataset, samples.samples)
    judgement = None
    if enough:
        labels = class_labels(dataset, train.indices)
        with writing(folder.path):
            features = learn_features(train, labels, cache=folder.path / "features.safetensors")
        judgement = judge(x, train, held, features, seed=seed)
    sheets = [
        ("Samples", sheet(samples.pictures()[:SHOWN])),
        *neighbour_sheets(dataset, train, x, held),
        ("From noise to sample: what the model is given, above what it guesses", way(release, seed)),
    ]
    record = None
    if judgement is not None:
        record = {"seed": seed, "samples": count, "model": release.digest, **judgement.to_json()}
        record = json.loads(json.dumps(record))
        replace_text(folder.evaluation, json.dumps(record, indent=2) + "\n")
    with writing(folder.report):
        write_card(folder, release, record, sheets)
    if judgement is None:
        raise FromNoiseError(
            f"Not judged: a judgement needs {FEWEST} held-out and {4 * FEWEST} training examples, and there are "
            f"{len(held)} and {len(train)}; give it more data."
        )
    return judgement


def measured_on(dataset: Dataset) -> tuple[Subset, Tensor]:
    """The training and held-out examples that samples are compared with: the same ones in every judgement of a set."""
    rng = np.random.default_rng(0)
    train = Subset(dataset, np.sort(rng.permutation(dataset.indices("train"))[:MOST_TRAINING]))
    return train, dataset.x0(np.sort(rng.permutation(dataset.indices("test"))[:MOST_HELD]))


def encoded(dataset: Dataset, samples: np.ndarray) -> Tensor:
    """Samples as x0, through the same rounding as the data they are compared with."""
    return dataset.codec.encode(np.stack([dataset.codec.store(one) for one in samples]))


def class_labels(dataset: Dataset, indices: np.ndarray) -> Tensor | None:
    """The first class column, if every example has it: it makes sharper features."""
    cond = dataset.cond(indices)
    for column in dataset.columns:
        if column.kind == "class" and column.name != groups.NAME and bool(cond.present[column.name].all()):
            return cond.values[column.name]
    return None


def neighbour_sheets(dataset: Dataset, train: Examples, samples: Tensor, held: Tensor) -> list[tuple[str, Image.Image]]:
    """Rows of one example and its nearest training examples, for samples and for held-out data."""
    sheets = []
    for name, queries in (("Samples", samples), ("Held-out data", held)):
        queries = queries[:NEIGHBOUR_ROWS]
        found = nearest(queries, batches(train), k=min(NEIGHBOURS, len(train)))
        rows = beside(queries, train, found)
        pictures = dataset.codec.preview(dataset.codec.decode(rows.flatten(0, 1)))
        caption = f"{name} (first in each row) and their nearest training examples"
        sheets.append((caption, sheet(pictures, columns=rows.shape[1])))
    return sheets


def way(
    release: Release, seed: int, n: int = 4, steps: int = 9, where: Mapping[str, str | float] | None = None
) -> Image.Image:
    """Two rows a sample: x_t on its way from noise to data, and below what the model guesses x0 to be."""
    states, guesses = trajectory(release, n, configure(release, steps=steps, sampler="ddim"), seed=seed, where=where)
    rows = np.stack([states[:, :-1], guesses], axis=1)
    return strip(list(np.moveaxis(rows.reshape(2 * n, *guesses.shape[1:]), 1, 0)))


def write_card(
    folder: RunFolder, release: Release, judgement: dict | None, sheets: list[tuple[str, Image.Image]]
) -> Path:
    """report.html from the run folder's own records."""
    facts = folder.read_facts()
    data, machine = facts["data"], facts["environment"]
    metrics = folder.read_metrics()
    steps = [row for row in metrics if row["kind"] == "step"]
    weights = sum(p.numel() for p in release.denoiser.parameters())
    lines = [
        ("Data", f"{data['source']}: {data['examples']['train']:,} training examples"),
        ("Shape", " × ".join(map(str, data["shape"])) + " (channels, height, width)"),
        ("Conditions", ", ".join(c.name for c in release.columns) or "none"),
        ("Network", f"{release.config.net.kind}, {weights / 1e6:.1f} million weights"),
        ("Training", f"{steps[-1]['step']:,} steps in {steps[-1]['seconds'] / 60:.1f} minutes" if steps else "none"),
        (
            "Machine",
            f"{machine['device']}, {machine['threads']} threads, {machine['precision']}, torch {machine['torch']}",
        ),
        ("Model", release.digest),
    ]
    return write_report(
        folder.report,
        title=folder.path.name,
        facts=lines,
        notes=facts["notes"],
        metrics=metrics,
        judgement=judgement,
        sheets=sheets,
    )
