"""Captions for animated emoji that are named by their code points, so that clips can be made to order.

For each `1f44b-1f3fd.webp` in a folder or below, metadata.csv gets a row: the words of Unicode ("waving hand sign,
medium skin") as its caption, and its split.  Skin tones of one emoji are on one side, or a held-out clip would be a
training clip in another colour.
"""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path
from zlib import crc32

TONES = {0x1F3FB: "light", 0x1F3FC: "medium light", 0x1F3FD: "medium", 0x1F3FE: "medium dark", 0x1F3FF: "dark"}
SILENT = {0x200D, 0x20E3, 0xFE0F}  # they join others, or say how they are drawn
HELD = 0.12


def described(stem: str) -> tuple[str, str] | None:
    """The caption of a file called by code points, and the same without skin tones; None for any other name."""
    try:
        codes = [int(code, 16) for code in stem.split("-")]
        words = [unicodedata.name(chr(code)).lower() for code in codes if code not in SILENT and code not in TONES]
    except (ValueError, OverflowError):
        return None
    tones = [f"{TONES[code]} skin" for code in codes if code in TONES]
    return ", ".join([*words, *dict.fromkeys(tones)]), ", ".join(words)


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """(file, caption, split) of every animation whose name says what it is."""
    found = []
    for file in sorted(folder.rglob("*.webp")):
        said = described(file.stem)
        if said is not None:
            held = crc32(said[1].encode()) < HELD * 2**32
            found.append((file.relative_to(folder).as_posix(), said[0], "val" if held else "train"))
    return found


def captioned(inside: Path, target: Path) -> None:
    """The animations of a package, with such a table."""
    inside.rename(target)
    with open(target / "metadata.csv", "x", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file_name", "text", "split"))
        table.writerows(rows(target))
