"""How fast this machine trains and samples, by size of the pictures and width of the network.

    python -m benchmarks.throughput --out throughput                 every size and width; --compile adds torch.compile
    python -m benchmarks.throughput --out t --sizes 8 --widths 32 --seconds 1        a small one, to try it

Each cell is a process of its own, so that its memory is its own.  It trains the recipe's network on random pictures in
memory, as a run does (loss, optimiser, averages), and then samples in the default way.  One warm-up, then medians.

train           pictures a second, in a step
share           of the speed of a matrix product in the run's precision, by the network's operations as counted
latency         seconds from noise to one sample;  sampling: samples a second at the training batch
memory          peak MB of the process while it trains (`fromnoise.memory`), and of the device

The matrix products are measured first, in both precisions.  Nothing else may run on the machine.
--out takes throughput.json and throughput.png, written anew after every cell; the latter needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromnoise.build import build_denoiser, build_objective
from fromnoise.codec.image import ImageCodec
from fromnoise.cond import Cond
from fromnoise.config import Config, OptimConfig, RunConfig
from fromnoise.generate import generate
from fromnoise.memory import peak, reset_peak
from fromnoise.recipes import WIDTHS, Facts, image_net, matmul_speed, training_flops
from fromnoise.release import Release
from fromnoise.rng import Rng
from fromnoise.runtime import Runtime, autocast, best_device, detect, reuse_memory
from fromnoise.trainer import Trainer

SIZES = (28, 32, 64, 128, 256)
CHANNELS = 3
EXAMPLES = 256
SETTLING = 10  # steps until buffers have come to rest in the allocator
FEWEST = 5
REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement: pictures of size x size, the network's first width."""

    size: int
    width: int
    batch: int
    seconds: float
    compiled: bool
    device: str | None
    precision: str | None

    @property
    def name(self) -> str:
        return f"{self.size} px, width {self.width}{', compiled' if self.compiled else ''}"


class Pictures:
    """Random pictures in memory."""

    def __init__(self, size: int) -> None:
        self.x = torch.rand(EXAMPLES, CHANNELS, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def x0(self, indices: np.ndarray, rng: Rng | None = None) -> Tensor:
        return self.x[torch.from_numpy(indices)]

    def cond(self, indices: np.ndarray, rng: Rng | None = None) -> Cond:
        return Cond.empty(len(indices))


def main() -> None:
    options = parse()
    if options.child:
        print(
            json.dumps(
                peaks(options.device) if options.child == "peaks" else measure(Cell(**json.loads(options.child)))
            )
        )
        return
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(), "peaks": in_child("peaks", options), "cells": []}
    print(json.dumps(results["peaks"]), flush=True)
    for compiled in (False, True) if options.compile else (False,):
        for size in options.sizes:
            for width in options.widths:
                cell = Cell(
                    size=size,
                    width=width,
                    batch=options.batch,
                    seconds=options.seconds,
                    compiled=compiled,
                    device=options.device,
                    precision=options.precision,
                )
                result = asdict(cell) | in_child(json.dumps(asdict(cell)), options)
                results["cells"].append(with_shares(result, results["peaks"]))
                (options.out / "throughput.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
                plot(results, options.out / "throughput.png")
                print(row(cell, result), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0, help="of measured training steps a cell")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile, which needs a C++ compiler")
    parser.add_argument("--device", help="cpu, cuda or mps  [default: the fastest there]")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="[default: the faster]")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if find_spec("matplotlib") is None:
        parser.error("the plots need matplotlib: pip install matplotlib")
    return options


def in_child(what: str, options: argparse.Namespace) -> dict[str, Any]:
    """The result of a fresh process; {"failed": its last words} where it fails, as for want of memory."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--out", str(options.out), "--child", what]
    if options.device:
        command += ["--device", options.device]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%d %H:%M"),
    }


def peaks(device: str | None) -> dict[str, float]:
    """FLOP/s of a large matrix product in either precision."""
    # Processors without bfloat16 units are some hundred times slower in it, so a larger product would not end.
    size = 8192 if best_device(device).type == "cuda" else 1024
    return {p: matmul_speed(detect(p, device), size, seconds=2.0) for p in ("float32", "bfloat16")}


def measure(cell: Cell) -> dict[str, Any]:
    """All figures of one cell, in this process."""
    runtime = detect(cell.precision, cell.device)
    reuse_memory()
    config = Config(
        net=image_net((CHANNELS, cell.size, cell.size), cell.width),
        optim=OptimConfig(batch=cell.batch),
        run=RunConfig(steps=1_000_000),
    )
    facts = Facts(examples=EXAMPLES, held=0, shape=(CHANNELS, cell.size, cell.size), columns=(), std=0.5)
    flops = training_flops(config, facts)
    denoiser = build_denoiser(config, (), CHANNELS, 2, partial(autocast, runtime)).to(runtime.device)
    if cell.compiled:
        denoiser.net.compile()
    trainer = Trainer(
        config=config,
        denoiser=denoiser,
        objective=build_objective(config),
        data=Pictures(cell.size),
        indices=np.arange(EXAMPLES),
        runtime=runtime,
        clock=partial(clock, runtime),
    )
    reset_peak(runtime.device)
    steps = training(trainer, cell.seconds)
    memory = peak(runtime.device)
    rate = cell.batch / float(np.median(steps))
    codec = ImageCodec.full_range(height=cell.size, width=cell.size, channels=CHANNELS, alpha=False, dtype="uint8")
    release = Release(denoiser=denoiser.eval(), codec=codec, columns=(), rows=Cond.empty(0), config=config, digest="")
    return {
        "precision": runtime.precision,
        "device": str(runtime.device),
        "threads": runtime.threads,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "flops": flops,
        "train": rate,
        "spread": [cell.batch / float(np.quantile(steps, q)) for q in (0.9, 0.1)],
        "steps": len(steps),
        "speed": rate * flops,
        "latency": sampling(release, 1, runtime),
        "sampling": cell.batch / sampling(release, cell.batch, runtime),
        "evaluations": config.sample.steps,
        "memory": memory.process,
        "device memory": memory.device,
    }


def clock(runtime: Runtime) -> float:
    """Seconds, once the device has done what was asked of it."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    return time.perf_counter()


def training(trainer: Trainer, seconds: float) -> list[float]:
    """Durations of steps for so many seconds after the first SETTLING ones, FEWEST at least."""
    times, settled = [], float("inf")
    for event in trainer.run():
        times.append(event.seconds)
        if len(times) == SETTLING:
            settled = event.seconds
        if len(times) >= SETTLING + FEWEST and event.seconds - settled > seconds:
            break
    return list(np.diff(times[SETTLING - 1 :]))


def sampling(release: Release, n: int, runtime: Runtime) -> float:
    """Seconds for n samples in the default way, the median of a few; a short one first warms up."""

    def draw(steps: int) -> float:
        begun = clock(runtime)
        generate(release, n, replace(release.config.sample, steps=steps), batch=n)
        return clock(runtime) - begun

    draw(2)
    return float(np.median([draw(release.config.sample.steps) for _ in range(REPEATS)]))


def with_shares(result: dict[str, Any], peaks: dict[str, float]) -> dict[str, Any]:
    shares = {f"share of {p}": result["speed"] / peaks[p] for p in peaks} if "speed" in result else {}
    return result | shares


def row(cell: Cell, result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"{cell.name:28} {result['failed']}"
    return (
        f"{cell.name:28} {result['train']:8.1f} a second in training  {result['speed'] / 1e9:8.1f} GFLOP/s  "
        f"{result['latency']:7.3f} s a sample  {result['sampling']:7.1f} samples/s  {result['memory'] or 0:6.0f} MB"
    )


def plot(results: dict[str, Any], file: Path) -> None:
    """One panel a figure, one line a width, against the size of the pictures; compiled is dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    good = [cell for cell in results["cells"] if "failed" not in cell]
    panels: dict[str, Callable[[dict], float | None]] = {
        "training, pictures a second": lambda cell: cell["train"],
        "training, % of a matrix product": lambda cell: 100 * cell[f"share of {cell['precision']}"],
        "one sample, seconds": lambda cell: cell["latency"],
        "sampling, samples a second": lambda cell: cell["sampling"],
        "peak memory of the process, MB": lambda cell: cell["memory"],
        "peak memory of the device, MB": lambda cell: cell["device memory"],
    }
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
    for ax, (title, value) in zip(axes.flat, panels.items(), strict=True):
        for line in sorted({(cell["width"], cell["compiled"]) for cell in good}):
            cells = [c for c in good if (c["width"], c["compiled"]) == line and value(c) is not None]
            label = f"width {line[0]}{', compiled' if line[1] else ''}"
            ax.plot([c["size"] for c in cells], [value(c) for c in cells], "o--" if line[1] else "o-", label=label)
        ax.set(title=title, xlabel="pixels a side", xscale="log")
        ticks = sorted({cell["size"] for cell in good})
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes.flat[0].legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
