"""Images: raw (h, w, c) <-> x0 (c, h, w).

    x0 = (v - (low + high)/2) / ((high - low)/2),   v = low + (x0 + 1)·(high - low)/2, rounded and clipped for integers.

With opacity a (grey-alpha, RGBA) colours are premultiplied, v = colour·a, so that what is invisible is zero and a
scaled edge mixes what is seen (Porter and Duff, 1984); `decode` divides by the alpha that it rounds to.  In 8 and 16
bits without alpha `store`, `encode` and `decode` are exact inverses of each other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fromnoise.codec import imagefile
from fromnoise.codec.codec import Ends, described
from fromnoise.codec.imagefile import read_recipe
from fromnoise.rng import Rng
from fromnoise.types import Shape

__all__ = ["ImageCodec", "read_recipe"]

_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # luma, ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class ImageCodec:
    """Images of one size, mode and dtype; `low` and `high` are the values that become -1 and 1.

    `version` counts the ways in which `store` has worked, so that a cache of another way is not taken for this one.
    """

    height: int
    width: int
    channels: int
    alpha: bool
    dtype: str
    low: float
    high: float
    version: int = 1

    @staticmethod
    def full_range(*, height: int, width: int, channels: int, alpha: bool, dtype: str) -> ImageCodec:
        """The codec whose range is that of the dtype: all of an integer's, [0, 1] for floats and bools."""
        low, high = _limits(dtype)
        return ImageCodec(height=height, width=width, channels=channels, alpha=alpha, dtype=dtype, low=low, high=high)

    def fitted(
        self, smallest: float, largest: float, some: Sequence[np.ndarray] = ()
    ) -> tuple[ImageCodec, Sequence[str]]:
        """The same with a range that fits data between `smallest` and `largest`.

        Integers keep the dtype's whole range where the data reaches into its upper half, or has alpha; otherwise, as
        for 12-bit data in 16 bits, the range ends at the largest value.  Floats run from the smallest to the largest.
        """
        low, high = _limits(self.dtype)
        if self.alpha or smallest == largest:
            low, high = min(low, smallest), max(high, largest)
        elif np.dtype(self.dtype).kind == "f":
            low, high = smallest, largest
        else:
            low, high = min(low, smallest), high if largest > high / 2 else largest
        return dataclasses.replace(self, low=low, high=high), ()

    @property
    def shape(self) -> Shape:
        """(c, h, w)."""
        return self.channels, self.height, self.width

    @property
    def axes(self) -> tuple[str, ...]:
        return "channels", "height", "width"

    @property
    def ragged(self) -> bool:
        return False

    @property
    def vocab(self) -> None:
        return None

    @property
    def stored_dtype(self) -> np.dtype:
        """float32 for all floats, the data's own otherwise."""
        dtype = np.dtype(self.dtype)
        return np.dtype(np.float32) if dtype.kind == "f" else dtype

    def store(self, raw: np.ndarray) -> np.ndarray:
        """A raw image (h, w, c), uint8 or uint16 in any of grey, grey-alpha, RGB and RGBA, or of the codec's own
        channels and dtype -> (height, width, channels), premultiplied, in `stored_dtype`.

        Another size is scaled to cover, with antialiasing (Lanczos), and cut around the centre.
        """
        return self.store_many(raw[None])[0]

    def store_many(self, raws: np.ndarray) -> np.ndarray:
        """`store` of (n, h, w, c); at once where no image has to be scaled."""
        assert raws.ndim == 4 and 0 not in raws.shape, raws.shape
        if raws.shape[1:3] == (self.height, self.width):
            return self._stored(raws)
        return np.stack([self._stored(raw) for raw in raws])

    def _stored(self, raw: np.ndarray) -> np.ndarray:
        """(…, h, w, c) of the codec's size, or one image (h, w, c) of another."""
        if raw.shape[-1] != self.channels:
            raw = convert(raw, self.channels)
        raw = _deepen(raw, self.dtype)
        same_size = raw.shape[-3:-1] == (self.height, self.width)
        if same_size and not self.alpha:
            return raw.astype(self.stored_dtype)
        # One channel at a time: a large image in float32 would otherwise be in memory four times over.
        opacity = raw[..., -1] / np.float32(self.high) if self.alpha else None
        planes = []
        for c in range(self.channels):
            plane = raw[..., c].astype(np.float32)
            if opacity is not None and c < self.channels - 1:
                plane *= opacity
            planes.append(plane if same_size else _cover(plane, self.height, self.width))
        image = np.stack(planes, axis=-1)
        if np.dtype(self.dtype).kind == "f":
            return image
        return _to_integer(image, self.dtype).astype(self.stored_dtype)

    def encode(self, stored: np.ndarray | Sequence[np.ndarray], rng: Rng | None = None) -> Float[Tensor, "b c h w"]:
        """(b, h, w, c) as stored -> x0, float32, channels last in memory; values in [low, high] are within [-1, 1]."""
        stored = np.asarray(stored)
        # In 16 bits and fewer both differences are exact in float32, so the quotient is rounded once.
        exact = stored.dtype.kind in "biu" and stored.dtype.itemsize <= 2
        values = torch.from_numpy(stored.astype(np.float32 if exact else np.float64))
        values -= (self.low + self.high) / 2
        values /= self._span / 2
        return values.float().permute(0, 3, 1, 2)

    def decode(self, x0: Float[Tensor, "b c h w"]) -> np.ndarray:
        """x0 -> (b, h, w, c) in the data's dtype and range; alpha divided out, colour 0 where alpha is 0."""
        unit = ((x0.detach().to("cpu", torch.float64) + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        if self.alpha:
            unit = self._unmultiplied(unit)
        values = self.low + unit * self._span
        if np.dtype(self.dtype).kind == "f":
            return values.astype(self.dtype)
        return _to_integer(values, self.dtype)

    def percept(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """x0 itself."""
        return x0

    def preview(self, samples: np.ndarray) -> np.ndarray:
        """Decoded samples (n, h, w, c) -> RGB (n, h, w, 3) uint8: alpha over white, [low, high] as black to white.

        Of more than four channels the first three are shown, of two without alpha the first.
        """
        unit = np.clip((samples.astype(np.float32) - self.low) / self._span, 0, 1)
        if self.alpha:
            unit = unit[..., :-1] * unit[..., -1:] + (1 - unit[..., -1:])
        colours = unit[..., :3] if unit.shape[-1] >= 3 else unit[..., :1].repeat(3, axis=-1)
        return np.rint(colours * 255).astype(np.uint8)

    @property
    def legend(self) -> str:
        return ""

    def save(self, path: Path, sample: np.ndarray, recipe: Mapping[str, object]) -> Path:
        """One decoded sample (h, w, c) to `path` plus a suffix: see `codec/imagefile.py`."""
        assert sample.shape == (self.height, self.width, self.channels), sample.shape
        return imagefile.save(path, sample, alpha=self.alpha, recipe=recipe)

    @property
    def unit(self) -> str:
        return "pixels"

    def extent(self, places: int) -> float:
        return places

    def extended(self, length: float, ends: Ends) -> ImageCodec:
        """Panoramas `length` pixels wide."""
        return dataclasses.replace(self, width=math.ceil(length))

    def beginning(self, raw: np.ndarray) -> Float[Tensor, "1 c h w"]:
        return self.encode(self.store(raw)[None])

    def to_json(self) -> dict[str, object]:
        return {"kind": "image", **dataclasses.asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> ImageCodec:
        """The codec that `to_json` described.  Raises FromNoiseError for another kind or version."""
        return ImageCodec(**described(data, "image", {field.name for field in dataclasses.fields(ImageCodec)}))

    @property
    def _span(self) -> float:
        return self.high - self.low

    def _unmultiplied(self, unit: np.ndarray) -> np.ndarray:
        # By the alpha that the file will hold, or an almost invisible pixel would leave with the wrong colour.
        alpha = unit[..., -1:]
        if np.dtype(self.dtype).kind != "f":
            alpha = np.rint(alpha * self._span) / self._span
        colour = np.divide(unit[..., :-1], alpha, out=np.zeros_like(unit[..., :-1]), where=alpha > 0)
        return np.concatenate([np.minimum(colour, 1), alpha], axis=-1)


def _limits(dtype: str) -> tuple[float, float]:
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return float(max(info.min, 0)), float(info.max)
    return 0.0, 1.0


def _deepen(raw: np.ndarray, dtype: str) -> np.ndarray:
    """8 bits as 16: 255 becomes 65,535."""
    return raw.astype(np.uint16) * np.uint16(257) if dtype == "uint16" and raw.dtype == np.uint8 else raw


def convert(raw: np.ndarray, channels: int) -> np.ndarray:
    """Between grey, grey-alpha, RGB and RGBA; alpha that the target lacks is laid over white."""
    assert raw.dtype in (np.uint8, np.uint16) and max(raw.shape[-1], channels) <= 4, (raw.shape, raw.dtype, channels)
    white = np.iinfo(raw.dtype).max
    has_alpha, want_alpha = raw.shape[-1] in (2, 4), channels in (2, 4)
    colour, alpha = (raw[..., :-1], raw[..., -1:]) if has_alpha else (raw, np.full_like(raw[..., :1], white))
    if has_alpha and not want_alpha:
        opacity = alpha.astype(np.float32) / white
        colour = _to_integer(colour * opacity + white * (1 - opacity), str(raw.dtype))
    if channels >= 3 and colour.shape[-1] == 1:
        colour = colour.repeat(3, axis=-1)
    if channels <= 2 and colour.shape[-1] == 3:
        colour = _to_integer(colour @ _GREY, str(raw.dtype))[..., None]
    return np.concatenate([colour, alpha], axis=-1) if want_alpha else colour


def _to_integer(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bool":
        return values >= 0.5
    info = np.iinfo(dtype)
    return np.clip(np.rint(values), info.min, info.max).astype(dtype)


def _cover(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """float32 (h, w) scaled to cover (height, width) and cut around the centre, in one antialiased resampling."""
    h, w = plane.shape
    scale = max(height / h, width / w)
    crop_h, crop_w = min(height / scale, h), min(width / scale, w)
    left, top = (w - crop_w) / 2, (h - crop_h) / 2
    box = (left, top, min(left + crop_w, w), min(top + crop_h, h))
    image = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=3.0))
