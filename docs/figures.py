"""The pictures of README.md and docs/: `python -m docs.figures [RUN]`, RUN a trained run folder.

samples.png           64 samples of the run, seed 0, none picked
noising.png           emoji on their way to noise
strip.png             three samples of the run on their way from noise: x_t, and below it x0_hat
guidance-samples.png  the same noise at guidance 1, 2 and 4, a class a row; only of a conditional run
guidance.png          the same idea exactly, on a mixture of three classes (`diagrams.py`)
paths.png             what steps and steppers do to a flow that is known exactly (`diagrams.py`)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import fromnoise as fn
from docs import diagrams
from fromnoise.build import build_grid
from fromnoise.codec import Codec
from fromnoise.cond import Column
from fromnoise.data import open_dataset
from fromnoise.generate import configure
from fromnoise.process import add_noise
from fromnoise.release import Release
from fromnoise.rng import Rng
from fromnoise.sample import as_time
from fromnoise.sheet import sheet, strip

PICTURES = Path(__file__).parent / "pictures"
NOISED = ("octopus", "hamburger", "rocket")
TIMES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
WEIGHTS = (1.0, 2.0, 4.0)
HEAD = 20  # pixels


def pictures(run: fn.Run) -> Iterator[tuple[str, Image.Image]]:
    """Every picture with its name; those without a network first, as they need no patience."""
    yield "paths", diagrams.paths()
    yield "guidance", diagrams.guidance()
    emoji = open_dataset("emoji", size=32, columns=[])
    captions = emoji.texts("text", np.arange(len(emoji)))
    yield "noising", noising(emoji.codec, emoji.x0([captions.index(name) for name in NOISED]), TIMES)
    yield "samples", sheet(run.generate(64, seed=0).pictures(), columns=16)
    yield "strip", way(run)
    column = class_column(run.release)
    if column is not None:
        yield "guidance-samples", guided(run, column)


def noising(codec: Codec, x0: Tensor, times: Sequence[float], seed: int = 0) -> Image.Image:
    """A row an example (n, c, *d), a column a time; all of a row is one straight line from x0 to one draw of noise."""
    eps = Rng.of(seed, range(len(x0)), "noising").normal(tuple(x0.shape), like=x0)
    states = [add_noise(x0, eps, as_time(t, x0)) for t in times]
    return labelled(strip([codec.preview(codec.decode(x_t)) for x_t in states]), [f"t = {t:g}" for t in times])


def way(run: fn.Run, n: int = 3, steps: int = 9) -> Image.Image:
    """`Run.strip` with its times."""
    times = build_grid(configure(run.release, steps=steps, sampler="ddim"), run.denoiser.start)(steps)[:-1]
    return labelled(run.strip(n, steps=steps), [f"t = {t:.2f}" for t in times], ["x_t", "x0_hat"] * n)


def class_column(release: Release) -> Column | None:
    """The first condition that is a class."""
    return next((column for column in release.columns if column.kind == "class"), None)


def guided(run: fn.Run, column: Column, classes: int = 6, n: int = 4) -> Image.Image:
    """The most frequent classes as rows; n samples from the same noise at each weight."""
    codes = run.release.rows.values[column.name][run.release.rows.present[column.name]]
    common = torch.bincount(codes, minlength=len(column.labels)).argsort(descending=True, stable=True)[:classes]
    labels = [column.labels[int(code)] for code in common]
    blocks = []
    for weight in WEIGHTS:
        made = [run.generate(n, guidance=weight, where={column.name: label}, seed=0).pictures() for label in labels]
        blocks.append(np.asarray(sheet(np.concatenate(made), columns=n)))
    page = Image.fromarray(np.concatenate(blocks, axis=1))
    return labelled(page, [f"guidance {weight:g}" for weight in WEIGHTS], labels)


def labelled(page: Image.Image, top: Sequence[str], left: Sequence[str] = ()) -> Image.Image:
    """`page` with words above its equally wide columns and before its equally high rows, on paper of its own colour."""
    font = ImageFont.load_default(12)
    indent = max((round(font.getlength(word)) + 16 for word in left), default=0)
    whole = Image.new("RGB", (indent + page.width, HEAD + page.height), page.getpixel((0, 0)))
    whole.paste(page, (indent, HEAD))
    draw = ImageDraw.Draw(whole)
    for i, word in enumerate(top):
        draw.text((indent + (i + 0.5) * page.width / len(top), HEAD / 2), word, diagrams.INK, font, anchor="mm")
    for i, word in enumerate(left):
        draw.text((indent - 8, HEAD + (i + 0.5) * page.height / len(left)), word, diagrams.INK, font, anchor="rm")
    return whole


def newest_demo() -> Path:
    """Raises FromNoiseError where `make demo` has not come to an end yet."""
    done = sorted(Path("runs").glob("demo-*/model.safetensors"))
    if not done:
        raise fn.FromNoiseError("No finished run lies in runs/demo-*: run make demo first, or name a run folder.")
    return done[-1].parent


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the pictures of the documents anew.")
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="by default the newest of runs/demo-*")
    parser.add_argument("--out", type=Path, default=PICTURES, help="by default docs/pictures")
    choices = parser.parse_args()
    try:
        run = fn.load(choices.run or newest_demo())
        choices.out.mkdir(parents=True, exist_ok=True)
        for name, page in pictures(run):
            file = choices.out / f"{name}.png"
            page.save(file, optimize=True)
            print(file)
    except fn.FromNoiseError as error:
        sys.exit(f"docs.figures: {error}")


if __name__ == "__main__":
    main()
