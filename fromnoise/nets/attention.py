"""Attention as both trunks use it: every cell attends to all cells and, in the same softmax, to the condition's tokens.

Joining the tokens to the keys costs one product more and no block of its own, and a row without any token is ordinary
self-attention rather than a softmax over nothing.  Queries and keys are normalised per head (Dehghani et al. 2023), so
that logits stay bounded in bfloat16 and at high learning rates.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fromnoise.nets.attend import attend
from fromnoise.nets.condition import Encoded
from fromnoise.nets.embeddings import rotate


class Attention(nn.Module):
    """(b, n, width) -> (b, n, width); `emb` is the width of the condition's tokens, of which there are none without it.

    `causal`: without tokens, a cell attends to those before it and to itself.
    """

    def __init__(self, width: int, heads: int, emb: int | None, *, causal: bool = False) -> None:
        super().__init__()
        assert emb is None or not causal
        assert width % (2 * heads) == 0, f"width {width} does not split into {heads} heads of even size"
        self.heads, self.causal = heads, causal
        # Three maps, not one of triple width: gradients need no concatenation, and an optimiser sees true matrices.
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.context = None if emb is None else nn.Linear(emb, 2 * width, bias=False)
        self.sharpness = nn.Parameter(torch.ones(heads, width // heads))  # of the queries: only q * k counts
        self.out = nn.Linear(width, width)

    def forward(self, h: Float[Tensor, "b n w"], cond: Encoded, rotation: Tensor | None = None) -> Tensor:
        q, k, v, mask = self.project(h, cond, rotation)
        return self.out(attend(q, k, v, mask, causal=self.causal).transpose(1, 2).flatten(2))

    def project(
        self, h: Float[Tensor, "b n w"], cond: Encoded, rotation: Tensor | None = None
    ) -> tuple[
        Float[Tensor, "b heads n d"],
        Float[Tensor, "b heads m d"],
        Float[Tensor, "b heads m d"],
        Bool[Tensor, "b 1 1 m"] | None,
    ]:
        """Queries, keys, values (m = condition tokens, then the n cells) and which keys may be attended to."""
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)) for f in (self.query, self.key, self.value))  # (b, n, heads, d)
        q, k = _unit(q) * self.sharpness, _unit(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        mask = None
        if self.context is not None and cond.tokens is not None and cond.token_mask is not None:
            extra_k, extra_v = self.context(cond.tokens).unflatten(-1, (2, self.heads, -1)).unbind(2)
            k, v = torch.cat([_unit(extra_k), k], 1), torch.cat([extra_v, v], 1)
            mask = F.pad(cond.token_mask, (0, h.shape[1]), value=True)[:, None, None]
        q, k, v = (z.to(v.dtype).transpose(1, 2) for z in (q, k, v))
        return q, k, v, mask


def _unit(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
