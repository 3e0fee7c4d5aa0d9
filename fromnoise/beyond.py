"""Samples that are more than a model looks at at once: what was asked for, and which way of joining parts does it.

Sounds, pictures and fields are `Extension`s along their last axis (`extend.py`), clips are `Rolling` (`stream.py`).
Whole scans are an `Extension` along all three axes: as long as the scans that patches were cut from, each window asked
for the position at which it lies.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fromnoise.codec import Moving, VolumeCodec
from fromnoise.codec.medium import POSITION
from fromnoise.extend import Extension, Places, extension
from fromnoise.release import Release, parse_value
from fromnoise.stream import Ends, Rolling, rolling
from fromnoise.types import FromNoiseError


def beyond_window(
    release: Release,
    *,
    length: float | None = None,
    beginning: np.ndarray | None = None,
    between: Ends | None = None,
    loop: bool = False,
    whole: bool = False,
) -> Extension | Rolling | None:
    """How samples go beyond the model's window, None where they do not.  Raises FromNoiseError where they cannot."""
    codec, net = release.codec, release.config.net
    longer = length is not None or beginning is not None or between is not None or loop
    if whole and longer:
        raise FromNoiseError("Whole scans have neither lengths nor ends: give --whole alone.")
    if whole:
        return scans(release)
    if not longer:
        return None
    if not isinstance(codec, Moving):
        if between is not None:
            raise FromNoiseError("Filling between is for clips, and of texts by a --prompt with gaps: leave it out.")
        found = extension(codec, length=length, beginning=beginning, loop=loop)
        return replace(found, hidden=untold(release) if beginning is not None else ())
    if 0 not in release.config.loss.time_axes:
        raise FromNoiseError(
            "This model has one noise level for all frames of a clip and cannot go on: train with loss.time_axes=[0]."
        )
    sees = net.frames if net.kind == "unet" else "both"
    found = rolling(codec, sees=sees, length=length, beginning=beginning, between=between, loop=loop)
    known = beginning is not None or between is not None
    return replace(found, hidden=untold(release) if known else maps(release))


def maps(release: Release) -> tuple[str, ...]:
    """The columns that are maps."""
    return tuple(column.name for column in release.columns if column.kind == "map")


def untold(release: Release) -> tuple[str, ...]:
    """The columns that are absent where samples have a beginning or an end: that says what they are, and a class or
    group drawn from anywhere would say otherwise."""
    return tuple(column.name for column in release.columns if "none" not in column.labels)


def scans(release: Release) -> Extension:
    """Whole scans by a model of patches.  Raises FromNoiseError for a model that has none."""
    codec = release.codec
    if not isinstance(codec, VolumeCodec):
        raise FromNoiseError("Whole scans are joined from patches of volumes, which this model has not: no --whole.")
    if codec.along is not None:
        raise FromNoiseError("This model makes slices, which do not join: train with --size 32x32x32 for --whole.")
    if not any(codec.room):
        raise FromNoiseError("Samples of this model are whole scans already: leave out --whole.")
    column = next((column for column in release.columns if column.name == POSITION), None)
    places = None
    if column is not None:
        places = Places(column=POSITION, value=lambda corner: parse_value(column, codec.position(corner), codec)[None])
    hidden = (*maps(release), POSITION) if column is not None else maps(release)
    return Extension(codec=codec.whole, window=codec.block, places=places, hidden=hidden, recipe={"whole": True})
