"""Sounds as a medium: the rules by which a folder of clips becomes one set.

rate        the most common one, the higher of two; others are resampled (polyphase, antialiased)
channels    the most common count, mono or stereo; the others are doubled or averaged
window      as long as nine clips of ten, at most `LONGEST` seconds and `MOST` samples, or as asked; shorter clips are
            padded with silence, and samples come out without it
crop        where three clips of five fit the window they are hits, and longer ones are cut off at its end; otherwise
            they are recordings, and every step shows a random part of each
spectra     frames of about 25 ms (32 at 8 kHz), half overlapping
files       samples are WAV or FLAC as most of the data are, in the data's resolution
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from fromnoise.codec import audiofile
from fromnoise.codec.audiofile import SoundHeader
from fromnoise.codec.medium import Size
from fromnoise.codec.sound import SoundCodec, Subtype
from fromnoise.data.size import held_whole
from fromnoise.errors import FromNoiseError

LONGEST, MOST = 4.0, 2**16
_HITS = 0.6  # of the clips, if they fit the window, make the set one of hits
_HELD = 0.9  # of the clips are held whole by the window
_HOP = 0.0125  # seconds between spectra, to the nearest power of two in samples
_COLUMNS = 8  # the number of spectra is a multiple of this
T = TypeVar("T", bound=Any)


class Sounds:
    name = "sound"
    formats = "WAV, FLAC, OGG, MP3, AIFF"
    suffixes = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"})
    axes = ("samples",)
    header = SoundHeader
    codec = SoundCodec

    def sniff(self, head: bytes) -> bool:
        return audiofile.sniff(head)

    def probe(self, data: bytes) -> SoundHeader:
        return audiofile.probe(data)

    def read(self, data: bytes, header: SoundHeader, codec: SoundCodec) -> np.ndarray:
        return audiofile.decode(data, header, rate=codec.rate, channels=codec.channels)

    def family(self, header: SoundHeader) -> str:
        return "sounds"

    def common(self, headers: Counter[SoundHeader]) -> tuple[SoundHeader, list[str]]:
        rates, channels, files = Counter[int](), Counter[int](), Counter[tuple[str, str]]()
        for header, n in headers.items():
            rates[header.rate] += n
            channels[header.channels] += n
            files[header.container, header.subtype] += n
        rate, count = _most(rates), _most(channels)
        container, subtype = _most(files)
        notes = []
        if len(rates) > 1:
            others = headers.total() - rates[rate]
            notes.append(f"sounds of several rates, {_listed(rates, lambda r: f'of {r / 1000:g} kHz')}: {_are(others)} "
                         f"resampled to {rate / 1000:g} kHz, the most common rate.")  # fmt: skip
        if len(channels) > 1:
            how, others = "averaged to mono" if count == 1 else "doubled to stereo", headers.total() - channels[count]
            notes.append(f"sounds in mono and in stereo, {_listed(channels, {1: 'mono', 2: 'stereo'}.__getitem__)}: "
                         f"{_are(others)} {how}, which is most common.")  # fmt: skip
        frames = max(header.frames for header in headers)
        return SoundHeader(frames=frames, rate=rate, channels=count, container=container, subtype=subtype), notes

    def choose(
        self, common: SoundHeader, headers: Counter[SoundHeader], size: Size | None
    ) -> tuple[SoundCodec, list[str]]:
        seconds = np.sort(np.repeat([header.seconds for header in headers], list(headers.values())))
        if isinstance(size, tuple) or (size is not None and not 0.02 <= size <= 60):
            raise FromNoiseError(f"A size of {size} is no length of sound: give seconds, such as --size 1.5.")
        wanted = float(size or min(np.quantile(seconds, _HELD, method="higher"), LONGEST, MOST / common.rate))
        bins = int(2 ** np.clip(np.round(np.log2(_HOP * common.rate)), 4, 11))
        frames = _COLUMNS * int(np.ceil((wanted * common.rate / bins + 1) / _COLUMNS))
        codec = SoundCodec(
            rate=common.rate,
            channels=common.channels,
            bins=bins,
            frames=frames,
            container="flac" if common.container == "FLAC" else "wav",
            subtype=_subtype(common),
        )
        window = codec.length / codec.rate
        fits = seconds <= window
        codec = replace(codec, crop="start" if fits.mean() >= _HITS else "random")
        note = f"windows of {window:.2f} s ({frames} spectra of {bins} frequencies) {held_whole(fits)}"
        if not fits.all():
            how = "longer ones are cut off there" if codec.crop == "start" else "of longer ones each step sees a part"
            how = how if fits.any() else "each step sees a part"
            note += f"; {how}"
        return codec, [f"{note}; --size SECONDS for another length."]

    def remarks(self, header: SoundHeader, codec: SoundCodec, headers: Counter[SoundHeader]) -> list[str]:
        remarks = []
        if header.rate < codec.rate:
            remarks.append(f"of a lower rate than {codec.rate / 1000:g} kHz, whose highest frequencies stay empty")
        if codec.crop == "start" and header.seconds > 2 * codec.length / codec.rate:
            remarks.append("more than twice as long as the window, which keeps their beginning")
        return remarks


def _most(counts: Counter[T]) -> T:
    """The most common, of equally common ones the largest."""
    return max(counts, key=lambda one: (counts[one], one))


def _listed(counts: Counter[int], name: Callable[[int], str]) -> str:
    return ", ".join(f"{count:,} {name(value)}" for value, count in counts.most_common())


def _are(count: int) -> str:
    return f"{count:,} {'is' if count == 1 else 'are'}"


def _subtype(common: SoundHeader) -> Subtype:
    if common.container != "FLAC" and common.subtype in ("FLOAT", "DOUBLE"):
        return "FLOAT"
    return "PCM_24" if common.subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE") else "PCM_16"
