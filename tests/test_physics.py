"""Physical statistics of fields: known spectra and correlations are measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromnoise.evaluate.physics import correlation_length, physics, power, wavenumbers


@given(st.sampled_from([1, 2, 3]), st.integers(0, 99))
def test_a_wave_has_its_power_at_its_own_wavenumber(axes, seed):
    n, rng = 32, np.random.default_rng(seed)
    k = int(rng.integers(3, n // 2 - 2))
    x = 2 * np.pi * np.arange(n) / n
    fields = np.broadcast_to(np.sin(k * x + rng.uniform(0, 6)), (2, *(n,) * axes))
    found = power(fields)
    assert wavenumbers((n,) * axes).reshape(-1)[found.argmax()] == pytest.approx(k)


def test_known_spectra_and_correlations_are_measured():
    rng = np.random.default_rng(0)

    def smooth(length: float, n: int = 200) -> np.ndarray:
        wave = np.fft.fftfreq(128) * 2 * np.pi
        gauss = np.exp(-((wave * length) ** 2) / 4)
        fields = np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, 128, 128))) * gauss[:, None] * gauss).real
        return fields / fields.std()

    data = smooth(4.0)
    assert correlation_length(data) == pytest.approx(4.0 * np.sqrt(2), rel=0.03)
    same, blurred = physics(smooth(4.0)[:, None], smooth(4.0)[:, None], data[:, None])[0], smooth(4.4)[:, None]
    assert max(same.deviation, same.deviation_held) < 0.2 and same.histogram < 0.02
    other = physics(2 * blurred, smooth(4.0)[:, None], data[:, None])[0]
    assert other.deviation > 0.5 and other.histogram == pytest.approx(np.sqrt(2 / np.pi), rel=0.05)
    assert other.correlation > 1.05 * other.correlation_data
    far = physics(30 * blurred, smooth(4.0)[:, None], data[:, None])[0].sentence
    assert "within " in same.sentence and "times the data's" in far and "%" in far and "e+" not in far
    flat = physics(blurred, 0 * blurred, 0 * blurred)[0]
    assert "the same everywhere" in flat.sentence and np.isfinite([flat.deviation, flat.histogram]).all()
    holes = data[:, None].copy()
    holes[rng.random(holes.shape) < 0.01] = np.nan
    assert np.isfinite(physics(holes, holes, holes)[0].deviation)
