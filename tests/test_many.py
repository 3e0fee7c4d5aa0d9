"""Many examples: a few dozen bytes each whatever is done with them, and steps that do not know how many there are."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.many import STAGES, array_file, measure, picture_files
from fromnoise.data import open_dataset
from fromnoise.trainer import order

BYTES = 220  # an example's, at most at any moment: its columns, what a stage copies of them, sorting


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_example_costs_a_few_dozen_bytes_through_every_stage(tmp_path):
    peaks = []
    for n in (8_000, 24_000):
        folder = tmp_path / str(n)
        folder.mkdir()
        source = array_file(n, folder)
        peaks.append(peak_of(lambda source=source, folder=folder: whole(source, folder)))
    assert (peaks[1] - peaks[0]) / 16_000 < BYTES


def whole(source, folder) -> None:
    for _ in range(2):
        data = open_dataset(source, columns=[], cache_dir=folder / "cache")
        assert sum(1 for _ in data.split_rows()) >= len(data)
        data.x0(order(data.indices("train"), 10**6, 32, seed=0))


@pytest.mark.parametrize("n", [1000, 10_000_000])
def test_a_step_costs_the_same_at_any_place_of_any_set(n):
    indices = np.arange(n)
    for step in (0, 3 * n, 10**12):
        assert peak_of(lambda step=step: order(indices, step, 32, seed=0)) < 50_000


@pytest.mark.parametrize("make", [array_file, picture_files])
def test_the_benchmark_measures_every_stage(make, tmp_path):
    found = measure(make(200, tmp_path), tmp_path)
    assert tuple(name for name, _, _ in found) == STAGES and all(seconds > 0 for _, seconds, _ in found)
