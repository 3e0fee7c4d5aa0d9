"""Which setting earns its place: the same data and time, one change at a time, by the loss on held-out data.

    python -m benchmarks.ablate emoji --size 32 --budget 60s base "batch 32: optim.batch=32" …

Each variant is "name: setting setting …" on top of --set; each runs --seeds times.  Noise couplings are switched off,
so that the held-out loss means the same in every row.  Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import fromnoise as fn
from fromnoise.data import open_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--size", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", dest="common", action="append", default=["loss.noise_choices=1"])
    options = parser.parse_args()
    open_dataset(options.data, size=options.size)  # decoding is not part of any variant's time
    print(f"{'variant':28} {'held-out':>9} {'spread':>7} {'steps':>6} {'examples/s':>10}", flush=True)
    for variant in options.variants:
        name, _, text = variant.partition(":")
        results = [run(options, text.split(), seed) for seed in range(options.seeds)]
        loss, steps, rate = np.array(results).T
        print(f"{name:28} {loss.mean():9.4f} {np.ptp(loss):7.4f} {steps.mean():6.0f} {rate.mean():10.0f}", flush=True)


def run(options: argparse.Namespace, settings: list[str], seed: int) -> tuple[float, float, float]:
    """(best held-out loss, steps, examples a second)."""
    with tempfile.TemporaryDirectory() as folder:
        trained = fn.train(
            options.data,
            out=Path(folder) / "run",
            budget=options.budget,
            size=options.size,
            columns=[],
            settings=[*options.common, "run.preview_first=1e6", *settings],
            seed=seed,
        )
        rows = trained.folder.read_metrics()
        steps = [row for row in rows if row["kind"] == "step"]
        rate = len(steps) * trained.config.optim.batch / (steps[-1]["seconds"] - steps[0]["seconds"])
        return min(row["loss"] for row in rows if row["kind"] == "held"), float(len(steps)), rate


if __name__ == "__main__":
    main()
