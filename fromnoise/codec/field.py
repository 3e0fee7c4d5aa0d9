"""Fields: raw arrays of 1 to 3 space axes <-> x0 (channels and masks, *space).

Each channel v has its own map to unit order,

    x0 = ½·(f((v - centre)/scale) - shift)/spread,     f(z) = z, or asinh(z) where the tails are heavy,

and back.  asinh is linear near the centre and a logarithm far from it, on both sides, so that rare large values are
neither cut off nor crowd out all others.  Integers are exact there and back; floats to about 1e-7 of the distance from
the centre.  What is missing (NaN, or the fill value that the data name) is at its channel's mean, and mask channels, ½
where values are there and -½ where they are not, are generated along; `decode` puts NaN or the fill value back.

Stored is the whole example; x0 is all of it, or a window that is cut at random.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fromnoise.codec import arrayfile, fieldview
from fromnoise.codec.arrayfile import Container
from fromnoise.codec.codec import Ends, described
from fromnoise.errors import FromNoiseError
from fromnoise.rng import Rng
from fromnoise.types import Shape

Layout = Literal["none", "first", "last"]
UNIT = 0.5  # the standard deviation of x0, as that of pictures is
SEEN = 2.5  # standard deviations from the mean that previews tell apart
_FITTED = 1 << 20  # values of a channel that its map is found from
# Robust deviations beyond which one value in a thousand lies, or a single one ten times as far, where tails are heavy.
_HEAVY = 10.0
_EXACT = 2.0**23  # the largest distance from the centre at which float32 tells integers apart


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One channel's map to unit order; `heavy` says that f is asinh."""

    centre: float = 0.0
    scale: float = 1.0
    shift: float = 0.0
    spread: float = 1.0
    heavy: bool = False

    def unit(self, values: np.ndarray) -> np.ndarray:
        z = (values - self.centre) / self.scale
        return ((np.arcsinh(z) if self.heavy else z) - self.shift) / self.spread

    def values(self, unit: np.ndarray) -> np.ndarray:
        z = unit * self.spread + self.shift
        return self.centre + self.scale * (np.sinh(z) if self.heavy else z)


@dataclass(frozen=True, kw_only=True)
class FieldCodec:
    """Arrays of one number of space axes, channels and dtype.

    space      places along each axis of x0; of the last axis any number can be sampled
    layout     where the channels of an array are: there are "none", they come "first" or "last"
    whole      whether all examples have the size of x0; otherwise each step sees a random part of each
    masks      how many mask channels there are: none, 1 for all channels together, or one for each, or each of `gaps`
    gaps       the channels that miss values, where not all do; others never do
    fill       what marks missing values, besides NaN; None: NaN alone
    floor      the least value there can be, as 0 of an amount
    units      of the values, as the data name them
    scales     one a channel; () before the data have been read
    """

    space: Shape
    channels: int
    dtype: str
    layout: Layout = "none"
    whole: bool = True
    masks: int = 0
    gaps: tuple[int, ...] = ()
    fill: float | None = None
    floor: float | None = None
    units: str = ""
    container: Container = "npy"
    scales: tuple[Scale, ...] = ()
    version: int = 1

    @property
    def shape(self) -> Shape:
        """(channels + masks, *space)."""
        return self.channels + self.masks, *self.space

    @property
    def axes(self) -> tuple[str, ...]:
        return "channels", *AXES[len(self.space)]

    @property
    def ragged(self) -> bool:
        return not self.whole

    @property
    def vocab(self) -> None:
        return None

    def store(self, raw: np.ndarray) -> np.ndarray:
        """One example in the data's own layout -> (*space, channels + masks) in its dtype, 0 where it is missing."""
        return self.store_many(raw[None])[0]

    def store_many(self, raws: np.ndarray) -> np.ndarray:
        values = self._channels_last(np.asarray(raws)).astype(self.dtype)
        if not self.masks:
            return values
        missing = self._missing(values) & np.isin(np.arange(self.channels), self._gaps)
        present = ~(missing.any(-1, keepdims=True) if self._together else missing[..., self._gaps])
        return np.concatenate([np.where(missing, 0, values), present.astype(self.dtype)], -1, dtype=self.dtype)

    def fitted(
        self, smallest: float, largest: float, some: Sequence[np.ndarray] = ()
    ) -> tuple[FieldCodec, Sequence[str]]:
        """The same with the map of each channel, by the values of `some`, and a floor of 0 where nothing lies below."""
        scales, notes = [], []
        integer = np.dtype(self.dtype).kind in "iu"
        for channel in range(self.channels):
            values = self._present(some, channel)
            reach = max(abs(smallest), abs(largest)) + float(np.abs(np.median(values))) if integer else 0.0
            scales.append(_fit(values, integer, reach))
            if reach > _EXACT and integer:
                notes = [f"integers up to {largest:,.0f} are kept to seven digits, as floats are."]
        heavy = sum(scale.heavy for scale in scales)
        if heavy:
            which = "values" if self.channels == 1 else f"{heavy} of {self.channels} channels"
            notes.append(f"{which} with heavy tails are learned by their asinh, and come back in their own units.")
        floor = 0.0 if smallest >= 0 else None
        return dataclasses.replace(self, scales=tuple(scales), floor=floor), notes

    def encode(self, stored: np.ndarray | Sequence[np.ndarray], rng: Rng | None = None) -> Float[Tensor, "b c *d"]:
        """(b, *space, channels + masks) as stored -> x0, float32; of larger examples the window that `rng` draws."""
        parts = stored if self.whole else self._windows(stored, rng)
        values = np.asarray(parts)
        c = self.channels
        unit = np.empty(values.shape, np.float32)
        for channel, scale in enumerate(self._scales):
            unit[..., channel] = UNIT * scale.unit(values[..., channel].astype(np.float64))
        if self.masks:
            present = values[..., c:] != 0
            unit[..., self._gaps] *= present
            unit[..., c:] = np.where(present, UNIT, -UNIT)
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(unit, -1, 1)))

    def decode(self, x0: Float[Tensor, "b c *d"]) -> np.ndarray:
        """x0 -> a batch in the data's own layout, dtype and units."""
        unit = np.moveaxis(x0.detach().to("cpu", torch.float64).numpy(), 1, -1)
        c, dtype = self.channels, np.dtype(self.dtype)
        values = np.empty((*unit.shape[:-1], c))
        with np.errstate(over="ignore"):  # what is beyond the dtype's range ends at its end
            for channel, scale in enumerate(self._scales):
                values[..., channel] = scale.values(unit[..., channel] / UNIT)
        out = _as_dtype(values if self.floor is None else np.maximum(values, self.floor), dtype)
        if self.masks:
            gone = np.zeros(out.shape, bool)
            gone[..., self._gaps] = unit[..., c:] < 0
            out[gone] = np.nan if self.fill is None else self.fill
        if self.layout == "none":
            return out[..., 0]
        return np.moveaxis(out, -1, 1) if self.layout == "first" else out

    def percept(self, x0: Float[Tensor, "b c *d"]) -> Float[Tensor, "b c *d"]:
        """x0 itself."""
        return x0

    def quantities(self, samples: np.ndarray) -> np.ndarray:
        """Decoded samples as float64 (n, channels, *space), NaN where they are missing."""
        values = self._channels_last(samples)
        missing = self._missing(values)
        return np.moveaxis(np.where(missing, np.nan, values.astype(np.float64)), -1, 1)

    def preview(self, samples: np.ndarray) -> np.ndarray:
        """Decoded samples as pictures (n, h, w, 3) uint8, as `legend` says how to read them.  See `fieldview.py`."""
        values = self.quantities(samples)
        # By the maps of training, so that one colour is one value on all sheets of a model.
        level = np.stack([scale.unit(values[:, k]) for k, scale in enumerate(self._scales)], 1)
        return fieldview.pictures(level / (2 * SEEN) + 0.5)

    @property
    def legend(self) -> str:
        """How a preview is read."""
        shown = {1: "a line a channel, ", 2: "channels beside each other, ", 3: "the middle slices across each axis, "}
        layout = shown[len(self.space)] if self.channels > 1 or len(self.space) == 3 else ""
        low, high = self._scales[0].values(np.array([-SEEN, SEEN]))
        low = low if self.floor is None else max(low, self.floor)
        units = f" {self.units}" if self.units else ""
        how = "from bottom to top" if len(self.space) == 1 else "from dark to light"
        missing = ", grey where values are missing" if self.masks and len(self.space) > 1 else ""
        return f"{layout}{low:.3g} to {high:.3g}{units} {how}{missing}"

    def save(self, path: Path, sample: np.ndarray, recipe: Mapping[str, object]) -> Path:
        """One decoded sample to `path` plus a suffix, its recipe inside or beside it: see `arrayfile.py`."""
        return arrayfile.save(path, sample, self.container, recipe=recipe, units=self.units, fill=self.fill)

    @property
    def unit(self) -> str:
        return "steps"

    def extent(self, places: int) -> float:
        return places

    def extended(self, length: float, ends: Ends) -> FieldCodec:
        """Samples of so many places along the last axis."""
        return dataclasses.replace(self, space=(*self.space[:-1], math.ceil(length)))

    def beginning(self, raw: np.ndarray) -> Float[Tensor, "1 c *d"]:
        """Raises FromNoiseError for other axes than the data's, and for NaN where they have none."""
        same = raw.ndim == len(self.space) + (self.layout != "none")
        x0 = dataclasses.replace(self, whole=True).encode(self.store(raw)[None]) if same else torch.zeros(1)
        if x0.shape[1:-1] != self.shape[:-1] or not bool(x0.isfinite().all()):
            raise FromNoiseError(
                f"A beginning of the shape {raw.shape} cannot be gone on with: give one example without infinite "
                f"values, {' x '.join(map(str, self.shape[:-1]))} along all axes but the last."
            )
        return x0

    def to_json(self) -> dict[str, object]:
        return {"kind": "field", **dataclasses.asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> FieldCodec:
        """The codec that `to_json` described.  Raises FromNoiseError for another kind or version."""
        values = described({"gaps": (), **data}, "field", {field.name for field in dataclasses.fields(FieldCodec)})
        scales = tuple(Scale(**scale) for scale in values["scales"])
        known = {name: tuple(values[name]) for name in ("space", "gaps")}
        return FieldCodec(**{**values, **known, "scales": scales})

    @property
    def _scales(self) -> tuple[Scale, ...]:
        return self.scales or (Scale(),) * self.channels

    @property
    def _gaps(self) -> list[int]:
        """The channels that mask channels are of."""
        return list(self.gaps or range(self.channels))

    @property
    def _together(self) -> bool:
        """Whether one mask channel is of all channels."""
        return self.masks == 1 and not self.gaps

    def _channels_last(self, raws: np.ndarray) -> np.ndarray:
        if self.layout == "none":
            return raws[..., None]
        return np.moveaxis(raws, 1, -1) if self.layout == "first" else raws

    def _missing(self, values: np.ndarray) -> np.ndarray:
        return missing(values, self.fill)

    def _present(self, some: Sequence[np.ndarray], channel: int) -> np.ndarray:
        """At most `_FITTED` values of one channel that are there, as float64; one 0 where none is."""
        share = max(1, sum(one[..., 0].size for one in some) // _FITTED)
        found = [np.zeros(0)]
        for one in some:
            values = one[..., channel].reshape(-1)
            if self.masks and channel in self._gaps:
                mask = 0 if self._together else self._gaps.index(channel)
                values = values[one[..., self.channels + mask].reshape(-1) != 0]
            found.append(values[::share].astype(np.float64))
        values = np.concatenate(found)
        return values if len(values) else np.zeros(1)

    def _windows(self, stored: np.ndarray | Sequence[np.ndarray], rng: Rng | None) -> list[np.ndarray]:
        start = np.zeros((len(stored), len(self.space)))
        if rng is not None:
            start = rng.uniform(start.shape).double().numpy()
        found = []
        for one, shares in zip(stored, start, strict=True):
            room = np.array(one.shape[:-1]) - self.space + 1
            assert (room > 0).all(), f"the window {self.space} is larger than an example of {one.shape[:-1]}"
            corner = (shares * room).astype(int)
            found.append(one[tuple(slice(a, a + n) for a, n in zip(corner, self.space, strict=True))])
        return found


AXES = {1: ("steps",), 2: ("rows", "steps"), 3: ("planes", "rows", "steps")}


def missing(values: np.ndarray, fill: float | None) -> np.ndarray:
    """Where NaN or the fill value stands, bool of the same shape."""
    out = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    # Of a float the fill value is what the dtype makes of it: 1e20 is another number in float32.
    return out if fill is None else out | (values == np.asarray(fill).astype(values.dtype))


def _as_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "b":
        return values >= 0.5
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    low, high = float(info.min), float(info.max)
    if dtype.kind == "f":
        return np.clip(values, low, high).astype(dtype)
    # The largest 64-bit integers are no float64: the next one below them is.
    high = high if int(high) <= info.max else math.nextafter(high, 0)
    return np.clip(np.rint(values), low, high).astype(dtype)


def _fit(values: np.ndarray, integer: bool, reach: float) -> Scale:
    """By mean and standard deviation, where tails are heavy those of asinh.

    `reach` is how far integers lie from the centre: asinh is taken only where they stay exact.
    """
    median = float(np.median(values))
    distance = np.abs(values - median)
    robust = 1.4826 * float(np.median(distance))
    if robust == 0 and distance.any():
        robust = float(np.median(distance[distance > 0]))
    centre = float(np.rint(median)) if integer else median
    heavy = robust > 0 and max(float(np.quantile(distance, 0.999)), float(distance.max()) / 10) > _HEAVY * robust
    if heavy and (not integer or reach * math.asinh(reach / robust) < _EXACT / 2):
        bent = np.arcsinh((values - centre) / robust)
        return Scale(centre=centre, scale=robust, shift=float(bent.mean()), spread=float(bent.std()), heavy=True)
    mean = float(values.mean())
    return Scale(centre=float(np.rint(mean)) if integer else mean, scale=float(values.std()) or 1.0)
