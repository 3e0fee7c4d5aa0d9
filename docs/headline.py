"""The two headline plots of README.md: how soon a model is good, and how few steps its samples need.

    python -m docs.headline

What is drawn stands in `headline.csv`, measured by the commands that `benchmarks.md` gives beside the same numbers: a
row a point of a series, or a level of its own where there is no x.  Needs matplotlib.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).with_name("headline.csv")
PICTURES = Path(__file__).parent / "pictures"
OURS, THEIRS, GREY = "#c83c28", "#4f86b8", "#828282"
LEVELS = (1, 2, 3, 5, 10, 20, 50, 100, 200)
TITLES = {
    "shipped": "beside diffusers as it ships (200 samples)",
    "tuned": "beside diffusers, tuned (500 samples)",
    "steps": "a student, and its teacher plainly (5,000 samples)",
}

Series = dict[str, list[tuple[float | None, float]]]


def measured() -> dict[str, Series]:
    """{panel: {series: [(x, or None for a level; Fréchet distance)]}}."""
    panels: dict[str, Series] = defaultdict(lambda: defaultdict(list))
    with MEASURED.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            panels[row["panel"]][row["series"]].append((float(row["x"]) if row["x"] else None, float(row["y"])))
    return panels


def panel(ax: Any, name: str, ticks: tuple[int, ...], x_label: str) -> None:
    """A pair of logarithmic axes; what is ours is red, a level grey across."""
    highest = 0.0
    for series, points in measured()[name].items():
        highest = max(highest, *(y for _, y in points))
        if points[0][0] is None:
            ax.axhline(points[0][1], color=GREY, linewidth=1)
            words = f"{series}: {points[0][1]:.3g}"
            across = ax.get_yaxis_transform()
            ax.text(0.98, points[0][1] * 1.02, words, transform=across, ha="right", va="bottom", color=GREY)
            continue
        colour = THEIRS if series.startswith(("diffusers", "its teacher")) else OURS
        ax.plot(*zip(*points, strict=True), "o-", color=colour, label=series)
        for x, y in points:
            ax.annotate(f"{y:.3g}", (x, y), (6, 5), textcoords="offset points", color=colour)
    ax.set(title=TITLES[name], xlabel=x_label, xscale="log", yscale="log", xlim=(ticks[0] / 1.2, ticks[-1] * 1.6))
    ax.set_ylim(top=1.5 * highest)
    ax.set_xticks(ticks, [f"{tick}" for tick in ticks])
    low, high = ax.get_ylim()
    seen = [level for level in LEVELS if low <= level <= high]
    ax.set_yticks(seen, [f"{level}" for level in seen])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.legend(loc="center right" if name != "steps" else "upper right", frameon=False)


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    panel(axes[0], "shipped", (1, 3, 10, 60), "minutes of training")
    panel(axes[1], "tuned", (1, 3, 10, 60), "minutes of training")
    axes[0].set_ylabel("Fréchet distance")
    figure.savefig(PICTURES / "time-to-quality.png", dpi=110)
    figure, ax = pyplot.subplots(figsize=(4.5, 3.6), layout="constrained")
    panel(ax, "steps", (1, 2, 4, 5), "steps from noise to sample")
    ax.set_ylabel("Fréchet distance")
    figure.savefig(PICTURES / "few-steps.png", dpi=110)


if __name__ == "__main__":
    main()
