"""Diffusion without a network: the exact denoiser of a Gaussian mixture, and diagrams of what samplers make of it.

With x0 ~ Σ w_k·N(m_k, s_k²), x_t is a mixture of means (1-t)·m_k and variances v_k = ((1-t)·s_k)² + t², and

    E[x0 | x_t] = Σ share_k·(m_k + (1-t)·s_k²/v_k·(x_t - (1-t)·m_k)),    share_k ∝ w_k·N(x_t; (1-t)·m_k, v_k).

That is what a perfect network would answer, so whatever is wrong in these diagrams is the sampler's doing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fromnoise.cond import Cond
from fromnoise.denoise import Denoiser
from fromnoise.grid import Linear
from fromnoise.guide import Guided, Interval
from fromnoise.posterior import Mean
from fromnoise.process import Gaussian
from fromnoise.rng import Rng
from fromnoise.sample import sample
from fromnoise.stepper import DDIM, Heun, Stepper

PAPER, INK, SEA, GREY, RED = (245, 245, 245), (40, 40, 40), (140, 180, 220), (130, 130, 130), (200, 60, 40)
FINE = 3  # everything is drawn so many times larger and scaled down: Pillow's own lines are not smooth
SIDE, HEAD, MARGIN, GAP = 260, 40, 56, 16  # pixels of the page
TRUTH_STEPS = 200

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """Means (k, d), standard deviations (k,) and weights (k,), all float64; a `Denoiser` of data (b, d)."""

    means: Tensor
    stds: Tensor
    weights: Tensor
    process = Gaussian()

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor | None = None) -> Mean:
        away, variance = self._seen(x_t, t)
        share = torch.softmax(self._log_joint(x_t, t), dim=1)
        gain = (1 - t) * self.stds**2 / variance
        return Mean((share[..., None] * (self.means + gain[..., None] * away)).sum(1))

    def density(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(b,), how likely x_t (b, d) is at times t (b, 1)."""
        return self._log_joint(x_t, t).logsumexp(1).exp()

    def _seen(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The way from each component's mean to x_t (b, k, d), and each component's variance (b, k)."""
        return x_t[:, None] - (1 - t)[..., None] * self.means, ((1 - t) * self.stds) ** 2 + t**2

    def _log_joint(self, x_t: Tensor, t: Tensor) -> Tensor:
        away, variance = self._seen(x_t, t)
        d = self.means.shape[1]
        return self.weights.log() - d / 2 * torch.log(2 * torch.pi * variance) - (away**2).sum(-1) / (2 * variance)


def mixture(means: list[list[float]], stds: list[float], weights: list[float]) -> Mixture:
    means_, stds_, weights_ = (torch.tensor(x, dtype=torch.float64) for x in (means, stds, weights))
    return Mixture(means=means_, stds=stds_, weights=weights_)


def walk(denoise: Denoiser, stepper: Stepper, steps: int, x: Tensor) -> tuple[Tensor, int]:
    """All states (steps+1, b, d) on the way from x at t = 1 to data on a uniform grid, and the evaluations they took.

    For steppers without churn, which draw nothing.
    """
    way = list(sample(denoise, stepper, Linear()(steps), x, Cond.empty(len(x)), Rng.of(0, ())))
    return torch.stack([x, *(step.x for step in way)]), way[-1].evaluations


def quantiles(n: int) -> Tensor:
    """(n, 1): n standard normal draws, spread as evenly as can be."""
    return torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]


# ---- drawing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A rectangle of the page; `x` runs over its width from the left, `y` over its height from the bottom."""

    left: float
    top: float
    width: float
    height: float
    x: Span
    y: Span

    def __call__(self, x: Tensor, y: Tensor) -> list[tuple[float, float]]:
        """Points (n,), (n,) of the axes as places of the enlarged page."""
        across = self.left + self.width * (x - self.x[0]) / (self.x[1] - self.x[0])
        down = self.top + self.height * (self.y[1] - y) / (self.y[1] - self.y[0])
        return [(FINE * a, FINE * d) for a, d in zip(across.tolist(), down.tolist(), strict=True)]

    def box(self) -> tuple[float, float, float, float]:
        return (
            FINE * self.left,
            FINE * self.top,
            FINE * (self.left + self.width),
            FINE * (self.top + self.height),
        )


class Page:
    """Something to draw on."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (FINE * width, FINE * height), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(12 * FINE)

    def heat(self, frame: Frame, share: Tensor) -> None:
        """Shares in [0, 1], (rows, columns) from the top left, from paper to blue."""
        colours = np.array(PAPER) + share.numpy()[..., None] * (np.array(SEA) - np.array(PAPER))
        left, top, right, bottom = (round(edge) for edge in frame.box())
        picture = Image.fromarray(np.rint(colours).astype(np.uint8)).resize((right - left, bottom - top))
        self.image.paste(picture, (left, top))

    def line(self, places: list[tuple[float, float]], colour: tuple[int, int, int], width: float = 1) -> None:
        self.draw.line(places, colour, round(FINE * width), joint="curve")

    def dots(self, places: list[tuple[float, float]], colour: tuple[int, int, int], radius: float = 1.5) -> None:
        for x, y in places:
            self.draw.circle((x, y), FINE * radius, colour)

    def write(self, x: float, y: float, text: str) -> None:
        self.draw.text((FINE * x, FINE * y), text, INK, self.font)

    def done(self) -> Image.Image:
        width, height = self.image.size
        return self.image.resize((width // FINE, height // FINE), Image.Resampling.LANCZOS)


def mesh(x: Span, y: Span, n: int = 200) -> tuple[Tensor, Tensor]:
    """(n·n,) coordinates of a picture's pixels, row by row from the top left, the top being y[1]."""
    down, across = torch.meshgrid(
        torch.linspace(y[1], y[0], n, dtype=torch.float64), torch.linspace(*x, n, dtype=torch.float64), indexing="ij"
    )
    return across.flatten(), down.flatten()


# ---- the diagrams ---------------------------------------------------------------------------------------------------


def paths(shown: int = 14, counted: int = 1500) -> Image.Image:
    """The flow from noise (left) to a two-component mixture (right), exact and as three samplers walk it.

    On the right the density of the data and, as a line, that of the `counted` ends which a sampler reaches.
    """
    data = mixture([[-1.0], [0.8]], [0.15, 0.3], [0.4, 0.6])
    truth, _ = walk(data, Heun(), TRUTH_STEPS, quantiles(counted))
    exact, _ = walk(data, Heun(), TRUTH_STEPS, quantiles(shown))
    samplers: list[tuple[str, Stepper, int]] = [("DDIM", DDIM(), 4), ("DDIM", DDIM(), 16), ("Heun", Heun(), 8)]
    panel = SIDE + MARGIN + GAP
    page = Page(GAP + len(samplers) * panel, HEAD + SIDE + 24)
    for i, (name, stepper, steps) in enumerate(samplers):
        way, evaluations = walk(data, stepper, steps, quantiles(shown))
        many, _ = walk(data, stepper, steps, quantiles(counted))
        off = float((many[-1] - truth[-1]).abs().mean())
        left = GAP + i * panel
        page.write(left, 4, f"{name}, {steps} steps, {evaluations} evaluations")
        page.write(left, 20, f"mean distance from the exact end: {off:.3f}")
        page.write(left, HEAD + SIDE + 4, "t = 1, noise")
        page.write(left + SIDE - 52, HEAD + SIDE + 4, "t = 0, data")
        flow(page, left, data, exact[..., 0], way[..., 0])
        ends(page, left + SIDE + 2, data, many[-1, :, 0])
    return page.done()


def flow(page: Page, left: float, data: Mixture, exact: Tensor, way: Tensor) -> None:
    """Paths (steps+1, n) over the density of x_t at each t, exact ones in grey."""
    frame = Frame(left=left, top=HEAD, width=SIDE, height=SIDE, x=(1.0, 0.0), y=(-2.4, 2.4))
    t, x = mesh(frame.x, frame.y)
    seen = data.density(x[:, None], t[:, None]).reshape(200, 200)
    page.heat(frame, seen / seen.amax(0))
    for states, colour, width in ((exact, GREY, 1), (way, RED, 1.4)):
        times = torch.tensor(Linear()(len(states) - 1))
        for path in states.T:
            page.line(frame(times, path), colour, width)
    for path in way.T:
        page.dots(frame(times, path), RED)


def ends(page: Page, left: float, data: Mixture, reached: Tensor) -> None:
    """The density of the data, filled, beside that of the ends (n,) as a line; both run upwards."""
    y = torch.linspace(-2.4, 2.4, 81, dtype=torch.float64)
    middle = (y[1:] + y[:-1]) / 2
    true = data.density(middle[:, None], torch.zeros(len(middle), 1, dtype=torch.float64))
    top = 1.6 * float(true.max())
    frame = Frame(left=left, top=HEAD, width=MARGIN, height=SIDE, x=(0.0, top), y=(-2.4, 2.4))
    found = torch.histogram(reached, y, density=True).hist.clamp(max=top)
    page.draw.polygon(frame(torch.zeros(1), y[:1]) + frame(true, middle) + frame(torch.zeros(1), y[-1:]), SEA)
    page.line(frame(found, middle), RED, 1.4)


def guidance(n: int = 500, weights: tuple[float, ...] = (1.0, 2.0, 4.0)) -> Image.Image:
    """One class of three, sampled at several guidance weights from the same noise; its ring holds 95 % of its data."""
    means, stds, share = [[-0.9, -0.6], [0.9, -0.6], [0.0, 0.7]], [0.45, 0.45, 0.45], [1 / 3, 1 / 3, 1 / 3]
    everything, one = mixture(means, stds, share), mixture(means[-1:], stds[-1:], [1.0])
    noise = one.process.prior((n, 2), 1.0, Rng.of(0, range(n)), torch.float64)
    page = Page(GAP + len(weights) * (SIDE + GAP), 24 + SIDE + GAP)
    span = (-2.4, 2.4)
    x, y = mesh(span, span)
    seen = everything.density(torch.stack([x, y], 1), torch.zeros(len(x), 1, dtype=torch.float64)).reshape(200, 200)
    turn = torch.linspace(0, 2 * torch.pi, 100, dtype=torch.float64)
    radius = 2.448 * stds[-1]  # √(chi-square's 95 % quantile for two dimensions)
    for i, weight in enumerate(weights):
        frame = Frame(left=GAP + i * (SIDE + GAP), top=24, width=SIDE, height=SIDE, x=span, y=span)
        page.write(frame.left, 6, f"guidance {weight:g}" + (" (off)" if weight == 1 else ""))
        page.heat(frame, seen / seen.max())
        states, _ = walk(Guided(one, everything, Interval(weight=weight)), Heun(), 32, noise)
        page.dots(frame(states[-1, :, 0], states[-1, :, 1]), RED)
        page.line(frame(means[-1][0] + radius * turn.cos(), means[-1][1] + radius * turn.sin()), INK)
    return page.done()
