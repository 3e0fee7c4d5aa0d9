"""Physical statistics of fields: spectrum, histogram and correlation of samples beside held-out and training data.

Samples and held-out data are compared with the same training data, so that what is said of samples stands beside its
floor, the same for as many real examples or fewer.

spectrum      the power of spatial frequencies under a Hann window, averaged over directions, in bands equally wide in
              the logarithm of the wavenumber (cycles in the length of the longest axis); E in a band is a mean over
              examples
histogram     the 1-Wasserstein distance of values, in standard deviations of the data
correlation   the distance at which the autocorrelation of an axis falls below 1/e, in grid steps, averaged over axes

What is missing is at the mean of its example; channels are measured one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats
from scipy.signal.windows import hann

from fromnoise.evaluate.distance import times

BANDS_A_DECADE = 8
RESOLVED = 1e-6  # of the strongest band: what is below is rounding, not signal
_VALUES = 200_000  # of a channel that histograms are compared by


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One channel.  `spectrum` is (wavenumber, power of samples, of held-out, of training data) for each band.

    deviation           the largest |E_samples/E_data - 1| of all resolved bands, and that of held-out data
    histogram           the distance of values, in standard deviations, and that of held-out data
    correlation         the length in samples, in held-out and in training data, in grid steps
    """

    channel: int
    spectrum: tuple[tuple[float, float, float, float], ...]
    deviation: float
    deviation_held: float
    histogram: float
    histogram_held: float
    correlation: float
    correlation_held: float
    correlation_data: float

    @property
    def decades(self) -> float:
        """Of wavenumbers, that the resolved bands reach over."""
        return math.log10(self.spectrum[-1][0] / self.spectrum[0][0]) if len(self.spectrum) > 1 else 0.0

    @property
    def sentence(self) -> str:
        if not self.spectrum:
            return f"Channel {self.channel} is the same everywhere in the training data: it has no spectrum."
        first, last = self.spectrum[0][0], self.spectrum[-1][0]
        return (
            f"Channel {self.channel}: the spectrum of samples is {_within(self.deviation, ' of')} the data's "
            f"(held-out data: {_within(self.deviation_held)}) over wavenumbers {first:.3g} to {last:.3g}, "
            f"{self.decades:.1f} decades; values differ by {self.histogram:.2g} standard deviations "
            f"({self.histogram_held:.2g}); correlations reach {self.correlation:.3g} steps "
            f"({self.correlation_held:.3g}; training data: {self.correlation_data:.3g})."
        )

    def to_json(self) -> dict:
        return asdict(self) | {"decades": self.decades}


def _within(deviation: float, of: str = "") -> str:
    """A deviation as a share, of more than double as how many times; `of` joins a share to what it is of."""
    return f"within {deviation:.0%}{of}" if deviation <= 1 else f"up to {times(1 + deviation)} times"


def physics(made: np.ndarray, held: np.ndarray, train: np.ndarray) -> tuple[Quantity, ...]:
    """Samples, held-out and training data, each (n, channels, *space) with NaN where values are missing."""
    sets = (made, held, train)
    return tuple(_quantity(channel, [part[:, channel] for part in sets]) for channel in range(made.shape[1]))


def _quantity(channel: int, sets: Sequence[np.ndarray]) -> Quantity:
    mean, std = _moments(sets[2])
    waves, powers = _spectra([_filled(part, mean) for part in sets])
    resolved = powers[2] > RESOLVED * powers[2].max()
    ours, held, data = (power[resolved] for power in powers)
    values = [_some(part) / std for part in sets]
    lengths = [correlation_length(_filled(part, mean) - mean) for part in sets]
    return Quantity(
        channel=channel,
        spectrum=tuple(zip(*(one.tolist() for one in (waves[resolved], ours, held, data)), strict=True)),
        deviation=float(np.abs(ours / data - 1).max(initial=0)),
        deviation_held=float(np.abs(held / data - 1).max(initial=0)),
        histogram=float(stats.wasserstein_distance(values[0], values[2])),
        histogram_held=float(stats.wasserstein_distance(values[1], values[2])),
        correlation=lengths[0],
        correlation_held=lengths[1],
        correlation_data=lengths[2],
    )


def _spectra(sets: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The wavenumbers of bands, and the mean power in each of them for each of the sets."""
    wave, longest = wavenumbers(sets[0].shape[1:]), max(sets[0].shape[1:])
    edges = band_edges(longest)
    band = np.digitize(wave.reshape(-1), edges) - 1
    inside = (band >= 0) & (band < len(edges) - 1)
    number = np.bincount(band[inside], minlength=len(edges) - 1)
    used = number > 0

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(band[inside], values.reshape(-1)[inside], minlength=len(edges) - 1)
        return total[used] / number[used]

    return mean(wave), [mean(power(part)) for part in sets]


def power(fields: np.ndarray) -> np.ndarray:
    """The mean power (*space) of real fields (n, *space) at each of their frequencies, under a Hann window."""
    axes = tuple(range(1, fields.ndim))
    window = np.ones(fields.shape[1:])
    for k, n in enumerate(fields.shape[1:]):
        shape = [-1 if k == axis else 1 for axis in range(fields.ndim - 1)]
        window = window * hann(n, sym=False).reshape(shape)
    centred = fields - fields.mean(axes, keepdims=True)
    return (np.abs(np.fft.fftn(centred * window, axes=axes)) ** 2).mean(0)


def wavenumbers(space: tuple[int, ...]) -> np.ndarray:
    """|k| of each frequency (*space), in cycles in the length of the longest axis."""
    longest = max(space)
    axes = np.meshgrid(*(np.fft.fftfreq(n) * longest for n in space), indexing="ij")
    return np.sqrt(sum(axis**2 for axis in axes))


def band_edges(longest: int) -> np.ndarray:
    """From wavenumber 1 to the highest that every direction has, equally wide in the logarithm."""
    top = longest / 2
    count = max(1, round(BANDS_A_DECADE * math.log10(max(top, 2))))
    return np.geomspace(1 - 1e-9, top + 1e-9, count + 1)


def correlation_length(fields: np.ndarray) -> float:
    """Where the autocorrelation of centred fields (n, *space) falls below 1/e along an axis, averaged over axes.

    Between grid steps it is interpolated; an axis along which it never falls counts with its whole length.
    """
    found = []
    for axis, n in enumerate(fields.shape[1:], 1):
        spectrum = np.abs(np.fft.rfft(fields, 2 * n, axis=axis)) ** 2
        lags = np.fft.irfft(spectrum, axis=axis).mean(tuple(k for k in range(fields.ndim) if k != axis))[:n]
        lags /= np.arange(n, 0, -1)
        ratio = lags / lags[0] if lags[0] > 0 else np.ones(n)
        below = np.flatnonzero(ratio < 1 / math.e)
        if len(below) == 0:
            found.append(float(n))
            continue
        after = int(below[0])
        step = (ratio[after - 1] - 1 / math.e) / (ratio[after - 1] - ratio[after])
        found.append(after - 1 + float(step))
    return float(np.mean(found))


def _moments(values: np.ndarray) -> tuple[float, float]:
    there = values[np.isfinite(values)]
    return (float(there.mean()), float(there.std()) or 1.0) if len(there) else (0.0, 1.0)


def _filled(fields: np.ndarray, mean: float) -> np.ndarray:
    """What is missing at the mean of its example, or at `mean` where nothing is there."""
    there = np.isfinite(fields)
    axes = tuple(range(1, fields.ndim))
    number = there.sum(axes, keepdims=True)
    own = np.where(there, fields, 0).sum(axes, keepdims=True) / np.maximum(number, 1)
    return np.where(there, fields, np.where(number > 0, own, mean))


def _some(fields: np.ndarray) -> np.ndarray:
    there = fields[np.isfinite(fields)]
    return there[:: max(1, len(there) // _VALUES)] if len(there) else np.zeros(1)
