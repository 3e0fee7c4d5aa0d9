"""The run folder: the one place that knows what lies where.

run.json               settings, data, environment, what was chosen and why
model.safetensors      the release
checkpoints/           last, best
ema/                   snapshots of the averages
metrics.jsonl          a line a step or held-out evaluation
previews/              sheets by step
split.jsonl            which example lies in which split
features.safetensors   learned on the training split, for the judgement
evaluation.json        the judgement
few-steps.json         a student's quality beside its teacher's, in the student's folder
distilled/             the student, a run folder of its own
report.html            everything above for a reader
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.checkpoint import replace_text, writing
from fromnoise.errors import FromNoiseError

# What a start that was killed before run.json leaves behind.
BEGUN = {".run.json.tmp", ".split.jsonl.tmp", "split.jsonl"}


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def facts(self) -> Path:
        return self.path / "run.json"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.safetensors"

    @property
    def ema(self) -> Path:
        return self.path / "ema"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    @property
    def split(self) -> Path:
        return self.path / "split.jsonl"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def few_steps(self) -> Path:
        return self.path / "few-steps.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes the folder, and removes it again where what follows fails before anything was written to it.

        Raises FromNoiseError if the folder cannot be made, or holds anything of the user's or a run.
        """
        self._claim()
        try:
            yield
        except BaseException:
            if not any(self.path.iterdir()):
                self.path.rmdir()
            raise

    def _claim(self) -> None:
        try:
            taken = self.path.exists() and (not self.path.is_dir() or {p.name for p in self.path.iterdir()} - BEGUN)
            if not taken:
                self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FromNoiseError(
                f"Cannot write the run folder {self.path} ({error.strerror}): choose another --out."
            ) from error
        if taken:
            resume = ", or go on with it by --resume" if self.facts.exists() else ""
            raise FromNoiseError(f"{self.path} exists already: choose another --out{resume}.")

    def forget(self) -> None:
        """Removes what says that a run was begun: of one that came to no checkpoint, so that another may begin."""
        for file in (self.facts, self.metrics):
            file.unlink(missing_ok=True)

    def create(self, facts: dict[str, Any], split: Iterable[tuple[str, str]]) -> None:
        """Writes split.jsonl, of (split, name), and then run.json, which makes the folder a run."""
        quoted = json.JSONEncoder(ensure_ascii=False).encode
        replace_text(self.split, (f"[{quoted(part)}, {quoted(name)}]\n" for part, name in split))
        self.write_facts(facts)

    def write_facts(self, facts: dict[str, Any]) -> None:
        replace_text(self.facts, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")

    def read_facts(self) -> dict[str, Any]:
        """Raises FromNoiseError where there is no run, or its facts are damaged."""
        try:
            facts = json.loads(self.facts.read_text(encoding="utf-8"))
            if not isinstance(facts, dict) or not {"config", "data", "environment", "notes"} <= facts.keys():
                raise FromNoiseError(f"{self.facts} is not what a run wrote: restore it or train again.")
            return facts
        except (FileNotFoundError, NotADirectoryError):
            raise FromNoiseError(f"{self.path} is not a run folder (no run.json): check the path.") from None
        except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
            raise FromNoiseError(f"{self.facts} cannot be read ({error}): restore it or train again.") from error

    def append_metrics(self, row: dict[str, Any]) -> None:
        with writing(self.metrics), open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All rows; a last line that a kill cut short is left out."""
        rows = []
        if self.metrics.exists():
            for line in self.metrics.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:
                    continue
        return rows

    def drop_metrics_after(self, step: int) -> None:
        """Forgets what a killed run wrote after the checkpoint that it is resumed from."""
        rows = [row for row in self.read_metrics() if row["step"] <= step]
        replace_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))


def default_folder(data: str | Path | np.ndarray, now: float) -> Path:
    """runs/<data>-<time>, never one that exists."""
    name = "array" if isinstance(data, np.ndarray) else re.sub(r"\W+", "-", Path(data).stem).strip("-") or "run"
    base = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}"
    path, k = base, 1
    while path.exists():
        path, k = base.with_name(f"{base.name}-{k}"), k + 1
    return path
