"""Randomness, explicit and per example.

Sample i of seed k must be the same picture in a batch of 1, in a batch of 64 and on any rank, and step n of a training
run must draw the same noise before and after a resume.  So no draw ever comes from a shared stream: each example owns a
generator whose state is a function of (seed, salt, index) alone, hashed by numpy's `SeedSequence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from fromnoise.types import Shape


def derive_seed(*entropy: int | str) -> int:
    """A 63-bit seed from integers and words, well mixed and stable across platforms and versions."""
    words = [crc32(e.encode()) if isinstance(e, str) else e for e in entropy]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Rng:
    """One stream of random numbers per example of a batch.

    Draws are made on the CPU in float32 or float64 and moved, so that a seed means the same on every device.
    `positions` and `total` say where the examples stand in the global batch; only stratified draws use them.
    """

    def __init__(self, generators: Sequence[torch.Generator], positions: Sequence[int], total: int) -> None:
        self.generators = list(generators)
        self.positions = list(positions)
        self.total = total

    @staticmethod
    def of(seed: int, indices: Sequence[int], *salt: int | str, total: int | None = None) -> Rng:
        """The streams of examples `indices` under `seed`; `salt` keeps different uses of one seed apart."""
        generators = [torch.Generator().manual_seed(derive_seed(seed, *salt, i)) for i in indices]
        return Rng(generators, indices, len(indices) if total is None else total)

    def __len__(self) -> int:
        return len(self.generators)

    def __getitem__(self, part: slice) -> Rng:
        return Rng(self.generators[part], self.positions[part], self.total)

    def every(self, n: int) -> Rng:
        """Every n-th example of the global batch, as a global batch of its own."""
        part = [i for i, p in enumerate(self.positions) if p % n == 0]
        positions = [self.positions[i] // n for i in part]
        return Rng([self.generators[i] for i in part], positions, -(-self.total // n))

    def again(self) -> Rng:
        """The same streams from where they stand: what is drawn of one is drawn of the other, too."""
        return Rng([generator.clone_state() for generator in self.generators], self.positions, self.total)

    def normal(self, shape: Shape, like: Tensor | None = None) -> Tensor:
        """Standard normal of `shape` (first axis: the examples), in the dtype and on the device of `like`."""
        return self._stack(torch.randn, shape, like)

    def uniform(self, shape: Shape, like: Tensor | None = None) -> Tensor:
        """Uniform on [0, 1)."""
        return self._stack(torch.rand, shape, like)

    def stratified(self) -> Tensor:
        """(b,) float64, uniform on [0, 1) with one example in each of `total` equal strata of the global batch."""
        place = torch.tensor([p % self.total for p in self.positions], dtype=torch.float64)
        return (place + self.uniform((len(self),), like=place)) / self.total

    def _stack(self, draw, shape: Shape, like: Tensor | None) -> Tensor:
        assert shape[0] == len(self.generators), f"{shape[0]} examples asked of {len(self.generators)} streams"
        # float64 has its own stream of bits; anything narrower is drawn in float32 and cast, so precision never
        # changes which picture a seed means.
        wide = torch.float64 if like is not None and like.dtype == torch.float64 else torch.float32
        out = torch.empty(shape, dtype=wide)
        for row, generator in zip(out, self.generators, strict=True):
            row.copy_(draw(shape[1:], generator=generator, dtype=wide))
        return out if like is None else out.to(device=like.device, dtype=like.dtype)
