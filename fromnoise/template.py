"""Texts with gaps: "In the beginning ___ created the heaven and the ___" -> what is known, and where.

`___`, three underscores or more, is a free gap; `[…12…]`, or `[...12...]`, a gap of 12 symbols.  A template that ends
in a gap is a beginning, one that starts with a gap an ending, several gaps make an infill.  What stands between them is
in every sample as it is written, but for one space before a gap, which the model fills in too: in a BPE the space
belongs to the word after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fromnoise.codec.text import TextCodec
from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.observe import Pinned
from fromnoise.posterior import Logits
from fromnoise.process import Masked
from fromnoise.rng import Rng
from fromnoise.types import Data, FromNoiseError, Time

OPEN = -1
_GAP = re.compile(r" ?(?:_{3,}|\[(?:…|\.\.\.)([1-9]\d*)(?:…|\.\.\.)\])")


@dataclass(frozen=True)
class Gap:
    """A place to be filled; `size` in symbols, None where it is free."""

    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Template:
    """Symbols and gaps in order."""

    parts: tuple[tuple[int, ...] | Gap, ...]

    @staticmethod
    def of(text: str, codec: TextCodec) -> Template:
        """A text without any gap is a beginning: as if a gap followed."""
        parts: list[tuple[int, ...] | Gap] = []
        at = 0
        for found in _GAP.finditer(text):
            parts += [
                tuple(codec.vocabulary.encode(text[at : found.start()])),
                Gap(int(found[1]) if found[1] else None),
            ]
            at = found.end()
        parts += [tuple(codec.vocabulary.encode(text[at:])), *([] if parts else [Gap()])]
        return Template(parts=tuple(part for part in parts if part))

    @property
    def free(self) -> int:
        return sum(part == Gap() for part in self.parts)

    @property
    def fixed(self) -> int:
        """Symbols that are given, or whose number is."""
        return sum((part.size or 0) if isinstance(part, Gap) else len(part) for part in self.parts)

    @property
    def open_end(self) -> bool:
        return self.parts[-1:] == (Gap(),)

    def spread(self, total: int, draws: Sequence[float]) -> list[int]:
        """`total` symbols, `OPEN` where they are asked for; free gaps have at least one and share the rest at random,
        by free - 1 uniform numbers."""
        spare = total - self.fixed - self.free
        cuts = sorted(int(u * (spare + 1)) for u in draws)
        sizes = iter([1 + high - low for low, high in pairwise([0, *cuts, spare])])
        row: list[int] = []
        for part in self.parts:
            row += [OPEN] * (part.size or next(sizes)) if isinstance(part, Gap) else part
        return row


def fill_in(
    text: str, codec: TextCodec, lengths: Sequence[int], rng: Rng, *, length: int | None = None
) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """(y, mask, inside): symbols and the sites where they are known, for `observe.Pinned`, and the sites of the text,
    for `Inside`; one row an example of `rng`.

    The whole text has `length` symbols, else a number drawn from those of `lengths` (the data's) that leave room for
    the template.  Where the template ends in a free gap and no length is asked for, the model ends the text itself.
    Raises FromNoiseError where the template does not fit the window or the length.
    """
    template = Template.of(text, codec)
    least = template.fixed + template.free
    room = codec.window if length is None else length
    most = codec.window if template.free or length is None else least
    if not least <= room <= most <= codec.window:
        raise FromNoiseError(
            f"The prompt takes {'at least ' if template.free else ''}{least} symbols, the text shall have {room} and "
            f"the model's window has {codec.window}: shorten --prompt, or ask for another length."
        )
    possible = [length] if length else [n for n in lengths if least <= n <= codec.window] or [room]
    ends_itself = template.open_end and length is None
    rows, ends = [], []
    for draws in rng.uniform((len(rng), max(template.free, 1))).tolist():
        total = possible[int(draws[0] * len(possible))] if template.free else least
        row = template.spread(total, draws[1:])
        rows.append(row + [OPEN if ends_itself else codec.padding] * (codec.window - total))
        # Of a last gap that the model ends, the first symbol alone is sure to be text.
        ends.append(
            max((i for i, symbol in enumerate(row) if symbol != OPEN), default=-1) + 2 if ends_itself else total
        )
    y = torch.tensor(rows)
    return y.clamp_min(0), y != OPEN, torch.arange(codec.window) < torch.tensor(ends)[:, None]


class Inside:
    """A denoiser that never ends a text where `inside` is true: without it a gap might be filled with padding."""

    def __init__(self, denoise: Denoiser, inside: Bool[Tensor, "b n"], padding: int) -> None:
        self.denoise, self.inside, self.padding, self.process = denoise, inside, padding, denoise.process

    def __call__(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Logits:
        post = self.denoise(x_t, t, cond, s)
        assert isinstance(post, Logits)
        logits = post.logits.clone()
        logits[..., self.padding] = logits[..., self.padding].masked_fill(self.inside, -torch.inf)
        return Logits(logits)


class Barred:
    """A denoiser that never writes the symbols `barred`, which its training texts have not."""

    def __init__(self, denoise: Denoiser, barred: Sequence[int]) -> None:
        self.denoise, self.barred, self.process = denoise, list(barred), denoise.process

    def __call__(self, x_t: Data, t: Time, cond: Cond, s: Time | None = None) -> Logits:
        post = self.denoise(x_t, t, cond, s)
        assert isinstance(post, Logits) and isinstance(self.process, Masked)
        logits, hidden = post.logits.clone(), (x_t == self.process.vocab)[..., None]
        logits[..., self.barred] = logits[..., self.barred].masked_fill(hidden, -torch.inf)
        return Logits(logits)


def filling(denoise: Denoiser, text: str, codec: TextCodec, rng: Rng, device: torch.device) -> tuple[Denoiser, Data]:
    """(denoiser, x at t = 1) that fill the gaps of `text`, of lengths as in the training data.  Raises as `fill_in`."""
    y, mask, inside = (part.to(device) for part in fill_in(text, codec, codec.lengths, rng))
    known = Pinned(Inside(denoise, inside, codec.padding), y, mask)
    return known, torch.where(mask, y, codec.vocab)
