"""Whatever lies in a folder: what is wrong is said in a sentence with a remedy, and the rest of the set trains."""

from __future__ import annotations

import ast
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from datafiles import fill
from test_sound import TINY, hits, tone, wav
from typer.testing import CliRunner

import fromnoise as fn
from fromnoise.caption import LONGEST
from fromnoise.cli import app

VERBS = {"is", "gives", "holds", "has", "says", "cannot", "reaches", "looks", "decodes", "does", "masks"}


def test_every_reason_goes_on_from_the_name_of_its_file():
    """So that the two are a sentence wherever they meet; what is said of a whole set begins with "it"."""
    for path in sorted(Path(fn.__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Unreadable":
                (said,) = call.args
                first = said.values[0] if isinstance(said, ast.JoinedStr) else said
                if isinstance(first, ast.Constant):
                    assert str(first.value).split()[0] in {*VERBS, "it"}, f"{path.name}: {first.value}"


def table(names: list[str]) -> bytes:
    """Captions and kinds of sounds in a Latin-1 table: two empty, one of 10,000 words, a kind of one example."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["file_name", "kind", "caption"])
    for i, name in enumerate(names):
        caption = "" if i < 2 else "très long " * 5_000 if i == 2 else f"un bruit très {'court' if i % 2 else 'sec'}"
        writer.writerow([name, "lonely" if i == 3 else name.split("_")[0], caption])
    return out.getvalue().encode("latin-1")


def bad_sounds() -> dict[str, bytes]:
    mp3 = wav(tone(1.0, 22050), 22050, "MP3")
    return {
        "cut.mp3": mp3[: len(mp3) // 2],
        "silent.wav": wav(np.zeros((4000, 1))),
        "point.wav": wav(np.ones((1, 1))),
        "empty.wav": b"",
    }


@pytest.fixture
def studio(tmp_path: Path) -> Path:
    good = hits(60) | {f"kick_fast_{i}.wav": wav(tone(0.1, 16000), 16000) for i in range(4)}
    return fill(tmp_path / "studio", good | bad_sounds() | {"sounds.csv": table(sorted(good))})


def test_a_folder_of_sounds_with_all_that_goes_wrong_trains(studio, tmp_path):
    before = {p.name: p.read_bytes() for p in studio.iterdir()}
    run = tmp_path / "run"
    settings = [word for setting in TINY for word in ("--set", setting)]
    done = CliRunner().invoke(
        app,
        [
            "train",
            str(studio),
            "--out",
            str(run),
            "--steps",
            "2",
            "--columns",
            "kind,caption",
            "--no-report",
            *settings,
        ],
    )
    assert done.exit_code == 0, done.output
    said = " ".join(json.loads((run / "run.json").read_text())["notes"])
    for sentence in (
        "4 files are skipped",
        "4 are resampled to 8 kHz",
        "sounds.csv is read as Windows-1252",
        "1 label with a single example (lonely)",
        "caption: 2 of 64 examples have no known word",
        f"of which the first {LONGEST} count",
    ):
        assert sentence in said, said
    assert {p.name: p.read_bytes() for p in studio.iterdir()} == before, "nothing of the user's is touched"


def test_doctor_names_each_bad_file_and_its_remedy(studio):
    done = CliRunner().invoke(app, ["doctor", str(studio)])
    words = " ".join(done.output.split())
    for name, remedy in (
        ("cut.mp3", "again"),
        ("silent.wav", "silent"),
        ("point.wav", "1 sample"),
        ("empty.wav", "copy"),
    ):
        assert name in words and remedy in words[words.index(name) :][:200], words


@pytest.mark.parametrize("rate", [8000, 16000])
def test_of_mixed_rates_the_most_common_is_the_sets(rate, tmp_path):
    other = 24000 - rate
    files = hits(6, rate) | {f"odd_{name}": data for name, data in hits(2, other).items()}
    done = CliRunner().invoke(app, ["doctor", str(fill(tmp_path / "set", files))])
    assert f"2 are resampled to {rate // 1000} kHz" in " ".join(done.output.split())
