"""What users write on the command line, read."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fromnoise.errors import FromNoiseError

SHORTEST = 0.02  # seconds of sound, the only size that is no whole number


def parse_size(text: str | None) -> int | float | tuple[int, ...] | None:
    """32, or 48x64 (height by width), or 16x48x64 (frames, or depth, before), or seconds such as 1.5."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if all(p.isdigit() and int(p) > 0 for p in parts) and len(parts) <= 3:
        return int(parts[0]) if len(parts) == 1 else tuple(map(int, parts))
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not abs(seconds) < float("inf"):
        raise FromNoiseError(
            f"Cannot read the size {text!r}: write a side such as 32, HEIGHTxWIDTH such as 48x64, or seconds, 1.5."
        )
    if seconds < SHORTEST:
        raise FromNoiseError(
            f"A size of {text} is too small: give 1 or more pixels, 2 or more symbols of text, or {SHORTEST:g} or more "
            "seconds of sound."
        )
    return seconds


def parse_columns(text: str | None) -> list[str] | None:
    """a,b; "none" is no column at all, None the proposal."""
    if text is None:
        return None
    return [] if text == "none" else [name.strip() for name in text.split(",") if name.strip()]


def parse_ends(
    beginning: Path | None, between: tuple[Path, Path] | None, end: Path | None
) -> tuple[Path | None, tuple[Path | None, Path] | None]:
    """(what samples go on from, what they lead from and to): an end with a beginning is what lies between."""
    if end is None:
        return beginning, between
    if between is not None:
        raise FromNoiseError("What --between names second is an end already: leave out --end.")
    return None, (beginning, end)


def parse_where(texts: list[str] | None, columns: Collection[str] = ()) -> dict[str, str]:
    """{column: value} of texts COLUMN=VALUE; the column is the longest of `columns` that there is before an "="."""
    pairs = [_pair(text, columns) for text in texts or ()]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise FromNoiseError(f"Cannot read --where {name + equals + value!r}: write COLUMN=VALUE.")
        if sum(name == other for other, _, _ in pairs) > 1:
            raise FromNoiseError(f"Say --where {name}=… once: a sample has one value of it.")
    return {name: value for name, _, value in pairs}


def _pair(text: str, columns: Collection[str]) -> tuple[str, str, str]:
    name = max((column for column in columns if text.startswith(f"{column}=")), key=len, default="")
    return (name, "=", text[len(name) + 1 :]) if name else text.partition("=")
