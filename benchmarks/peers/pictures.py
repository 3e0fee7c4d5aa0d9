"""The pictures that all contestants learn from and are judged by: uint8 (n, h, w, c), grey or RGB over white."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fromnoise.codec import Codec
from fromnoise.data import open_dataset
from fromnoise.types import Shape

Images = UInt8[np.ndarray, "n h w c"]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A data set's split as fromnoise makes it; `fingerprint` names content, split and size."""

    train: np.ndarray
    held: np.ndarray
    fingerprint: str

    @property
    def shape(self) -> Shape:
        """(c, h, w)."""
        _, h, w, c = self.train.shape
        return c, h, w


def read(data: str, size: int | None = None) -> Pictures:
    """Everything in `data`, at `size` pixels; raises FromNoiseError as `open_dataset`."""
    dataset = open_dataset(data, size=size, columns=[])

    def split(name: str) -> Iterator[np.ndarray]:
        for rows in np.array_split(dataset.indices(name), max(1, len(dataset) // 5000)):
            yield seen(dataset.codec, dataset.codec.decode(dataset.x0(rows)))

    train, held = (np.concatenate(list(split(name))) for name in ("train", "test"))
    shape = "x".join(map(str, train.shape[1:]))
    return Pictures(train=train, held=held, fingerprint=f"{dataset.fingerprint}-{shape}")


def seen(codec: Codec, samples: np.ndarray) -> Images:
    """Decoded samples as every contestant is looked at: grey stays grey, colour is laid over white."""
    pictures = codec.preview(samples)
    return np.ascontiguousarray(pictures[..., :1]) if codec.shape[0] == 1 else pictures


def to_x0(images: Images) -> Float[Tensor, "n c h w"]:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(x0: Float[Tensor, "n c h w"]) -> Images:
    """Rounded and clipped to 8 bits."""
    return ((x0.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
