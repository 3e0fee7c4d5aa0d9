"""DICOM as volumes (pydicom): slices sorted along their normal, one scan a series, or a file of several frames.

What a file of several frames says of each stands in its functional groups, shared ones or the frame's own.

Only the technical attributes in `_TAGS` are ever read, and of functional groups those that `_frame` asks for; nothing
that pydicom says of a file is passed on, since it may quote it.  Series and patient are told apart by hashes that live
as long as the scan of the folder.  Pictures that do not lie in space, such as X-rays, are scans of one slice.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from io import BytesIO
from itertools import groupby, pairwise
from types import ModuleType

import numpy as np

from fromnoise.codec.niftifile import SCANNER, nibabels
from fromnoise.data.blocks import Volume, units
from fromnoise.errors import FromNoiseError, Unreadable, extra

SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
_TAGS = [
    *("SeriesInstanceUID", "PatientID", "StudyInstanceUID", "Modality", "ImageType", "BurnedInAnnotation"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness"),
    *("InstanceNumber", "PixelData", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("FloatPixelData", "DoubleFloatPixelData"),
]
_SCOUTS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}
_MODALITY = re.compile("[A-Z]{2,3}")  # nothing else is written down
_SLICED = ("CT", "MR", "PT", "NM")  # modalities whose pictures are slices of something
_SHOWN = 4  # gaps of a series that are said
_UNEVEN = 0.1  # of the distance between slices: what differs more is no even spacing
_CINE = "holds several frames without places in space, as ultrasound does: leave it out, or save it as MP4"
_FLAT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # directions of rows and columns where none are said


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A slice: a file, or the one at `index` of `several` in a file.  `plane` is what slices of one scan share, at last
    whether they have a `scale` (slope, intercept), which each has its own of; `depth` where it lies along its normal,
    in mm; `lacks` the attribute for want of which it is a scan by itself, "" where it has all."""

    file: str
    index: int
    several: bool
    series: str
    subject: str
    certain: bool
    sized: bool
    lacks: str
    modality: str
    scout: bool
    number: int
    plane: tuple[int, int, str, float, float, tuple[float, ...], bool]
    scale: tuple[float, float]
    corner: tuple[float, ...] | None
    thickness: float
    digest: bytes

    @property
    def depth(self) -> float:
        across = np.cross(self.plane[5][:3], self.plane[5][3:])
        return float(np.dot(across, self.corner or (0, 0, 0)))


def pydicoms() -> ModuleType:
    """pydicom, silenced.  Raises FromNoiseError where it is not installed."""
    with extra("DICOM needs pydicom", "medical"):
        import pydicom
        import pydicom.config
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # it would print what files hold
    return pydicom


def frames(name: str, data: bytes) -> list[Frame]:
    """What is known of the slices in a file.  Raises Unreadable with reason and remedy."""
    found = _opened(data)
    try:
        return _frames(name, found, data)
    except (Unreadable, FromNoiseError):
        raise
    except Exception:  # values are parsed when they are asked for, and errors quote them
        raise Unreadable("says of itself what cannot be: export it again") from None


def _frames(name: str, found, data: bytes) -> list[Frame]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they may quote, too
        count = _sound(found)
        digest = blake2b(data, digest_size=16).digest()
        made = [_frame(name, found, index, count > 1, digest) for index in range(count)]
        lost = sum(one.corner is None for one in made)
        if count > 1 and lost:
            raise Unreadable(_placeless(found, f"{lost:,} of its {count:,} frames", lost == 1))
        return made


def _sound(found) -> int:
    """The number of frames.  Raises Unreadable for what gives no slices."""
    count = int(found.get("NumberOfFrames") or 1)
    if "PixelData" not in found or not found.get("Rows") or not found.get("Columns"):
        raise Unreadable(_pixelless(found))
    if found.get("BurnedInAnnotation") == "YES":
        raise Unreadable("says that names are burned into its pixels: remove them before it is trained on")
    said = len(found.get("PerFrameFunctionalGroupsSequence") or ())
    if count > 1 and not said:
        raise Unreadable(_placeless(found, "its frames"))
    if int(found.get("SamplesPerPixel") or 1) > 1 or found.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise Unreadable("holds colours: save it as PNG and train on pictures")
    if int(found.BitsAllocated) == 1:
        raise Unreadable("holds a mask of single bits, a segmentation: leave it out")
    _check(found, count)
    if said and said != count:
        raise Unreadable(f"is damaged, as it holds {count:,} and describes {said:,} frames: copy or export it again")
    return count


def _pixelless(found) -> str:
    """Why there are no pixels, and what to do; pictures have some, so that a file of one without them is damaged."""
    if "FloatPixelData" in found or "DoubleFloatPixelData" in found:
        return "holds pixels that are no whole numbers, which are not read: save it as NIfTI"
    kind = found.file_meta.get("MediaStorageSOPClassUID")
    name = kind.name if kind else ""
    bare = not len(found) and name == (kind or "")  # cut off before it says what it is
    if bare or found.get("Rows") or "Image Storage" in name:
        return "holds no pixels, though it is a picture, so that it is cut short or damaged: copy or export it again"
    return "holds no pixels (a report, a plan or an index): leave it out"


def _placeless(found, frames: str, one: bool = False) -> str:
    """What is said of `frames` (`one` of them) without places: those of slices are wanting, others never have one."""
    modality = str(found.get("Modality") or "")
    if modality not in _SLICED:
        return _CINE
    return (
        f"does not say where {frames} of {modality} lie{'s' * one}: export it again with "
        "PerFrameFunctionalGroupsSequence and the places in it, or as NIfTI, or as a file a slice"
    )


def _frame(name: str, found, index: int, several: bool, digest: bytes) -> Frame:
    said = partial(_said, found, index)
    corner = said("PlanePositionSequence", "ImagePositionPatient", 3)
    turn = said("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacings = (said("PixelMeasuresSequence", "PixelSpacing", 2), _numbers(found, "ImagerPixelSpacing", 2))
    spacing = next((one for one in spacings if one and min(one) > 0), None)
    down, right = spacing or (1.0, 1.0)
    slope = said("PixelValueTransformationSequence", "RescaleSlope", 1)
    intercept = said("PixelValueTransformationSequence", "RescaleIntercept", 1)
    scale = (slope or (1.0,))[0], (intercept or (0.0,))[0]
    if not scale[0]:
        raise Unreadable("says that all values are one: export it again")
    sign = "int" if found.get("PixelRepresentation") == 1 else "uint"
    kinds, modality = found.get("ImageType") or (), str(found.get("Modality") or "")
    patient, study = _patient(found), str(found.get("StudyInstanceUID") or "")
    series = str(found.get("SeriesInstanceUID") or name)
    return Frame(
        file=name,
        index=index,
        several=several,
        series=_hidden(f"{series} {name}" if several else series),
        subject=_hidden(patient or study) if patient or study else "",
        certain=bool(patient),
        sized=spacing is not None,
        lacks="" if several else _lacking(found, corner, turn),
        modality=modality if _MODALITY.fullmatch(modality) else "",
        scout=bool(_SCOUTS & {str(kind).upper() for kind in ([kinds] if isinstance(kinds, str) else kinds)}),
        number=int((_numbers(found, "InstanceNumber", 1) or (0,))[0]),
        plane=(
            int(found.Rows),
            int(found.Columns),
            f"{sign}{max(8, int(found.BitsAllocated))}",
            down,
            right,
            tuple(round(x, 4) for x in turn or _FLAT),
            bool(slope or intercept),
        ),
        scale=scale,
        corner=corner if turn else None,
        thickness=(said("PixelMeasuresSequence", "SliceThickness", 1) or (1.0,))[0] or 1.0,
        digest=digest,
    )


def volumes(frames: Sequence[Frame], files: Mapping[str, bytes]) -> tuple[list[Volume], dict[str, str], list[str]]:
    """The scans that slices make, the files that are in none, with reason and remedy, and what is said of the set."""
    found, broken, notes, left = [], {}, [], list[tuple[Frame, str]]()
    for tag, n in Counter(one.lacks for one in frames if one.lacks).items():
        what = "slices have no {}, so that each is" if n > 1 else "slice has no {}, so that it is"
        notes.append(f"{n:,} DICOM {what.format(tag)} a scan by itself: export again with it.")
    series: dict[tuple[str, bool], list[Frame]] = defaultdict(list)
    for one in frames:
        if one.scout:
            broken[one.file] = "is a localiser, which plans a scan and is none: leave it out"
        else:
            series[one.series, one.corner is not None].append(one)
    for (_, in_space), slices in series.items():
        for group in [_even(slices, left, notes)] if in_space else [[one] for one in slices]:
            found.append(_volume(group, files))
    broken |= {one.file: why for one, why in left if not one.several}
    for why, n in Counter(why for one, why in left if one.several).items():
        notes.append(f"frames left out inside DICOM files: {n:,} ({why}).")
    return found, broken, notes


def _even(slices: Sequence[Frame], left: list[tuple[Frame, str]], notes: list[str]) -> list[Frame]:
    """The most slices of a series that lie evenly, in order; the others are `left`, and where goes to `notes`."""
    plane = Counter(one.plane for one in slices).most_common(1)[0][0]
    at: dict[float, Frame] = {}
    for one in sorted(slices, key=lambda one: (one.number, one.file, one.index)):
        if one.plane != plane:
            own = "give it a SeriesInstanceUID of its own"
            left.append((one, f"of another size, spacing, direction or kind of values than most of its series: {own}"))
        elif round(one.depth, 2) in at:
            once = "which is kept: export time points by themselves"
            left.append((one, f"at the same place as another slice of its series, {once}"))
        else:
            at[round(one.depth, 2)] = one
    ordered = [at[depth] for depth in sorted(at)]
    steps = np.diff([one.depth for one in ordered])
    if len(steps) == 0:
        return ordered
    usual = float(np.median(steps))
    ends = [0, *(np.flatnonzero(abs(steps - usual) > _UNEVEN * usual) + 1).tolist(), len(ordered)]
    runs = [ordered[a:b] for a, b in pairwise(ends)]
    kept = max(runs, key=len)
    if len(kept) < len(ordered):
        notes.append(_gaps(ordered, ends[1:-1], usual, len(kept)))
    left += [(one, "beyond a gap in its series: export the missing slices") for one in ordered if one not in kept]
    return kept


def _gaps(ordered: Sequence[Frame], after: Sequence[int], usual: float, kept: int) -> str:
    """Where slices are missing in a series, before those that stand at the places `after`."""
    places = []
    for before, behind in ((ordered[k - 1], ordered[k]) for k in after):
        missing = round((behind.depth - before.depth) / usual) - 1
        what = f"{missing} missing" if missing > 0 else "they lie closer"
        places.append(f"{what} between {before.depth:.4g} and {behind.depth:.4g} mm")
    more = f" and {len(places) - _SHOWN} more" * (len(places) > _SHOWN)
    return (
        f"a series of {len(ordered):,} slices, {usual:.3g} mm apart along its normal, is not even: "
        f"{', '.join(places[:_SHOWN])}{more}; its longest even run, of {kept:,}, is used."
    )


def _volume(slices: list[Frame], files: Mapping[str, bytes]) -> Volume:
    first, last = slices[0], slices[-1]
    rows, columns, stored, down, right, turn, _ = first.plane
    dtype, slope, intercept = _numbered(stored, {one.scale for one in slices})
    along_row, along_column = np.array(turn[:3]), np.array(turn[3:])
    across = np.cross(along_row, along_column) * first.thickness
    corner = np.array(first.corner or (0.0, 0.0, 0.0))
    if len(slices) > 1:
        across = (np.array(last.corner) - corner) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3] = np.stack([along_row * right, along_column * down, across, corner], 1)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM counts to the left and to the back
    orientations, shape = nibabels().orientations, (columns, rows, len(slices))
    upright = orientations.io_orientation(affine)

    def load() -> np.ndarray:
        read = ((_pixels(files[path]), of) for path, of in groupby(slices, key=lambda one: one.file))
        raw = ((pictures[one.index].T, one.scale) for pictures, of in read for one in of)
        values = np.stack([part if scale == (1, 0) else part * scale[0] + scale[1] for part, scale in raw], -1)
        return orientations.apply_orientation(values, upright)

    digest = blake2b(b"".join(one.digest for one in slices), digest_size=16).digest()
    return Volume(
        shape=orientations.apply_orientation(np.empty(shape, np.bool_), upright).shape,
        affine=affine @ orientations.inv_ornt_aff(upright, shape),
        dtype=dtype,
        slope=slope,
        intercept=intercept,
        modality=first.modality,
        orientation="".join(orientations.aff2axcodes(affine)),
        file=first.file,
        sized=first.sized,
        frame=SCANNER,
        subject=first.subject,
        certain=first.certain,
        digest=digest,
        holes=False,
        load=load,
    )


def _numbered(stored: str, scales: set[tuple[float, float]]) -> tuple[str, float, float]:
    """The dtype of a scan's numbers, with slope and intercept; of its values, (1, 0), where each slice has its own."""
    if len(scales) == 1:
        return stored, *next(iter(scales))
    fits = np.result_type(*(units(stored, *scale) for scale in scales))
    return str(fits if fits.kind in "iu" and fits.itemsize <= 4 else np.dtype(np.float32)), 1.0, 0.0


def _opened(data: bytes):
    reader = pydicoms()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return reader.dcmread(BytesIO(data), specific_tags=_TAGS)
    except Exception:  # pydicom raises whatever a broken file leads it to, and quotes it
        raise Unreadable("is no DICOM file that can be read, or cut short: copy or export it again") from None


def _check(found, count: int) -> None:
    """Raises Unreadable where there are fewer pixels than `count` frames have, or none can be decoded."""
    syntax = found.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_compressed:
        wanted = count * int(found.Rows) * int(found.Columns) * max(8, int(found.BitsAllocated)) // 8
        if len(found.PixelData) < wanted:
            raise Unreadable("is cut short: copy or export it again")
        return
    from pydicom.pixels import get_decoder

    try:
        known = get_decoder(syntax).is_available
    except NotImplementedError:
        known = False
    if not known:
        way = "a private way" if syntax.name == str(syntax) else syntax.name
        raise Unreadable(
            f"is compressed as {way}, for which no decoder is installed: pip install pylibjpeg "
            "pylibjpeg-libjpeg pylibjpeg-openjpeg, or decompress it, as with dcmdjpeg"
        )
    if _decoded(found).size < count * int(found.Rows) * int(found.Columns):
        raise Unreadable("is cut short: copy or export it again")


def _pixels(data: bytes) -> np.ndarray:
    """(frames, rows, columns), the numbers of a file.  Raises Unreadable."""
    found = _decoded(_opened(data))
    return found.reshape(-1, *found.shape[-2:])


def _decoded(found) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return found.pixel_array
    except Exception:  # decoders raise whatever a broken stream leads them to
        raise Unreadable(
            "has pixels that cannot be decoded, as of a file that is cut short or damaged: copy or export it again, or "
            "decompress it, as with dcmdjpeg or gdcmconv"
        ) from None


def _said(found, index: int, macro: str, name: str, count: int) -> tuple[float, ...] | None:
    """The numbers of an attribute of a frame: from its functional groups, those that all share, or the file itself."""
    groups = [*(found.get("PerFrameFunctionalGroupsSequence") or ())[index : index + 1]]
    groups += (found.get("SharedFunctionalGroupsSequence") or ())[:1]
    places = [items[0] for group in groups if (items := group.get(macro))]
    return next((numbers for place in (*places, found) if (numbers := _numbers(place, name, count))), None)


def _numbers(found, name: str, count: int) -> tuple[float, ...] | None:
    """The finite numbers of an attribute, None where it has not `count` of them."""
    value = found.get(name)
    try:
        numbers = tuple(float(x) for x in (value if count > 1 else [value]))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(np.isfinite, numbers)) else None


def _lacking(found, corner: tuple[float, ...] | None, turn: tuple[float, ...] | None) -> str:
    """The attribute without which a slice belongs to no series; X-rays need none."""
    if str(found.get("Modality") or "") not in _SLICED:
        return ""
    known = {
        "SeriesInstanceUID": found.get("SeriesInstanceUID"),
        "ImagePositionPatient": corner,
        "ImageOrientationPatient": turn,
    }
    return " and no ".join(name for name, value in known.items() if not value)


def _patient(found) -> str:
    """The number of a patient, "" where nobody is named."""
    patient = str(found.get("PatientID") or "").strip()
    nobody = patient.lower().strip("0^ ") in ("", "anonymous", "anonymized", "anonymised", "anon", "unknown")
    return "" if nobody else patient


def _hidden(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
