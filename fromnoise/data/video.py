"""Videos as a medium: the rules by which a folder of clips becomes one set.

clips       videos, and WebP and GIF where a quarter of them or more are animated; the still ones are left out; folders
            of frames by the rule of `frames.py`
rate        the most common one, the higher of two, divided by the whole number that brings it to at most `QUICKEST`
            frames a second; of other clips, and of those of no constant rate, the frames that are seen at these times
            are taken
window      as asked, or as many frames, at the set's rate, as the clip has that stands a tenth of the way from the
            shortest to the longest (of n clips the one that k = ⌊(n-1)/10⌋ come before), but at least `_FEWEST` and at
            most `WINDOW`; longer clips show a random part at every step, shorter ones stand still at their end
size        the rule of pictures (`size.py`) with a longest side of `SIDE`: a clip is many pictures
files       samples are MP4; animated WebP, without loss, where most clips are animated pictures, all are folders of
            frames, or any has opacity
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil

import numpy as np

from fromnoise.codec import videofile
from fromnoise.codec.image import ImageCodec
from fromnoise.codec.medium import Size
from fromnoise.codec.video import VideoCodec
from fromnoise.codec.videofile import VideoHeader
from fromnoise.data.size import held_whole, target_size
from fromnoise.errors import FromNoiseError

QUICKEST, WINDOW, SIDE = 15, 16, 32
_SHORTER = 0.1  # of the clips may be shorter than the window
_FEWEST = 4
_MOST = 2**22  # values of x0: beyond it one batch fills the memory of an ordinary machine


class Videos:
    name = "video"
    formats = "MP4, MOV, AVI, MKV, WebM, animated WebP and GIF"
    suffixes = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"})
    shared = frozenset({".webp", ".gif"})
    share = 0.25  # nobody animates a picture by accident
    axes = ("frames", "height", "width")
    header = VideoHeader
    codec = VideoCodec

    def sniff(self, head: bytes) -> bool:
        return videofile.sniff(head)

    def claims(self, data: bytes) -> bool:
        return videofile.animated(data)

    def probe(self, data: bytes) -> VideoHeader:
        return videofile.probe(data)

    def read(self, data: bytes, header: VideoHeader, codec: VideoCodec) -> np.ndarray:
        """Frames may come smaller, but no smaller than twice the codec's size."""
        size = codec.image.height, codec.image.width
        return videofile.decode(data, Fraction(codec.rate), size)[..., : header.channels]

    def family(self, header: VideoHeader) -> str:
        return "clips"

    def common(self, headers: Counter[VideoHeader]) -> tuple[VideoHeader, list[str]]:
        rates, modes, kinds, notes = Counter[Fraction](), Counter[int](), Counter[bool](), []
        for header, n in headers.items():
            rates[Fraction(header.rate)] += n
            modes[header.channels] += n
            kinds[header.animated] += n
        rate = max(rates, key=lambda r: (rates[r], r))
        if kinds[True]:
            notes.append(
                f"{kinds[True]:,} animated pictures are clips, as a quarter or more of the WebP and GIF files move; "
                "still ones are left out."
            )
        if len(modes) > 1:
            names = {1: "grey", 3: "RGB", 4: "RGBA"}
            found = ", ".join(f"{n:,} {names[channels]}" for channels, n in modes.most_common())
            notes.append(f"clips of {found}: all become {names[max(modes)]}, the widest mode present.")
        return VideoHeader(
            frames=max(header.frames for header in headers),
            height=max(header.height for header in headers),
            width=max(header.width for header in headers),
            rate=str(rate),
            channels=max(modes),
            alpha=max(modes) == 4,
            animated=kinds[True] >= kinds[False],
            stills=any(header.stills for header in headers),
        ), notes

    def choose(
        self, common: VideoHeader, headers: Counter[VideoHeader], size: Size | None
    ) -> tuple[VideoCodec, list[str]]:
        if isinstance(size, float):
            raise FromNoiseError(
                f"A size of {size} is no clip: give a side such as 32, HEIGHTxWIDTH or FRAMESxHEIGHTxWIDTH."
            )
        asked, size = (size[0], size[1:]) if isinstance(size, tuple) and len(size) == 3 else (None, size)
        sizes = Counter[tuple[int, int]]()
        for header, n in headers.items():
            sizes[header.height, header.width] += n
        height, width = target_size(sizes, size, largest=SIDE)
        own = Fraction(common.rate)
        rate = own / ceil(own / QUICKEST)
        counts = np.sort([max(1, round(h.seconds * rate)) for h, n in headers.items() for _ in range(n)])
        fitting = int(np.quantile(counts, _SHORTER, method="lower"))
        frames = asked or int(np.clip(fitting, _FEWEST, WINDOW))
        if frames < 2 or frames * height * width * common.channels > _MOST:
            raise FromNoiseError(
                f"Clips of {frames} frames of {height} x {width} cannot be trained on: ask for a --size such as "
                f"{WINDOW}x{SIDE}x{SIDE}, of two frames or more."
            )
        image = ImageCodec.full_range(
            height=height, width=width, channels=common.channels, alpha=common.alpha, dtype=common.dtype
        )
        codec = VideoCodec(image=image, frames=frames, rate=str(rate), container=_container(common))
        return codec, [_window(codec, counts), _scaled(codec, sizes), *_taken(rate, own, headers)]

    def remarks(self, header: VideoHeader, codec: VideoCodec, headers: Counter[VideoHeader]) -> list[str]:
        remarks = []
        if header.variable:
            remarks.append("of no constant rate, whose frames are taken at constant times")
        if header.seconds * Fraction(codec.rate) < codec.frames / 2:
            remarks.append("less than half as long as the window, which stand still at their end")
        if header.height < codec.image.height / 2 or header.width < codec.image.width / 2:
            remarks.append("less than half the proposed size, enlarged")
        return remarks


def _container(common: VideoHeader) -> videofile.Container:
    return "webp" if common.animated or common.stills or common.alpha else "mp4"


def _window(codec: VideoCodec, counts: np.ndarray) -> str:
    rate, fits = float(Fraction(codec.rate)), counts <= codec.frames
    longer = "" if fits.all() else "; of longer ones each step sees a part" if fits.any() else "; each step sees a part"
    shorter = "; shorter ones stand still at their end" if (counts < codec.frames).any() else ""
    return (
        f"windows of {codec.frames} frames, {codec.frames / rate:.2f} s at {rate:.4g} a second, {held_whole(fits)}"
        f"{longer}{shorter}; --size FRAMESxHEIGHTxWIDTH for others."
    )


def _scaled(codec: VideoCodec, sizes: Counter[tuple[int, int]]) -> str:
    height, width = codec.image.height, codec.image.width
    if set(sizes) == {(height, width)}:
        return f"frames are {height} x {width} (height x width), as in the data; --size for another."
    whence = f"{len(sizes):,} different sizes" if len(sizes) > 1 else "{} x {}".format(*next(iter(sizes)))
    return (
        f"frames of {whence} become {height} x {width} (height x width): scaled to cover, antialiased, and cut at the "
        "centre; --size for another."
    )


def _taken(rate: Fraction, own: Fraction, headers: Counter[VideoHeader]) -> list[str]:
    others = sum(n for header, n in headers.items() if header.variable or Fraction(header.rate) != own)
    every = own / rate
    notes = []
    if every > 1:
        notes.append(f"of {float(own):.4g} frames a second one in {every} is taken.")
    if others:
        notes.append(
            f"{others:,} clips of another rate, or of none that is constant, give the frames that are seen at "
            f"{float(rate):.4g} times a second."
        )
    return notes
