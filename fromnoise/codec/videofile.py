"""Video files: what is known of one without its pictures, the frames themselves, and frames written with their recipe.

MP4, MOV, AVI, Matroska and WebM are read by FFmpeg (PyAV); animated WebP and GIF by Pillow.  The rate is read from when
frames begin (`timing.py`).  Written are MP4 (H.264), WebM (VP9) and animated WebP (without loss), with the recipe as
JSON in the comment, in WebP in EXIF's ImageDescription.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
from PIL import Image, ImageSequence

from fromnoise.codec.recipe import read_by, written
from fromnoise.codec.timing import Timing, seen, timing
from fromnoise.errors import FromNoiseError, Unreadable, reason
from fromnoise.types import Shape

Container = Literal["mp4", "webm", "webp"]
INSTALL = "pip install 'fromnoise[video]'"
MAX_PIXELS = 8192 * 8192  # of a frame
_DESCRIPTION = 0x010E  # EXIF's ImageDescription
_BLINK, _SLOW = 10, 100  # ms: delays of up to the one are shown as the other, as browsers do
_WHOLE, _SHORT = 0.98, 0.2  # of its length and in seconds: what a file may end earlier than it says
_OPACITY = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # decoders by codec
_WRITTEN = {"mp4": ("libx264", {"crf": "12"}), "webm": ("libvpx-vp9", {"crf": "12", "b": "0", "row-mt": "1"})}


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoHeader:
    """What is known of a clip without its frames, upright.

    `rate` is frames a second, a fraction such as "25" or "30000/1001"; `frames` counts them at that rate.  `animated`
    says that it is an animated picture, `stills` a folder of still ones, `variable` that frames do not come at constant
    times.
    """

    frames: int
    height: int
    width: int
    rate: str
    channels: int
    alpha: bool
    animated: bool = False
    variable: bool = False
    stills: bool = False

    @property
    def size(self) -> Shape:
        return self.frames, self.height, self.width

    @property
    def seconds(self) -> float:
        return float(self.frames / Fraction(self.rate))

    @property
    def mode(self) -> str:
        """RGB at 25 frames a second"""
        colours = {1: "grey", 3: "RGB", 4: "RGBA"}[self.channels]
        return f"{colours} at {'about ' * self.variable}{float(Fraction(self.rate)):.4g} frames a second"

    @property
    def dtype(self) -> str:
        return "uint8"


def sniff(head: bytes) -> bool:
    """Whether the first 16 bytes are those of a video.  Pictures may be animated: `animated` tells."""
    return head[4:8] == b"ftyp" or head[:4] == b"\x1a\x45\xdf\xa3" or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def animated(data: bytes) -> bool:
    """Whether a WebP or GIF has several frames; of one that is damaged, or claims to be huge, it is not said."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return getattr(image, "n_frames", 1) > 1
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def probe(data: bytes) -> VideoHeader:
    """The header of a file held in memory.  Raises Unreadable with the reason."""
    if not data:
        raise Unreadable("is empty: copy or export it again")
    header = _probe_animation(data) if _is_picture(data) else _probe_video(data)
    if header.height * header.width > MAX_PIXELS:
        raise Unreadable(f"has frames of {header.width} x {header.height}, too large to decode safely: shrink them")
    return header


def decode(data: bytes, rate: Fraction, at_least: tuple[int, int]) -> np.ndarray:
    """The frames of a probed file that are seen at times k/rate, (n, h, w, c) uint8, upright; n frames fill its length.

    Frames may come smaller, but no smaller than twice `at_least` covers.  Raises Unreadable for what cannot be decoded.
    """
    try:
        times, frames = _animation(data) if _is_picture(data) else _video(data, at_least)
        wanted, kept = list(seen(times, rate)), []
        for k, frame in enumerate(frames):
            kept += [frame()] * wanted.count(k)
    except Unreadable:
        raise
    except Exception as error:  # the decoders raise whatever a broken stream leads them to
        raise Unreadable(f"cannot be decoded ({reason(error)}): export it again") from error
    if 2 * len(kept) < len(wanted):
        raise Unreadable(f"has only {len(kept):,} of {len(wanted):,} frames that can be decoded: export it again")
    return np.stack(kept)


def shrunk(height: int, width: int, at_least: tuple[int, int]) -> tuple[int, int]:
    """The size that a frame comes in: smaller than its own, but no smaller than twice what covers `at_least`."""
    scale = min(1.0, 2 * max(at_least[0] / height, at_least[1] / width))
    return math.ceil(height * scale), math.ceil(width * scale)


def _is_picture(data: bytes) -> bool:
    return data[:4] == b"GIF8" or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


# ---- animated pictures ----------------------------------------------------------------------------------------------


def _probe_animation(data: bytes) -> VideoHeader:
    if data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data) + 1:
        raise Unreadable("is cut short: copy or export it again")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if getattr(image, "n_frames", 1) < 2:
                raise Unreadable("is a still picture among clips: train on pictures by themselves")
            width, height = image.size
            # In GIF a colour that is called transparent may only mean what has not changed.
            alpha = image.mode == "RGBA" if image.format == "WEBP" else _opacity(image) < 255
        time = timing(_delays(data), Fraction(1, 1000))
    except Image.DecompressionBombError as error:
        raise Unreadable(f"is too large to decode safely ({reason(error)}): shrink it") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise Unreadable(f"is not a readable animation ({reason(error)}): export it again") from error
    channels = 4 if alpha else 3
    return VideoHeader(
        frames=time.frames,
        height=height,
        width=width,
        rate=str(time.rate),
        channels=channels,
        alpha=alpha,
        animated=True,
        variable=time.variable,
    )


def _opacity(image: Image.Image) -> int:
    """The least opacity of a picture."""
    return int(np.asarray(image.convert("RGBA"))[..., 3].min())


def _delays(data: bytes) -> list[int]:
    """When frames begin, in ms, and the end of the last."""
    if data[:4] == b"RIFF":
        # Pillow learns the times of WebP only by decoding everything; the chunks ANMF say them (RFC 9649, 2.7.1.1).
        stays, at = [], 12
        while at + 8 <= len(data):
            if data[at : at + 4] == b"ANMF":
                stays.append(int.from_bytes(data[at + 20 : at + 23], "little"))
            size = int.from_bytes(data[at + 4 : at + 8], "little")
            at += 8 + size + size % 2
    else:
        with Image.open(io.BytesIO(data)) as image:
            stays = [int(frame.info.get("duration", 0)) for frame in ImageSequence.Iterator(image)]
    return [0, *np.cumsum([stay if stay > _BLINK else _SLOW for stay in stays]).tolist()]


def _animation(data: bytes) -> tuple[np.ndarray, Iterator]:
    def frames() -> Iterator:
        with Image.open(io.BytesIO(data)) as image:
            for frame in ImageSequence.Iterator(image):
                yield lambda frame=frame: np.asarray(frame.convert("RGBA"))

    return timing(_delays(data), Fraction(1, 1000)).times, frames()


# ---- videos ---------------------------------------------------------------------------------------------------------


def _av() -> ModuleType:
    try:
        import av
        import av.logging
    except ImportError as error:
        raise Unreadable(f"is a video, which PyAV reads: {INSTALL}") from error
    av.logging.set_level(av.logging.PANIC)  # what it would print comes back as Unreadable
    return av


def _probe_video(data: bytes) -> VideoHeader:
    av = _av()
    try:
        time, cut = _times(data)
        with av.open(io.BytesIO(data)) as file:
            first = next(_shown(file), None)
    except av.FFmpegError as error:
        raise Unreadable(f"is not a readable video ({reason(error)}): export it again as MP4") from error
    if first is None:
        raise Unreadable("holds no frame that can be decoded: export it again as MP4")
    if cut:
        raise Unreadable(f"is cut short: it {cut}: copy or export it again")
    upright = _upright(first)
    return VideoHeader(
        frames=time.frames,
        height=upright.shape[0],
        width=upright.shape[1],
        rate=str(time.rate),
        channels=upright.shape[2],
        alpha=upright.shape[2] == 4,
        variable=time.variable,
    )


def _times(data: bytes) -> tuple[Timing, str]:
    """When frames are shown, and what says that the file is cut short, "" where it is whole.  Nothing is decoded."""
    with _av().open(io.BytesIO(data)) as file:
        if not file.streams.video:
            what = "no pictures, only sound" if file.streams.audio else "neither pictures nor sound"
            raise Unreadable(f"holds {what}: leave it out")
        stream = file.streams.video[0]
        everything = [p for p in file.demux() if p.size]
        packets = [p for p in everything if p.stream.index == stream.index]
        ticks = sorted(p.dts if p.pts is None else p.pts for p in packets if p.pts is not None or p.dts is not None)
        if len(ticks) < 2:
            count = "no frame" if not ticks else "one frame"
            raise Unreadable(f"holds {count}, and a clip has two or more: leave it out, or train on pictures")
        tick = stream.time_base
        assert tick is not None
        last = max(packets, key=lambda p: p.pts or 0).duration or round(float(np.median(np.diff(ticks))))
        time = timing([*ticks, ticks[-1] + last], tick, stream.average_rate)
        return time, _cut(file, len(ticks), stream.frames, everything)


def _cut(file, held: int, promised: int, packets: Sequence) -> str:
    """How a file falls short of its own word, "" where it does not.

    Where it does not count its frames it says how long it is, and that may be the length of its sound: then some stream
    must go on to that end.
    """
    if promised:
        return f"holds {held:,} of {promised:,} frames" if promised > 1.02 * held + 1 else ""
    ends = [float((p.pts + (p.duration or 0)) * p.time_base) for p in packets if p.pts is not None]
    length, reached = (file.duration or 0) / 1e6, max(ends, default=0.0) - (file.start_time or 0) / 1e6
    return f"ends after {reached:.2g} of {length:.2g} seconds" if reached < _WHOLE * length - _SHORT else ""


def _video(data: bytes, at_least: tuple[int, int]) -> tuple[np.ndarray, Iterator]:
    def frames() -> Iterator:
        with _av().open(io.BytesIO(data)) as file:
            for frame in _shown(file):
                yield lambda frame=frame: _upright(frame, at_least)

    return _times(data)[0].times, frames()


def _shown(file) -> Iterator:
    """The frames of an open video, PyAV's; of WebM with their opacity, which FFmpeg's own decoders leave out."""
    stream = file.streams.video[0]
    seeing = _OPACITY.get(stream.codec_context.name)
    if seeing is None or {name.lower(): value for name, value in stream.metadata.items()}.get("alpha_mode") != "1":
        yield from file.decode(stream)
        return
    try:
        decoder = _av().CodecContext.create(seeing, "r")
    except ValueError as error:
        raise Unreadable(f"has opacity, which this PyAV was built without {seeing} for: {INSTALL}") from error
    for packet in file.demux(stream):  # the last one is empty, which makes the decoder give what it holds back
        yield from decoder.decode(packet)


def _upright(frame, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """A frame of PyAV as (h, w, c), turned as it says, `shrunk`."""
    format, turns = frame.format, round(frame.rotation / 90) % 4
    alpha = any(part.is_alpha for part in format.components)
    kind = "rgba" if alpha else "gray" if len(format.components) == 1 and not format.has_palette else "rgb24"
    height, width = frame.height, frame.width
    if at_least is not None:
        height, width = shrunk(height, width, at_least if turns % 2 == 0 else (at_least[1], at_least[0]))
    pixels = frame.to_ndarray(format=kind, width=width, height=height, interpolation="AREA")
    return np.ascontiguousarray(np.rot90(pixels if pixels.ndim == 3 else pixels[..., None], turns))


# ---- writing --------------------------------------------------------------------------------------------------------


def save(path: Path, frames: np.ndarray, rate: Fraction, *, container: Container, recipe: Mapping[str, object]) -> Path:
    """Writes (n, h, w, c) uint8 of 1, 3 or 4 channels to `path` with `.mp4`, `.webm` or `.webp` appended.

    Only WebP keeps opacity.  Returns the file.
    """
    file = path.with_name(f"{path.name}.{container}")
    text = written(recipe)
    colours = frames.repeat(3, axis=-1) if frames.shape[-1] == 1 else frames
    if container == "webp":
        exif = Image.Exif()
        exif[_DESCRIPTION] = text
        images = [Image.fromarray(np.ascontiguousarray(one)) for one in colours]
        save_animation(file, images, rate, "WEBP", lossless=True, exact=True, exif=exif)
        return file
    _write_video(file, colours[..., :3], rate, container, text)
    return file


def save_animation(
    file: Path | io.BytesIO, images: Sequence[Image.Image], rate: Fraction, format: str, **settings: object
) -> None:
    """Writes pictures as one that moves; the times of a rate are rounded to whole ms without adding up."""
    begins = [round(k * 1000 / rate) for k in range(len(images) + 1)]
    stays = np.diff(begins).tolist()
    images[0].save(file, format, save_all=True, append_images=images[1:], duration=stays, loop=0, **settings)


def webm(frames: np.ndarray, rate: Fraction, recipe: Mapping[str, object]) -> bytes | None:
    """(n, h, w, 3) uint8 as WebM, which browsers play, odd sides a pixel longer; None without a PyAV that writes it."""
    _, height, width, _ = frames.shape
    file = io.BytesIO()
    try:
        even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
        _write_video(file, even, rate, "webm", written(recipe))
    except FromNoiseError:
        return None
    return file.getvalue()


def _write_video(file: Path | io.BytesIO, frames: np.ndarray, rate: Fraction, container: Container, text: str) -> None:
    codec, settings = _WRITTEN[container]
    try:
        av = _av()
        av.Codec(codec, "w")
    except (Unreadable, ValueError) as error:
        raise FromNoiseError(
            f"Writing .{container} needs PyAV with {codec}: {INSTALL}, or write --out samples.npz."
        ) from error
    _, height, width, _ = frames.shape
    with av.open(str(file) if isinstance(file, Path) else file, "w", format=container) as out:
        out.metadata["comment"] = text
        stream = out.add_stream(codec, rate=rate, options=settings)
        stream.width, stream.height = width, height
        # Colours at half the resolution are what every player knows, but they need even sides.
        stream.pix_fmt = "yuv420p" if height % 2 == width % 2 == 0 else "yuv444p"
        stream.time_base = 1 / rate
        for k, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = k, 1 / rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def read_recipe(path: Path) -> dict[str, object]:
    """The recipe inside a file that `save` wrote.  Raises FromNoiseError where there is none."""
    return read_by(path, _words, Unreadable)


def _words(path: Path) -> str:
    if path.suffix == ".webp":
        with Image.open(path) as image:
            return image.getexif().get(_DESCRIPTION, "")
    with _av().open(str(path)) as file:
        return {name.lower(): value for name, value in file.metadata.items()}.get("comment", "")
