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
    report.html            everything above for a reader
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromnoise.types import FromNoiseError


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
    def report(self) -> Path:
        return self.path / "report.html"

    def create(self) -> None:
        """Makes the folder.  Raises FromNoiseError if it holds anything, or cannot be written."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            resume = ", or go on with it by --resume" if self.facts.exists() else ""
            raise FromNoiseError(f"{self.path} exists already: choose another --out{resume}.")
        try:
            self.previews.mkdir(parents=True)
        except OSError as error:
            raise FromNoiseError(
                f"Cannot write the run folder {self.path} ({error.strerror}): choose another --out."
            ) from error

    def write_facts(self, facts: dict[str, Any]) -> None:
        self.facts.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def read_facts(self) -> dict[str, Any]:
        """Raises FromNoiseError where there is no run, or its facts are damaged."""
        try:
            return json.loads(self.facts.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise FromNoiseError(f"{self.path} is not a run folder (no run.json): check the path.") from None
        except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
            raise FromNoiseError(f"{self.facts} cannot be read ({error}): restore it or train again.") from error

    def append_metrics(self, row: dict[str, Any]) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
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
        self.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
