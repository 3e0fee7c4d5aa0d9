"""Sound files: what the header says, the samples themselves, and samples written with their recipe.

WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF and AU are read, by libsndfile; WAV and FLAC are written, with the recipe as
JSON in the comment (WAV's ICMT chunk, FLAC's field COMMENT).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from fromnoise.codec.recipe import read_by, written
from fromnoise.errors import Unreadable, reason
from fromnoise.types import Shape

SHORTEST = 0.01  # seconds of a clip that can be learned from
_SILENCE = 1e-4  # -80 dB of full scale: nothing of it is heard
# Of full scale.  Floats may go beyond 1, as mixes do by some dB; what is 18 dB above it is of another scale, and as all
# clips share one gain, a single such file would make silence of the others.
_LOUDEST = 8.0
_SCALES = (2**15, 2**23, 2**31)  # full scale of whole numbers that were written as floats, from 16 bits on
_FEWEST_BITS = 2**7  # below it is no recording in whole numbers, but too high a gain
_STARTS = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundHeader:
    """What is known of a sound without its samples; `container` and `subtype` are libsndfile's names."""

    frames: int
    rate: int
    channels: int
    container: str
    subtype: str

    @property
    def size(self) -> Shape:
        return (self.frames,)

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    @property
    def mode(self) -> str:
        """44.1 kHz stereo"""
        return f"{self.rate / 1000:g} kHz {'mono' if self.channels == 1 else 'stereo'}"

    @property
    def dtype(self) -> str:
        return f"{self.container} {self.subtype}"


def sniff(head: bytes) -> bool:
    """Whether the first 16 bytes may be those of a sound."""
    other = head[:4] in (b"RIFF", b"FORM") and head[8:12] not in (b"WAVE", b"AIFF", b"AIFC")
    return head.startswith(_STARTS) and not other


def probe(data: bytes) -> SoundHeader:
    """The header of a sound file held in memory.  Raises Unreadable with the reason."""
    if not data:
        raise Unreadable("is empty: copy or export it again")
    if _missing(data):
        raise Unreadable("is cut short: copy or export it again")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            header = SoundHeader(
                frames=file.frames,
                rate=file.samplerate,
                channels=file.channels,
                container=file.format,
                subtype=file.subtype,
            )
    except (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError) as error:
        raise Unreadable(f"is not a readable sound ({_why(error)}): export it again as WAV") from error
    if header.channels > 2:
        raise Unreadable(f"has {header.channels} channels: mix it down to stereo")
    if header.seconds < SHORTEST:
        count = f"{header.frames} sample{'s' * (header.frames != 1)}"
        raise Unreadable(f"holds {count} of sound, too little to learn from: give {SHORTEST * 1000:g} ms or more")
    return header


def _missing(data: bytes) -> bool:
    """Whether a file that says how long it is is shorter than that."""
    if data[:4] == b"RIFF":
        promised = int.from_bytes(data[4:8], "little")
        return promised < 0xFFFFFF00 and promised + 8 > len(data) + 1
    if data[:4] == b"OggS":
        return not _ends(data)
    for tag in (b"Xing", b"Info"):  # of MP3: flags, then the number of frames and of bytes, where flagged
        at = data.find(tag, 0, 1 << 16)
        if at >= 0 and data[:4] != b"fLaC":
            flags = int.from_bytes(data[at + 4 : at + 8], "big")
            place = at + 8 + 4 * (flags & 1)
            return bool(flags & 2) and int.from_bytes(data[place : place + 4], "big") > len(data)
    return False


def _ends(data: bytes) -> bool:
    """Whether the last page of an Ogg file is whole and says that it is the last (RFC 3533, section 6)."""
    page = data[data.rfind(b"OggS") :]
    head = 27 + page[26] if len(page) > 26 else len(page) + 1
    return head + sum(page[27:head]) <= len(page) and bool(page[5] & 4)


def decode(data: bytes, header: SoundHeader, *, rate: int, channels: int) -> np.ndarray:
    """The samples of a probed file, (n, channels) float32 at `rate`: mono doubled, stereo averaged, resampled.

    Raises Unreadable for a file that holds less than its header says, nothing that is heard, or what is no sound.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise Unreadable(f"cannot be decoded ({_why(error)}): export it again as WAV") from error
    if len(samples) < header.frames:
        raise Unreadable(f"has only {len(samples):,} of {header.frames:,} samples that can be decoded: export it again")
    _check(samples, header.rate)
    if header.channels != channels:
        samples = samples.mean(axis=1, keepdims=True) if channels == 1 else samples.repeat(2, axis=1)
    if header.rate != rate:
        ratio = Fraction(rate, header.rate).limit_denominator(1000)
        samples = resample_poly(samples, ratio.numerator, ratio.denominator, axis=0)
    return samples.astype(np.float32)


def _check(samples: np.ndarray, rate: int) -> None:
    """Raises Unreadable where (n, channels) are silent, no numbers, or of another scale than that from -1 to 1."""
    peaks = np.abs(samples).max(axis=1)
    finite = np.isfinite(peaks)
    if not finite.all():
        raise Unreadable(f"holds NaN or infinite values, the first at {finite.argmin() / rate:.3f} s: export it again")
    peak = float(peaks.max())
    if peak < _SILENCE:
        raise Unreadable("is silent throughout: leave it out, or mend its recording")
    if peak > _LOUDEST:
        scale = next((scale for scale in _SCALES if peak <= scale), None) if peak > _FEWEST_BITS else None
        remedy = f"export it as 16-bit, or divide it by {scale}" if scale else "divide it by its highest value"
        raise Unreadable(f"reaches {peak:,.0f} times full scale: {remedy}")


def save(
    path: Path, samples: np.ndarray, rate: int, *, container: str, subtype: str, recipe: Mapping[str, object]
) -> Path:
    """Writes (n, channels) float32 to `path` with `.wav` or `.flac` appended to its name, and returns that file."""
    file = path.with_name(f"{path.name}.{container}")
    file.write_bytes(encoded(samples, rate, container=container, subtype=subtype, recipe=recipe))
    return file


def encoded(samples: np.ndarray, rate: int, *, container: str, subtype: str, recipe: Mapping[str, object]) -> bytes:
    """(n, channels) float32 as a file of `container`, wav or flac."""
    file = io.BytesIO()
    inside = np.clip(samples, -1, 1) if subtype != "FLOAT" else samples
    with soundfile.SoundFile(
        file, "w", samplerate=rate, channels=samples.shape[1], format=container.upper(), subtype=subtype
    ) as out:
        out.comment = written(recipe)
        out.write(inside)
    return file.getvalue()


def read_recipe(path: Path) -> dict[str, object]:
    """The recipe inside a file that `save` wrote.  Raises FromNoiseError where there is none."""
    return read_by(path, _words, soundfile.LibsndfileError, RuntimeError)


def _words(path: Path) -> str:
    with soundfile.SoundFile(path) as file:
        return file.comment


def _why(error: Exception) -> str:
    text = getattr(error, "error_string", "") or reason(error)
    return "unknown format" if "not recognised" in text or "unknown format" in text.lower() else text.rstrip(".")
