"""NIfTI files as volumes (nibabel): values, affine and orientation; no text of the header is looked at."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable
from hashlib import blake2b
from io import BytesIO

import numpy as np

from fromnoise.codec.niftifile import ALIGNED, nibabels
from fromnoise.data.blocks import MOST, Volume, check, finite
from fromnoise.errors import Unreadable

SUFFIXES = frozenset({".nii", ".nii.gz"})
LABELS = "labels"  # in the place of a modality
_LABEL = 1002  # the intent of NIfTI that says so


def volume(name: str, read: Callable[[], bytes], *, labels: bool = False) -> Volume:
    """The scan in a file, which may hold one value throughout if it is a map of `labels`.

    Raises Unreadable with reason and remedy; messages hold nothing of what the file says.
    """
    data = read()
    plain = _unpacked(data)
    image = _image(plain)
    if len(image.shape) > 3 and max(image.shape[3:]) > 1:
        raise Unreadable(
            f"has {len(image.shape)} axes, {' x '.join(map(str, image.shape))}: train on single volumes of it, which "
            "nibabel's four_to_three makes"
        )
    shape = (*image.shape, 1, 1)[:3]
    stored = np.dtype(image.get_data_dtype())
    if stored.kind not in "iuf":
        raise Unreadable("holds colours or complex numbers: save the part that counts as a volume of real numbers")
    if 0 in shape or max(shape) == 1:
        raise Unreadable("holds no volume: export it again")
    nib = nibabels()
    sound = bool(np.isfinite(image.affine).all())
    turn = nib.orientations.io_orientation(image.affine if sound else np.zeros((4, 4)))
    if np.isnan(turn).any():
        raise Unreadable("says not where its axes lead: mend its affine, as with nib.Nifti1Image(values, affine)")
    values, labels = _values(image, turn), labels or int(image.header["intent_code"]) == _LABEL
    if not labels:
        check(values)
    upright = nib.orientations.apply_orientation(np.empty(shape, np.bool_), turn).shape
    return Volume(
        shape=upright,
        affine=image.affine @ nib.orientations.inv_ornt_aff(turn, shape),
        dtype=str(stored.newbyteorder("=")),
        slope=float(image.dataobj.slope),
        intercept=float(image.dataobj.inter),
        modality=LABELS if labels else "",
        orientation="".join(nib.aff2axcodes(image.affine)),
        file=name,
        sized=_sized(image, plain),
        frame=int(image.header["sform_code"]) or int(image.header["qform_code"]) or ALIGNED,
        subject="",
        certain=False,
        digest=blake2b(data, digest_size=16).digest(),
        holes=stored.kind == "f" and bool(np.isnan(values).any()),
        load=lambda: _values(_image(_unpacked(read())), turn),
    )


def _unpacked(data: bytes) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as file:
            return file.read(MOST)
    except (EOFError, OSError, zlib.error):
        raise Unreadable("is cut short or damaged: copy or export it again") from None


def _image(data: bytes):
    nib = nibabels()
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it would print what headers hold
    try:
        kind = nib.Nifti2Image if data[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nib.Nifti1Image
        image = kind.from_bytes(data)
    except Exception:  # nibabel raises whatever a broken header leads it to, and quotes it
        raise Unreadable("is no NIfTI file that can be read: export it again") from None
    if len(data) < image.dataobj.offset + np.prod(image.shape, dtype=np.int64) * image.get_data_dtype().itemsize:
        raise Unreadable("is cut short: copy or export it again")
    return image


def _sized(image, data: bytes) -> bool:
    """Whether the size of voxels is said: in the place of 0 nibabel puts 1."""
    said = type(image.header)(data[: image.header.sizeof_hdr], check=False)["pixdim"][1:4]
    return int(image.header["sform_code"]) > 0 or bool((said != 0).all())


def _values(image, turn: np.ndarray) -> np.ndarray:
    """Values in units, upright; of whole numbers exact in float64, infinite ones missing."""
    values = finite(np.asarray(image.dataobj).reshape((*image.shape, 1, 1)[:3]))
    return nibabels().orientations.apply_orientation(values, turn)
