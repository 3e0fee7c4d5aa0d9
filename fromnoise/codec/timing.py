"""When the frames of a clip are shown, and the rate that this makes.

A file says when each of its frames begins, in whole ticks of its own clock, so that 12 frames a second stand at 0, 83,
167 ms.  The rate is read from these times: frame j begins at k_j periods P, k_j whole, which leaves P the interval

    ∩_j [(t_j - 1)/k_j, (t_j + 1)/k_j]    in ticks,

and of the rates in it the one the file names, or else the simplest fraction, is meant.  An animated picture holds a
frame that stays for several periods once; where the interval is empty the rate varies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fromnoise.errors import Unreadable

_STEADY = 1.01  # ticks that a frame of a constant rate may be off its time
_LATE = 0.4  # of the shorter of two periods
_FINEST = 1001  # the largest denominator of a rate


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When frames begin, in seconds, the end of the last as one more, and the rate that this makes."""

    times: np.ndarray
    rate: Fraction
    variable: bool

    @property
    def frames(self) -> int:
        return max(1, round(self.times[-1] * self.rate))


def seen(times: np.ndarray, rate: Fraction) -> np.ndarray:
    """(n,) the places of the frames seen at k/rate, k = 0 … n-1, when frames begin at times[:-1], from 0 on."""
    count = max(1, round(float(times[-1] * rate)))
    # Somewhat late, so that times that were rounded do not show the frame before.
    moments = np.arange(count) / float(rate) + _LATE * min(1 / float(rate), np.diff(times).min())
    return np.searchsorted(times[:-1], moments, side="right").clip(1) - 1


def timing(ticks: Sequence[int], tick: Fraction, named: Fraction | None = None) -> Timing:
    """The rate of frames that begin at `ticks`, the end of the last among them, as the module's docstring says."""
    at = np.asarray(ticks, dtype=np.float64) - ticks[0]
    apart = np.diff(at)
    period = float(np.median(apart))
    if period <= 0:
        raise Unreadable("has no times at which its frames are shown: export it again")
    # The shortest stay of frames that stay for one period; those that stay longer are whole numbers of it.
    period = float(np.median(apart[apart < 1.5 * max(apart.min(), 1.0)]))
    place = np.cumsum(np.rint(apart / period).clip(1))
    low, high = ((at[1:] - _STEADY) / place).max(), ((at[1:] + _STEADY) / place).min()
    variable = bool(low > high)
    if variable:
        rate = 1 / (Fraction(period).limit_denominator(_FINEST) * tick)
    elif (apart % apart.min() == 0).all():
        rate = 1 / (int(apart.min()) * tick)
    else:
        rate = _simplest(1 / (Fraction(high) * tick), 1 / (Fraction(max(low, period / 2)) * tick), named)
    return Timing(times=at * float(tick), rate=rate, variable=variable)


def _simplest(low: Fraction, high: Fraction, named: Fraction | None) -> Fraction:
    """`named` if it lies between the two, else the fraction of least denominator that does."""
    if named is not None and low <= named <= high:
        return named
    middle = (low + high) / 2
    fractions = (middle.limit_denominator(d) for d in range(1, _FINEST))
    return next((f for f in fractions if low <= f <= high), middle.limit_denominator(_FINEST))
