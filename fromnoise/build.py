"""From typed settings to objects: network, denoiser, objective, stepper, grid, guidance."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from fromnoise.codec import augment
from fromnoise.cond import Column
from fromnoise.config import Config, SampleConfig, TransformerConfig, UNetConfig
from fromnoise.denoise import Denoiser, ModelDenoiser, NetDenoiser, TokenDenoiser
from fromnoise.density import LogitNormal
from fromnoise.grid import Grid, Karras, Known, Linear, Listed, LogSNR
from fromnoise.guide import Guided, Interval, Null
from fromnoise.nets import Conditioner, TokenTransformer, Transformer, UNet
from fromnoise.objectives import (
    MaskedCrossEntropy,
    Matching,
    Objective,
    Regression,
    TargetWeight,
    UniformWeight,
    VelocityWeight,
    Walks,
)
from fromnoise.objectives.walks import STRIDES
from fromnoise.process import Process
from fromnoise.rng import derive_seed
from fromnoise.stepper import DDIM, Heun, Multistep, Stepper
from fromnoise.target import EDM, X0, Eps, Target, Velocity
from fromnoise.types import FromNoiseError
from fromnoise.unmask import Unmask


def build_target(config: Config) -> Target:
    match config.model.target:
        case "x0":
            return X0()
        case "eps":
            return Eps()
        case "velocity":
            return Velocity()
        case "edm":
            return EDM(sigma_data=config.model.sigma_data)


def build_denoiser(
    config: Config,
    columns: tuple[Column, ...],
    channels: int,
    space: int = 2,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> ModelDenoiser:
    """A denoiser with freshly initialised weights, the same for the same `run.seed`.

    Of tokens if the network is, whatever `channels` and `space`; otherwise of x0 with so many channels and axes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.run.seed, "weights"))
        hidden = (augment.COLUMN,) if config.loss.augment else ()
        conditioner = Conditioner((*columns, *hidden), config.net.emb)
        if config.net.kind == "tokens":
            net = config.net
            tokens = TokenTransformer(
                vocab=net.vocab, width=net.width, depth=net.depth, heads=net.heads, emb=net.emb, timed=net.timed
            )
            return TokenDenoiser(tokens, conditioner, net.vocab, padding=net.padding, autocast=autocast)
        net = _trunk(config.net, channels, space, conditioner.map_channels, config.loss.time_axes)
    denoiser = NetDenoiser(
        net,
        conditioner,
        build_target(config),
        sigma_data=config.model.sigma_data,
        time_axes=config.loss.time_axes,
        flow_map=config.model.flow_map,
        autocast=autocast,
    )
    pictures = space == 2 or (config.net.kind == "unet" and config.net.frames is not None and space == 3)
    return denoiser.to(memory_format=torch.channels_last) if pictures else denoiser  # pyright: ignore[reportCallIssue]


def _trunk(
    net: UNetConfig | TransformerConfig, channels: int, space: int, map_channels: int, time_axes: tuple[int, ...]
) -> UNet | Transformer:
    shared = {
        "channels": channels,
        "space": space,
        "emb": net.emb,
        "patch": net.patch,
        "map_channels": map_channels,
        "mid_head": net.mid_head,
        "time_axes": time_axes,
    }
    if net.kind == "unet":
        levels = {"widths": net.widths, "blocks": net.blocks, "attention": net.attention}
        return UNet(**shared, **levels, places=net.places, masks=net.masks, frames=net.frames)
    return Transformer(**shared, width=net.width, depth=net.depth, heads=net.heads, bottleneck=net.bottleneck)


def build_objective(config: Config) -> Objective:
    if config.net.kind == "tokens":
        return MaskedCrossEntropy()
    weights = {"velocity": VelocityWeight(), "target": TargetWeight(build_target(config)), "uniform": UniformWeight()}
    return Regression(
        density=LogitNormal(mean=config.loss.t_mean, std=config.loss.t_std),
        weight=weights[config.loss.weight],
        noise_choices=config.loss.noise_choices,
        mid_share=config.loss.mid_share,
        time_axes=config.loss.time_axes,
    )


def build_distillation(
    config: Config, guided: Callable[[float], Denoiser], companion: Denoiser | None, process: Process
) -> Objective:
    """What a student of this process is trained by, whose teacher can be guided so many times as strongly.

    Without a companion it is the loss on walks alone.
    """
    flow, grid = config.flow, build_grid(config.sample, 1.0)
    walks = Walks(teacher=guided(1.0), stops=grid(STRIDES), process=process, power=flow.power)
    if companion is None:
        return walks
    return Matching(
        walks=walks,
        guided=guided,
        lone=(flow.match_lone, flow.match_lone_at_last),
        others=flow.match_others,
        companion=companion,
        grid=grid,
        begin=flow.match_from,
        share=flow.match_walks,
    )


def build_stepper(config: SampleConfig) -> Stepper:
    match config.sampler:
        case "ddim":
            return DDIM()
        case "ancestral":
            return DDIM(churn=1.0)
        case "heun":
            return Heun()
        case "multistep":
            return Multistep()
        case "unmask":
            return Unmask(temperature=config.temperature, nucleus=config.nucleus)


def build_grid(config: SampleConfig, start: float) -> Grid:
    """A student's own grids; else that searched for `config.steps` multistep moves where there is one, else a formula.

    Formulas go from `start`, the noisiest time that the denoiser can be asked at; EDM's has a start of its own.
    """
    if config.jumps:
        return Known(config.jumps)
    for times in config.searched if config.sampler == "multistep" else ():
        if len(times) == config.steps + 1:
            return Listed(times)
    match config.grid:
        case "linear":
            return Linear(shift=config.shift, start=start)
        case "logsnr":
            return LogSNR(start=start)
        case "karras":
            return Karras()


def build_guidance(config: SampleConfig, denoise: Denoiser, weak: Denoiser | None) -> Denoiser:
    """Guidance within the configured interval, away from the configured reference; none where the weight is 1."""
    if config.guidance == 1:
        return denoise
    weight = Interval(weight=config.guidance, low=config.guidance_low, high=config.guidance_high)
    if config.reference == "null":
        return Guided(denoise, Null(denoise), weight)
    if weak is None:
        raise FromNoiseError("This model has no weaker self to be guided by: set sample.reference=null.")
    return Guided(denoise, weak, weight)
