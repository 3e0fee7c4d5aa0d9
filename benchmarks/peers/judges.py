"""Who judges: the frozen judge on Fashion-MNIST, the second opinion on everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from benchmarks.judge.judge import embed, load_judge
from benchmarks.peers.pictures import Images, Pictures
from benchmarks.second_opinion import Opinion
from fromnoise.evaluate.distance import Moments, frechet


@runtime_checkable
class Judge(Protocol):
    name: str

    def __call__(self, images: Images) -> float:
        """Fréchet distance to the training set; comparable at one number of pictures only."""
        ...


class Frozen:
    """The headline number of `benchmarks.judge`, at any number of samples; at 5,000 it is the protocol's own."""

    name = "frozen judge"

    def __init__(self) -> None:
        self.net, self.moments = load_judge()

    def __call__(self, images: Images) -> float:
        return frechet(Moments.of(embed(self.net, images[..., 0])), self.moments)


class Second:
    """FD-EfficientNetLite0 to the training pictures at hand."""

    name = "FD-EfficientNetLite0"

    def __init__(self, train: Images) -> None:
        self.opinion = Opinion(train)

    def __call__(self, images: Images) -> float:
        return self.opinion.distance(images)


def make_judge(data: str, pictures: Pictures) -> Judge:
    """The frozen judge where `data` is the folder of Fashion-MNIST's IDX files."""
    fashion = pictures.shape == (1, 28, 28) and any(Path(data).glob("t10k-images-idx*"))
    return Frozen() if fashion else Second(pictures.train)


def floor(judge: Judge, pictures: Pictures, n: int) -> float | None:
    """What n held-out pictures score; None where there are fewer, as distances at another n do not compare."""
    return judge(pictures.held[:n]) if len(pictures.held) >= n else None


def judged(judge: Judge, images: np.ndarray, record: dict) -> dict:
    """The record with the judge's number, looked at only if it is not there yet."""
    known = record.get("judged", {})
    return record if judge.name in known else {**record, "judged": {**known, judge.name: judge(images)}}
