"""How clips move, and what their frames are like, beside held-out clips.

change      mean |x_{k+1} - x_k| over neighbouring frames, as a share of the data's range
stillness   the share of places that change by less than a two-hundredth of the range between neighbouring frames
brightness  the mean of the frames' values, as a share of the range
contrast    the mean of the frames' standard deviations, likewise
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fromnoise.evaluate.distance import times

_STILL = 0.005
_NEAR = 0.2  # of the held-out value: within it numbers are called alike


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of the samples beside that of held-out data."""

    name: str
    says: str
    of: str
    samples: float
    held: float

    @property
    def sentence(self) -> str:
        ratio = self.samples / self.held if self.held else float("inf")
        far = f"{times(ratio)} times held-out data" if self.held else "unlike held-out data"
        how = "much as in held-out data" if abs(ratio - 1) <= _NEAR or self.samples == self.held else far
        return f"{self.name}: {self.says} {self.samples:.1%} of {self.of}, {how} ({self.held:.1%})."


def motion(samples: Float[Tensor, "n c f h w"], held: Float[Tensor, "m c f h w"]) -> tuple[Measure, ...]:
    """The measures of x0 in [-1, 1], first of the samples, then of held-out clips."""
    ours, theirs = measured(samples), measured(held)
    return tuple(
        Measure(
            name=name,
            says=says,
            of="the places" if key == "stillness" else "the range",
            samples=ours[key],
            held=theirs[key],
        )
        for key, name, says in (
            ("change", "Motion", "from frame to frame values change by"),
            ("stillness", "Rest", "from frame to frame nothing changes at"),
            ("brightness", "Brightness", "values are on average at"),
            ("contrast", "Contrast", "values spread within a frame by"),
        )
    )


def measured(x0: Float[Tensor, "n c f h w"]) -> dict[str, float]:
    """The four numbers of a set of clips in [-1, 1], by the names of the module's docstring."""
    unit = (x0.double() + 1) / 2
    change = unit.diff(dim=2).abs()
    return {
        "change": float(change.mean()),
        "stillness": float((change < _STILL).double().mean()),
        "brightness": float(unit.mean()),
        "contrast": float(unit.movedim(2, 1).flatten(2).std(2).mean()),
    }
