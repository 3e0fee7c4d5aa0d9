"""How well numbers are obeyed: discs whose radius and place follow two columns, and eight values of each to learn from.

    python -m benchmarks.obey [--steps 3000] [--out runs/obey]

Pictures of known factors are drawn, a model is trained on them, and what it makes is measured exactly: a disc's area
gives its radius, its centre of mass its place.  Errors are shares of the range in training, at values that were seen,
in between, and half a standard deviation beyond.  Whether each condition is obeyed whatever the other says is the
correlation of its error with what was asked of the other.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

import fromnoise as fn
from fromnoise.sheet import save_sheet, sheet

SIDE, FINE = 24, 8  # pixels, and how many points of each side of a pixel are drawn
RANGES = {"radius": (3.0, 8.0), "place": (9.0, 15.0)}
SEEN = 8  # values of each
INK, PAPER = 40, 220


def draw(radius: float, place: float, height: float) -> np.ndarray:
    """A dark disc at (place, height) in pixels, antialiased: (SIDE, SIDE) uint8."""
    points = (np.arange(SIDE * FINE) + 0.5) / FINE
    inside = (points[None] - place) ** 2 + (points[:, None] - height) ** 2 <= radius**2
    share = inside.reshape(SIDE, FINE, SIDE, FINE).mean((1, 3))
    return np.rint(PAPER + (INK - PAPER) * share).astype(np.uint8)


def measure(samples: np.ndarray) -> dict[str, np.ndarray]:
    """The radius and place of the dark in each picture (n, SIDE, SIDE, 1)."""
    share = ((PAPER - samples[..., 0].astype(np.float64)) / (PAPER - INK)).clip(0)
    share[share < 0.05] = 0  # the last grain of noise on the paper
    area = share.sum((1, 2))
    centre = (share.sum(1) * (np.arange(SIDE) + 0.5)).sum(1) / area.clip(1e-9)
    return {"radius": np.sqrt(area / np.pi), "place": centre}


def seen(name: str) -> np.ndarray:
    return np.linspace(*RANGES[name], SEEN)


def write(folder: Path, n: int, rng: np.random.Generator) -> None:
    """n pictures and metadata.csv."""
    (folder / "images").mkdir(parents=True)
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", *RANGES])
        for i in range(n):
            radius, place = (float(rng.choice(seen(name))) for name in RANGES)
            height = rng.uniform(9, 15)
            Image.fromarray(draw(radius, place, height)).save(folder / "images" / f"{i:05}.png")
            table.writerow([f"images/{i:05}.png", f"{radius:.4f}", f"{place:.4f}"])


def asked(run: fn.Run, values: Mapping[str, np.ndarray], each: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(asked, told), each (n, 2), and the pictures: every pair of the values, `each` times."""
    wanted, told, pictures = [], [], []
    for radius in values["radius"]:
        for place in values["place"]:
            samples = run.sample(each, where={"radius": radius, "place": place}, seed=len(wanted))
            wanted += [(radius, place)] * each
            told.append(np.stack(list(measure(samples).values()), 1))
            pictures.append(samples[:1])
    return np.array(wanted), np.concatenate(told), np.concatenate(pictures)


def errors(wanted: np.ndarray, told: np.ndarray) -> np.ndarray:
    """The mean error of each condition in units of its range."""
    return np.abs(told - wanted).mean(0) / [high - low for low, high in RANGES.values()]


def leaks(wanted: np.ndarray, told: np.ndarray) -> list[float]:
    """The correlation of each error with what was asked of the other: 0 where the two are obeyed independently."""
    off = told - wanted
    return [float(np.corrcoef(off[:, i], wanted[:, 1 - i])[0, 1]) for i in (0, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--each", type=int, default=4, help="samples of each pair of values")
    parser.add_argument("--out", type=Path, default=None, help="keep the run, and a sheet, here")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "discs", args.examples, np.random.default_rng(0))
        run = fn.train(
            Path(folder) / "discs",
            out=args.out or Path(folder) / "run",
            steps=args.steps,
            columns=[f"{name}:number" for name in RANGES],
            settings=args.set,
            watch=lambda event: print(f"  {event}") if isinstance(event, str) else None,
        )
        halves = {name: (seen(name)[1:] + seen(name)[:-1]) / 2 for name in RANGES}
        beyond: dict[str, np.ndarray] = {}
        for name in RANGES:
            step = seen(name).std() / 2
            beyond[name] = np.array([seen(name)[0] - step, seen(name)[-1] + step])
        print(f"{'':10}{'radius':>10}{'place':>10}   error in % of the range; correlation with the other condition")
        for what, values in (("seen", {name: seen(name) for name in RANGES}), ("between", halves), ("beyond", beyond)):
            wanted, told, pictures = asked(run, values, args.each)
            off, other = errors(wanted, told), leaks(wanted, told)
            print(f"{what:10}{off[0]:10.1%}{off[1]:10.1%}   {other[0]:+.2f} {other[1]:+.2f}", flush=True)
            if args.out is not None:
                page = sheet(pictures[..., 0][..., None].repeat(3, -1), columns=len(values["place"]))
                save_sheet(page, args.out / f"{what}.png")


if __name__ == "__main__":
    main()
