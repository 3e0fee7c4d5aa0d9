"""What a medium is to the rest of the program: its raw examples on one side, tensors x0 of unit order on the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fromnoise.errors import FromNoiseError
from fromnoise.rng import Rng
from fromnoise.types import Data, Shape


@runtime_checkable
class Codec(Protocol):
    """raw --store--> stored (on disk, once) --encode--> x0 (every step) --decode--> samples like the raw data.

    All choices that depend on the data are fields of the codec and survive `to_json`, so a release decodes without it.
    """

    @property
    def shape(self) -> Shape:
        """x0's shape without the batch: (c, *space), or (length,) of tokens."""
        ...

    @property
    def axes(self) -> tuple[str, ...]:
        """What the axes of `shape` are, in words."""
        ...

    @property
    def ragged(self) -> bool:
        """Whether stored examples differ in the length of their first axis: `encode` then cuts or pads them."""
        ...

    @property
    def vocab(self) -> int | None:
        """How many symbols there are where x0 is integers; None where it is continuous."""
        ...

    def store(self, raw: np.ndarray) -> np.ndarray:
        """One raw example in the form that is cached; costly, done once."""
        ...

    def store_many(self, raws: np.ndarray) -> np.ndarray:
        """`store` of several raw examples of one shape."""
        ...

    def fitted(self, smallest: float, largest: float, some: Sequence[np.ndarray] = ()) -> tuple[Codec, Sequence[str]]:
        """The codec for data whose stored values lie between two numbers, and the sentences that say what was decided.

        `some` are stored training examples in random order: those of one shape at most 256, ragged ones as many as fit
        into 64 MB.
        """
        ...

    def encode(self, stored: np.ndarray | Sequence[np.ndarray], rng: Rng | None = None) -> Data:
        """A cached batch as x0, float32 (b, c, *d) or int64 (b, length); cheap, done every step.

        Where the stored are longer than x0, `rng` says which part is taken, None the first.
        """
        ...

    def decode(self, x0: Data) -> np.ndarray:
        """A batch in the data's own layout, dtype and range."""
        ...

    def percept(self, x0: Data) -> Float[Tensor, "b e *g"]:
        """x0 as it is perceived, of order 1: what groups and learned features are found in."""
        ...

    def preview(self, samples: np.ndarray) -> np.ndarray:
        """Decoded samples as pictures (n, h, w, 3) uint8, for sheets."""
        ...

    @property
    def legend(self) -> str:
        """How a preview is read, where that does not go without saying."""
        ...

    def save(self, path: Path, sample: np.ndarray, recipe: Mapping[str, object]) -> Path:
        """Writes one decoded sample in the data's own format, with its recipe inside; returns the file."""
        ...

    def to_json(self) -> dict[str, object]:
        """The codec as JSON values, its `kind` among them; `from_json` of the same class gives it back."""
        ...

    @staticmethod
    def from_json(data: Mapping[str, object]) -> Codec:
        """The codec that `to_json` described.  Raises FromNoiseError for another kind or version."""
        ...


Ends = Literal["rest", "free", "continued", "loop"]


@runtime_checkable
class Extensible(Protocol):
    """What a `Codec` is besides where samples may be longer than its window along x0's last axis."""

    @property
    def shape(self) -> Shape: ...

    @property
    def unit(self) -> str:
        """What lengths are counted in, as `seconds`."""
        ...

    def extent(self, places: int) -> float:
        """The length of so many places along the last axis."""
        ...

    def extended(self, length: float, ends: Ends) -> Any:
        """The codec of samples of another length; of loops the last place is followed by the first."""
        ...

    def beginning(self, raw: np.ndarray) -> Float[Tensor, "1 c *d"]:
        """The x0 of a raw beginning, as far as it does not depend on what follows.  Raises FromNoiseError for none."""
        ...


@runtime_checkable
class Moving(Extensible, Protocol):
    """What an `Extensible` is besides where samples are pictures one after the other, and x0 is (c, frames, h, w)."""

    @property
    def rate(self) -> str:
        """Frames a second, a fraction such as "30000/1001"."""
        ...

    @property
    def frames(self) -> int: ...

    def moving(self, samples: np.ndarray) -> np.ndarray:
        """Samples as frames to look at (n, frames, h, w, 3) uint8."""
        ...


@runtime_checkable
class Playable(Protocol):
    """What a `Codec` is besides where samples take time, so that a page can play them."""

    def player(self, sample: np.ndarray, recipe: Mapping[str, object]) -> tuple[str, bytes] | None:
        """One decoded sample as browsers play it, with its recipe inside: the media type, as `audio/wav`, and the file.

        None where what writes such files is not installed.
        """
        ...


@runtime_checkable
class Physical(Protocol):
    """What a `Codec` is besides where values are quantities, whose spectrum and histogram mean something."""

    @property
    def units(self) -> str:
        """What values are counted in, "" where that is not known."""
        ...

    def quantities(self, samples: np.ndarray) -> np.ndarray:
        """Decoded samples as float64 (n, channels, *space), NaN where they are missing."""
        ...


@runtime_checkable
class Divisible(Protocol):
    """What a ragged `Codec` is besides where few long examples may be cut into many short ones."""

    @property
    def piece(self) -> int:
        """The stored length of a piece."""
        ...


def described(data: Mapping[str, object], kind: str, names: Collection[str]) -> dict[str, Any]:
    """What `to_json` wrote of a codec, without its kind.  Raises FromNoiseError for another kind or version."""
    if data.get("kind") != kind or set(data) != {*names, "kind"}:
        article = "an" if kind[0] in "aeiou" else "a"
        raise FromNoiseError(
            f"This is not the description of {article} {kind} codec: use the version of fromnoise that wrote it, or a "
            "newer."
        )
    return {name: value for name, value in data.items() if name != "kind"}
