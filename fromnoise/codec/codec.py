"""What a medium is to the rest of the program: its raw examples on one side, tensors x0 near [-1, 1] on the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fromnoise.types import Shape


@runtime_checkable
class Codec(Protocol):
    """raw --store--> stored (on disk, once) --encode--> x0 (every step) --decode--> samples like the raw data.

    All choices that depend on the data are fields of the codec and survive `to_json`, so a release decodes without it.
    """

    @property
    def shape(self) -> Shape:
        """x0's shape without the batch: (c, *space)."""
        ...

    def store(self, raw: np.ndarray) -> np.ndarray:
        """One raw example in the form that is cached; costly, done once."""
        ...

    def store_many(self, raws: np.ndarray) -> np.ndarray:
        """`store` of several raw examples of one shape."""
        ...

    def encode(self, stored: np.ndarray) -> Float[Tensor, "b c *d"]:
        """A cached batch as x0, float32; cheap, done every step."""
        ...

    def decode(self, x0: Float[Tensor, "b c *d"]) -> np.ndarray:
        """A batch in the data's own layout, dtype and range."""
        ...

    def preview(self, samples: np.ndarray) -> np.ndarray:
        """Decoded samples as pictures (n, h, w, 3) uint8, for sheets."""
        ...

    def save(self, path: Path, sample: np.ndarray, recipe: Mapping[str, object]) -> Path:
        """Writes one decoded sample in the data's own format, with its recipe inside; returns the file."""
        ...

    def to_json(self) -> dict[str, object]:
        """The codec as JSON values; `from_json` of the same class gives it back."""
        ...
