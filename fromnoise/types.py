"""Shapes and aliases that every other module speaks in.

Tensors are laid out batch first, channels second: `x` is (b, c, *space) for continuous data and (b, length) for
tokens.  Time has the data's rank and broadcasts against it: (b, 1, ..., 1) by default, (b, 1, T, 1, 1) per frame.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from fromnoise.errors import FromNoiseError

Shape = tuple[int, ...]
Data = Float[Tensor, "b *d"] | Int[Tensor, "b *d"]
Time = Float[Tensor, "b *#d"]
Mask = Bool[Tensor, "b *#d"]

__all__ = ["Data", "FromNoiseError", "Mask", "Shape", "Time"]
