"""Scans for tests: NIfTI of any orientation, DICOM of slices or of frames, stacks; names planted in them, and found."""

from __future__ import annotations

import base64
import gzip
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import tifffile
from datafiles import fill
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

NAMES = ("Quillfeather", "Zebediah", "PID-7731904", "QZX-PRIVATE-55", "Dr Wobblesworth", "19470213")
TINY = ["net.widths=[32]", "net.attention=[false]", "net.emb=32", "optim.batch=8", "run.held_examples=8"]
TINY += ["run.held_evaluations=2", "run.grid_priors=0", "sample.steps=2"]


def nifti(values: np.ndarray, affine: np.ndarray, scale: tuple[float, float] | None = None, text: str = "") -> bytes:
    """Numbers as they are stored; `scale` is (slope, intercept), `text` goes wherever NIfTI has room for one."""
    image = nib.Nifti1Image(values, affine)
    if scale is not None:
        image.header.set_slope_inter(*scale)
    if text:
        image.header["descrip"] = image.header["db_name"] = image.header["aux_file"] = text[:16]
        image.header["intent_name"] = text[:16]
        image.header.extensions.append(nib.nifti1.Nifti1Extension(6, text.encode()))
    return image.to_bytes()


def ball(shape: tuple[int, int, int], seed: int = 0, dtype: str = "int16") -> np.ndarray:
    """A smooth body in the middle of air, with some noise."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = 900 * np.exp(-2 * sum(axis**2 for axis in axes))
    return np.clip(body + np.random.default_rng(seed).normal(0, 5, shape), 0, None).astype(dtype)


def slice_(
    pixels: np.ndarray,
    position: tuple[float, float, float],
    *,
    turn: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    spacing: tuple[float, float] = (0.5, 0.75),
    scale: tuple[float, float] = (1, -1024),
    series: str = "1.2.3",
    patient: str = "P",
    number: int = 1,
    **more: object,
) -> Dataset:
    """One CT slice of uint16 numbers; `more` are attributes that it has besides."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, made.file_meta.MediaStorageSOPInstanceUID
    made.SeriesInstanceUID, made.StudyInstanceUID, made.PatientID = series, f"{series}.9", patient
    made.Modality, made.InstanceNumber = "CT", number
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 0
    made.RescaleSlope, made.RescaleIntercept = scale
    made.ImagePositionPatient, made.ImageOrientationPatient = list(position), list(turn)
    made.PixelSpacing, made.SliceThickness = list(spacing), 2.0
    made.PixelData = pixels.astype("<u2").tobytes()
    for name, value in more.items():
        setattr(made, name, value)
    return made


def dicom(made: Dataset) -> bytes:
    out = io.BytesIO()
    pydicom.dcmwrite(out, made, enforce_file_format=True)
    return out.getvalue()


def series(values: np.ndarray, *, step: float = 2.0, keep: slice = slice(None), **more: object) -> dict[int, Dataset]:
    """Slices (slices, rows, columns) of numbers along z, by number, in an order that says nothing."""
    order = np.random.default_rng(1).permutation(np.arange(len(values))[keep])
    return {
        int(k): slice_(values[k], (-20.0, -30.0, 100 + step * k), number=int(place), **more)  # pyright: ignore
        for place, k in enumerate(order)
    }


def item(**attributes: object) -> Dataset:
    made = Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def enhanced(values: np.ndarray, corners: Sequence[Sequence[float]], **more: object) -> Dataset:
    """One CT of several frames (frames, rows, columns), each with its place; what `slice_` says besides they share."""
    made = slice_(values[0], (0, 0, 0), **more)  # pyright: ignore
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    made.NumberOfFrames, made.PixelData = len(values), values.astype("<u2").tobytes()
    scale = item(RescaleSlope=made.RescaleSlope, RescaleIntercept=made.RescaleIntercept)
    made.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=made.ImageOrientationPatient)],
            PixelMeasuresSequence=[item(PixelSpacing=made.PixelSpacing, SliceThickness=made.SliceThickness)],
            PixelValueTransformationSequence=[scale],
        )
    ]
    made.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[*corner])]) for corner in corners
    ]
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(made, name)
    del made.RescaleSlope, made.RescaleIntercept
    return made


def stack(
    pages: np.ndarray,
    kind: str = "imagej",
    *,
    spacing: tuple[float, float, float] = (0.325, 0.108, 2.0),
    unit: str = "um",
    words: str = "",
) -> bytes:
    """A TIFF of pages (z, y, x), as ImageJ, an OME program, `tifffile.imwrite` or a loop over pages writes it; of
    pages (z, y, x, 3) in colours.  `words` go wherever there is room for some."""
    out, (x, y, z) = io.BytesIO(), spacing
    more = {"extratags": [(tag, "s", 0, words, True) for tag in (269, 315, 316)] if words else []}
    if kind == "imagej":
        said = {"axes": "ZYX", "spacing": z, "unit": unit} | ({"Info": words, "Labels": [words]} if words else {})
        tifffile.imwrite(out, pages, imagej=True, resolution=(1 / x, 1 / y), metadata=said, **more)
    elif kind == "ome":
        sizes = {f"PhysicalSize{axis}": size for axis, size in zip("XYZ", spacing, strict=True)}
        units = {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
        tifffile.imwrite(out, pages, ome=True, metadata={"axes": "ZYX", "Name": words, **sizes, **units}, **more)
    elif kind == "loop":
        with tifffile.TiffWriter(out) as file:
            for page in pages:
                file.write(page, photometric="minisblack", contiguous=False)
    else:
        tifffile.imwrite(out, pages, photometric="rgb" if kind == "colours" else "minisblack", **more)
    return out.getvalue()


def named(made: Dataset) -> Dataset:
    """The same with every name of `NAMES` in it, in standard and private attributes and in nested ones."""
    family, given, patient, private, doctor, born = NAMES
    made.PatientName, made.PatientID, made.PatientBirthDate = f"{family}^{given}", patient, born
    made.ReferringPhysicianName, made.InstitutionName, made.StudyDescription = doctor, f"{family} clinic", given
    made.SeriesDescription = f"head of {family}"
    made.add_new((0x0009, 0x0010), "LO", "WOBBLE INC")
    made.add_new((0x0009, 0x1001), "LO", private)
    made.add_new((0x0009, 0x1002), "UN", private.encode())
    inner = Dataset()
    inner.PatientName, inner.PatientID = f"{family}^{given}", patient
    made.OtherPatientIDsSequence = [inner]
    for group in made.get("PerFrameFunctionalGroupsSequence") or ():
        group.FrameContentSequence = [item(FrameComments=f"{family} {given}", PatientID=patient)]
        group.add_new((0x0009, 0x0010), "LO", "WOBBLE INC")
        group.add_new((0x0009, 0x1001), "LO", private)
    return made


def header_like(codes: str, spacing: tuple[float, float, float], corner: tuple[float, float, float]) -> np.ndarray:
    """(4, 4), the affine of voxels whose axes run to `codes`."""
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (1, 1, 1))
    affine[:3, :3] *= np.array(spacing)
    affine[:3, 3] = corner
    return affine


def unpacked(data: bytes) -> list[bytes]:
    """The bytes, and what they are when unpacked."""
    found = [data]
    if data[:2] == b"\x1f\x8b":
        found += unpacked(gzip.decompress(data))
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            found += [part for name in members.namelist() for part in unpacked(members.read(name))]
            found.append("\n".join(members.namelist()).encode())
    for code in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data):
        found += unpacked(base64.b64decode(code))
    return found


def leaks(folder: Path) -> list[str]:
    """Files below a folder whose bytes or path hold a planted name, in any case and encoding."""
    found = []
    for file in folder.rglob("*"):
        text = [str(file.relative_to(folder)).encode()]
        for data in unpacked(file.read_bytes()) if file.is_file() else []:
            text += [data, data.replace(b"\0", b"")]
        for name in NAMES:
            if any(name.lower().encode() in one.lower() for one in text):
                found.append(f"{name} in {file.relative_to(folder)}")
    return found


def planted(folder: Path, kind: str) -> Path:
    family, given, *_ = NAMES
    body = ball((30, 12, 12), dtype="uint16")
    if kind == "dicom":
        files = {f"{family}^{given}/{given}_{k}": dicom(named(made)) for k, made in series(body).items()}
        files |= {f"{family}/broken {given}.dcm": next(iter(files.values()))[:500], f"{family}/{given}.pdf": b"%PDF"}
        strange = named(slice_(body[0], (0, 0, 0), series="7"))
        strange.ImageType = ["LOCALIZER", family]
        odd = dicom(named(slice_(body[0], (0, 0, 0), series="8")))
        odd = odd.replace(b"0.5\\0.75", given.encode())  # where numbers should be
        return fill(folder, files | {f"{family}/scout.dcm": dicom(strange), f"{family}/odd.dcm": odd})
    text = f"{family} {NAMES[2]}"
    if kind == "frames":
        corners = [(-20.0, -30.0, 2.0 * k) for k in range(30)]
        made = named(enhanced(body, corners))
        strange = named(enhanced(body[:3], corners[:3]))
        del strange.PerFrameFunctionalGroupsSequence
        odd = dicom(named(enhanced(body[:3], [*corners[:2], corners[1]], series="9")))
        files = {f"{family}/{given}.dcm": dicom(made), f"{family}/cine.dcm": dicom(strange), f"{family}/b.dcm": odd}
        return fill(folder, files | {f"{family}/{given} short.dcm": dicom(made)[:-900]})
    if kind == "tiff":
        whole = stack(body, words=text)
        files = {f"{family}/{given}.tif": whole, f"{family}/broken {given}.tif": whole[:-300]}
        files[f"{family}/{given}_visit2.ome.tiff"] = stack(body + 1, "ome", words=text)
        files[f"{family}/{given} colours.tif"] = stack(body[..., None].repeat(3, -1), "colours", words=text)
        return fill(folder, files)
    if kind == "patients":
        scans = {
            f"{who}/{who}_visit{k}.nii": ball((30, 12, 12), seed=10 * n + k)
            for n, who in enumerate((family, given, NAMES[4]))
            for k in range(2)
        }
        return fill(folder, {name: nifti(one, np.eye(4), text=text) for name, one in scans.items()})
    if kind == "masks":
        values, double = (body > 300).astype(np.uint8), np.diag([2.0, 2, 2, 1])
        made = {"": (body, np.eye(4)), "_visit2": (body + 1, np.eye(4))}
        made |= {"_mask": (values, np.eye(4)), "_visit2_mask": (values, double)}
        return fill(folder, {f"{family}/{given}{word}.nii": nifti(*one, text=text) for word, one in made.items()})
    return fill(
        folder,
        {
            f"{family}/{given}.nii": nifti(body, np.eye(4), text=text),
            f"{family}/4d {given}.nii": nifti(np.zeros((4, 4, 4, 2), np.int16), np.eye(4), text=text),
            f"{family}/broken.nii": nifti(body, np.eye(4), text=text)[:-9],
            f"{family}/{given}.txt": given.encode(),
        },
    )
