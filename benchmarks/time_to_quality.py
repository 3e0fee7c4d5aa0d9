"""Quality against training time: fromnoise and other libraries on the same data, cores and clock.

    python -m benchmarks.time_to_quality --data DIR --out OUT
    python -m benchmarks.time_to_quality --data DIR --out OUT --table

Every contestant trains and samples in a process of its own, one after the other; what lies in OUT already is not made
again, so a change of fromnoise costs fromnoise's runs only (give it another --name).  README.md freezes the protocol.
The second form only judges and tabulates what is there.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers.contest import Plan
from benchmarks.peers.judges import Judge, floor, judged, make_judge
from benchmarks.peers.pictures import read
from benchmarks.peers.registry import NEEDS
from benchmarks.peers.samples import Cached
from fromnoise.checkpoint import replace_text
from fromnoise.errors import FromNoiseError


@dataclass(frozen=True, kw_only=True)
class Point:
    """One set of samples: after `minutes` of training, at `distance` from the training data; `rate` in samples/s.

    `load` is the highest load average at the start of training (or the trial of its pace) and of sampling: about 0 on a
    quiet machine.
    """

    name: str
    ours: bool
    minutes: float
    examples: int
    distance: float
    rate: float
    load: float
    way: str


@dataclass(frozen=True)
class Reach:
    """When a curve reaches a distance: `minutes`, or by then at the latest ("<="), or not yet then (">")."""

    minutes: float
    bound: str = "="

    def __str__(self) -> str:
        return {"=": "", "<=": "at most ", ">": "more than "}[self.bound] + f"{self.minutes:.2g} min"


def reach(curve: Sequence[Point], distance: float) -> Reach:
    """When `curve` comes to `distance` and stays there: between two measured points, straight in log-log.

    Nothing is extrapolated: outside the measured times the answer is a bound.  Where a curve goes up and down, the last
    crossing counts, which is the one that flatters it least.
    """
    points = sorted(curve, key=lambda p: p.minutes)
    above = [i for i, p in enumerate(points) if p.distance > distance]
    if not above:
        return Reach(points[0].minutes, "<=")
    if above[-1] == len(points) - 1:
        return Reach(points[-1].minutes, ">")
    before, after = points[above[-1]], points[above[-1] + 1]
    # A distance of 0 has no logarithm; nothing that is measured lies near this bound.
    high, low, wanted = (math.log(max(d, 1e-12)) for d in (before.distance, after.distance, distance))
    share = (high - wanted) / (high - low)
    return Reach(math.exp((1 - share) * math.log(before.minutes) + share * math.log(after.minutes)))


def collect(out: Path, n: int, judge: Judge) -> list[Point]:
    """Every set of n samples under `out`, judged if it was not yet."""
    points = []
    for path in sorted(out.glob(f"*/samples-*-n{n}.npy")):
        file = Cached(path)
        if not file.exists():
            continue
        before = file.record()
        record = judged(judge, file.images(), before)
        if record != before:
            file.write_record(record)
        training, sampling = record["training"], record["sampling"]
        timed = record.get("pace", training)
        points.append(
            Point(
                name=record["name"],
                ours=record["name"] not in NEEDS,
                minutes=training["seconds"] / 60,
                examples=training["examples"],
                distance=record["judged"][judge.name],
                rate=sampling["rate"],
                load=max(timed["loads"][0], sampling["loads"][0]),
                way=record["way"],
            )
        )
    return sorted(points, key=lambda p: (not p.ours, p.name, p.minutes))


def curves(points: Sequence[Point], *, ours: bool) -> dict[str, list[Point]]:
    names = dict.fromkeys(p.name for p in points if p.ours == ours)
    return {name: [p for p in points if p.name == name] for name in names}


def table(points: Sequence[Point], judge: Judge, n: int, lowest: float | None) -> str:
    """All points, and how much sooner fromnoise comes to where each peer ends, as Markdown."""
    lines = [
        f"| contestant | minutes | pictures seen | {judge.name} | sampling | samples/s | load at start |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    for p in points:
        row = f"| {p.name} | {p.minutes:.1f} | {p.examples:,} | {p.distance:.3f} | {p.way} | {p.rate:.3g} |"
        lines.append(f"{row} {p.load:.1f} |")
    if lowest is not None:
        lines.append(f"| held-out pictures (the floor) | | | {lowest:.3f} | | | |")
    lines.append(f"\n{n} samples a row.")
    for mine in curves(points, ours=True).values():
        lines += [f"\n{comparison(mine, theirs[-1])}" for theirs in curves(points, ours=False).values()]
    return "\n".join(lines) + "\n"


def comparison(mine: Sequence[Point], end: Point) -> str:
    """What `mine` needs to come to a peer's last point, in time and in sampling, as two sentences."""
    when = reach(mine, end.distance)
    factor = {"=": "", "<=": "at least ", ">": "less than "}[when.bound]
    text = (
        f"{mine[0].name} reaches what {end.name} reaches in {end.minutes:.3g} min ({end.distance:.3g}) in {when}: "
        f"{factor}{end.minutes / when.minutes:.3g} times sooner."
    )
    rates = [p.rate for p in mine if p.distance <= end.distance]
    if rates:
        text += f" At that quality or better it draws {max(rates):.3g} samples/s, {end.name} {end.rate:.3g}."
    return text


def plot(points: Sequence[Point], judge: Judge, lowest: float | None, path: Path) -> None:
    """Distance against minutes of training, both logarithmic."""
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    from matplotlib.ticker import (  # pyright: ignore[reportMissingImports]
        FuncFormatter,
        LogLocator,
        NullFormatter,
    )

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for ours in (True, False):
        for name, curve in curves(points, ours=ours).items():
            times, distances = [p.minutes for p in curve], [p.distance for p in curve]
            axes.plot(times, distances, "o-" if ours else "s--", label=name, linewidth=2 if ours else 1.2, markersize=5)
    if lowest is not None:
        axes.axhline(lowest, color="grey", linestyle=":", label="held-out pictures")
    axes.set(xscale="log", yscale="log", xlabel="minutes of training", ylabel=f"{judge.name}, lower is better")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(which="both", alpha=0.2)
    axes.legend()
    figure.savefig(path, dpi=150)


def start(name: str, plan: Plan) -> None:
    """Runs one contestant in its own process, unless all its samples are there."""
    if not plan.wanted(name):
        print(f"{name}: all samples are cached.", flush=True)
        return
    plan.out.mkdir(parents=True, exist_ok=True)
    file = plan.out / f"plan-{name}.json"
    replace_text(file, json.dumps(asdict(plan), default=str, indent=2) + "\n")
    done = subprocess.run([sys.executable, "-m", "benchmarks.peers", name, "--plan", str(file)])
    if done.returncode:
        print(f"{name} stopped with {done.returncode}; the same command goes on with it.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Fashion-MNIST's folder, emoji, or anything that fromnoise reads")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, samples, table and plot")
    parser.add_argument("--size", type=int, help="side in pixels")
    parser.add_argument("--peers", nargs="*", default=list(NEEDS), choices=list(NEEDS), metavar="PEER")
    parser.add_argument("--minutes", nargs="+", type=float, default=[3, 6, 10, 20, 30, 60], help="for peers")
    parser.add_argument("--drawn-at", nargs="+", type=float, help="those of --minutes that are sampled; all by default")
    parser.add_argument("--ours", nargs="*", type=float, default=[1, 2, 3, 5, 10], help="budgets of fromnoise, minutes")
    parser.add_argument("--name", default="fromnoise", help="what to call fromnoise as it now is")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="setting of fromnoise, a.b=value")
    parser.add_argument("-n", type=int, default=5000, help="samples a point")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trial", type=float, default=3.0, help="minutes of each trial of a learning rate")
    parser.add_argument("--compared", type=int, default=500, help="samples by which a peer's ways are compared")
    parser.add_argument(
        "--paced",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="measure each peer's pace so long, then count its steps at it: only the trial needs a quiet machine",
    )
    parser.add_argument("--tiny", action="store_true", help="tiny networks: a trial of the machinery, no benchmark")
    parser.add_argument("--table", action="store_true", help="only judge and tabulate what is there")
    options = parser.parse_args()
    if options.name in NEEDS:
        parser.error(f"--name {options.name} is that of a peer")
    if set(options.drawn_at or []) - set(options.minutes):
        parser.error("--drawn-at names times that are not among --minutes")
    try:
        if not options.table:
            contend(options)
        report(options)
    except FromNoiseError as error:
        parser.exit(2, f"{error}\n")


def contend(options: argparse.Namespace) -> None:
    def plan(minutes: Sequence[float], drawn_at: Sequence[float]) -> Plan:
        return Plan(
            data=options.data,
            out=options.out,
            minutes=tuple(minutes),
            drawn_at=tuple(drawn_at),
            n=options.n,
            size=options.size,
            seed=options.seed,
            trial=options.trial,
            compared=options.compared,
            paced=options.paced,
            tiny=options.tiny,
            settings=tuple(options.settings),
        )

    for name in options.peers:
        start(name, plan(options.minutes, options.drawn_at or options.minutes))
    if options.ours:
        start(options.name, plan(options.ours, options.ours))


def report(options: argparse.Namespace) -> None:
    """Writes table.md, points.json and plot.png for the sets of -n samples."""
    pictures = read(options.data, options.size)
    judge = make_judge(options.data, pictures)
    points = collect(options.out, options.n, judge)
    if not points:
        raise FromNoiseError(
            f"There are no sets of {options.n} samples in {options.out}: leave out --table, or give -n."
        )
    lowest = floor(judge, pictures, options.n)
    text = table(points, judge, options.n, lowest)
    replace_text(options.out / "table.md", text)
    replace_text(options.out / "points.json", json.dumps([asdict(p) for p in points], indent=2) + "\n")
    plot(points, judge, lowest, options.out / "plot.png")
    print(text)


if __name__ == "__main__":
    main()
