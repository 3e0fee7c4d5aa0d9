"""Ten million examples: what every stage before and between the training steps costs, in seconds and memory.

    python -m benchmarks.many [--rows 100000 1000000 10000000] [--files 100000] [--folder FOLDER]

Rows are tiny pictures (4 × 4, grey) of one array file, files are tiny PNG in folders of a thousand.  Each size runs in
a process of its own, so that the memory is its own; `peak` is the most that this process held of its own (anonymous
memory, without the pages of mapped files, which the system takes back when it needs them), less what it held before
the first stage.  A stage is linear where its seconds grow tenfold from row to row; the last three must not grow.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from fromnoise.data import open_dataset, scan
from fromnoise.data.splits import assign
from fromnoise.folder import RunFolder
from fromnoise.trainer import order

BATCH = 32
STAGES = ("scan", "again", "split", "decode", "open", "write split", "indices", "first step", "late step", "examples")


class Stages:
    """Seconds and peak memory in MB of each stage."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float]] = []
        self.base = _anonymous()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        done, peak = threading.Event(), [self.base]

        def watch() -> None:
            while not done.wait(0.02):
                peak.append(max(peak.pop(), _anonymous()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        begun = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begun
            done.set()
            watcher.join()
            self.rows.append((name, seconds, max(peak[0], _anonymous()) - self.base))


def _anonymous() -> float:
    """MB that this process holds of its own (Linux)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def measure(source: Path, work: Path) -> list[tuple[str, float, float]]:
    """Every stage on the real code paths, from nothing."""
    stage, cache = Stages(), work / "cache"
    with stage("scan"):
        listing = scan(source, cache_dir=cache)
    del listing
    with stage("again"):
        listing = scan(source, cache_dir=cache)
    with stage("split"):
        assign(listing.items.split, listing.items.digest)
    with stage("decode"):
        data = open_dataset(listing, columns=[], cache_dir=cache)
    del data, listing
    with stage("open"):
        data = open_dataset(source, columns=[], cache_dir=cache)
    with stage("write split"):
        RunFolder(work).create({}, data.split_rows())
    with stage("indices"):
        indices = data.indices("train")
    late = 3 * len(indices) // BATCH + 1
    with stage("first step"):
        order(indices, 0, BATCH, seed=0)
    with stage("late step"):
        examples = order(indices, late, BATCH, seed=0)
    with stage("examples"):
        data.x0(examples)
        data.cond(examples)
    return stage.rows


def array_file(n: int, folder: Path) -> Path:
    path = folder / "rows.npy"
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, 4, 4))
    rng = np.random.default_rng(0)
    for start in range(0, n, 1 << 20):
        part = out[start : start + (1 << 20)]
        part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
    out.flush()
    return path


def picture_files(n: int, folder: Path) -> Path:
    root = folder / "files"
    rng = np.random.default_rng(0)
    for i in range(n):
        inner = root / f"{i // 1000:05}"
        if i % 1000 == 0:
            inner.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)).save(inner / f"{i:08}.png", compress_level=1)
    return root


def _alone(make: Callable[[int, Path], Path], n: int, parent: Path | None) -> list[tuple[str, float, float]]:
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        source = make(n, folder)
        time.sleep(2.5)  # a file just written has no stamp yet
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(measure, (source, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--files", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="Where the temporary data goes.")
    options = parser.parse_args()
    for what, make, sizes in (("rows", array_file, options.rows), ("files", picture_files, options.files)):
        print(f"{what:>5} {'':>10} " + "".join(f"{name:>16}" for name in STAGES))
        for n in sizes:
            rows = _alone(make, n, options.folder)
            assert tuple(name for name, _, _ in rows) == STAGES
            print(f"{'s':>5} {n:>10,} " + "".join(f"{seconds:16.4f}" for _, seconds, _ in rows))
            print(f"{'MB':>5} {n:>10,} " + "".join(f"{peak:16.0f}" for _, _, peak in rows), flush=True)


if __name__ == "__main__":
    main()
