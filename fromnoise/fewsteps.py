"""Quality in few steps: a student beside its teacher at each number of steps, and which of the two to ask.

Plain multistep sampling of the teacher needs no second training, so a student has to earn its place: both are measured
at equal numbers of steps (a guided teacher then evaluates its network twice as often), with the same number of samples
of the same seed, in the features that the run learned on its own training split.  The table is kept with the student,
and sampling goes by it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from fromnoise.appraise import class_labels, encoded, measured_on
from fromnoise.checkpoint import replace_text, writing
from fromnoise.config import SampleConfig
from fromnoise.data import Dataset
from fromnoise.errors import FromNoiseError, NotJudged
from fromnoise.evaluate import learn_features
from fromnoise.evaluate.distance import Moments, frechet, manifold, times
from fromnoise.evaluate.judge import FEWEST
from fromnoise.generate import generate
from fromnoise.release import Release

STEPS = (1, 2, 4, 8)
MOST_SAMPLES = 1000

Model = Literal["student", "teacher"]


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to sample, and how near to the training data it comes: Fréchet distance, and coverage in [0, 1]."""

    model: Model
    sampler: str
    steps: int
    evaluations: int
    frechet: float
    coverage: float


@dataclass(frozen=True, kw_only=True)
class FewSteps:
    """The student and the teacher's plain multistep at `STEPS` steps, and the teacher's default.

    `teacher` and `student` are digests of their releases; `floor` is the Fréchet distance of as many held-out examples.
    """

    teacher: str
    student: str
    samples: int
    floor: float
    ways: tuple[Way, ...]
    default: Way

    def best(self, steps: int) -> Way | None:
        """The better way for `steps` steps, by the largest measured number that is no larger; None beyond `STEPS`."""
        if steps > STEPS[-1]:
            return None
        measured = max(n for n in STEPS if n <= steps)
        return min(self.at(measured), key=lambda way: way.frechet)

    def at(self, steps: int) -> tuple[Way, Way]:
        """(student, teacher) at one of `STEPS`."""
        student, teacher = sorted((w for w in self.ways if w.steps == steps), key=lambda way: way.model)
        return student, teacher

    def table(self) -> str:
        twice = 2 * f"{'Fréchet':>10}{'coverage':>12}"
        lines = [f"{'':10}{'student':>22}{'plain multistep':>22}", f"{'steps':10}{twice}"]
        for steps in STEPS:
            cells = "".join(f"{way.frechet:10.3g}{way.coverage:12.0%}" for way in self.at(steps))
            lines.append(f"{steps:<10}{cells}")
        default = f"teacher's default, {self.default.steps} steps of {self.default.sampler}"
        lines.append(f"{default}: Fréchet {self.default.frechet:.3g}, coverage {self.default.coverage:.0%}")
        lines.append(f"held-out data: Fréchet {self.floor:.3g}; every row from {self.samples} samples")
        return "\n".join(lines)

    def sentences(self) -> list[str]:
        """What to use for which number of steps."""
        said = []
        for steps in STEPS:
            student, teacher = self.at(steps)
            moves, much = f"{steps} step{'s' * (steps > 1)}", times(student.frechet / self.default.frechet)
            if student.frechet < teacher.frechet:
                said.append(
                    f"In {moves} the student is the better choice: {student.frechet:.3g}, {much} times the "
                    f"teacher's default, against {teacher.frechet:.3g}."
                )
            else:
                said.append(
                    f"In {moves} plain multistep sampling of the teacher is the better choice: {teacher.frechet:.3g} "
                    f"against the student's {student.frechet:.3g}."
                )
        return said

    def save(self, path: Path) -> None:
        replace_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> FewSteps | None:
        """The table kept at `path`, None where there is none.  Raises FromNoiseError for one that is damaged."""
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            ways = tuple(Way(**way) for way in tree["ways"])
            return FewSteps(**{**tree, "ways": ways, "default": Way(**tree["default"])})
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise FromNoiseError(f"{path} cannot be read ({error}): delete it, and distil or measure again.") from error


def unmeasured(dataset: Dataset, n: int | None) -> str:
    """Why a student of this set is not measured by `n` samples, "" where it is."""
    least = min(n or MOST_SAMPLES, *map(len, measured_on(dataset)))
    if least >= FEWEST:
        return ""
    return (
        f"The student is not measured: that needs {FEWEST} samples and held-out examples, and there are {least}; look "
        "at its samples, which come from its own folder, RUN/distilled."
    )


def compare(
    student: Release,
    teacher: Release,
    dataset: Dataset,
    cache: Path,
    *,
    n: int | None = None,
    seed: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> FewSteps:
    """Measures `n` samples of each way; `cache` is where the run's learned features lie or will.

    Raises NotJudged for a set too small to measure anything on.
    """
    if why := unmeasured(dataset, n):
        raise NotJudged(why)
    train, held = measured_on(dataset)
    count = min(n or MOST_SAMPLES, len(held), len(train))
    say(f"measuring the student beside its teacher, {count} samples at a time.")
    with writing(cache):
        features = learn_features(train, class_labels(dataset, train.indices), cache=cache)
    places = np.array_split(np.random.default_rng(seed).permutation(len(train)), -(-len(train) // 512))
    real = torch.cat([features(train[part]) for part in places])
    moments = Moments.of(real)

    def measure(model: Model, config: SampleConfig) -> Way:
        samples = generate(student if model == "student" else teacher, count, config, seed=seed)
        fake = features(encoded(dataset, samples.samples))
        return Way(
            model=model,
            sampler=config.sampler,
            steps=config.steps,
            evaluations=samples.recipe["evaluations"],
            frechet=frechet(Moments.of(fake), moments),
            coverage=manifold(real[:count], fake).coverage,
        )

    jump, plain = student.config.sample, replace(teacher.config.sample, sampler="multistep")
    return FewSteps(
        teacher=teacher.digest,
        student=student.digest,
        samples=count,
        floor=frechet(Moments.of(features(held[np.arange(count)])), moments),
        ways=(
            *(measure("student", replace(jump, steps=steps)) for steps in STEPS),
            *(measure("teacher", replace(plain, steps=steps)) for steps in STEPS),
        ),
        default=measure("teacher", teacher.config.sample),
    )
