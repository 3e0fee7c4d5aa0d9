"""Volumes: blocks of scans (x, y, z) in their own units <-> x0 (channels, *space).

A block is a slice, one voxel thick, a patch, or a whole scan; x runs to the patient's right, y to the front, z upwards.
How its values become x0 is the business of a field (`field.py`) without the axes of one voxel.  Added here is what a
scan is besides: where it lies in space, how its integers stand for values, and the window of grey that shows it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fromnoise.codec import fieldview, niftifile, stackfile
from fromnoise.codec.codec import described
from fromnoise.codec.field import FieldCodec
from fromnoise.codec.medium import POSITION
from fromnoise.rng import Rng
from fromnoise.types import Shape

AXES = ("right", "anterior", "superior")
Container = Literal["nifti", "tiff"]
UNITS: dict[Container, str] = {"nifti": "mm", "tiff": "µm"}
# Window presets of CT in HU, by the customary (level, width) of (40, 400) and (400, 1800).
SOFT, BONE = (-160.0, 240.0), (-500.0, 1300.0)
AIR = -900.0  # a set that reaches below is taken for HU
_BODY = -500.0  # HU that are no air
_SEEN = 1 << 20  # values that a window is found from


@dataclass(frozen=True, kw_only=True)
class VolumeCodec:
    """Blocks of one shape.

    block        voxels along each axis
    affine       (16,) row by row, from voxels of the whole scan to millimetres, of TIFF to micrometres
    room         how far blocks can move in a scan along each axis
    frame        NIfTI's code of the space that the affine leads to
    modality     as DICOM abbreviates it, as CT, or ""
    orientation  of the files, as LPS, which samples are turned to
    disk         dtype of the files, whose numbers stand for slope·number + intercept
    container    the format of samples
    window       the values that are shown black and white, and their name
    """

    field: FieldCodec
    block: Shape
    affine: tuple[float, ...]
    room: Shape = (0, 0, 0)
    frame: int = niftifile.ALIGNED
    modality: str = ""
    orientation: str = "RAS"
    disk: str = "float32"
    slope: float = 1.0
    intercept: float = 0.0
    container: Container = "nifti"
    window: tuple[float, float] = (0.0, 1.0)
    preset: str = ""
    version: int = 1

    @property
    def shape(self) -> Shape:
        """(channels, *space)."""
        return self.field.shape

    @property
    def axes(self) -> tuple[str, ...]:
        return "channels", *(name for name, n in zip(AXES, self.block, strict=True) if n > 1)

    @property
    def ragged(self) -> bool:
        return False

    @property
    def vocab(self) -> None:
        return None

    @property
    def units(self) -> str:
        return self.field.units

    @property
    def along(self) -> int | None:
        """The axis that the examples are slices across, None where they are not."""
        return self.block.index(1) if self.block.count(1) == 1 else None

    @property
    def whole(self) -> VolumeCodec:
        """The codec of the scans that patches are cut from."""
        x, y, z = (n + room for n, room in zip(self.block, self.room, strict=True))
        field = dataclasses.replace(self.field, space=(x, y, z))
        return dataclasses.replace(self, field=field, block=(x, y, z), room=(0, 0, 0))

    @property
    def spacing(self) -> np.ndarray:
        """(3,), the distance between voxels along each axis, in the unit of the affine."""
        return np.sqrt((np.array(self.affine).reshape(4, 4)[:3, :3] ** 2).sum(0))

    def position(self, corner: Sequence[int]) -> str:
        """Where a block that begins at a voxel of its scan lies, as `position` says it."""
        return position(corner, self.room, self.along)

    def store(self, raw: np.ndarray) -> np.ndarray:
        """One block (x, y, z) of values -> as a field stores it."""
        return self.store_many(raw[None])[0]

    def store_many(self, raws: np.ndarray) -> np.ndarray:
        assert raws.shape[1:] == self.block, (raws.shape, self.block)
        return self.field.store_many(raws.reshape(len(raws), *self.field.space))

    def fitted(
        self, smallest: float, largest: float, some: Sequence[np.ndarray] = ()
    ) -> tuple[VolumeCodec, Sequence[str]]:
        """The same with the map of its values and its window: of CT the preset that most of the body fits, otherwise
        from the 1st to the 99th percentile."""
        field, notes = self.field.fitted(smallest, largest, some)
        kept = [one[..., 0][one[..., 1] != 0] if field.masks else one[..., 0].reshape(-1) for one in some]
        values = np.concatenate(kept)[:: max(1, sum(one.size for one in kept) // _SEEN)].astype(np.float64)
        window, preset = self._shown(values, smallest)
        said = f"shown from {window[0]:g} to {window[1]:g}{f' {self.units}' * bool(self.units)}, {preset}."
        return dataclasses.replace(self, field=field, window=window, preset=preset), [*notes, said]

    def _shown(self, values: np.ndarray, smallest: float) -> tuple[tuple[float, float], str]:
        if len(values) and (self.modality == "CT" or (not self.modality and smallest <= AIR)):
            body = values[values > _BODY]
            soft = (body >= SOFT[0]) & (body <= SOFT[1])
            return (SOFT, "the window of soft tissue") if 2 * soft.sum() >= len(body) else (BONE, "the window of bone")
        low, high = (float(v) for v in np.percentile(values, (1, 99))) if len(values) else (0.0, 0.0)
        return (low, high if high > low else low + 1), "the 1st to the 99th percentile"

    def encode(self, stored: np.ndarray | Sequence[np.ndarray], rng: Rng | None = None) -> Float[Tensor, "b c *d"]:
        return self.field.encode(stored, rng)

    def decode(self, x0: Float[Tensor, "b c *d"]) -> np.ndarray:
        """x0 -> blocks (b, x, y, z) of values in the data's units."""
        values = self.field.decode(x0)
        return values.reshape(len(values), *self.block)

    def percept(self, x0: Float[Tensor, "b c *d"]) -> Float[Tensor, "b c *d"]:
        """x0 itself."""
        return x0

    def quantities(self, samples: np.ndarray) -> np.ndarray:
        """Decoded samples as float64 (n, channels, *space), NaN where nothing is."""
        return self.field.quantities(samples.reshape(len(samples), *self.field.space))

    def preview(self, samples: np.ndarray) -> np.ndarray:
        """Decoded samples as pictures (n, h, w, 3) uint8 in the window: slices, of thicker blocks the middle ones.

        As radiologists look at them: from the feet, the front or the left, so that the patient's right is left.
        """
        low, high = self.window
        level = (samples.astype(np.float64) - low) / (high - low)
        seen = level[:, ::-1, ::-1, ::-1].transpose(0, 3, 2, 1)
        if self.along is not None:
            seen = seen.squeeze(3 - self.along)
        return fieldview.pictures(seen[:, None], fieldview.grey)

    @property
    def legend(self) -> str:
        """How a preview is read."""
        shown = "" if self.along is not None else "the middle slices across each axis, "
        units = f" {self.units}" * bool(self.units)
        return f"{shown}{self.window[0]:g} to {self.window[1]:g}{units} from black to white, {self.preset}"

    def save(self, path: Path, sample: np.ndarray, recipe: Mapping[str, object]) -> Path:
        """One decoded sample as NIfTI, which lies where its position says, or as TIFF, which knows no places."""
        affine = np.array(self.affine).reshape(4, 4)
        if self.container == "tiff":
            x, y, z = np.diag(affine)[:3].tolist()
            return stackfile.save(path, sample, (x, y, z), dtype=self.disk, recipe=recipe)
        cond = recipe.get("cond")
        affine[:3, 3] += affine[:3, :3] @ self.corner(cond.get(POSITION) if isinstance(cond, dict) else None)
        return niftifile.save(
            path,
            sample,
            affine,
            frame=self.frame,
            orientation=self.orientation,
            dtype=self.disk,
            slope=self.slope,
            intercept=self.intercept,
            recipe=recipe,
        )

    def corner(self, position: object) -> np.ndarray:
        """(3,), the first voxel of a block at a position."""
        share = np.zeros(3)
        if isinstance(position, float) and self.along is not None:
            share[self.along] = position
        elif isinstance(position, str) and position.startswith("["):
            share[:] = json.loads(position)
        return np.rint(np.clip(share, 0, 1) * self.room)

    def to_json(self) -> dict[str, object]:
        return {"kind": "volume", **dataclasses.asdict(self), "field": self.field.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> VolumeCodec:
        """The codec that `to_json` described.  Raises FromNoiseError for another kind or version."""
        names = {field.name for field in dataclasses.fields(VolumeCodec)}
        values = described({"frame": niftifile.ALIGNED, "container": "nifti", **data}, "volume", names)
        known = {name: tuple(values[name]) for name in ("block", "affine", "room", "window")}
        return VolumeCodec(**{**values, **known, "field": FieldCodec.from_json(values["field"])})


def position(corner: Sequence[int], room: Sequence[int], along: int | None) -> str:
    """How far up its axis a slice lies, from 0 to 1; of patches how far along each axis; "" of whole scans.

    `corner` is its first voxel, which has `room` to move.
    """
    share = np.divide(corner, room, out=np.full(3, 0.5), where=np.array(room) > 0)
    if along is not None:
        return f"{share[along]:.4f}" if room[along] else ""
    return json.dumps(np.round(share, 4).tolist()) if any(room) else ""
