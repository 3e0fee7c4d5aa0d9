"""Recipes: functions from (data, budget, hardware) to a complete `Config`, and the reasons in plain words.

The numbers come from the experiments in docs/benchmarks.md.  A recipe decides; `--set` overrides any part of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.flop_counter import FlopCounterMode

from fromnoise.build import build_denoiser
from fromnoise.codec import Medium
from fromnoise.cond import Column, Cond
from fromnoise.config import (
    Config,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SampleConfig,
    TokensConfig,
    TransformerConfig,
    UNetConfig,
)
from fromnoise.data.groups import NAME as GROUP
from fromnoise.data.media import add_medium
from fromnoise.runtime import Runtime, from_main
from fromnoise.session import EMA_CHOICES, PREVIEW_STEPS
from fromnoise.trainer import HELD_LEVELS
from fromnoise.types import Shape

# Width of the first level, narrowest to widest, and the images a run should at least see before the next one pays.
WIDTHS = {64: 0, 96: 150_000, 128: 400_000, 192: 1_500_000, 256: 4_000_000}
# What a training step reaches of the speed of a large matrix product, on the processors measured.
EFFICIENCY = {"float32": 0.6, "bfloat16": 0.36}

CELLS = 1_100  # at most, that a spectrogram is cut into
FIELD_CELLS = 600  # at most, that a field is cut into
# Watching a run takes at most these shares of its work: held-out losses, and previews.
MEASURING, SHOWING = 0.05, 0.03
MANY = 10_000  # examples of which a run learns a weaker self that is worth avoiding
FEW = 2_000  # examples whose conditions are followed only when pushed towards
PASSES = 3  # forward passes that cost as much as training on one example
MOMENTS = (16, 8, 4)
FEWEST_HELD, MOST_HELD = 8, 64
FEWEST_SHOWN, MOST_SHOWN = 4, 32


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a recipe may know of the data.  `shape` is x0's, `std` its standard deviation, `vocab` that of tokens;
    `pieces` says that examples are cut from a few long ones, of which the ends are held out."""

    examples: int
    held: int
    shape: Shape
    columns: tuple[Column, ...]
    std: float
    medium: str = "image"
    vocab: int | None = None
    pieces: bool = False


@runtime_checkable
class Recipe(Protocol):
    """One medium's share in the settings."""

    def __call__(self, config: Config, facts: Facts, width: int) -> Config:
        """`config` with the network of about `width` features at its widest level, and whatever goes with it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far this machine gets: examples a second for a network, and how many of them in the run."""

    rate: float
    examples: float


def recipe(
    facts: Facts, runtime: Runtime, *, budget: float | None, steps: int | None, seed: int = 0
) -> tuple[Config, float]:
    """The settings for a run of `budget` seconds or `steps` steps, and the machine's sustained speed in FLOP/s."""
    # One rank decides for all: ranks that measured differently would build different networks.
    speed = from_main(matmul_speed(runtime) * EFFICIENCY[runtime.precision], runtime)
    run = RunConfig(steps=steps, budget=budget, seed=seed)
    if budget is not None:
        # The first preview within a minute, half a dozen over the run.
        run = replace(run, preview_first=min(40.0, budget / 6), preview_every=max(60.0, budget / 5))
    config = Config(
        model=ModelConfig(sigma_data=round(facts.std, 4)),
        optim=OptimConfig(batch=min(32, max(8, facts.examples))),
        run=run,
        sample=guidance(facts),
    )
    nets = {width: RECIPES[facts.medium](config, facts, width) for width in WIDTHS}
    width = max(w for w, c in nets.items() if reach(c, facts, speed).examples >= WIDTHS[w])
    return watched(nets[width], facts, reach(nets[width], facts, speed)), speed


def guidance(facts: Facts) -> SampleConfig:
    """Away from the weaker self, but for conditions of few examples: there away from the model without them.

    Of few examples a weaker self of the same run shows no weakness to avoid, and what is asked for is met less often.
    Where there are more, a push as hard as the fewest need costs likeness and brings nothing.
    """
    asked = any(column.name != GROUP for column in facts.columns)
    if asked and facts.examples < MANY:
        return SampleConfig(guidance=5.0 if facts.examples < FEW else 2.0, reference="null", guidance_low=-3.0)
    return SampleConfig(guidance=2.0, reference="weak", guidance_low=-3.0)


def watched(config: Config, facts: Facts, far: Reach) -> Config:
    """`config` watched as closely as its share of a run's work allows: by how many held-out examples, how often, and in
    how large previews.  Forward passes are counted in training examples, of which one is `PASSES` of them.
    """
    run, room = config.run, far.examples * PASSES

    def passes(moments: int, examples: int) -> int:
        return (moments + len(EMA_CHOICES)) * len(HELD_LEVELS) * examples

    most = min(facts.held, MOST_HELD)
    moments = next((n for n in MOMENTS if passes(n, min(most, MOST_HELD // 2)) <= MEASURING * room), MOMENTS[-1])
    held = min(most, max(FEWEST_HELD, int(MEASURING * room / passes(moments, 1))))
    # A run in steps is the same on every machine, so that it counts the first and the last only.
    previews = 2 + max(0.0, (run.budget or 0.0) - run.preview_first) / run.preview_every
    shown = int(SHOWING * room / (previews * PREVIEW_STEPS))
    run = replace(
        run,
        held_evaluations=moments,
        held_examples=held,
        preview_examples=min(MOST_SHOWN, max(FEWEST_SHOWN, shown)),
    )
    return replace(config, run=run)


def reach(config: Config, facts: Facts, speed: float) -> Reach:
    rate = speed / training_flops(config, facts)
    run = config.run
    examples = run.steps * config.optim.batch if run.steps is not None else rate * (run.budget or 0)
    return Reach(rate=rate, examples=examples)


def reasons(config: Config, facts: Facts, runtime: Runtime, speed: float) -> list[str]:
    """What was chosen and why, a sentence each, for the finished settings."""
    far = reach(config, facts, speed)
    passes = far.examples / facts.examples
    lines = [
        f"network: {described(config.net)}; about {far.examples:,.0f} examples in this run, {passes:.1f} "
        f"passes over the data, at {far.rate:.0f} a second.",
        f"computing: {runtime.why}.",
    ]
    if config.loss.noise_choices > 1:
        lines.append(
            f"noise: of {config.loss.noise_choices} draws the one nearest to each example, which straightens the paths."
        )
    if passes > 200:
        lines.append("the set is small for this run: watch the copying check, and stop earlier if it fires.")
    return lines


def described(net: UNetConfig | TransformerConfig | TokensConfig) -> str:
    """unet on 4x4 patches, 64 / 128 channels"""
    sizes = " / ".join(map(str, net.widths)) if net.kind == "unet" else f"{net.depth} x {net.width}"
    if net.kind == "tokens":
        return f"{net.kind} of {net.vocab} symbols, {sizes} channels"
    patch = (net.patch, net.patch) if isinstance(net.patch, int) else net.patch
    cut = f"{'x'.join(map(str, patch))} patches" if max(patch) > 1 else "single elements"
    return f"{net.kind} on {cut}, {sizes} channels"


def image(config: Config, facts: Facts, width: int) -> Config:
    return replace(config, net=image_net(facts.shape, width))


def sound(config: Config, facts: Facts, width: int) -> Config:
    """A U-Net on patches of the spectrogram, as tall as they are long or half as tall, of which there are about 1,000.

    A patch has more values than the network has features: noise goes out by the mask.
    """
    _, bins, frames = facts.shape
    doublings = math.ceil(math.log2(max(1, bins * frames / CELLS)))
    tall = min(2 ** (doublings // 2), bins // 4)
    patch = (tall, 2**doublings // tall)
    net = UNetConfig(
        widths=(width, 2 * width), blocks=1, patch=patch, attention=(False, True), places=True, masks=True, emb=256
    )
    # Steps are dear and sets small: of the examples that a run reaches, smaller batches make more of them.
    return replace(config, net=net, optim=replace(config.optim, batch=min(16, config.optim.batch)))


def field(config: Config, facts: Facts, width: int) -> Config:
    """A U-Net on the smallest patches, as long along each axis, of which there are at most `FIELD_CELLS`, and finer.

    Guidance makes samples stronger than the data, a spectrum twice as high, so there is none.  Fine waves are weak and
    come out of small noise levels: these are seen more often and walked through in small steps, which a search that
    looks at whole values would leave out.
    """
    channels, *space = facts.shape
    patch = next(p for p in (1, 2, 4, 8, 16) if math.prod(math.ceil(n / p) for n in space) <= FIELD_CELLS or p == 16)
    net = UNetConfig(widths=(width, 2 * width), blocks=1, patch=patch, attention=(False, True), emb=256)
    net = finer(net, width)
    assert isinstance(net.patch, int)
    masks = crowded(channels * net.patch ** len(space), net.widths[0])
    return replace(
        config,
        net=replace(net, masks=masks),
        loss=replace(config.loss, t_mean=-0.7, t_std=1.3),
        run=replace(config.run, grid_priors=0),
        sample=replace(config.sample, guidance=1.0, grid="logsnr", steps=24),
    )


def finer(net: UNetConfig, width: int) -> UNetConfig:
    """`net` with one level more, of half the width on patches of half the side.

    It has features enough for the values of a patch; of patches of twice the side noise does not go out in minutes, and
    what is finer than they are stays weak.
    """
    if not isinstance(net.patch, int) or net.patch == 1 or len(net.widths) != 2:
        return net
    widths, attention = (width // 64 * 32, *net.widths), (False, *net.attention)
    return replace(net, patch=net.patch // 2, widths=widths, attention=attention)


def text(config: Config, facts: Facts, width: int) -> Config:
    """A small transformer at high rates, whatever `width`: of those tried, the lowest bits for minutes of training."""
    assert facts.vocab is not None
    # The padding is the codec's last symbol.
    net = TokensConfig(vocab=facts.vocab, padding=facts.vocab - 1, width=128, depth=4, heads=2, emb=32)
    optim = replace(config.optim, muon_lr=1.2e-2, adam_lr=1e-2)
    return replace(config, net=net, optim=optim, sample=SampleConfig(sampler="unmask", steps=48, shift=1, nucleus=0.9))


def volume(config: Config, facts: Facts, width: int) -> Config:
    """Slices as pictures, blocks as fields."""
    return (image if len(facts.shape) == 3 else field)(config, facts, width)


def video(config: Config, facts: Facts, width: int) -> Config:
    """The network of pictures on fewer cells, whose frames see each other and have noise levels of their own.

    In minutes conditions of clips are hardly learned; pushed towards them harder, figures fall to pieces.  Pushed away
    from a weaker self, clips move twice as much as they should.  The end of a film is another scene than the rest, and
    the loss there rises from the first minutes on, while scenes become sharp: it does not say which weights to keep.
    """
    net = finer(image_net((facts.shape[0], *facts.shape[2:]), width, cells=12), width)
    loss = replace(config.loss, time_axes=(0,))
    # A clip is many pictures: of those that a run reaches, smaller batches make more steps.
    optim = replace(config.optim, batch=min(8, config.optim.batch))
    weight = 1.0 if config.sample.reference == "weak" else min(2.0, config.sample.guidance)
    return replace(
        config,
        net=replace(net, frames="both", masks=True),
        loss=loss,
        optim=optim,
        run=replace(config.run, keep="last" if facts.pieces else config.run.keep),
        sample=replace(config.sample, guidance=weight),
    )


RECIPES: dict[str, Recipe] = {
    "image": image,
    "sound": sound,
    "text": text,
    "field": field,
    "volume": volume,
    "video": video,
}


def register(medium: Medium[Any, Any], recipe: Recipe) -> None:
    """Makes a medium of your own known to `train`, `load` and the commands of this process.

    Raises FromNoiseError where one that is known already has its name or files.
    """
    add_medium(medium)
    RECIPES[medium.name] = recipe


def image_net(shape: Shape, width: int, cells: int = 24) -> UNetConfig:
    """A U-Net whose finest level is about a third of `cells` to `cells` across, whatever the picture's size."""
    side = max(shape[1:])
    patch = next(p for p in (1, 2, 4, 8, 16) if side / p <= cells or p == 16)
    across = min(shape[1:]) // patch
    widths = (width, 2 * width) if across >= 4 else (2 * width,)
    return UNetConfig(
        widths=widths,
        blocks=1,
        patch=patch,
        attention=(False,) * (len(widths) - 1) + (True,),
        masks=crowded(shape[0] * patch**2, width),
        emb=256,
    )


def crowded(values: int, width: int) -> bool:
    """Whether a patch has so many values that its noise does not pass `width` features beside what is to be said of it:
    then it goes out by a mask (`UNet.masks`)."""
    return 2 * values > width


def training_flops(config: Config, facts: Facts) -> float:
    """Floating-point operations of one example's forward and backward pass, counted without computing them."""
    with torch.device("meta"):
        denoiser = build_denoiser(config, (), facts.shape[0], len(facts.shape) - 1)
        x = torch.empty(1, *facts.shape, dtype=torch.float32 if facts.vocab is None else torch.int64)
        t = torch.empty(1, *(1,) * len(facts.shape))
        with FlopCounterMode(display=False) as counter:
            denoiser.net(x, t, t, denoiser.conditioner(Cond.empty(1)))
    return 3.0 * counter.get_total_flops()


def matmul_speed(runtime: Runtime, size: int = 1024, seconds: float = 0.3) -> float:
    """Floating-point operations a second of a square matrix product in the run's precision, best of a few."""
    x = torch.ones(size, size, dtype=runtime.dtype, device=runtime.device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, _timed(lambda: x @ x, runtime))
    return 2 * size**3 / best


def _timed(work: Callable[[], object], runtime: Runtime) -> float:
    start = time.perf_counter()
    work()
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
