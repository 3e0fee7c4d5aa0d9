"""Video: raw (frames, h, w, c) <-> x0 (c, frames, h, w).  A frame is a picture, and `ImageCodec` says what that means.

Stored is the whole clip at the set's rate; x0 is a window of it, cut at random, and a clip that is shorter stands still
at its end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fromnoise.codec import videofile
from fromnoise.codec.codec import Ends, described
from fromnoise.codec.image import ImageCodec
from fromnoise.codec.videofile import Container
from fromnoise.errors import FromNoiseError
from fromnoise.rng import Rng
from fromnoise.types import Shape

_SHOWN = 8  # frames of a contact strip
_PERCEIVED = 4
_TALL = 48  # pixels: frames of a strip are enlarged to that at least
_PLAYED = 128  # pixels: the longer side of frames that are played is enlarged to that at least
_GAP = 2


@dataclass(frozen=True, kw_only=True)
class VideoCodec:
    """Windows of `frames` pictures of `image`'s, `rate` a second (a fraction such as "25" or "30000/1001")."""

    image: ImageCodec
    frames: int
    rate: str
    container: Container
    version: int = 1

    @property
    def shape(self) -> Shape:
        """(c, frames, h, w)."""
        return self.image.channels, self.frames, self.image.height, self.image.width

    @property
    def axes(self) -> tuple[str, ...]:
        return "channels", "frames", "height", "width"

    @property
    def ragged(self) -> bool:
        return True

    @property
    def vocab(self) -> None:
        return None

    def store(self, raw: np.ndarray) -> np.ndarray:
        """(n, h, w, c) -> the same of the set's size and channels, as `ImageCodec.store` makes each."""
        return self.image.store_many(raw)

    def store_many(self, raws: np.ndarray) -> np.ndarray:
        return np.stack([self.store(raw) for raw in raws])

    def fitted(
        self, smallest: float, largest: float, some: Sequence[np.ndarray] = ()
    ) -> tuple[VideoCodec, Sequence[str]]:
        image, notes = self.image.fitted(smallest, largest)
        return dataclasses.replace(self, image=image), notes

    def encode(self, stored: np.ndarray | Sequence[np.ndarray], rng: Rng | None = None) -> Float[Tensor, "b c f h w"]:
        """Clips (n_i, h, w, c) -> x0 in float32, of windows drawn by `rng`, by itself the first ones."""
        room = [max(0, len(clip) - self.frames) for clip in stored]
        draws = torch.zeros(len(stored)) if rng is None else rng.uniform((len(stored),))
        starts = [int(u * (most + 1)) for u, most in zip(draws.tolist(), room, strict=True)]
        windows = [_held(clip[a : a + self.frames], self.frames) for clip, a in zip(stored, starts, strict=True)]
        x0 = self.image.encode(np.concatenate(windows))
        return x0.unflatten(0, (len(stored), self.frames)).movedim(1, 2).contiguous()

    def decode(self, x0: Float[Tensor, "b c f h w"]) -> np.ndarray:
        """(b, frames, h, w, c), in the data's dtype."""
        frames = self.image.decode(x0.movedim(2, 1).flatten(0, 1))
        return frames.reshape(len(x0), -1, *frames.shape[1:])

    def percept(self, x0: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b e h w"]:
        """Four frames of x0, evenly spread, as channels of one picture: features of all in 3-D take ten times as long.

        How clips move from frame to frame is measured by itself (`evaluate/motion.py`).
        """
        return x0[:, :, _spread(x0.shape[2], _PERCEIVED)].flatten(1, 2)

    def preview(self, samples: np.ndarray) -> np.ndarray:
        """Samples (n, frames, h, w, c) -> contact strips (n, h, w, 3): at most eight frames of each, side by side."""
        seen = self.moving(samples[:, _spread(samples.shape[1], _SHOWN)])
        margin = np.full((*seen.shape[:3], _GAP, 3), 255, np.uint8)
        strips = np.concatenate([seen, margin], axis=3).swapaxes(1, 2)
        return strips.reshape(len(samples), seen.shape[2], -1, 3)[:, :, :-_GAP]

    def moving(self, samples: np.ndarray) -> np.ndarray:
        """Samples as frames to look at (n, frames, h, w, 3) uint8, small ones enlarged."""
        n, frames = samples.shape[:2]
        seen = self.image.preview(samples.reshape(n * frames, *samples.shape[2:]))
        times = math.ceil(_TALL / max(seen.shape[1:3]))
        return seen.repeat(times, 1).repeat(times, 2).reshape(n, frames, *(times * s for s in seen.shape[1:3]), 3)

    @property
    def legend(self) -> str:
        """How a preview is read."""
        return f"frames of {float(self.frames / Fraction(self.rate)):.2f} s from left to right"

    def save(self, path: Path, sample: np.ndarray, recipe: Mapping[str, object]) -> Path:
        """One sample (n, h, w, c) to `path` plus a suffix: see `codec/videofile.py`."""
        assert sample.shape[1:] == (self.image.height, self.image.width, self.image.channels), sample.shape
        return videofile.save(path, sample, Fraction(self.rate), container=self.container, recipe=recipe)

    def player(self, sample: np.ndarray, recipe: Mapping[str, object]) -> tuple[str, bytes] | None:
        """(`video/webm`, file) of a sample (n, h, w, c), laid over white, small ones enlarged; None without PyAV."""
        frames = self.image.preview(sample)
        side = max(frames.shape[1:3])
        # By an even number, so that colours at half the resolution, which WebM has, are still one a pixel.
        times = 2 * math.ceil(_PLAYED / (2 * side)) if side < _PLAYED else 1
        file = videofile.webm(frames.repeat(times, 1).repeat(times, 2), Fraction(self.rate), recipe)
        return None if file is None else ("video/webm", file)

    @property
    def piece(self) -> int:
        return self.frames

    @property
    def unit(self) -> str:
        return "frames"

    def extent(self, places: int) -> float:
        return places

    def extended(self, length: float, ends: Ends) -> VideoCodec:
        """The codec of clips of `length` frames."""
        return dataclasses.replace(self, frames=math.ceil(length))

    def beginning(self, raw: np.ndarray) -> Float[Tensor, "1 c f h w"]:
        """The x0 of all frames of a clip (n, h, w, c)."""
        if len(raw) == 0:
            raise FromNoiseError("A beginning has one frame or more: give another clip.")
        return dataclasses.replace(self, frames=len(raw)).encode([self.store(raw)])

    def to_json(self) -> dict[str, object]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"kind": "video", **fields, "image": self.image.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> VideoCodec:
        """The codec that `to_json` described.  Raises FromNoiseError for another kind or version."""
        values: dict[str, Any] = described(data, "video", {field.name for field in dataclasses.fields(VideoCodec)})
        return VideoCodec(**{**values, "image": ImageCodec.from_json(values["image"])})


def _spread(frames: int, some: int) -> np.ndarray:
    """The places of at most `some` of the frames, evenly spread, the first and the last among them."""
    return np.linspace(0, frames - 1, min(some, frames)).round().astype(int)


def _held(clip: np.ndarray, frames: int) -> np.ndarray:
    """The clip with its last frame held until it has as many."""
    return clip if len(clip) == frames else np.concatenate([clip, clip[-1:].repeat(frames - len(clip), axis=0)])
