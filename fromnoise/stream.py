"""Clips of any length, window after window: what goes on from a beginning, what lies between two ends, what never ends.

A model whose frames have noise levels of their own is shown a window of which some frames are known.  They stand at
t = 0 and stay, while the others walk from noise to data (diffusion forcing, Chen et al. 2024).  Then the window moves
on: its last frames are the known ones of the next, and all that is remembered.

Frames that the model made itself are shown slightly noisy, at t = `HAZE`, and it is told so: it takes them for what
they are, so that small errors are mended rather than carried from window to window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fromnoise.codec import Codec, Moving
from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.process import add_noise
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.stepper import Stepper
from fromnoise.types import FromNoiseError

HAZE = 0.05
Clip = Float[Tensor, "n c f h w"]
Ends = tuple[np.ndarray | None, np.ndarray]  # raw; without the first, clips lead to the last from anywhere


@dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """How windows are sampled; `rng` gives the random numbers of a window, by its number, for a use of them."""

    denoise: Denoiser
    stepper: Stepper[Any]
    times: Sequence[float]
    cond: Cond
    rng: Callable[[int, str], Rng]

    def window(self, k: int, known: Clip, at: Bool[Tensor, " f"], haze: float = 0.0, first: int = 0) -> Clip:
        """Window k of x0: `known` where `at` is true, shown at noise level `haze`; the rest of it is not looked at.

        Its maps are those from frame `first` of the whole clip on.
        """
        shape, free = tuple(known.shape), ~at[:, None, None]
        cond = self.cond.during(first, known.shape[2])
        x = self.denoise.process.prior(shape, self.times[0], self.rng(k, "prior"), cond=cond).to(known)
        level = known.new_full((len(known), 1, 1, 1, 1), haze)
        shown = add_noise(known, self.rng(k, "haze").normal(shape, like=known), level)
        grid = [torch.where(free, time, level) for time in self.times]
        steps = sample(self.denoise, self.stepper, grid, torch.where(free, x, shown), cond, self.rng(k, "steps"))
        return torch.where(free, finish(steps), known)


def rolled(walk: Walk, blank: Clip, known: Float[Tensor, "n c a h w"] | None = None) -> Iterator[Tensor]:
    """New frames of n clips without end, some at a time, in windows of the shape of `blank`.

    They go on from `known`, of any length, if it is given.  Half of a window is known, but for a first without a past.
    """
    frames, past = blank.shape[2], blank[:, :, :0] if known is None else known
    place, k, first = torch.arange(frames, device=blank.device), 0, 0
    while True:
        left = max(0, past.shape[2] - frames // 2)
        past, first = past[:, :, left:], first + left
        kept = past.shape[2]
        window = torch.cat([past, blank[:, :, kept:]], 2)
        past = walk.window(k, window, place < kept, HAZE if k else 0.0, first)
        yield past[:, :, kept:]
        k += 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Rolling:
    """Clips beyond a model's window, or with known ends: `codec` is theirs, `recipe` what makes them again.

    `hidden` columns are absent unless they are asked for: maps, which training examples have but for a window, and what
    known frames say already.
    """

    codec: Codec
    window: int
    first: Float[Tensor, "1 c a h w"] | None
    last: Float[Tensor, "1 c z h w"] | None
    recipe: dict[str, object]
    hidden: tuple[str, ...] = ()

    def asked(self, where: Mapping[str, str | float]) -> dict[str, str | float]:
        """The conditions of the whole clip."""
        return dict.fromkeys(self.hidden, "none") | dict(where)

    def __call__(self, walk: Walk, n: int, device: torch.device) -> Clip:
        """x0 of n clips of the codec's length."""
        channels, total, *size = self.codec.shape
        first, last = (z if z is None else z.to(device).expand(n, *z.shape[1:]) for z in (self.first, self.last))
        blank = torch.zeros(n, channels, self.window, *size, device=device)
        if last is not None:
            first = blank[:, :, :0] if first is None else first
            between = torch.zeros(n, channels, total - first.shape[2] - last.shape[2], *size, device=device)
            place = torch.arange(total, device=device)
            at = (place < first.shape[2]) | (place >= total - last.shape[2])
            return walk.window(0, torch.cat([first, between, last], 2), at)
        parts = [] if first is None else [first]
        for new in rolled(walk, blank, first):
            parts.append(new)
            if sum(part.shape[2] for part in parts) >= total:
                return torch.cat(parts, 2)[:, :, :total]
        raise AssertionError("a stream has no end")


def rolling(
    codec: Moving,
    *,
    sees: str | None,
    length: float | None = None,
    beginning: np.ndarray | None = None,
    between: Ends | None = None,
    loop: bool = False,
) -> Rolling:
    """Clips of `length` frames that go on from a raw `beginning`, or lead from one clip to another, or to one.

    `sees` is what frames see of others (`net.frames`).  A beginning is followed by one window without a length; of two
    ends the last frames of the one and the first of the other are kept, a quarter of a window of each.  Raises
    FromNoiseError where that cannot be.
    """
    if loop or (beginning is not None and between is not None):
        raise FromNoiseError("Clips do not loop, and have one beginning: give --continue, --between or --frames alone.")
    raws = (beginning, None) if between is None else between
    first, last = (None if raw is None else codec.beginning(raw) for raw in raws)
    if last is not None:
        if sees != "both":
            raise FromNoiseError(
                "This model sees only what came before and leads to no end: for that train with net.frames=both."
            )
        most = max(1, codec.frames // 4)
        first, last = None if first is None else first[:, :, -most:], last[:, :, :most]
    known = sum(end.shape[2] for end in (first, last) if end is not None)
    if last is not None and known >= codec.frames:
        raise FromNoiseError(
            f"Clips of {codec.frames} frames have no room between two ends: train on longer ones, --size 16x32x32."
        )
    length = (known + codec.frames if beginning is not None else codec.frames) if length is None else length
    if not math.isfinite(length) or length < known + 1 or (last is not None and length > codec.frames):
        most = " or more" if last is None else f" to {codec.frames}"
        raise FromNoiseError(f"Clips of {length:g} frames cannot be made here: ask for --frames {known + 1}{most}.")
    recipe: dict[str, object] = {"length": length}
    for name, raw in zip(("beginning", "end"), raws, strict=True):
        if raw is not None:
            recipe[name] = blake2b(np.ascontiguousarray(raw).data, digest_size=8).hexdigest()
    return Rolling(codec=codec.extended(length, "free"), window=codec.frames, first=first, last=last, recipe=recipe)
