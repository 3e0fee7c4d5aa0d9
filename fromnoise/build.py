"""From typed settings to objects: network, denoiser, objective, stepper, grid, guidance."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from fromnoise.cond import Column
from fromnoise.config import Config, SampleConfig
from fromnoise.denoise import Denoiser, NetDenoiser
from fromnoise.density import LogitNormal
from fromnoise.grid import Grid, Karras, Linear, LogSNR
from fromnoise.guide import Guided, Interval, Null
from fromnoise.nets import Conditioner, Transformer, UNet
from fromnoise.objectives import Regression, TargetWeight, UniformWeight, VelocityWeight
from fromnoise.rng import derive_seed
from fromnoise.stepper import DDIM, Heun, Multistep, Stepper
from fromnoise.target import EDM, X0, Eps, Target, Velocity


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
) -> NetDenoiser:
    """A denoiser with freshly initialised weights, the same for the same `run.seed`."""
    net_config = config.net
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.run.seed, "weights"))
        conditioner = Conditioner(columns, net_config.emb)
        shared = {
            "channels": channels,
            "space": space,
            "emb": net_config.emb,
            "patch": net_config.patch,
            "map_channels": conditioner.map_channels,
            "mid_head": net_config.mid_head,
        }
        if net_config.kind == "unet":
            net = UNet(**shared, widths=net_config.widths, blocks=net_config.blocks, attention=net_config.attention)
        else:
            net = Transformer(
                **shared,
                width=net_config.width,
                depth=net_config.depth,
                heads=net_config.heads,
                bottleneck=net_config.bottleneck,
            )
    denoiser = NetDenoiser(
        net, conditioner, build_target(config), sigma_data=config.model.sigma_data, autocast=autocast
    )
    return denoiser.to(memory_format=torch.channels_last) if space == 2 else denoiser  # pyright: ignore[reportCallIssue]


def build_objective(config: Config) -> Regression:
    weights = {"velocity": VelocityWeight(), "target": TargetWeight(build_target(config)), "uniform": UniformWeight()}
    return Regression(
        density=LogitNormal(mean=config.loss.t_mean, std=config.loss.t_std),
        weight=weights[config.loss.weight],
        noise_choices=config.loss.noise_choices,
        mid_share=config.loss.mid_share,
    )


def build_stepper(config: SampleConfig) -> Stepper:
    return {"ddim": DDIM(), "ancestral": DDIM(churn=1.0), "heun": Heun(), "multistep": Multistep()}[config.sampler]


def build_grid(config: SampleConfig, start: float) -> Grid:
    """Grids from `start`, the noisiest time that the denoiser can be asked at; EDM's has a start of its own."""
    match config.grid:
        case "linear":
            return Linear(shift=config.shift, start=start)
        case "logsnr":
            return LogSNR(start=start)
        case "karras":
            return Karras()


def build_guidance(config: SampleConfig, denoise: Denoiser) -> Denoiser:
    """Classifier-free guidance within the configured interval; the denoiser itself where the weight is 1."""
    if config.guidance == 1:
        return denoise
    weight = Interval(weight=config.guidance, low=config.guidance_low, high=config.guidance_high)
    return Guided(denoise, Null(denoise), weight)
