"""A run's report card: samples drawn, judged beside training and held-out data, and written down.

Joins a release with its data, the judgement and the report; leaves evaluation.json and report.html in the run folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fromnoise.checkpoint import replace_text, writing
from fromnoise.codec import Codec, Moving, Physical, Playable
from fromnoise.cond import CAPTIONED, Cond
from fromnoise.data import Dataset, groups
from fromnoise.data.encoded import Encoded, Rows, encode
from fromnoise.errors import NotJudged
from fromnoise.evaluate import (
    Asked,
    Judgement,
    TextJudgement,
    among,
    batches,
    beside,
    copy_check,
    judge,
    learn_features,
    motion,
    nearest,
    obedience,
    physics,
)
from fromnoise.evaluate.judge import FEWEST
from fromnoise.folder import RunFolder
from fromnoise.generate import MOVING, Samples, configure, generate, trajectory
from fromnoise.release import Release
from fromnoise.report import Player, write_report
from fromnoise.sheet import sheet, strip

SHOWN = 64  # samples in the report's first sheet
PLAYED = 12  # samples that the report plays,
PLAYED_BYTES = 3_000_000  # as far as there is room for more than one
NEIGHBOUR_ROWS, NEIGHBOURS = 8, 5
FEWEST_COPIED = 10  # training examples, for their distances to each other to say anything
MOST_SAMPLES = 1000
MOST_TRAINING = 20_000
MOST_HELD = 2000
MOST_LABELS = 100  # of a class that captions imply
ROOM = 2**29


@dataclass(frozen=True)
class Subset:
    """Some of a data set's examples, read when asked for: as they are perceived, or as x0."""

    dataset: Dataset
    indices: np.ndarray
    perceived: bool = True

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, places: np.ndarray, /) -> Tensor:
        x0 = self.dataset.x0(self.indices[np.asarray(places)])
        return self.dataset.codec.percept(x0) if self.perceived else x0


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

    Raises NotJudged for a set that is too small to judge, after writing its report.
    """
    train, held = measured_on(dataset)
    # What cannot be judged is not sampled for either: the report shows a sheet.
    enough = len(held) >= FEWEST and len(train) >= 4 * FEWEST
    count = n or (int(np.clip(len(held), SHOWN, MOST_SAMPLES)) if enough else SHOWN)
    say(f"drawing {count} samples{f' and judging them beside {len(held)} held-out examples' if enough else ''}.")
    # Asked for what held-out examples are: a caption of the training set would ask for that one example again.
    rows = np.resize(np.random.default_rng(seed).permutation(held.indices), count)
    samples = generate(release, count, configure(release), seed=seed, given=askable(dataset.cond(rows)))
    judgement, copying = None, ""
    if not enough and len(train) >= FEWEST_COPIED:
        found = nearest(encoded(dataset, samples.samples), batches(train), k=2)
        copying = " " + copy_check(found, among(train), space="values", among=True).verdict
    if enough:
        labels, seen = class_labels(dataset, train.indices), in_memory(train)
        with writing(folder.path):
            features = learn_features(seen, labels, cache=folder.path / "features.safetensors")
        made, real = encoded(dataset, samples.samples), held[np.arange(len(held))]
        judgement = judge(made, seen, real, features, seed=seed)
        told = described(dataset)
        ours, theirs = Asked(x=made, cond=told.cond(rows)), Asked(x=real, cond=told.cond(held.indices))
        judgement = judgement.obeyed(obedience(told.columns, seen, told.cond(train.indices), ours, theirs, seed=seed))
        if isinstance(dataset.codec, Physical):
            judgement = judgement.measured(physics(*quantities(dataset.codec, samples.samples, held, train)))
        if isinstance(release.codec, Moving):
            new = replace(held, perceived=False)[np.arange(len(held))]
            judgement = judgement.moved(motion(_x0(dataset, samples.samples), new))
    legend = f": {release.codec.legend}" if release.codec.legend else ""
    sheets = [
        (f"Samples{legend}", samples.sheet(SHOWN)),
        *neighbour_sheets(train, samples.samples, held, copying),
        ("From noise to sample: what the model is given, above what it guesses", way(release, seed)),
    ]
    record = None if judgement is None else keep_judgement(folder, release, judgement, count, seed)
    with writing(folder.report):
        moving = samples.moving_sheet(MOVING)
        played = list(players(samples))
        write_card(folder, release, judgement=record, sheets=sheets, players=played, moving=moving)
    if judgement is None:
        less = (
            f" Nor can fewer than {FEWEST_COPIED} training examples say whether samples copy them: look at the report."
        )
        raise NotJudged(
            f"Not judged: a judgement needs {FEWEST} held-out and {4 * FEWEST} training examples, and there are "
            f"{len(held)} and {len(train)}; give it more data.{copying or less}"
        )
    return judgement


def keep_judgement(
    folder: RunFolder, release: Release, judgement: Judgement | TextJudgement, samples: int, seed: int
) -> dict[str, Any]:
    """Writes evaluation.json: the judgement, and of what it is; returns what stands there."""
    text = json.dumps({"seed": seed, "samples": samples, "model": release.digest, **judgement.to_json()}, indent=2)
    replace_text(folder.evaluation, text + "\n")
    return json.loads(text)


def askable(cond: Cond) -> Cond:
    """The conditions without groups, if there are others: who asks for those knows no group of what will come."""
    if groups.NAME not in cond.present or len(cond.present) == 1:
        return cond
    return Cond(cond.values, {**cond.present, groups.NAME: torch.zeros(len(cond), dtype=torch.bool)}, len(cond))


def described(dataset: Dataset) -> Dataset:
    """The data set with all that samples can be held to: what conditions them, and the classes that captions imply.

    Maps of clips are as clips are perceived.
    """
    own = [one for one in dataset.encoded if one.column.name != groups.NAME]
    if isinstance(dataset.codec, Moving):
        own = [perceived(one, dataset.codec) if one.column.kind == "map" else one for one in own]
    if any(one.column.kind in CAPTIONED for one in own):
        taken, listing = {one.column.name for one in own}, dataset.listing
        implied = [p for p in listing.profiles if p.role == "class" and len(p.labels) <= MOST_LABELS]
        train = np.isin(np.arange(len(dataset)), dataset.indices("train"))
        own += [encode(p, listing.items.columns[p.name], train) for p in implied if p.name not in taken]
    return replace(dataset, columns=tuple(one.column for one in own), encoded=tuple(own))


class _Perceived:
    """Maps as what they lie on is perceived, some at a time."""

    def __init__(self, values: Rows, codec: Codec) -> None:
        self.values, self.codec = values, codec

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        parts = np.array_split(rows, max(1, len(rows) // 64))
        return np.concatenate([self.codec.percept(torch.from_numpy(self.values[part])).numpy() for part in parts])


def perceived(maps: Encoded, codec: Codec) -> Encoded:
    """The same maps as `codec` perceives what they lie on, to be told from that."""
    values = _Perceived(maps.values, codec)
    return replace(maps, column=replace(maps.column, size=values[np.arange(1)].shape[1]), values=values)


def measured_on(dataset: Dataset) -> tuple[Subset, Subset]:
    """The training and held-out examples that samples are compared with: the same ones in every judgement of a set."""
    rng = np.random.default_rng(0)
    train, held = (
        Subset(dataset, np.sort(rng.permutation(dataset.indices(split))[:most]))
        for split, most in (("train", MOST_TRAINING), ("test", MOST_HELD))
    )
    return train, held


def in_memory(examples: Subset) -> Tensor | Subset:
    """The examples encoded once, if that takes at most `ROOM` bytes; features read each of them many times."""
    one = examples[np.arange(1)]
    if len(examples) * one.nbytes > ROOM:
        return examples
    return torch.cat(list(batches(examples, 64)))


def encoded(dataset: Dataset, samples: np.ndarray) -> Tensor:
    """Samples as they are perceived, through the same rounding as the data they are compared with."""
    return dataset.codec.percept(_x0(dataset, samples))


def quantities(codec: Physical, samples: np.ndarray, held: Subset, train: Subset) -> Iterator[np.ndarray]:
    """Samples, held-out and training examples in their own units, as windows where x0 is one; as many as have room."""
    yield codec.quantities(samples)
    most = max(FEWEST, ROOM // (8 * samples[0].size))
    for real in (held, train):
        some = replace(real, perceived=False)[np.random.default_rng(0).permutation(len(real))[:most]]
        yield codec.quantities(real.dataset.codec.decode(some))


def _x0(dataset: Dataset, samples: np.ndarray) -> Tensor:
    return dataset.codec.encode(np.stack([dataset.codec.store(one) for one in samples]))


def class_labels(dataset: Dataset, indices: np.ndarray) -> Tensor | None:
    """The first class column, if every example has it: it makes sharper features."""
    cond = dataset.cond(indices)
    for column in dataset.columns:
        if column.kind == "class" and column.name != groups.NAME and bool(cond.present[column.name].all()):
            return cond.values[column.name]
    return None


def neighbour_sheets(train: Subset, samples: np.ndarray, held: Subset, copying: str) -> list[tuple[str, Image.Image]]:
    """Rows of one example and its nearest training examples, for samples (and what they say of copying), and for
    held-out data."""
    codec, sheets = train.dataset.codec, []
    new = replace(held, perceived=False)[np.arange(min(NEIGHBOUR_ROWS, len(held)))]
    ours = _x0(train.dataset, samples[:NEIGHBOUR_ROWS])
    for name, x0, says in (("Samples", ours, copying), ("Held-out data", new, "")):
        found = nearest(codec.percept(x0), batches(train), k=min(NEIGHBOURS, len(train)))
        rows = beside(x0, replace(train, perceived=False), found)
        pictures = codec.preview(codec.decode(rows.flatten(0, 1)))
        caption = f"{name} (first in each row) and their nearest training examples" + ("." + says if says else "")
        sheets.append((caption, sheet(pictures, columns=rows.shape[1])))
    return sheets


def players(samples: Samples) -> Iterator[Player]:
    """The first samples, where they can be played: as many as have room in a report."""
    room = PLAYED_BYTES
    for k, one in enumerate(samples.samples[:PLAYED]):
        made = samples.codec.player(one, samples.recipe_of(k)) if isinstance(samples.codec, Playable) else None
        if made is None or (k and len(made[1]) > room):
            return
        room -= len(made[1])
        yield Player(caption=samples.asked(k) or f"sample {samples.index[k]}", media=made[0], file=made[1])


def way(
    release: Release,
    seed: int,
    n: int = 4,
    steps: int = 9,
    where: Mapping[str, str | float] | None = None,
    prompt: str | None = None,
) -> Image.Image:
    """Two rows a sample: x_t on its way from noise to data, and below what the model guesses x0 to be."""
    config = configure(release, steps=steps, sampler="ddim")
    states, guesses = trajectory(release, n, config, seed=seed, where=where, prompt=prompt)
    rows = np.stack([states[:, :-1], guesses], axis=1)
    return strip(list(np.moveaxis(rows.reshape(2 * n, *guesses.shape[1:]), 1, 0)))


def write_card(
    folder: RunFolder,
    release: Release,
    *,
    judgement: dict | None = None,
    sheets: Sequence[tuple[str, Image.Image]] = (),
    players: Sequence[Player] = (),
    moving: bytes | None = None,
    texts: Sequence[str] = (),
    reading: TextJudgement | None = None,
) -> Path:
    """report.html from the run folder's own records."""
    facts = folder.read_facts()
    data, machine = facts["data"], facts["environment"]
    metrics = folder.read_metrics()
    steps = [row for row in metrics if row["kind"] == "step"]
    weights = sum(p.numel() for p in release.denoiser.parameters())
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    lines = [
        ("Data", f"{data['source']}: {data['examples']['train']:,} training examples"),
        ("Shape", f"{' × '.join(map(str, data['shape']))} ({', '.join(release.codec.axes)})"),
        ("Conditions", ", ".join(c.name for c in release.columns) or "none"),
        ("Network", f"{release.config.net.kind}, {weights / 1e6:.1f} million weights"),
        ("Training", f"{steps[-1]['step']:,} steps in {steps[-1]['seconds'] / 60:.1f} minutes" if steps else "none"),
        ("Machine", f"{machine['device']}, {threads}, {machine['precision']}, torch {machine['torch']}"),
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
        players=players,
        moving=moving,
        texts=texts,
        reading=reading,
        matched=release.config.model.flow_map and release.config.flow.match_from < 1,
    )
