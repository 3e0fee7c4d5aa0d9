"""Sounds: raw (n, channels) <-> x0 (2·channels, frequency, time), a compressed complex spectrogram.

Frames of N = 2H samples, H apart, under the sine window w, each transformed about its own centre:

    X_m[k] = Σ_n w[n]·y[mH - H + n]·e^(-2πi·k·(n - H)/N) / √N,     w[n] = sin(π·(n + ½)/N),  w[n]² + w[n+H]² = 1,

so that windowing, transforming back and adding the overlaps returns y exactly (Princen and Bradley, 1986).  Frequencies
0 and H are both real: the one is kept as the real part of row 0, the other as its imaginary part, which leaves H rows;
these two have each their own magnitude and gain, or an error in the faint one would sound as loud as the other.
Magnitudes span five orders; x0 is the real and imaginary part of g_k·X·|X|^(p-1), p = ½, where what is quiet is still
seen and an error of 1 % of the loudest is 80 dB below it (Braun and Tashev 2020 study p for speech).  The gains g make
frequencies of natural sounds, whose energy falls steeply, more alike.

Stored is the whole clip; x0 is a window of it, cut at random or from the start, and silence beyond its end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from fromnoise.codec import audiofile
from fromnoise.codec.codec import Ends, described
from fromnoise.codec.colour import coloured
from fromnoise.errors import FromNoiseError
from fromnoise.rng import Rng
from fromnoise.types import Shape

Subtype = Literal["PCM_16", "PCM_24", "FLOAT"]
UNIT = 0.5  # the standard deviation that `fitted` gives x0, as that of pictures is
_TINY = 1e-30
_FITTED = 256  # clips that gains are found from
_INAUDIBLE = 10 ** (-55 / 20)  # of the peak: the end of a sample from where it stays below is cut off
_QUIETEST = 1e-4  # -80 dB of full scale: a preview's black
_BANDS = 64
_ROWS = 128  # of a preview
_FADE = 0.005  # seconds over which an end that does not come to rest is brought there
_QUIETEST_ROW = 0.05  # of the loudest: rows that hold less are not made as loud as the others


@dataclass(frozen=True, kw_only=True)
class SoundCodec:
    """Sounds of one rate (Hz) and channel count.

    bins     rows of the spectrogram, the hop H; a power of two
    frames   its columns T: the window is (T-1)·H samples long
    crop     which part of a longer clip is shown: a random one, or its start
    ends     how samples end: at "rest", without the silence behind them; at rest, where they are "free" in length and
             where they are "continued", whose start stays as it was; in their own start, as a "loop"
    gains    one a frequency, from 0 to the highest, () for 1: what brings compressed magnitudes to unit order; the same
             for all clips, so that loudness is kept
    """

    rate: int
    channels: int
    bins: int
    frames: int
    crop: Literal["random", "start"] = "random"
    container: Literal["wav", "flac"] = "wav"
    subtype: Subtype = "PCM_16"
    ends: Ends = "rest"
    power: float = 0.5
    gains: tuple[float, ...] = ()
    version: int = 1

    @property
    def shape(self) -> Shape:
        """(2·channels, frequencies, frames); the real and imaginary part of each channel follow each other."""
        return 2 * self.channels, self.bins, self.frames

    @property
    def axes(self) -> tuple[str, ...]:
        return "channels", "frequency", "time"

    @property
    def ragged(self) -> bool:
        return True

    @property
    def vocab(self) -> None:
        return None

    @property
    def length(self) -> int:
        """Samples in a window."""
        return (self.frames - (self.ends != "loop")) * self.bins

    def store(self, raw: np.ndarray) -> np.ndarray:
        """(n, channels) at `rate` in [-1, 1] -> the same in float32."""
        assert raw.ndim == 2 and raw.shape[1] == self.channels, raw.shape
        return raw.astype(np.float32)

    def store_many(self, raws: np.ndarray) -> np.ndarray:
        """(m, n, channels), likewise."""
        assert raws.ndim == 3 and raws.shape[2] == self.channels, raws.shape
        return raws.astype(np.float32)

    def fitted(
        self, smallest: float, largest: float, some: Sequence[np.ndarray] = ()
    ) -> tuple[SoundCodec, Sequence[str]]:
        """The same with the gains that give the x0 of the first clips of `some` the standard deviation `UNIT`.

        Those of frequencies go with the inverse root of their own deviations, halfway to making all alike.
        """
        energy = torch.zeros(self.bins, 2, dtype=torch.float64)
        plain, some = dataclasses.replace(self, gains=()), some[:_FITTED]
        for clip in some:
            x0 = plain.encode([clip])[0].unflatten(0, (self.channels, 2)).double()
            energy += x0.square().mean((0, 3)).mT / len(some)
        if not float(energy.max()) > 0:
            return plain, ()
        energy[1:] = energy[1:].mean(1, keepdim=True)
        gains = energy.clamp_min(_QUIETEST_ROW**2 * energy.max()) ** -0.25
        gains *= UNIT / (gains.square() * energy).mean().sqrt()
        found = tuple(float(f"{gain:.4g}") for gain in (*gains[:, 0], gains[0, 1]))
        return dataclasses.replace(self, gains=found), ()

    def encode(self, stored: np.ndarray | Sequence[np.ndarray], rng: Rng | None = None) -> Float[Tensor, "b c f t"]:
        """Clips (n_i, channels) -> x0 in float32, of windows drawn by `rng` where the codec's crop is random."""
        start = np.zeros(len(stored))
        if self.crop == "random" and rng is not None:
            start = rng.uniform((len(stored),)).double().numpy()
        x0 = torch.zeros(len(stored), *self.shape)
        # One clip at a time stays in the processor's cache, and the silence beyond its end costs nothing.
        for out, clip, u in zip(x0, stored, start, strict=True):
            first = int(u * max(0, len(clip) - self.length + 1))
            part = torch.from_numpy(np.array(clip[first : first + self.length], dtype=np.float32))
            hops = -(-len(part) // self.bins)
            window = torch.nn.functional.pad(part.mT, (0, hops * self.bins - len(part)))
            out[..., : hops + 1] = self.compressed(self.spectra(window[None]))[0]
        return x0

    def decode(self, x0: Float[Tensor, "b c f t"]) -> np.ndarray:
        """x0 -> (b, length, channels) float32."""
        pairs = x0.detach().to("cpu", torch.float32).unflatten(1, (self.channels, 2)).movedim(2, -1)
        compressed = torch.view_as_complex((pairs / self._gain).contiguous())
        if self.ends == "loop":
            compressed = torch.cat([compressed, compressed[..., :1]], -1)
        return self.waves(_powered(compressed, 1 / self.power)).mT.numpy()

    def spectra(self, y: Float[Tensor, "b c n"]) -> Complex[Tensor, "b c f t"]:
        """Waves of a whole number of hops -> X, the highest frequency packed into row 0."""
        size = 2 * self.bins
        framed = torch.nn.functional.pad(y, (self.bins, self.bins)).unfold(2, size, self.bins) * self._window(y)
        full = torch.fft.rfft(framed, norm="ortho") * self._centring(y)
        packed = torch.cat([torch.complex(full[..., :1].real, full[..., -1:].real), full[..., 1:-1]], -1)
        return packed.mT

    def waves(self, z: Complex[Tensor, "b c f t"]) -> Float[Tensor, "b c n"]:
        """The inverse of `spectra`; for any other picture, the waves whose spectra are nearest to it."""
        packed = z.mT
        ends = [torch.complex(end, torch.zeros_like(end)) for end in (packed[..., :1].real, packed[..., :1].imag)]
        full = torch.cat([ends[0], packed[..., 1:], ends[1]], -1)
        framed = torch.fft.irfft(full * self._centring(full.real), norm="ortho") * self._window(full.real)
        # Two halves of neighbouring frames make each stretch of H samples.
        halves = framed.unflatten(-1, (2, self.bins))
        return (halves[..., :-1, 1, :] + halves[..., 1:, 0, :]).flatten(-2)

    def compressed(self, z: Complex[Tensor, "b c f t"]) -> Float[Tensor, "b e f t"]:
        """The picture of spectra; rows are scaled by their gains."""
        parts = torch.view_as_real(_powered(z, self.power)) * self._gain
        return parts.movedim(-1, 2).flatten(1, 2)

    def percept(self, x0: Float[Tensor, "b c f t"]) -> Float[Tensor, "b e g t"]:
        """The magnitudes of x0 in at most `_BANDS` bands of equal width to the ear, which is deaf to most phases."""
        magnitude = x0.unflatten(1, (self.channels, 2)).square().sum(2).sqrt()
        return self.bands.to(x0) @ magnitude - UNIT

    def preview(self, samples: np.ndarray) -> np.ndarray:
        """Samples (n, length, channels) -> their spectrograms (n, h, w, 3), as `legend` says how to read them.

        Channels are laid over each other; frequencies are shown in 128 rows, times in about 256 columns or fewer.
        """
        power = self.spectra(torch.from_numpy(np.ascontiguousarray(samples)).float().mT).abs().square().mean(1)
        rows, some = min(self.bins, _ROWS), max(1, power.shape[-1] // (2 * _ROWS))
        power = power[..., : power.shape[-1] // some * some].unflatten(2, (-1, some)).mean(3)
        loud = power.unflatten(1, (rows, -1)).mean(2).sqrt().flip(1).repeat_interleave(_ROWS // rows, 1)
        level = (1 + torch.log10(loud.clamp_min(_QUIETEST)) / -math.log10(_QUIETEST)).clamp(0, 1).numpy()
        return coloured(level)

    @property
    def legend(self) -> str:
        """How a preview is read."""
        seconds, top = self.length / self.rate, self.rate / 2000
        return f"{seconds:.2f} s from left to right, 0 to {top:g} kHz upwards, black at -80 dB of full scale"

    def save(self, path: Path, sample: np.ndarray, recipe: Mapping[str, object]) -> Path:
        """One sample (length, channels) to `path` plus a suffix, its ends as `ends` says and free of clicks."""
        assert sample.shape == (self.length, self.channels), sample.shape
        return audiofile.save(
            path, self.ended(sample), self.rate, container=self.container, subtype=self.subtype, recipe=recipe
        )

    def player(self, sample: np.ndarray, recipe: Mapping[str, object]) -> tuple[str, bytes]:
        """(`audio/wav` or `audio/flac`, the file that `save` writes)."""
        file = audiofile.encoded(
            self.ended(sample), self.rate, container=self.container, subtype=self.subtype, recipe=recipe
        )
        return f"audio/{self.container}", file

    def ended(self, sample: np.ndarray) -> np.ndarray:
        """(m, channels), m <= length, with its ends as `ends` says."""
        if self.ends == "loop":
            return sample
        fade = max(2, round(_FADE * self.rate))
        out = (sample[: self._audible(sample) + fade] if self.ends == "rest" else sample).copy()
        ramp = np.sin(np.linspace(0, np.pi / 2, min(fade, len(out))))[:, None] ** 2
        out[-len(ramp) :] *= ramp[::-1]
        if self.ends != "continued":
            # An attack at the very start is kept but for its first half millisecond.
            short = ramp[:: max(1, len(ramp) // max(2, fade // 10))]
            out[: len(short)] *= short
        return out

    def _audible(self, sample: np.ndarray) -> int:
        """The number of samples up to the last one that is heard."""
        loud = np.abs(sample).max(axis=1)
        heard = np.flatnonzero(loud > _INAUDIBLE * loud.max())
        return int(heard[-1]) + 1 if len(heard) else 0

    @property
    def unit(self) -> str:
        return "seconds"

    def extent(self, places: int) -> float:
        """The seconds of so many spectra; in a loop the last of them is followed by the first."""
        return (places - (self.ends != "loop")) * self.bins / self.rate

    def extended(self, length: float, ends: Ends) -> SoundCodec:
        """The codec of samples of `length` seconds, to the next whole spectrum; a loop has a window's at least."""
        hops = math.ceil(length * self.rate / self.bins - 1e-6)
        frames = max(hops, self.frames) if ends == "loop" else hops + 1
        return dataclasses.replace(self, frames=frames, ends=ends)

    def beginning(self, raw: np.ndarray) -> Float[Tensor, "1 c f t"]:
        """The spectra that lie in (n, channels) alone: samples up to the last of their centres are what they were."""
        y = self.store(raw)
        hops = len(y) // self.bins
        if hops < 2:
            raise FromNoiseError(f"A beginning has {2 * self.bins} samples or more, not {len(y)}: give a longer one.")
        return dataclasses.replace(self, frames=hops + 1).encode([y[: hops * self.bins]])[..., :hops]

    def to_json(self) -> dict[str, object]:
        return {"kind": "sound", **dataclasses.asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> SoundCodec:
        """The codec that `to_json` described.  Raises FromNoiseError for another kind or version."""
        values = described(data, "sound", {field.name for field in dataclasses.fields(SoundCodec)})
        return SoundCodec(**{**values, "gains": tuple(values["gains"])})

    @cached_property
    def _gain(self) -> Float[Tensor, "f 1 2"]:
        gains = torch.tensor(self.gains or (1.0,) * (self.bins + 1))
        parts = gains[:-1, None].repeat(1, 2)
        parts[0, 1] = gains[-1]
        return parts[:, None]

    @cached_property
    def bands(self) -> Float[Tensor, "g f"]:
        """Means over bands that are equally wide in mel (O'Shaughnessy 1987), each of one row or more."""
        count = min(_BANDS, self.bins)
        top = math.log1p(self.rate / 2 / 700)
        hertz = 700 * np.expm1(np.linspace(0, top, count + 1))
        # An edge is at least one row after the one before, and leaves one row for each band above.
        edges = np.clip(np.round(hertz / (self.rate / 2) * self.bins), 0, self.bins).astype(int)
        edges = np.minimum(
            np.maximum.accumulate(edges - np.arange(count + 1)).clip(0) + np.arange(count + 1), self.bins
        )
        rows = np.arange(self.bins)
        inside = (rows >= edges[:-1, None]) & (rows < edges[1:, None])
        return torch.from_numpy(inside / inside.sum(1, keepdims=True))

    def _window(self, like: Tensor) -> Float[Tensor, " n"]:
        n = torch.arange(2 * self.bins, dtype=torch.float64)
        return torch.sin(math.pi * (n + 0.5) / (2 * self.bins)).to(like)

    def _centring(self, like: Tensor) -> Float[Tensor, " k"]:
        """e^(iπk): from a frame's first sample to its centre as the origin of phases."""
        return (1 - 2 * (torch.arange(self.bins + 1) % 2)).to(like)


def _powered(z: Complex[Tensor, "*b f t"], power: float) -> Complex[Tensor, "*b f t"]:
    """z·|z|^(power-1): the magnitude's power with the phase kept; of row 0, two real rows, of each by itself."""
    parts = torch.view_as_real(z)
    energy = parts.square().sum(-1, keepdim=True).clamp_min_(_TINY)
    # By square roots where they do: `pow` takes ten times as long.
    scale = energy.sqrt_().rsqrt_() if power == 0.5 else energy.pow_((power - 1) / 2)
    out, row = parts * scale, parts.select(-3, 0)
    out.select(-3, 0).copy_(row.sign() * row.abs().pow(power))
    return torch.view_as_complex(out)
