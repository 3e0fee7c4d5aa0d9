"""A bidirectional transformer over tokens for masked diffusion (Sahoo et al. 2024, MDLM).

How far a sequence is masked can be read off the sequence, so by default the network is not told t at all (Ou et al.
2024), and what it says of a site may be kept for as long as the sequence does not change.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fromnoise.nets.condition import Encoded
from fromnoise.nets.embeddings import Rotary, TimeEmbedding
from fromnoise.nets.patches import modulate
from fromnoise.nets.transformer import Block, block_taps, zero_modulation
from fromnoise.types import FromNoiseError


class TokenTransformer(nn.Module):
    """x (b, length) of any length over `vocab` symbols and the mask (index `vocab`) -> logits (b, length, vocab).

    `tied`: a symbol is read and written by one table, so that a rare one is learned from both sides (Press & Wolf
    2017).
    """

    def __init__(
        self, *, vocab: int, width: int, depth: int, heads: int, emb: int, timed: bool = False, tied: bool = True
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise FromNoiseError(f"width {width} must split into {heads} heads of even size")
        self.symbols = nn.Embedding(vocab + 1, width)
        self.time = TimeEmbedding(emb) if timed else None
        self.rotary = Rotary(width // heads, 1)
        self.modulation = zero_modulation(emb, width)
        self.blocks = nn.ModuleList([Block(width, heads, emb) for _ in range(depth)])
        self.final = nn.Linear(emb, 2 * width)
        self.table = None if tied else nn.Embedding(vocab, width)
        self.bias = nn.Parameter(torch.zeros(vocab))

    def forward(
        self,
        x: Int[Tensor, "b n"],
        t: Float[Tensor, " b #n"],
        s: Float[Tensor, " b #n"],
        cond: Encoded,
        sites: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "*sites vocab"], None]:
        """Logits (b, n, vocab), or (k, vocab) of the k `sites` alone: the way back to a large vocabulary costs as much
        as a block or two."""
        emb = cond.vec[:, None] if self.time is None else self.time(t, s) + cond.vec[:, None]
        emb = F.silu(emb)  # (b, 1 or n, e)
        modulation, rotation = self.modulation(emb), self.rotary((x.shape[1],))
        h = self.symbols(x)
        for block in self.blocks:
            h = block(h, modulation, cond, rotation)
        h = modulate(h, *self.final(emb).chunk(2, -1))
        table = self.symbols.weight[:-1] if self.table is None else self.table.weight
        # Logits of unit variance at first, for a table of unit variance.
        h = (h if sites is None else h[sites]) * h.shape[-1] ** -0.5
        return F.linear(h, table, self.bias), None

    @property
    def taps(self) -> dict[str, nn.Module]:
        """`block{i}`, its `block{i}.attention`, and `mid`, the last block of the first half."""
        return block_taps(self.blocks)
