"""Captions for animated emoji that are named by their code points, so that clips can be made to order.

    python examples/animated_emoji.py FOLDER
    fromnoise train FOLDER --out runs/moving --budget 20m
    fromnoise sample runs/moving -n 16 --prompt "red heart"

For each `1f44b-1f3fd.webp` in FOLDER or below it writes a row of FOLDER/metadata.csv: the words of Unicode ("waving
hand sign, medium skin") as its caption, and its split.  Skin tones of one emoji are on one side, or a held-out clip
would be a training clip in another colour.
"""

from __future__ import annotations

import csv
import sys
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


def main(folder: Path) -> None:
    with open(folder / "metadata.csv", "x", encoding="utf-8", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(("file_name", "text", "split"))
        writer.writerows(rows(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
