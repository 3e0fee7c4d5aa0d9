"""The report is one safe, offline file, whatever part of a run exists."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

from PIL import Image

from fromnoise.report import Player, write_report
from fromnoise.report.curves import Line, _ticks, chart

EVIL = '<script>alert("x")</script>&<img src=//evil.example/a.png>'


class Reader(HTMLParser):
    """Collects tags and every attribute that could load something."""

    LOADS: ClassVar = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in self.LOADS]

    def handle_data(self, data: str) -> None:
        self.text += data


def row(name: str, role: str, frechet: float) -> dict:
    return {
        "name": name, "says": EVIL, "role": role, "frechet": frechet, "kernel": -0.01, "kernel_error": 0.02,
        "precision": 0.4, "recall": 0.5, "coverage": 0.3 if role == "samples" else 0.9,
    }  # fmt: skip


JUDGEMENT = {
    "features": EVIL,
    "count": 96,
    "rows": [
        row(EVIL, "corruption", 8.0),
        row("held", "floor", 1.0),
        row("your samples", "samples", 2.8284),
        row("c", "copies", 0.0),
    ],
    "copies": [
        {
            "space": EVIL, "level": "copies", "verdict": EVIL, "median_ratio": 1.0, "share_below_5pc": 0.05,
            "share_below_1pc": 0.0, "memorised": 0.2, "memorised_held": 0.0,
        },
    ],
    "sentences": [EVIL],
}  # fmt: skip


def metrics(losses: list[float]) -> list[dict]:
    held = [
        {"kind": "held", "step": i, "seconds": 6.0 * i, "loss": loss, "levels": [[0.1, loss], [0.9, 2 * loss]]}
        for i, loss in enumerate(losses)
    ]
    return [
        {"kind": "step", "step": i, "seconds": 0.1 * i, "loss": float("nan") if i == 3 else 1.0} for i in range(900)
    ] + held


def report(tmp_path: Path, **changes) -> str:
    parts = {"title": "t", "facts": [], "notes": [], "metrics": [], "judgement": None, "sheets": []} | changes
    return write_report(tmp_path / "deep" / "report.html", **parts).read_text(encoding="utf-8")


def test_everything_a_user_names_is_escaped_and_nothing_is_loaded(tmp_path):
    picture = Image.new("RGBA", (40, 30), (200, 10, 10, 128))
    text = report(
        tmp_path, title=EVIL, facts=[(EVIL, EVIL)], notes=[EVIL], metrics=metrics([1.0, 0.8, 0.7, 0.69]),
        judgement=JUDGEMENT, sheets=[(EVIL, picture), (EVIL, picture)],
    )  # fmt: skip
    page = Reader(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert page.tags.count("img") == 2 and all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert not re.search(r"url\(|@import|https?:", text)
    assert page.text.count(EVIL) >= 10
    assert page.tags.count("svg") == 3


def test_sounds_and_clips_are_played_by_their_elements_from_within(tmp_path):
    files = [Player(caption=EVIL, media=media, file=b"1") for media in ("audio/wav", "video/webm")]
    text = report(tmp_path, players=files)
    page = Reader(text)
    assert page.loads == ["data:audio/wav;base64,MQ==", "data:video/webm;base64,MQ=="]
    assert "<video controls loop muted playsinline" in text and '<audio controls preload="metadata"' in text
    assert page.text.count(EVIL) == 2 and not {"script", "img"} & set(page.tags)


def test_a_run_without_anything_still_reports(tmp_path):
    page = Reader(report(tmp_path))
    assert "not been judged" in page.text and "svg" not in page.tags
    assert "svg" in Reader(report(tmp_path, metrics=[{"kind": "held", "step": 3, "loss": 0.5}])).tags


def test_the_curve_of_a_student_is_said_to_be_no_measure_of_it_and_gives_no_advice(tmp_path):
    rising = metrics([1.0, 0.8, 0.7, 0.9])
    own, student = (Reader(report(tmp_path, metrics=rising, matched=matched)).text for matched in (False, True))
    assert "Lower is better" in own and "by heart" in own and "Of a student" not in own
    assert "Of a student" in student and "need not fall" in student
    assert "Lower is better; the held-out" not in student and "by heart" not in student


def test_the_ruler_places_samples_by_the_logarithm_of_the_distance(tmp_path):
    text = report(tmp_path, judgement=JUDGEMENT)
    places = re.findall(r'<li class="(\w+)">.*?left: ([\d.]+)%', text, re.S)
    assert places == [("floor", "0.0"), ("samples", "50.0"), ("corruption", "100.0")]


def test_the_advice_follows_the_measurements(tmp_path):
    def advice(losses: list[float], judgement: dict | None = None) -> str:
        return Reader(report(tmp_path, metrics=metrics(losses), judgement=judgement)).text

    assert "longer budget will make" in advice([1.0, 0.9, 0.8, 0.7])
    assert "lowest at step 1" in advice([1.0, 0.5, 0.6, 0.7])
    assert "levelled off" in advice([1.0, 0.5, 0.5, 0.5])
    judged = advice([1.0, 0.5, 0.5, 0.5], JUDGEMENT)
    assert "missing from the samples" in judged and "close to training examples" in judged


def test_charts_thin_long_lines_and_survive_constants():
    wave = Line(name="w", points=[(float(i), (-1.0) ** i) for i in range(10_000)])
    assert chart([wave], title="t", x_label="x", y_label="y").count("L") < 300
    flat = Line(name="f", points=[(2.0, 5.0)], dots=True)
    assert "nan" not in chart([flat], title="t", x_label="x", y_label="y")
    for low, high in ((0.0, 1.0), (-3.2, 7e5), (1e-9, 2e-9), (5.0, 5.0)):
        ticks = _ticks([low, high])
        assert ticks[0] <= low and high <= ticks[-1] and 2 <= len(ticks) <= 8
