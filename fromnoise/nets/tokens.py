"""A bidirectional transformer over tokens for masked diffusion (Sahoo et al. 2024, MDLM).

How far a sequence is masked can be read off the sequence, so by default the network is not told t at all, and what it
says of a site may be kept for as long as the sequence does not change.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fromnoise.nets.condition import Encoded
from fromnoise.nets.embeddings import Rotary, TimeEmbedding
from fromnoise.nets.patches import Head
from fromnoise.nets.transformer import Block, block_taps, zero_modulation
from fromnoise.types import FromNoiseError


class TokenTransformer(nn.Module):
    """x (b, length) of any length over `vocab` symbols and the mask (index `vocab`) -> logits (b, length, vocab)."""

    def __init__(self, *, vocab: int, width: int, depth: int, heads: int, emb: int, timed: bool = False) -> None:
        super().__init__()
        if width % (2 * heads):
            raise FromNoiseError(f"width {width} must split into {heads} heads of even size")
        self.symbols = nn.Embedding(vocab + 1, width)
        self.time = TimeEmbedding(emb) if timed else None
        self.rotary = Rotary(width // heads, 1)
        self.modulation = zero_modulation(emb, width)
        self.blocks = nn.ModuleList([Block(width, heads, emb) for _ in range(depth)])
        self.head = Head(width, vocab, (1,), emb)

    def forward(
        self, x: Int[Tensor, "b n"], t: Float[Tensor, " b #n"], s: Float[Tensor, " b #n"], cond: Encoded
    ) -> tuple[Float[Tensor, "b n vocab"], None]:
        emb = cond.vec[:, None] if self.time is None else self.time(t, s) + cond.vec[:, None]
        emb = F.silu(emb)  # (b, 1 or n, e)
        modulation, rotation = self.modulation(emb), self.rotary((x.shape[1],))
        h = self.symbols(x)
        for block in self.blocks:
            h = block(h, modulation, cond, rotation)
        return self.head(h.movedim(-1, 1), emb, (x.shape[1],)).movedim(1, -1), None

    @property
    def taps(self) -> dict[str, nn.Module]:
        """`block{i}`, its `block{i}.attention`, and `mid`, the last block of the first half."""
        return block_taps(self.blocks)
