"""Texts drawn as pages, so that sheets and reports show text as they show pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN, SIZE, LEADING = 320, 8, 12, 16
LONGEST = 24  # lines
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def pages(texts: Sequence[str]) -> np.ndarray:
    """(n, h, w, 3) uint8, RGB, as high as the longest text wants, but at most `LONGEST` lines; then "…" is the last."""
    font = ImageFont.load_default(SIZE)
    broken = [_lines(text, font) for text in texts]
    height = 2 * MARGIN + LEADING * max(map(len, broken))
    out = np.empty((len(texts), height, WIDTH, 3), np.uint8)
    for place, lines in zip(out, broken, strict=True):
        page = Image.new("RGB", (WIDTH, height), _PAPER)
        draw = ImageDraw.Draw(page)
        for i, line in enumerate(lines):
            draw.text((MARGIN, MARGIN + i * LEADING), line, _INK, font)
        place[:] = np.asarray(page)
    return out


def _lines(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """At least one line; lines end at spaces where they can, and inside a word that is wider than the page."""
    lines: list[str] = []
    for paragraph in text.expandtabs(4).splitlines() or [""]:
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= WIDTH - 2 * MARGIN:
                line = longer
                continue
            if line:
                lines.append(line)
            *full, line = _pieces(word, font)
            lines += full
        lines.append(line)
        if len(lines) > LONGEST:
            return [*lines[: LONGEST - 1], "…"]
    return lines


def _pieces(word: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """A word in parts that fit the page."""
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > WIDTH - 2 * MARGIN:
            pieces.append("")
        pieces[-1] += character
    return pieces
