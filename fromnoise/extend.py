"""Samples beyond a model's window, beginnings gone on with, and loops: denoiser → denoiser along the last axes.

Whatever is long is looked at through windows of the size L that the model was trained on, half overlapping along each
axis; window k begins at a_k.  All see the same x_t, and of x0 at place i it is believed

    x0_hat[i] = Σ_k w[i - a_k]·x0_hat_k[i - a_k] / Σ_k w[i - a_k],    w[j] = Π_axes sin²(π·(j + ½)/L),

the posterior nearest to those of all windows (Bar-Tal et al. 2023, MultiDiffusion), where that window has the most say
which sees as far to one side as to the other.  Each may be told where it lies.  In a loop windows go on at the start,
so that no place is an end.  What is known is pinned (`observe.py`).  The sampling loop knows nothing of all this.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fromnoise.codec import Codec, Extensible, Moving
from fromnoise.cond import Cond
from fromnoise.data.blocks import starts as spread
from fromnoise.denoise import Denoiser
from fromnoise.errors import Advice
from fromnoise.observe import Pinned
from fromnoise.posterior import Mean
from fromnoise.types import Data, FromNoiseError, Shape, Time


@dataclass(frozen=True, kw_only=True)
class Places:
    """A column that tells windows where they lie, and its value (1, k) for one that begins at a corner of the whole."""

    column: str
    value: Callable[[Shape], Tensor]


class Windowed:
    """A denoiser of any extent along the last axes, by one of windows of `size`, a number an axis.

    `loop` joins the end of the last axis to its start; `places` tells each window where it lies.
    """

    def __init__(self, denoise: Denoiser, size: Shape, *, loop: bool = False, places: Places | None = None) -> None:
        self.denoise, self.size, self.loop, self.places = denoise, size, loop, places
        self.process = denoise.process

    def __call__(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Mean:
        k = len(self.size)
        whole = tuple(x_t.shape[-k:])
        assert all(n >= size for n, size in zip(whole, self.size, strict=True)), (whole, self.size)
        assert all(time is None or set(time.shape[-k:]) == {1} for time in (t, s)), "windows have one noise level"
        weight, loops = x_t.new_ones(()), [False] * (k - 1) + [self.loop]
        for size in self.size:
            place = torch.arange(size, device=x_t.device, dtype=x_t.dtype)
            weight = weight[..., None] * torch.sin(math.pi * (place + 0.5) / size).square()
        belief, share = torch.zeros_like(x_t), x_t.new_zeros(whole)
        # One window after the other: what is long takes the memory of a batch of short ones.
        for corner in product(*map(starts, whole, self.size, loops)):
            lines = [
                (torch.arange(size, device=x_t.device) + start) % n
                for start, size, n in zip(corner, self.size, whole, strict=True)
            ]
            seen = (..., *torch.meshgrid(*lines, indexing="ij"))
            told = cond.within(seen, whole)
            if self.places is not None:
                told = told.having(self.places.column, self.places.value(corner))
            post = self.denoise(x_t[seen], t, told, s)
            assert isinstance(post, Mean), "windows are of continuous data"
            belief[seen] += weight * post.x0
            share[seen] += weight
        return Mean(belief / share)


def starts(n: int, size: int, loop: bool = False) -> list[int]:
    """Where windows of `size` begin in `n` places: as few as overlap by half, evenly spread; in a loop two or more."""
    if not loop:
        return spread(n, size)
    count = math.ceil(2 * n / size)
    return [k * n // count for k in range(count)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Extension:
    """How samples go beyond the window: their codec, the x0 that they begin with, and whether they are loops.

    `places` tells windows where they lie; `hidden` columns are absent unless they are asked for; `recipe` is what makes
    the samples again.
    """

    codec: Codec
    window: Shape
    known: Float[Tensor, "1 c *d"] | None = None
    loop: bool = False
    places: Places | None = None
    hidden: tuple[str, ...] = ()
    recipe: dict[str, object]

    def __call__(self, denoise: Denoiser, x: Data) -> Denoiser:
        """A denoiser of windows as one of data like `x`, certain of the beginning."""
        long = Windowed(denoise, self.window, loop=self.loop, places=self.places)
        if self.known is None:
            return long
        y = torch.zeros_like(x)
        y[..., : self.known.shape[-1]] = self.known.to(x)
        mask = torch.arange(x.shape[-1], device=x.device) < self.known.shape[-1]
        return Pinned(long, y, mask.expand(x.shape))

    def asked(self, where: Mapping[str, str | float]) -> dict[str, str | float]:
        """The conditions of the whole: `where`, and nothing of where windows lie.

        Raises FromNoiseError where that was asked for.
        """
        if self.places is not None and self.places.column in where:
            name = self.places.column
            raise FromNoiseError(f"A whole has parts at every {name}: leave out --where {name}.")
        return dict.fromkeys(self.hidden, "none") | dict(where)


def extension(
    codec: Codec, *, length: float | None = None, beginning: np.ndarray | None = None, loop: bool = False
) -> Extension:
    """Samples of `length` (seconds of sound, pixels of width) that go on from a raw `beginning`, or are loops.

    Without a length a beginning is followed by as much as one window, and a loop is as long as one.  Raises
    FromNoiseError where the medium has no long axis, or the length has no room.
    """
    along = extensible(codec)
    if loop and beginning is not None:
        raise FromNoiseError("A loop has no beginning: leave out either --loop or --continue.")
    window, known = along.shape[-1], None
    if beginning is not None:
        known = along.beginning(beginning)
        length = along.extent(known.shape[-1] + window) if length is None else length
    asked, length = length, along.extent(window) if length is None else _positive(length, along.unit)
    if length < along.extent(window) * 0.999:
        raise FromNoiseError(
            f"The model was trained on windows of {along.extent(window):g} {along.unit}: ask for a length of as much "
            f"or more, not {length:g}, and cut what it makes."
        )
    long = along.extended(length, "loop" if loop else "free" if known is None else "continued")
    if known is not None and known.shape[-1] >= long.shape[-1]:
        raise FromNoiseError(f"The beginning alone fills {length:g} {along.unit}: ask for a greater length.")
    made = long.extent(long.shape[-1])
    if asked is not None and not math.isclose(made, asked, rel_tol=1e-6):
        step = along.extent(2) - along.extent(1)
        said = f"Samples are {made:.6g} {along.unit} long, not {asked:g}: lengths are counted in steps of {step:.3g}."
        warnings.warn(Advice(said), stacklevel=2)
    recipe: dict[str, object] = {"length": length, "loop": loop}
    if beginning is not None:
        recipe["beginning"] = blake2b(np.ascontiguousarray(beginning).data, digest_size=8).hexdigest()
    return Extension(codec=long, window=(window,), known=known, loop=loop, recipe=recipe)


def asked_length(codec: Codec, **given: float | None) -> float | None:
    """The length in the codec's own unit, of what was `given` as seconds, width or frames; None where nothing was.

    Raises FromNoiseError for what the medium is not measured in.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    if not asked:
        return None
    unit = extensible(codec).unit
    for name, value in asked.items():
        _positive(value, name if name == "seconds" else unit)
    if isinstance(codec, Moving) and asked.keys() == {"seconds"}:
        return asked["seconds"] * float(Fraction(codec.rate))
    own = unit if unit in given else "width"
    if asked.keys() != {own}:
        raise FromNoiseError(f"How long samples of this model are is counted in {unit}: give --{own} alone.")
    return asked[own]


def _positive(length: float, unit: str) -> float:
    if not 0 < length < math.inf:
        raise FromNoiseError(f"A length of {length:g} {unit} is none: ask for a positive number of them.")
    return length


def extensible(codec: Codec) -> Extensible:
    """`codec` as one of longer samples.  Raises FromNoiseError where samples are as long as the model's window."""
    if codec.vocab is not None:
        raise FromNoiseError("Text is continued and filled in by --prompt: leave out lengths, --continue and --loop.")
    if not isinstance(codec, Extensible):
        size = " x ".join(map(str, codec.shape[1:]))
        raise FromNoiseError(f"All samples of this model are of {size}: leave out lengths, --continue and --loop.")
    return codec
