"""Beyond the window: windows add up to what one look at the whole would say, beginnings stay, loops have no seam."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fromnoise.codec import ImageCodec, SoundCodec
from fromnoise.cond import Cond
from fromnoise.errors import Advice, FromNoiseError
from fromnoise.extend import Windowed, extension, starts
from fromnoise.grid import Linear
from fromnoise.posterior import Mean
from fromnoise.process import Gaussian
from fromnoise.rng import Rng
from fromnoise.sample import finish, sample
from fromnoise.stepper import Multistep

CODEC = SoundCodec(rate=8000, channels=1, bins=32, frames=17)


class Stationary:
    """The exact denoiser of a Gaussian process with covariances exp(-(lag/width)²), of any number of places."""

    process = Gaussian()

    def __init__(self, width: float) -> None:
        self.width = width

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None) -> Mean:
        place = torch.arange(x_t.shape[-1], dtype=torch.float64)
        c = torch.exp(-(((place[:, None] - place) / self.width) ** 2))
        a = 1 - t.flatten()[:, None, None].double()
        gain = a * c @ torch.linalg.inv(a**2 * c + (1 - a) ** 2 * torch.eye(len(c)) + 1e-9 * torch.eye(len(c)))
        return Mean((gain[:, None] @ x_t.double()[..., None])[..., 0].to(x_t))


class Flat:
    """What knows of no sound but one."""

    process = Gaussian()

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None) -> Mean:
        return Mean(0 * x_t + 0.3)


def drawn(denoise, n: int, count: int, steps: int = 24) -> Tensor:
    rng = Rng.of(0, range(count), "prior")
    grid = Linear(shift=2.0, start=1.0)(steps)
    x = denoise.process.prior((count, 1, n), grid[0], rng, torch.float64)
    return finish(sample(denoise, Multistep(), grid, x, Cond.empty(count), rng))


@given(st.integers(2, 40), st.integers(0, 200), st.booleans())
def test_windows_reach_every_place_and_overlap_by_half(size, more, loop):
    n = size + more
    begins = starts(n, size, loop)
    seen = np.zeros(n, int)
    for start in begins:
        assert loop or 0 <= start <= n - size
        seen[np.arange(start, start + size) % n] += 1
    assert seen.min() >= (2 if loop else 1)
    assert all(b - a <= (size + 1) // 2 for a, b in pairwise(begins))


@given(st.integers(2, 12), st.integers(0, 30), st.booleans(), st.floats(0.05, 1.0))
def test_what_has_no_neighbours_is_denoised_as_without_windows(size, more, loop, t):
    x = torch.randn(2, 3, size + more, generator=torch.Generator().manual_seed(more), dtype=torch.float64)
    alone, time = Stationary(1e-3), torch.full((2, 1, 1), t, dtype=torch.float64)
    long = Windowed(alone, (size,), loop=loop)(x, time, Cond.empty(2))
    torch.testing.assert_close(long.x0, alone(x, time, Cond.empty(2)).x0)


def test_windows_make_the_process_that_they_are_windows_of():
    """Strength everywhere, and correlation over the seams, as if all had been denoised at once."""
    width, size, n = 3.0, 24, 72
    for loop in (False, True):
        x = drawn(Windowed(Stationary(width), (size,), loop=loop), n, 3000)[:, 0]
        assert (x.std(0) - 1).abs().max() < 0.06
        for lag in (1, 3, 6):
            pairs = (x * x.roll(lag, 1)).mean(0)[0 if loop else lag :]
            assert (pairs - np.exp(-((lag / width) ** 2))).abs().max() < 0.08, (loop, lag)


def test_a_loop_is_the_same_wherever_it_starts():
    x = torch.randn(1, 1, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    time = torch.full((1, 1, 1), 0.4, dtype=torch.float64)
    denoise = Windowed(Stationary(4.0), (24,), loop=True)
    turned = denoise(x.roll(12, -1), time, Cond.empty(1)).x0
    torch.testing.assert_close(turned.roll(-12, -1), denoise(x, time, Cond.empty(1)).x0)

    codec = CODEC.extended(0.2, "loop")
    x0 = torch.randn(1, *codec.shape, generator=torch.Generator().manual_seed(1))
    y = codec.decode(x0)
    assert y.shape[1] == codec.shape[-1] * codec.bins
    np.testing.assert_allclose(codec.decode(x0.roll(5, -1)), np.roll(y, 5 * codec.bins, 1), atol=1e-5)
    np.testing.assert_array_equal(codec.ended(y[0]), y[0])


@pytest.mark.parametrize("loop", [False, True])
def test_a_length_that_cannot_be_made_is_said_with_the_one_that_is(loop):
    with pytest.warns(Advice, match=r"Samples are 0\.204 seconds long, not 0\.203: .* steps of 0\.004\."):
        beyond = extension(CODEC, length=0.203, loop=loop)
    assert beyond.codec.decode(torch.zeros(1, *beyond.codec.shape)).shape[1] == 0.204 * CODEC.rate
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extension(CODEC, length=0.204, loop=loop)
        extension(CODEC, loop=loop)


@pytest.mark.parametrize("samples", [700, 704, 1500])
def test_a_beginning_sounds_as_before_up_to_the_last_spectrum_within_it(samples):
    y = np.random.default_rng(0).normal(0, 0.2, (samples, 1)).astype(np.float32)
    beyond = extension(CODEC, beginning=y)
    x = torch.randn(2, *beyond.codec.shape, generator=torch.Generator().manual_seed(0))
    rng = Rng.of(0, range(2), "x")
    made = finish(sample(beyond(Flat(), x), Multistep(), (1.0, 0.5, 0.0), x, Cond.empty(2), rng))
    assert isinstance(beyond.codec, SoundCodec)
    sound = beyond.codec.ended(beyond.codec.decode(made)[1])
    kept = (samples // CODEC.bins - 1) * CODEC.bins
    assert np.abs(sound[:kept] - y[:kept]).max() < 1e-4 and len(sound) >= kept + CODEC.length
    assert not np.allclose(sound[kept:samples], y[kept:], atol=1e-3), "what follows is the model's own"


def test_pictures_become_panoramas_and_are_continued_to_the_right():
    codec = ImageCodec.full_range(height=8, width=8, channels=3, alpha=False, dtype="uint8")
    assert extension(codec, length=20).codec.shape == (3, 8, 20)
    raw = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    beyond = extension(codec, beginning=raw, length=12)
    x = torch.randn(1, 3, 8, 12)
    post = beyond(Stationary(1e-3), x)(x, torch.full((1, 1, 1, 1), 0.5), Cond.empty(1))
    np.testing.assert_array_equal(beyond.codec.decode(post.point())[0, :, :8], raw)


def test_lengths_without_room_are_refused():
    y = np.ones((4000, 1), np.float32)
    for length, word in ((0.01, "windows of"), (np.nan, "positive"), (0.0, "positive"), (-1.0, "length of -1 seconds")):
        with pytest.raises(FromNoiseError, match=word):
            extension(CODEC, length=length)
    with pytest.raises(FromNoiseError, match="alone fills"):
        extension(CODEC, length=0.3, beginning=y)
    with pytest.raises(FromNoiseError, match="either --loop"):
        extension(CODEC, beginning=y, loop=True)
    with pytest.raises(FromNoiseError, match="64 samples or more"):
        extension(CODEC, beginning=y[:50])
