"""One offline HTML file about a run: what it makes, what was trained and why, how it went, how good it is, what next.

The file holds everything it shows (pictures as data URIs, charts as inline SVG, its own style) and asks nothing of a
network or a script, so it can be mailed, archived and opened years later.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log, log10
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from fromnoise.evaluate import TextJudgement
from fromnoise.report.curves import Line, chart, legend

PIXEL_ART = 700  # a sheet narrower than this is enlarged with hard pixels
SPECTRA = 3  # figures
TONES = 6  # colours of the ramp from low to high noise, `s0` to `s5` in the style sheet
LOSS = "Lower is better; the held-out line is the one that counts."
MATCHED = (
    "Of a student: once its samples are matched to the teacher's as a whole, the training loss is that of another aim, "
    "and the held-out loss, which sees only where each noise leads, need not fall: how near its samples come to the "
    "data is what counts."
)


@dataclass(frozen=True, kw_only=True)
class Player:
    """A file that browsers play; `media` is its type, as `audio/wav`."""

    caption: str
    media: str
    file: bytes

    @property
    def kind(self) -> str:
        """audio or video, the element that plays it"""
        return self.media.partition("/")[0]

    @property
    def uri(self) -> str:
        return _uri(self.file, self.media)


def write_report(
    path: Path,
    *,
    title: str,
    facts: list[tuple[str, str]],
    notes: list[str],
    metrics: list[dict],
    judgement: dict | None,
    sheets: Sequence[tuple[str, Image.Image]],
    players: Sequence[Player] = (),
    moving: bytes | None = None,
    texts: Sequence[str] = (),
    reading: TextJudgement | None = None,
    matched: bool = False,
) -> Path:
    """Write the report and return its path.

    facts       (name, value) pairs of the run, shown as a table
    notes       sentences that say what was chosen and why
    metrics     rows of `metrics.jsonl`: `{"kind": "step", "step", "seconds", "loss"}` and `{"kind": "held", "step",
                "seconds", "loss", "levels": [[t, loss], ...]}`; either kind may be missing
    judgement   `Judgement.to_json()`, or None where the run has not been judged
    sheets      (caption, picture); the first is shown large at the top
    players     samples, to be played
    moving      an animated PNG of samples that move
    texts       samples, to be read
    reading     how good they are, in place of `judgement`
    matched     whether it is a student whose samples are matched as a whole, which no loss of single examples measures
    """
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = [_picture(caption, image) for caption, image in sheets]
    html = environment.get_template("template.html").render(
        title=title,
        facts=facts,
        notes=notes,
        charts=_charts(metrics, MATCHED if matched else LOSS),
        spectra=_spectra(judgement),
        judgement=judgement,
        ruler=_ruler(judgement["rows"]) if judgement else [],
        hero=pictures[:1],
        sheets=pictures[1:],
        players=players,
        moving=None if moving is None else _uri(moving),
        texts=texts,
        reading=reading,
        advice=_advice([] if matched else metrics, judgement, reading),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(html, encoding="utf-8")
    os.replace(part, path)
    return path


def _picture(caption: str, image: Image.Image) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return {"caption": caption, "uri": _uri(buffer.getvalue()), "width": image.width, "height": image.height,
            "pixels": image.width < PIXEL_ART}  # fmt: skip


def _uri(file: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(file).decode()}"


def _charts(metrics: list[dict], says: str) -> list[dict]:
    """The figures that the metrics allow: loss over time and what it `says`, held-out loss by noise level, and that
    over time."""
    steps = [m for m in metrics if m.get("kind") == "step" and "loss" in m]
    held = [m for m in metrics if m.get("kind") == "held" and "loss" in m]
    levels = [m for m in held if m.get("levels")]
    clock, x_label = _clock(metrics)
    figures = []
    if steps or held:
        lines = [
            Line(name="training loss", points=[(clock(m), m["loss"]) for m in steps], tone=5, faint=True),
            Line(name="held-out loss", points=[(clock(m), m["loss"]) for m in held], tone=0, dots=True),
        ]
        figures.append(("Loss over time", says, lines, x_label))
    if levels:
        moments = dict.fromkeys((0, len(levels) // 4, len(levels) - 1))
        lines = [
            Line(
                name=f"step {levels[i]['step']:,}", points=[tuple(p) for p in levels[i]["levels"]], tone=tone, dots=True
            )
            for i, tone in zip(moments, (5, 3, 0), strict=False)
        ]
        says = "How hard each noise level is: 0 is data, 1 is pure noise."
        figures.append(("Held-out loss by noise level", says, lines, "noise level t"))
    if len(levels) > 1:
        says = "Low noise is texture, high noise is composition: see which still improves."
        figures.append(("Each level over time", says, _by_level(levels, clock), x_label))
    return [_figure(name, says, lines, label, "loss") for name, says, lines, label in figures]


def _figure(name: str, says: str, lines: list[Line], x_label: str, y_label: str) -> dict:
    return {"title": name, "says": says, "svg": chart(lines, title=name, x_label=x_label, y_label=y_label),
            "legend": legend([line for line in lines if line.points])}  # fmt: skip


def _spectra(judgement: dict | None) -> list[dict]:
    """A figure for each of the first quantities that were measured."""
    figures = []
    for quantity in (judgement or {}).get("physics", ())[:SPECTRA]:
        bands = [[log10(value) for value in band] for band in quantity["spectrum"] if min(band) > 0]
        names = (("samples", 0, False), ("held-out data", 3, False), ("training data", 5, True))
        lines = [
            Line(name=name, points=[(band[0], band[k]) for band in bands], tone=tone, dots=not faint, faint=faint)
            for k, (name, tone, faint) in enumerate(names, 1)
        ]
        says = "Power of waves from long to short, both as powers of ten; samples should lie on the data."
        figures.append(
            _figure(f"Spectrum of channel {quantity['channel']}", says, lines, "log wavenumber", "log power")
        )
    return figures


def _by_level(levels: list[dict], clock) -> list[Line]:
    """One line per noise level, at most `TONES` of them, evenly chosen, over time."""
    count = min(len(m["levels"]) for m in levels)
    shown = sorted({round(i * (count - 1) / (TONES - 1)) for i in range(TONES)})
    return [
        Line(
            name=f"t = {levels[-1]['levels'][i][0]:.2g}",
            points=[(clock(m), m["levels"][i][1]) for m in levels],
            tone=round(i * (TONES - 1) / max(1, count - 1)),
        )
        for i in shown
    ]


def _clock(metrics: list[dict]):
    """How far a row stands along the run, and what that axis is called: minutes where known, else steps."""
    if metrics and all("seconds" in m for m in metrics):
        return (lambda m: m["seconds"] / 60), "minutes"
    return (lambda m: m.get("step", 0)), "steps"


def _ruler(rows: list[dict]) -> list[dict]:
    """The rows from near to far, each with its place (0 to 100) on a logarithmic scale; copies are left out."""
    shown = sorted((r for r in rows if r["role"] != "copies"), key=lambda r: r["frechet"])
    smallest = min((r["frechet"] for r in shown if r["frechet"] > 0), default=1.0)
    values = [log(max(r["frechet"], smallest)) for r in shown]
    low, span = min(values), (max(values) - min(values)) or 1.0
    return [r | {"place": round(100 * (v - low) / span, 2)} for r, v in zip(shown, values, strict=True)]


def _advice(metrics: list[dict], judgement: dict | None, reading: TextJudgement | None) -> list[str]:
    """What to do next, from what was measured."""
    on_samples = _advice_on_samples(judgement) if reading is None else _advice_on_texts(reading)
    return [*_advice_on_training(metrics), *on_samples] or [
        "Nothing measured asks for a change. Look at more samples before trusting any number."
    ]


def _advice_on_training(metrics: list[dict]) -> Sequence[str]:
    held = [m for m in metrics if m.get("kind") == "held" and isfinite(m.get("loss", float("nan")))]
    if len(held) < 4:
        return ()
    best = min(held, key=lambda m: m["loss"])
    last, before = held[-1]["loss"], held[-1 - max(1, len(held) // 4)]["loss"]
    if last > 1.03 * best["loss"]:
        return (
            f"The held-out loss was lowest at step {best['step']:,} and has risen since, so the network began to learn "
            "its examples by heart. More data, a smaller network or a shorter budget help; the best state was kept.",
        )
    if last < 0.98 * before:
        return ("The held-out loss was still falling at the end: a longer budget will make better samples.",)
    return ("The held-out loss has levelled off: a larger network or more data will do more than a longer budget.",)


def _advice_on_texts(reading: TextJudgement) -> list[str]:
    return ["Samples repeat what training holds. Compare them with it, and do not publish before."] * reading.copies


def _advice_on_samples(judgement: dict | None) -> list[str]:
    if judgement is None:
        return ["Judge the samples against held-out data: fromnoise evaluate RUN"]
    ours, floor = (next(r for r in judgement["rows"] if r["role"] == role) for role in ("samples", "floor"))
    advice = []
    if any(c["level"] == "copies" for c in judgement["copies"]):
        advice.append(
            "Single samples are close to training examples. Look at the neighbours, and do not publish before."
        )
    for row in judgement.get("obedience", ()):
        if row["samples"] < 0.6 * row["held"] if row["met"] else row["samples"] > 3 * row["held"]:
            advice.append(
                f"Samples often miss the {row['column']} that they were asked for: raise the guidance, or train longer."
            )
    if ours["coverage"] < 0.8 * floor["coverage"]:
        advice.append("Parts of the data are missing from the samples: train longer, or lower the guidance.")
    if ours["precision"] < 0.8 * floor["precision"]:
        advice.append(
            "Many samples do not look like the data: take more sampling steps, raise the guidance or train on."
        )
    return advice
