"""TIFF of several pages as volumes (tifffile): a page a slice, in the order that the file gives them.

slices   grey pages that the file calls depth or does not name; of an array that was written as it is, more than four,
         since fewer may be colours.  Pages that it calls channels or moments are no slices
spacing  what ImageJ (unit, spacing, XResolution, YResolution) or OME-XML (PhysicalSizeX, Y, Z) says, in micrometres
values   the numbers of the file

No other text of the file is looked at, and nothing that tifffile says of a file is passed on, since it may quote it.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from io import BytesIO

import numpy as np
import tifffile
from PIL import Image

from fromnoise.codec.niftifile import ALIGNED
from fromnoise.codec.stackfile import ORIENTATION, upright
from fromnoise.data.blocks import MOST, Volume, check, finite
from fromnoise.data.image import TIFF, channels_last, cut_off
from fromnoise.data.stack import COLOURS
from fromnoise.errors import Unreadable

SUFFIXES = frozenset({".tif", ".tiff"})
_WIDE, _HIGH = 282, 283  # the tags XResolution and YResolution
_MICRONS = {"pm": 1e-6, "nm": 1e-3, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "mm": 1e3, "cm": 1e4}
_MICRONS |= {"m": 1e6, "in": 25400.0, "inch": 25400.0}
_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")
_PHYSICAL = re.compile(r'\bPhysicalSize([XYZ](?:Unit)?)="([^"]*)"')
_MU = re.compile(r"\\u00b5|\u00b5|\u03bc")  # ImageJ escapes it


def is_tiff(data: bytes) -> bool:
    """Whether bytes begin as a TIFF does; DICOM may, too, before it says what it is."""
    return data.startswith(TIFF) and data[128:132] != b"DICM"


def stacked(data: bytes) -> bool:
    """Whether a file is of several slices, by the rule at the top of this file, whatever else may be wrong with it."""
    try:
        with _opened(data) as file:
            if file.pages.first.samplesperpixel > 1:
                return False
            if cut_off(file, data):  # no picture, though the first page may be whole
                return True
            axes, shape = _axes(file), file.series[0].shape
            if axes == "QYX":
                return shape[0] > max(COLOURS) and not channels_last(shape)
            return "Z" in axes or axes == "IYX"
    except Unreadable:
        return False


def volume(name: str, read: Callable[[], bytes]) -> Volume:
    """The scan in a file.  Raises Unreadable with reason and remedy; messages hold nothing of what the file says."""
    data = read()
    with _opened(data) as file:
        _sound(file, data)
        spacing, values = _spacing(file), _values(file, data)
    check(values)
    return Volume(
        shape=(values.shape[0], values.shape[1], values.shape[2]),
        affine=np.diag([*(spacing or (1.0, 1.0, 1.0)), 1.0]),
        dtype=str(values.dtype),
        slope=1.0,
        intercept=0.0,
        modality="",
        orientation=ORIENTATION,
        file=name,
        sized=spacing is not None,
        frame=ALIGNED,
        subject="",
        certain=False,
        digest=blake2b(data, digest_size=16).digest(),
        holes=values.dtype.kind == "f" and bool(np.isnan(values).any()),
        load=lambda: _loaded(read()),
        container="tiff",
    )


def _loaded(data: bytes) -> np.ndarray:
    with _opened(data) as file:
        return _values(file, data)


@contextmanager
def _opened(data: bytes) -> Iterator[tifffile.TiffFile]:
    try:
        with tifffile.TiffFile(BytesIO(data)) as file:
            yield file
    except Unreadable:
        raise
    except Exception:  # tifffile raises whatever a broken header leads it to
        raise Unreadable("is no TIFF that can be read, or cut short: copy or export it again") from None


def _axes(file: tifffile.TiffFile) -> str:
    """The axes of all pages, a letter each as tifffile gives them; pages that were written one by one are unnamed."""
    first, *others = file.series
    alike = all((one.axes, one.shape, one.dtype) == ("YX", first.shape, first.dtype) for one in file.series)
    return first.axes if not others else "IYX" if alike else ""


def _sound(file: tifffile.TiffFile, data: bytes) -> None:
    """Raises Unreadable for what is not one stack of slices that is there to its end."""
    pages = [page.aspage() for page in file.pages]
    if any(page.samplesperpixel > 1 for page in pages):
        raise Unreadable("holds colours: save each channel as a stack of its own, as with ImageJ's Split Channels")
    kinds = dict.fromkeys(f"{page.imagewidth} x {page.imagelength} {page.dtype}" for page in pages)
    if len(kinds) > 1:
        some = " and ".join([*kinds][:2])
        raise Unreadable(f"has pages of several kinds, as {some}: save those of one scan as a file of their own")
    axes = _axes(file)
    if _cut(file, data):
        raise Unreadable("is cut short: copy or export it again")
    if not re.fullmatch("[ZIQ]?YX", axes):
        what = {"T": "several moments", "C": "several channels"}
        which = next((what[letter] for letter in "TC" if letter in axes), "more than one stack")
        raise Unreadable(f"holds {which}: save each of them as a stack of its own, as with ImageJ's Duplicate")
    if math.prod(file.series[0].shape) * len(file.series) * pages[0].bitspersample / 8 > MOST:
        raise Unreadable(f"holds more than {MOST >> 30} GB: cut it into smaller stacks")


def _cut(file: tifffile.TiffFile, data: bytes) -> bool:
    """Whether pages, or what lies in them, would be beyond the end of the file."""
    ends = (at + n for page in file.pages for at, n in zip(page.dataoffsets, page.databytecounts, strict=True))
    return cut_off(file, data, strict=True) or max(ends) > len(data)


def _values(file: tifffile.TiffFile, data: bytes) -> np.ndarray:
    """(x, y, z), upright; infinite values are missing."""
    try:
        several = [one.asarray() for one in file.series]
    except ValueError:  # Pillow knows compressions that tifffile needs another library for
        several = _by_pillow(data, [page.index for one in file.series for page in one if page is not None])
    pages = np.stack(several) if len(several) > 1 else several[0]
    pages = pages.reshape(-1, *pages.shape[-2:]).astype(np.uint8 if pages.dtype == np.bool_ else file.series[0].dtype)
    if pages.dtype.kind not in "iuf":
        raise Unreadable("holds complex numbers: save the part that counts as a stack of real numbers")
    return finite(upright(pages))


def _by_pillow(data: bytes, places: list[int]) -> list[np.ndarray]:
    found = []
    try:
        with Image.open(BytesIO(data), formats=("TIFF",)) as image:
            for place in places:
                image.seek(place)
                found.append(np.array(image))
    except Exception:  # Pillow raises whatever a broken stream leads it to
        raise Unreadable(
            "has pages that are damaged, or compressed in a way for which no decoder is installed: pip install "
            "imagecodecs, or save it without compression"
        ) from None
    return found


def _spacing(file: tifffile.TiffFile) -> tuple[float, float, float] | None:
    """How far voxels lie apart along x, y, z, in micrometres; None where the file does not say it of each."""
    if file.is_ome:
        head = _PIXELS.search(file.ome_metadata or "")
        known = dict(_PHYSICAL.findall(head[0])) if head else {}
        parts = [(known.get(axis, ""), known.get(f"{axis}Unit", "um")) for axis in "XYZ"]
    else:
        known = file.imagej_metadata or {}
        unit = known.get("unit")
        parts = [(_pitch(file, _WIDE), unit), (_pitch(file, _HIGH), known.get("yunit", unit))]
        parts.append((known.get("spacing", 1.0), known.get("zunit", unit)))
    try:
        x, y, z = (abs(float(length)) * _MICRONS[_plain(unit)] for length, unit in parts)
    except (KeyError, TypeError, ValueError):
        return None
    return (x, y, z) if all(math.isfinite(one) and one > 0 for one in (x, y, z)) else None


def _pitch(file: tifffile.TiffFile, tag: int) -> float:
    """The distance that a resolution makes, 1 where none is said."""
    pixels, units = file.pages.first.tags.valueof(tag, (1, 1))
    return units / pixels if pixels else math.nan


def _plain(unit: object) -> str:
    return _MU.sub("u", html.unescape(str(unit)).lower())
