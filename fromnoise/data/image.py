"""Image files: what the header says (`probe`, cheap) and the pixels themselves (`decode`).

Pixels come back as (h, w, c) in the file's own channels, dtype and range, upright after EXIF.  Palettes become the
colours that they stand for, 1-bit images 0 and 255, CMYK and YCbCr become RGB.  Pillow reads everything but the TIFFs
that it cannot hold (16-bit colour, float, more than four channels), which tifffile reads.

`Images` is the medium: the rules by which a folder of pictures becomes one set.
"""

from __future__ import annotations

import io
import logging
import math
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
import tifffile
from PIL import Image

from fromnoise.codec.image import ImageCodec
from fromnoise.codec.imagefile import SHEET_KEY
from fromnoise.codec.medium import Size
from fromnoise.data.size import target_size
from fromnoise.errors import FromNoiseError, Unreadable, reason
from fromnoise.types import Shape

# The largest image that is decoded.  Today's biggest ordinary cameras and phones make 50-megapixel files (8192 x 6144);
# a picture above that is a scan, a map or a bomb, and costs 0.4 GB a copy in 16-bit RGBA.
MAX_PIXELS = 8192 * 6144
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".apng"})
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it would print comes back as Unreadable
_PNG = b"\x89PNG\r\n\x1a\n"
_SHEET = SHEET_KEY.encode() + b"\0"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PILLOW = ("JPEG", "WEBP", "GIF", "BMP")
# The most pages of a TIFF that are taken for channels, and the most channels of a lone array.
MAX_CHANNELS = 32
_MODES = ("grey", "grey-alpha", "RGB", "RGBA")  # from the narrowest to the widest
_MORE = "with several frames or pages, of which the first is used (save each as a file, or each colour as a grey stack)"
_LONG = 3.0  # aspect ratio beyond which the centre cut loses most of the picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What is known of an image without its pixels, upright.

    `alpha` says whether the last channel is opacity; `orientation` is EXIF's 1..8; `more` that the file holds frames
    or pages beyond the first, which alone is used; `paged` that channels are pages of which the file does not say it.
    """

    height: int
    width: int
    channels: int
    alpha: bool
    dtype: str
    orientation: int = 1
    more: bool = False
    paged: bool = False

    @property
    def size(self) -> Shape:
        return self.height, self.width

    @property
    def mode(self) -> str:
        """grey, grey-alpha, RGB, RGBA, or the number of channels."""
        return mode_name(self.channels, self.alpha)


def mode_name(channels: int, alpha: bool) -> str:
    names = {(1, False): "grey", (2, True): "grey-alpha", (3, False): "RGB", (4, True): "RGBA"}
    return names.get((channels, alpha), f"{channels} channels")


def sniff(head: bytes) -> bool:
    """Whether the first 16 bytes are those of an image format that `probe` knows."""
    starts = (_PNG, b"\xff\xd8\xff", b"GIF8", b"BM", *TIFF)
    return head.startswith(starts) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def probe(data: bytes) -> Header:
    """The header of an image file held in memory.  Raises Unreadable with the reason."""
    if not data:
        raise Unreadable("is empty: copy or export it again")
    try:
        if data.startswith(_PNG):
            header = _probe_png(data)
        elif data.startswith(TIFF):
            header = _probe_tiff(data)
        else:
            header = _probe_pillow(data)
    except Unreadable:
        raise
    except Image.DecompressionBombError as error:
        raise Unreadable(f"is too large to decode safely ({reason(error)}): shrink it") from error
    except Exception as error:  # the parsers raise whatever a broken header leads them to
        raise Unreadable(f"is not a readable image ({_why(error)}): copy or export it again") from error
    if header.height * header.width * max(1.0, header.channels / 4) > MAX_PIXELS:
        megapixels = header.height * header.width / 1e6
        raise Unreadable(
            f"has {header.width} x {header.height}, {megapixels:.0f} megapixels, above the limit of "
            f"{MAX_PIXELS // 1_000_000}: shrink it to use it"
        )
    if header.height * header.width == 0:
        raise Unreadable("is an image without pixels: copy or export it again")
    return header


def decode(data: bytes, header: Header, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels of a probed file, (h, w, c), upright; a JPEG may come smaller, but no smaller than `at_least`."""
    try:
        if data.startswith(TIFF):
            pixels = _decode_tiff(data, header)
        elif data.startswith(_PNG) and header.dtype == "uint16":
            pixels = _decode_png16(data, header.channels)
        else:
            pixels = _decode_pillow(data, header, at_least)
    except Exception as error:  # the decoders raise whatever a broken stream leads them to
        raise Unreadable(f"cannot be decoded ({_why(error)}): copy or export it again") from error
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] != header.channels or pixels.dtype != header.dtype:
        raise Unreadable(f"decodes to {pixels.shape[2]} channels of {pixels.dtype}, unlike its header: export it again")
    # Pillow turns TIFFs by itself, so those branches turn where they must.
    turn = 1 if data.startswith(TIFF) else header.orientation
    return np.ascontiguousarray(_UPRIGHT[turn](pixels))


_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def _header(
    width: int, height: int, channels: int, alpha: bool, dtype: str, turn: int = 1, more: bool = False
) -> Header:
    turn = turn if turn in _UPRIGHT else 1
    width, height, channels = int(width), int(height), int(channels)  # a broken TIFF may hold lists here
    if turn >= 5:
        width, height = height, width
    return Header(height=height, width=width, channels=channels, alpha=alpha, dtype=dtype, orientation=turn, more=more)


def _why(error: Exception) -> str:
    text = reason(error)
    return "unknown format" if text.startswith("cannot identify image file") else text


def _probe_png(data: bytes) -> Header:
    """Walks the chunks (PNG specification, 5.3): 20 times as fast as a decoder, and sees a file cut short."""
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[colour]
    transparent, more, turn, at = False, False, 1, 8
    while data[at + 4 : at + 8] != b"IEND":
        kind = data[at + 4 : at + 8]
        if len(kind) < 4:
            raise ValueError("the file is cut short")
        length = int.from_bytes(data[at : at + 4], "big")
        if kind == b"tRNS":
            transparent = depth < 16
        elif kind == b"PLTE" and colour == 3:
            channels = 1 if _grey(data[at + 8 : at + 8 + length]) else 3
        elif kind == b"tEXt" and data.startswith(_SHEET, at + 8):
            raise Unreadable("is a sheet of pictures that fromnoise wrote, and no example: leave it out")
        elif kind == b"acTL":
            more = int.from_bytes(data[at + 8 : at + 12], "big") > 1
        elif kind == b"eXIf":
            exif = Image.Exif()
            exif.load(data[at + 8 : at + 8 + length])
            turn = exif.get(0x0112, 1)
        at += length + 12
    channels += transparent and colour in (0, 2, 3)
    dtype = "uint16" if depth == 16 else "uint8"
    return _header(width, height, channels, channels in (2, 4), dtype, turn, more)


def _probe_pillow(data: bytes) -> Header:
    with Image.open(io.BytesIO(data), formats=_PILLOW) as image:
        # Entropy-coded data cannot hold these markers, so a last scan without an end is a file cut short.
        if image.format in ("JPEG", "MPO") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
            raise ValueError("the file is cut short")
        mode = _plain_mode(image)
        turn = image.getexif().get(0x0112, 1)
        more = bool(getattr(image, "is_animated", False))
        return _header(image.width, image.height, len(mode), mode in ("LA", "RGBA"), "uint8", turn, more)


def _plain_mode(image: Image.Image) -> str:
    """The 8-bit mode L, LA, RGB or RGBA that holds what the image holds."""
    transparent = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode == "P":
        grey = _grey(bytes(image.getpalette("RGB") or ()))
    return ("L" if grey else "RGB") + ("A" if transparent else "")


def _grey(palette: bytes) -> bool:
    return palette[::3] == palette[1::3] == palette[2::3]


def _decode_pillow(data: bytes, header: Header, at_least: tuple[int, int] | None) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=(*_PILLOW, "PNG", "TIFF")) as image:
        if at_least is not None and image.format == "JPEG":
            # JPEG's own halving is twice or more above the size that is wanted, so the resampling still antialiases.
            side = 2 * max(at_least)
            image.draft(None, (side, side))
        if image.mode.startswith(("I", "F")):
            return np.asarray(image)
        mode = _plain_mode(image)
        return np.asarray(image if image.mode == mode else image.convert(mode))


def _decode_png16(data: bytes, channels: int) -> np.ndarray:
    """16-bit PNG, which Pillow reads whole only where it is grey.

    Grey-alpha has the bytes, and so the filters, of 8-bit RGBA: its header is rewritten as that.  RGB and RGBA are
    unpacked twice: as big-endian words Pillow keeps the high bytes, as little-endian words the low bytes.
    """
    if channels == 2:
        start = data[:24] + bytes((8, 6)) + data[26:29]
        data = start + struct.pack(">I", crc32(start[12:29])) + data[33:]
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if channels == 1:
            return np.asarray(image).astype(np.uint16)
        if channels == 2:
            return np.asarray(image).view(">u2").astype(np.uint16)
        high, low = (_unpacked(data, f"{image.mode};16{order}") for order in "BL")
        return high.astype(np.uint16) << 8 | low


def _unpacked(data: bytes, rawmode: str) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.tile = [tile._replace(args=rawmode) for tile in image.tile]
        return np.asarray(image)


def _probe_tiff(data: bytes) -> Header:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if cut_off(file, data):
            raise Unreadable("is cut short, as pages behind its first lie beyond its end: copy or export it again")
        page, axes, shape = _tiff_layout(file)
        height, width = (shape[axes.index(axis)] for axis in "YX")
        channels = shape[axes.index("C")] if "C" in axes else 1
        coded = (tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.SEPARATED, tifffile.PHOTOMETRIC.YCBCR)
        if page.photometric in coded:
            channels = 3
        dtype = "uint8" if page.bitspersample == 1 else str(page.dtype)
        opacity = bool(page.extrasamples) and page.extrasamples[0] in (1, 2)  # not 0, which is unspecified
        alpha = opacity and channels in (2, 4) and dtype in ("uint8", "uint16")
        turn = page.tags["Orientation"].value if "Orientation" in page.tags else 1
        more = len(file.pages) > 1 and not ("C" in axes and page.samplesperpixel == 1)
        paged = axes == "CYX" and file.series[0].axes[0] == "Q"
        return replace(_header(width, height, channels, alpha, dtype, int(turn), more), paged=paged)


def cut_off(file: tifffile.TiffFile, data: bytes, *, strict: bool = False) -> bool:
    """Whether a TIFF promises pages that would lie beyond its end: by where the next one is, or by what it says of a
    large stack, whose pages lie behind the first; if not `strict`, where some do, as words may outlive their pages."""
    last, width = file.pages.next_page_offset or 0, file.tiff.offsetsize
    if data[last : last + width] != bytes(width):  # where a zero says that there are no more pages
        return True
    said, first = file.imagej_metadata or {}, file.pages.first
    count = math.prod(int(said.get(what, 1)) for what in ("slices", "frames", "channels"))
    if first.samplesperpixel == 1 and (strict or not file.is_ome):  # which may tell of other files
        count = max(count, sum(math.prod(one.shape[:-2]) for one in file.series))
    there = (len(data) - first.dataoffsets[0]) // first.nbytes
    return there < count > len(file.pages) and (strict or there > 1)


def _tiff_layout(file: tifffile.TiffFile) -> tuple[tifffile.TiffPage, str, tuple[int, ...]]:
    """The first page, and axes with sizes: YX, YXC or CYX.

    Pages that the file calls channels (C, S), or leaves unnamed (Q) as a plain array of three axes does, are the
    channels of one image; pages along time, depth or a plain sequence are images of which the first counts.
    """
    page = file.pages[0]
    assert isinstance(page, tifffile.TiffPage)
    if page.samplesperpixel > 1:
        planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
        sizes = (page.imagelength, page.imagewidth)
        return (
            (page, "CYX", (page.samplesperpixel, *sizes)) if planar else (page, "YXC", (*sizes, page.samplesperpixel))
        )
    series = file.series[0]
    shape = tuple(series.shape)
    if len(shape) == 3 and series.axes[1:] == "YX" and series.axes[0] in "CSQ":
        if channels_last(shape):
            return page, "YXC", shape
        if shape[0] <= MAX_CHANNELS:
            return page, "CYX", shape
    return page, "YX", (page.imagelength, page.imagewidth)


def channels_last(shape: Sequence[int]) -> bool:
    """Whether the last of three axes is taken for channels."""
    return shape[2] < min(shape[:2]) and shape[2] <= MAX_CHANNELS


def _decode_tiff(data: bytes, header: Header) -> np.ndarray:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page, axes, _ = _tiff_layout(file)
        stacked = "C" in axes and page.samplesperpixel == 1
        narrow = header.dtype == "uint8" and header.mode in ("grey", "grey-alpha", "RGB", "RGBA")
        if not stacked and (narrow or (header.channels == 1 and header.dtype in ("uint16", "float32"))):
            return _decode_pillow(data, header, None).astype(header.dtype)  # Pillow knows more compressions
        pixels = file.series[0].asarray() if stacked else page.asarray()
        pixels = np.moveaxis(pixels, 0, -1) if axes == "CYX" else pixels
        return _UPRIGHT[header.orientation](pixels.astype(header.dtype))


class Images:
    """Grey, grey-alpha, RGB and RGBA images of 8 and 16 bits go together: the widest of these modes and the widest
    depth that are present win.  Any other number of channels, and any other dtype, must be equal throughout.
    """

    name = "image"
    formats = "PNG, JPEG, WebP, GIF, BMP, TIFF"
    suffixes = SUFFIXES
    axes = ("height", "width")
    header = Header
    codec = ImageCodec

    def sniff(self, head: bytes) -> bool:
        return sniff(head)

    def probe(self, data: bytes) -> Header:
        return probe(data)

    def read(self, data: bytes, header: Header, codec: ImageCodec) -> np.ndarray:
        """A JPEG may come smaller, but no smaller than the codec's size."""
        return decode(data, header, (codec.height, codec.width))

    def family(self, header: Header) -> str:
        if header.mode in _MODES and header.dtype in ("uint8", "uint16"):
            return "8- or 16-bit images"
        return f"{header.channels} channel{'s' * (header.channels > 1)} of {header.dtype}"

    def common(self, headers: Counter[Header]) -> tuple[Header, list[str]]:
        modes, depths, notes = Counter[str](), Counter[str](), []
        for header, n in headers.items():
            modes[header.mode] += n
            depths[header.dtype] += n
        for what, counts, order in (("mode", modes, _MODES), ("depth", depths, ("uint8", "uint16"))):
            if len(counts) > 1:
                found = ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
                notes.append(
                    f"images of {found}: all become {max(counts, key=order.index)}, the widest {what} present."
                )
        if paged := sum(n for header, n in headers.items() if header.paged):
            notes.append(
                f"pages of {paged:,} TIFF file{'s' * (paged != 1)}, which say not what they are, are taken for "
                "channels of a picture; --axes zyx for slices of a stack, or save each page as a file."
            )
        widest = max(headers, key=lambda h: _MODES.index(h.mode) if h.mode in _MODES else 0)
        return replace(widest, dtype=max(depths, key=lambda name: np.dtype(name).itemsize)), notes

    def choose(self, common: Header, headers: Counter[Header], size: Size | None) -> tuple[ImageCodec, list[str]]:
        if isinstance(size, float) or (isinstance(size, tuple) and len(size) != 2):
            raise FromNoiseError(f"A size of {size} is no image: give a whole number of pixels, such as 64.")
        sizes = Counter[tuple[int, int]]()
        for header, n in headers.items():
            sizes[header.height, header.width] += n
        side = (size[0], size[1]) if isinstance(size, tuple) else size
        height, width = target_size(sizes, side)
        codec = ImageCodec.full_range(
            height=height, width=width, channels=common.channels, alpha=common.alpha, dtype=common.dtype
        )
        if set(sizes) == {(height, width)}:
            return codec, []
        whence = f"{len(sizes):,} different sizes"
        if len(sizes) == 1:
            ((h, w),) = sizes
            whence = f"{h} x {w}"
        return codec, [
            f"{whence} become {height} x {width} (height x width): scaled to cover, antialiased, and cut at the "
            "centre; --size for another."
        ]

    def remarks(self, header: Header, codec: ImageCodec, headers: Counter[Header]) -> list[str]:
        remarks, mixed = [], len({one.size for one in headers}) > 1
        if header.more:
            remarks.append(_MORE)
        if mixed and max(header.size) > _LONG * min(header.size):
            remarks.append(f"more than {_LONG:.0f} times as long as wide, of which the centre is used")
        if mixed and (header.height < codec.height / 2 or header.width < codec.width / 2):
            remarks.append("less than half the proposed size, enlarged")
        return remarks
