"""From named conditions to what a trunk takes: one vector, a sequence to attend to, channels beside the data.

Every column adds to the vector, so every trunk sees every condition; tokens are also given as a sequence, maps as
channels.  What is absent adds a learned null instead (maps: zeros, told apart by a presence channel), and its value is
blanked before anything is computed from it, so that not one bit of the answer can depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fromnoise.cond import Column, Cond
from fromnoise.nets.attend import attend
from fromnoise.nets.embeddings import SILU_MOMENT, fourier, unit_linear
from fromnoise.types import FromNoiseError


@dataclass(frozen=True)
class Encoded:
    """vec: the sum of all columns; tokens and their mask: a sequence; maps: channels, each column's presence last."""

    vec: Float[Tensor, "b e"]
    tokens: Float[Tensor, "b n e"] | None
    token_mask: Bool[Tensor, "b n"] | None
    maps: Float[Tensor, "b m *d"] | None

    def rows(self, which: Bool[Tensor, " b"]) -> Encoded:
        """Some examples of the batch."""
        parts = (self.vec, self.tokens, self.token_mask, self.maps)
        vec, tokens, mask, maps = (None if part is None else part[which] for part in parts)
        assert vec is not None
        return Encoded(vec, tokens, mask, maps)

    def repeated(self, times: int) -> Encoded:
        """Each example `times` times, for parts of it that are looked at by themselves; without its maps."""
        parts = (self.vec, self.tokens, self.token_mask)
        vec, tokens, mask = (None if part is None else part.repeat_interleave(times, 0) for part in parts)
        assert vec is not None
        return Encoded(vec, tokens, mask, None)


class Conditioner(nn.Module):
    """`Cond` -> `Encoded` of width `width`; columns that a batch lacks are absent for all of it."""

    zero: Tensor

    def __init__(self, columns: tuple[Column, ...], width: int) -> None:
        super().__init__()
        self.columns = tuple(c for c in columns if c.kind != "map")
        self.map_columns = tuple(c for c in columns if c.kind == "map")
        self.encoders = nn.ModuleList([ENCODERS[c.kind](c, width) for c in self.columns])
        self.nulls = nn.Parameter(torch.randn(len(self.columns), width))
        self.register_buffer("zero", torch.zeros(width), persistent=False)

    @property
    def map_channels(self) -> int:
        return sum(c.size + 1 for c in self.map_columns)

    def forward(self, cond: Cond) -> Encoded:
        known = {c.name for c in (*self.columns, *self.map_columns)}
        if strange := sorted(set(cond.values) - known):
            raise FromNoiseError(f"the model has no column {strange[0]!r}: condition on {sorted(known) or 'nothing'}")
        vec, sequences, masks = self.zero.expand(len(cond), -1), [], []
        for column, encoder, null in zip(self.columns, self.encoders, self.nulls, strict=True):
            if column.name not in cond.values:
                vec = vec + null
                continue
            value = _blank(cond, column, self.zero)
            code = encoder(value)
            if column.kind == "tokens":
                sequences.append(code)
                masks.append(value != 0)
                code = _pooled(code, value != 0)
            vec = vec + torch.where(cond.present[column.name][:, None], code, null)
        return Encoded(
            vec * max(len(self.columns), 1) ** -0.5,  # a sum of n codes of unit variance
            torch.cat(sequences, 1) if sequences else None,
            torch.cat(masks, 1) if masks else None,
            self._maps(cond),
        )

    def _maps(self, cond: Cond) -> Tensor | None:
        given = [cond.values[c.name] for c in self.map_columns if c.name in cond.values]
        if not given:
            return None
        parts = []
        for column in self.map_columns:
            shape = (len(cond), column.size + 1, *given[0].shape[2:])
            if column.name not in cond.values:
                parts.append(self.zero.new_zeros(shape))
                continue
            value = _blank(cond, column, self.zero)
            present = _broadcast(cond.present[column.name], value).to(value.dtype)
            parts += [value, present.expand(-1, 1, *value.shape[2:])]
        return torch.cat(parts, 1)


class ClassEncoder(nn.Module):
    def __init__(self, column: Column, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(len(column.labels), width)

    def forward(self, value: Int[Tensor, " b"]) -> Float[Tensor, "b e"]:
        return self.table(value)


class NumberEncoder(nn.Module):
    """A standardised number (mean 0, standard deviation 1 over the training set) -> smooth code.

    Inside the training range the number is used as it is; outside it is bent to stay within one standard deviation of
    the range, `edge + tanh(z - edge)`.  So the code goes on smoothly a little past what was seen, and then stops:
    Fourier features of a far number would alias to those of an unrelated near one.
    """

    freqs: Tensor

    def __init__(self, column: Column, width: int) -> None:
        super().__init__()
        self.low, self.high = ((edge - column.mean) / column.std for edge in (column.low, column.high))
        # Waves much longer than a standard deviation: short ones say nothing of values in between and beyond.
        self.register_buffer("freqs", 2 ** torch.linspace(-3, 1, 16), persistent=False)
        self.mlp = nn.Sequential(unit_linear(33, width), nn.SiLU(), unit_linear(width, width, SILU_MOMENT))

    def forward(self, value: Float[Tensor, " b"]) -> Float[Tensor, "b e"]:
        inside = value.clamp(self.low, self.high)
        z = inside + torch.tanh(value - inside)
        return self.mlp(torch.cat([z[:, None], fourier(z, self.freqs)], dim=-1))


class VectorEncoder(nn.Module):
    def __init__(self, column: Column, width: int) -> None:
        super().__init__()
        self.project = unit_linear(column.size, width)

    def forward(self, value: Float[Tensor, "b k"]) -> Float[Tensor, "b e"]:
        return self.project(value)


class TokenEncoder(nn.Module):
    """A sequence of symbols, 0 for padding: what each is and where it stands, then once around the others.

    The attention starts at zero, so a sequence begins as the bag of its symbols.
    """

    def __init__(self, column: Column, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.table = nn.Embedding(column.size, width)
        self.position = nn.Embedding(column.length, width)
        self.attend = unit_linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.normal_(self.position.weight, std=0.3)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, value: Int[Tensor, "b n"]) -> Float[Tensor, "b n e"]:
        h = self.table(value) + self.position.weight[: value.shape[1]]
        q, k, v = self.attend(F.layer_norm(h, h.shape[-1:])).unflatten(-1, (3, self.heads, -1)).unbind(2)
        # A row without any symbol attends to everything rather than to nothing, and is blanked afterwards.
        seen = (value != 0) | (value == 0).all(1, keepdim=True)
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        around = attend(q, k, v, seen[:, None, None])
        return h + self.out(around.transpose(1, 2).flatten(2))


ENCODERS = {
    "class": ClassEncoder,
    "number": NumberEncoder,
    "vector": VectorEncoder,
    "tokens": TokenEncoder,
    "embedding": VectorEncoder,
}


def _blank(cond: Cond, column: Column, like: Tensor) -> Tensor:
    """The column's values, zero where absent: 0 is a valid value of every kind."""
    value = cond.values[column.name]
    value = torch.where(_broadcast(cond.present[column.name], value), value, value.new_zeros(()))
    return value.to(like.dtype) if value.is_floating_point() else value


def _broadcast(present: Bool[Tensor, " b"], value: Tensor) -> Tensor:
    return present.reshape(-1, *[1] * (value.ndim - 1))


def _pooled(sequence: Float[Tensor, "b n e"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b e"]:
    """The sum over √n, so that n codes of unit variance give one."""
    weight = F.normalize(mask.to(sequence.dtype), dim=1)
    return (weight[:, None] @ sequence).squeeze(1)
