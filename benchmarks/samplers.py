"""Which way to sample: Fréchet distance and evaluations of samplers and grids on one model.

    python -m benchmarks.samplers RUN -n 512 "heun 16" "heun 16 linear 1.0" "multistep 24 logsnr" …

A way is "sampler steps [grid [shift]]".  Distances are to the training split in the run's own learned features, all at
the same number of samples of the same seed; the first row is the floor, held-out data.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

import fromnoise as fn
from fromnoise.appraise import Subset, class_labels, encoded
from fromnoise.config import SampleConfig
from fromnoise.evaluate import learn_features
from fromnoise.evaluate.distance import Moments, frechet
from fromnoise.generate import generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("ways", nargs="+")
    parser.add_argument("-n", type=int, default=512)
    options = parser.parse_args()
    run = fn.load(options.run)
    dataset = run.dataset()
    rows = dataset.indices("train")
    train = Subset(dataset, np.sort(np.random.default_rng(0).permutation(rows)[:20_000]))
    cache = run.folder.path / "features.safetensors"
    features = learn_features(train, class_labels(dataset, train.indices), cache=cache)
    real = Moments.of(torch.cat([features(train[part]) for part in np.array_split(np.arange(len(train)), 20)]))
    held = features(dataset.x0(dataset.indices("test")[: options.n]))
    print(f"{'way':28} {'Fréchet':>8} {'evaluations':>11} {'samples/s':>9}")
    print(f"{'held-out, n=' + str(len(held)):28} {frechet(Moments.of(held), real):8.3f}", flush=True)
    for way in options.ways:
        begun = time.perf_counter()
        samples = generate(run.release, options.n, configured(run.config.sample, way), seed=1)
        rate = options.n / (time.perf_counter() - begun)
        distance = frechet(Moments.of(features(encoded(dataset, samples.samples))), real)
        print(f"{way:28} {distance:8.3f} {samples.recipe['evaluations']:11} {rate:9.1f}", flush=True)


def configured(config: SampleConfig, way: str) -> SampleConfig:
    sampler, steps, *rest = way.split()
    changes = dict(zip(("grid", "shift"), rest, strict=False))
    shift = float(changes.pop("shift", config.shift))
    searched = () if rest else config.searched  # a grid that is named goes before those found for the model
    return replace(config, sampler=sampler, steps=int(steps), shift=shift, searched=searched, **changes)


if __name__ == "__main__":
    main()
