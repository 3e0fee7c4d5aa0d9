"""Line charts as inline SVG: sharp on paper and phone, coloured by the page's own style sheet, no script.

Colours are classes (`s0`, `s1`, ...), so one chart serves the light and the dark scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10

from markupsafe import Markup, escape

WIDTH, HEIGHT = 320, 220  # about the width of a phone and of a third of the page, so that text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 34
MOST_POINTS = 240


@dataclass(frozen=True, kw_only=True)
class Line:
    """A named line through (x, y); `tone` picks the colour, `dots` marks its points, `faint` sends it back."""

    name: str
    points: Sequence[tuple[float, float]]
    tone: int = 0
    dots: bool = False
    faint: bool = False


def chart(lines: Sequence[Line], *, title: str, x_label: str, y_label: str) -> Markup:
    """An SVG figure of `lines`; points that are not finite are left out, long lines averaged in buckets."""
    drawn = [(line, _thin(line.points)) for line in lines]
    points = [p for _, part in drawn for p in part]
    if not points:
        return Markup("")
    x_ticks, y_ticks = (_ticks([p[axis] for p in points]) for axis in (0, 1))
    x0, x1 = min(p[0] for p in points), max(p[0] for p in points)
    y0, y1 = y_ticks[0], y_ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x0) / ((x1 - x0) or 1) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y0) / ((y1 - y0) or 1) * (HEIGHT - TOP - BOTTOM),
        )

    parts = [
        Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>').format(
            WIDTH, HEIGHT, title, title
        ),
        *(_y_tick(at(x0, y)[1], y) for y in y_ticks),
        *(_x_tick(at(x, y0)[0], x) for x in x_ticks if x0 <= x <= x1),
        Markup('<text class="label" x="{}" y="{}" text-anchor="end">{}</text>').format(
            WIDTH - RIGHT, HEIGHT - 3, x_label
        ),
        Markup('<text class="label" x="{}" y="{}" text-anchor="start">{}</text>').format(LEFT + 5, TOP + 9, y_label),
        *(_path(line, [at(*p) for p in part]) for line, part in drawn if part),
        Markup("</svg>"),
    ]
    return Markup("").join(parts)


def _path(line: Line, points: list[tuple[float, float]]) -> Markup:
    way = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    style = f"s{line.tone}" + (" faint" if line.faint else "")
    out = Markup('<path class="line {}" d="{}"><title>{}</title></path>').format(style, way, line.name)
    if line.dots or len(points) == 1:
        dots = (Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(style, *p) for p in points)
        out += Markup("").join(dots)
    return out


def _y_tick(y: float, value: float) -> Markup:
    grid = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH - RIGHT, y, y)
    return grid + Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 6, y + 4, _number(value))


def _x_tick(x: float, value: float) -> Markup:
    return Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
        x, HEIGHT - BOTTOM + 15, _number(value)
    )


def legend(lines: Sequence[Line]) -> Markup:
    """The names of `lines` with their colours, as HTML that wraps where the page is narrow."""
    items = (
        Markup('<span><i class="swatch s{}{}"></i>{}</span>').format(
            line.tone, " faint" if line.faint else "", escape(line.name)
        )
        for line in lines
    )
    return Markup('<p class="legend">') + Markup("").join(items) + Markup("</p>")


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points: the means of equal buckets, so that a long noisy line shows its course."""
    finite = [(x, y) for x, y in points if isfinite(x) and isfinite(y)]
    size = -(-len(finite) // MOST_POINTS)
    buckets = [finite[i : i + size] for i in range(0, len(finite), size)] if size else []
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in buckets]


def _ticks(values: Sequence[float], aim: int = 5) -> list[float]:
    """Round numbers that enclose the values: steps of 1, 2 or 5 times a power of ten."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** floor(log10(span / aim))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= aim)
    first = floor(low / step)
    last = -floor(-high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _number(value: float) -> str:
    return f"{round(value, 10):,.4g}" if abs(value) < 10_000 else f"{value / 1000:,.4g}k"
