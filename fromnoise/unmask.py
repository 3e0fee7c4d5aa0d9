"""How masked tokens are shown: how many a move, in which order, and how surely.

Masked diffusion shows each masked token with probability (t-s)/t.  `Unmask` fixes the number that this is on average,
and may show the surest first and draw them more surely than the model believes: fewer slips, less variety.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.posterior import Logits, Posterior
from fromnoise.process import Masked, draw_tokens
from fromnoise.rng import Rng
from fromnoise.types import Data, FromNoiseError, Time


@dataclass(frozen=True, kw_only=True)
class Unmask:
    """Of m masked tokens m·s/t stay masked.  Times must be one number an example.

    by random    every order is equally likely.  Where a move shows one token (as many moves as sites) this is the
                 model's own law, and where it shows several they are independent given what was shown before
    by margin    first those whose best token leads its rival by most (Kim et al. 2025, "Train for the worst, plan for
                 the best")
    temperature  a token's law to the power 1/temperature; 1 means off
    nucleus      only the likeliest tokens of this total weight (Holtzman et al. 2020); 1 means off
    Raises FromNoiseError for a temperature that is not above 0 or a nucleus outside (0, 1].
    """

    by: Literal["random", "margin"] = "random"
    temperature: float = 1.0
    nucleus: float = 1.0
    order = 1

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 < self.nucleus <= 1:
            raise FromNoiseError(
                f"Temperature {self.temperature} and nucleus {self.nucleus} do not work: take a temperature above 0, "
                "such as 0.9, and a nucleus above 0 and up to 1, such as 0.95."
            )

    def init(self, x: Data) -> None:
        return None

    def step(
        self, denoise: Denoiser, x_t: Data, t: Time, s: Time, cond: Cond, state: None, rng: Rng
    ) -> tuple[Data, Posterior, None]:
        post = denoise(x_t, t, cond, s)
        assert isinstance(post, Logits) and isinstance(denoise.process, Masked) and t.numel() == len(x_t)
        hidden = x_t == denoise.process.vocab
        jitter, place, which = rng.uniform((len(x_t), 2 * x_t[0].numel() + 1), like=t.double()).split(
            [1, x_t[0].numel(), x_t[0].numel()], dim=1
        )
        score = place if self.by == "random" else _margins(post, hidden)
        # Rounded up or down at random, so that the mean is right also where a move shows less than one token.
        stay = hidden.flatten(1).sum(1, keepdim=True) * (s / torch.where(t > 0, t, 1.0)).reshape(-1, 1).double()
        left = (stay + jitter * (1 - 1e-6) + 1e-6).floor()
        # Ranks of the masked: from 0 for the one that is shown last, below 0 for what is not masked.
        rank = score.masked_fill(~hidden.flatten(1), -1.0).argsort(1).argsort(1) - (~hidden).flatten(1).sum(1)[:, None]
        shown = (hidden.flatten(1) & (rank >= left)).view(x_t.shape)
        logits = sharpened(post.logits[shown], self.temperature, self.nucleus)
        return x_t.masked_scatter(shown, draw_tokens(logits, which.view(x_t.shape)[shown])), post, None


def _margins(post: Logits, hidden: Bool[Tensor, "b *d"]) -> Float[Tensor, "b n"]:
    """How much the likeliest token leads its rival, 0 where nothing is hidden."""
    best = torch.softmax(post.logits[hidden], dim=-1).topk(2, dim=-1).values
    return best.new_zeros(hidden.shape).masked_scatter(hidden, best[:, 0] - best[:, 1]).flatten(1)


def sharpened(logits: Float[Tensor, "k vocab"], temperature: float, nucleus: float) -> Float[Tensor, "k vocab"]:
    """Heated or cooled, then -inf outside the fewest tokens that weigh at least `nucleus` together."""
    if temperature != 1:
        logits = logits / temperature
    if nucleus == 1:
        return logits
    ranked, place = logits.sort(dim=-1, descending=True)
    law = torch.softmax(ranked, dim=-1)
    outside = law.cumsum(-1) - law >= nucleus  # what comes before already weighs enough
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, place, outside), -torch.inf)
