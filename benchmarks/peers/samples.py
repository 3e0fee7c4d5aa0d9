"""Samples on disk: `samples-6m-n5000.npy`, uint8 (n, h, w, c), and beside it a JSON of how they came to be.

Drawn in batches, each from a seed of its own, and each written when it is there: a kill costs one batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from benchmarks.peers.machine import load
from benchmarks.peers.pictures import Images
from fromnoise.checkpoint import replace_text

BATCH = 100
Draw = Callable[[int, int], Images]  # (first, n) -> pictures first … first+n-1


@dataclass(frozen=True)
class Cached:
    """A file of samples and its record; both are there or the samples are not done."""

    path: Path

    @staticmethod
    def at(folder: Path, minutes: float, n: int) -> Cached:
        return Cached(folder / f"samples-{minutes:g}m-n{n}.npy")

    @property
    def record_path(self) -> Path:
        return self.path.with_suffix(".json")

    def exists(self) -> bool:
        return self.path.exists() and self.record_path.exists()

    def images(self) -> Images:
        return np.load(self.path, allow_pickle=False)

    def record(self) -> dict[str, Any]:
        return json.loads(self.record_path.read_text(encoding="utf-8"))

    def write_record(self, record: dict[str, Any]) -> None:
        replace_text(self.record_path, json.dumps(record, indent=2) + "\n")

    def draw(self, n: int, draw: Draw, record: dict[str, Any], *, batch: int = BATCH) -> None:
        """Draws n pictures, going on where a killed process stopped, and writes them with `record`."""
        begin, part, progress = load(), self.path.with_suffix(".part"), self.path.with_suffix(".part.json")
        done = json.loads(progress.read_text()) if progress.exists() else {"drawn": 0, "seconds": 0.0}
        while done["drawn"] < n:
            count = min(batch, n - done["drawn"])
            begun = time.perf_counter()
            images = draw(done["drawn"], count)
            seconds = time.perf_counter() - begun
            self.path.parent.mkdir(parents=True, exist_ok=True)
            mode = "r+" if done["drawn"] else "w+"
            array = open_memmap(part, mode=mode, dtype=np.uint8, shape=(n, *images.shape[1:]))
            array[done["drawn"] : done["drawn"] + count] = images
            array.flush()
            done = {"drawn": done["drawn"] + count, "seconds": done["seconds"] + seconds}
            replace_text(progress, json.dumps(done))
        part.replace(self.path)
        sampling = {"seconds": done["seconds"], "rate": n / done["seconds"], "loads": [begin, load()]}
        self.write_record({**record, "n": n, "sampling": sampling})
        progress.unlink()
