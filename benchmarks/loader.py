"""The loader's share of training: what a batch of real pictures costs beside the step that it is for.

    python -m benchmarks.loader emoji data/clipart --size 64

open       seconds to scan, hash and decode, from nothing
again      seconds to open the set once it is in the cache
order      milliseconds a step to find which examples it takes
batch      milliseconds a step for their x0 and conditions
augment    milliseconds to augment a batch at p = 0.12
step       milliseconds of the whole training step of the recipe's network, loading included
share      (order + batch) / step, which should be below a tenth

The network is the recipe's for `--budget` on this machine.  Medians over --steps after a warm-up, in one process;
nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

from fromnoise.build import build_denoiser, build_objective
from fromnoise.codec.augment import augment
from fromnoise.cond import Cond
from fromnoise.config import Config
from fromnoise.data import Dataset, open_dataset
from fromnoise.prepare import choose
from fromnoise.rng import Rng
from fromnoise.runtime import Runtime, autocast, detect, reuse_memory
from fromnoise.trainer import Trainer, order

WARM = 3
COLUMNS = ("open", "again", "order", "batch", "augment", "step", "share")
T = TypeVar("T")


class Timed:
    """A data set that counts the seconds spent in it, a figure a step, which asks for the conditions first."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.seconds: list[float] = []

    def x0(self, indices: np.ndarray, rng: Rng | None = None) -> Tensor:
        x0, seconds = clocked(lambda: self.data.x0(indices, rng))
        self.seconds[-1] += seconds
        return x0

    def cond(self, indices: np.ndarray, rng: Rng | None = None) -> Cond:
        cond, seconds = clocked(lambda: self.data.cond(indices, rng))
        self.seconds.append(seconds)
        return cond


def clocked(work: Callable[[], T]) -> tuple[T, float]:
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun


def median_of(work: Callable[[int], object], times: int) -> float:
    """Milliseconds."""
    return 1e3 * float(np.median([clocked(partial(work, k))[1] for k in range(WARM + times)][WARM:]))


def measure(source: str, size: int, budget: float, steps: int, runtime: Runtime) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        _, first = clocked(lambda: open_dataset(source, size=size, cache_dir=cache))
        data, again = clocked(lambda: open_dataset(source, size=size, cache_dir=cache))
        config = choose(data, runtime, [], budget=budget, steps=None, seed=0).config
        timed = Timed(data)
        trainer = make_trainer(config, timed, data, runtime)
        run = trainer.run()
        step = median_of(lambda k: next(run), steps)
        batch, indices = config.optim.batch, trainer.indices
        x0 = data.x0(indices[:batch])
        found = {
            "open": first,
            "again": again,
            "order": median_of(lambda k: order(indices, k, batch, 0), steps),
            "batch": 1e3 * float(np.median(timed.seconds[WARM:])),
            "augment": median_of(lambda k: augment(x0, 0.12, Rng.of(k, range(len(x0)))), steps),
            "step": step,
        }
    return found | {"share": (found["order"] + found["batch"]) / found["step"]}


def make_trainer(config: Config, timed: Timed, data: Dataset, runtime: Runtime) -> Trainer:
    denoiser = build_denoiser(config, data.columns, data.codec.shape[0], 2, partial(autocast, runtime))
    return Trainer(
        config=config,
        denoiser=denoiser.to(runtime.device),
        objective=build_objective(config),
        data=timed,
        indices=data.indices("train"),
        runtime=runtime,
        clock=lambda: 0.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--budget", type=float, default=600.0, help="Seconds that the recipe plans for.")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    runtime = detect(None)
    reuse_memory()
    print(f"{'data':24}" + "".join(f"{name:>10}" for name in COLUMNS))
    for source in options.data:
        found = measure(source, options.size, options.budget, options.steps, runtime)
        print(f"{source[-24:]:24}" + "".join(f"{found[name]:10.3f}" for name in COLUMNS), flush=True)


if __name__ == "__main__":
    main()
