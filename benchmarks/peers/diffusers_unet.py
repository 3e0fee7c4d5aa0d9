"""Peers from diffusers: its unconditional example as it ships, and the same library tuned for small pictures.

shipped   `examples/unconditional_image_generation/train_unconditional.py`: UNet2DModel of six levels (113.7 M
          parameters), DDPM with 1,000 linear steps, eps prediction, AdamW 1e-4 with betas (.95, .999) and decay 1e-6,
          500 steps of warm-up and a cosine over its 100 epochs, batch 16, gradients clipped at 1, average of weights
          (--use_ema, as in every command of its README), float32.
tuned     UNet2DModel of three levels (6.1 M at 28×28), velocity prediction on the cosine schedule, batch 32.

Two departures from the example are kind to it.  No picture is flipped, which would put garments into samples that the
data lacks.  And 1,000 sampling steps would take days on a processor, so it samples by 50 steps of DDIM.
"""

# The library annotates time steps as int, and what its schedulers return as tuples; both are otherwise.
# pyright: reportArgumentType=false, reportReturnType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from math import ceil

import torch
import torch.nn.functional as F
from diffusers import (  # pyright: ignore[reportMissingImports]
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UNet2DModel,
)
from jaxtyping import Float
from torch import Tensor

from benchmarks.peers.peer import Recipe
from fromnoise.errors import FromNoiseError
from fromnoise.runtime import Precision
from fromnoise.types import Shape

PLAIN = ("DownBlock2D", "UpBlock2D")
ATTENTION = ("AttnDownBlock2D", "AttnUpBlock2D")
EXAMPLE_EPOCHS = 100


class DiffusersPeer:
    """A `UNet2DModel` under a `DDPMScheduler`; pictures are framed in black up to a multiple of the net's reduction.

    Resizing, as the example does it, would blur; a frame is lost nothing of, and sampled pictures are cut back.
    """

    packages = ("diffusers",)

    def __init__(
        self,
        net: UNet2DModel,
        noise: DDPMScheduler,
        shape: Shape,
        recipe: Recipe,
        ways: tuple[str, ...],
        about: str,
        spacing: str = "leading",
    ) -> None:
        self.net, self.noise, self.recipe, self.ways, self.about, self.spacing = (
            net,
            noise,
            recipe,
            ways,
            about,
            spacing,
        )
        self.shape = shape
        # By half, since an odd side cannot be doubled back; the library does not check.
        reduction = 2 ** (len(net.config["block_out_channels"]) - 1)
        self.frame = [_frame(side, reduction) for side in shape[1:]]

    def loss(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        x0 = self._framed(x0)
        eps = torch.randn_like(x0)
        t = torch.randint(0, self.noise.config["num_train_timesteps"], (len(x0),), device=x0.device)
        answer = self.net(self.noise.add_noise(x0, eps, t), t).sample
        velocity = self.noise.config["prediction_type"] == "v_prediction"
        return F.mse_loss(answer.float(), self.noise.get_velocity(x0, eps, t) if velocity else eps)

    @torch.no_grad()
    def sample(self, n: int, way: str) -> Float[Tensor, "n c h w"]:
        name, steps = way.split()
        scheduler = self._scheduler(name)
        scheduler.set_timesteps(int(steps))
        x = torch.randn(n, *self._framed(torch.zeros(1, *self.shape)).shape[1:])
        for t in scheduler.timesteps:
            x = scheduler.step(self.net(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
        (top, _), (left, _) = self.frame
        return x[..., top : top + self.shape[1], left : left + self.shape[2]]

    def _framed(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c H W"]:
        (top, bottom), (left, right) = self.frame
        return F.pad(x0, (left, right, top, bottom), value=-1.0) if any((top, bottom, left, right)) else x0

    def _scheduler(self, name: str) -> DDPMScheduler | DDIMScheduler | DPMSolverMultistepScheduler:
        config = self.noise.config
        if name == "ddpm":
            return DDPMScheduler.from_config(config)
        if name == "ddim":
            return DDIMScheduler.from_config(config, timestep_spacing=self.spacing)
        if name == "dpm++":
            return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")
        raise FromNoiseError(f"No sampler {name!r} of this peer: use ddpm, ddim or dpm++.")


def shipped(shape: Shape, examples: int, *, tiny: bool = False) -> DiffusersPeer:
    """The example as it ships, on pictures of `shape` (c, h, w)."""
    widths = (32,) * 6 if tiny else (128, 128, 256, 256, 512, 512)
    net = UNet2DModel(
        sample_size=max(shape[1:]),
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=1 if tiny else 2,
        block_out_channels=widths,
        down_block_types=tuple(kind[0] for kind in (PLAIN, PLAIN, PLAIN, PLAIN, ATTENTION, PLAIN)),
        up_block_types=tuple(kind[1] for kind in (PLAIN, ATTENTION, PLAIN, PLAIN, PLAIN, PLAIN)),
    )
    batch = 16
    recipe = Recipe(
        batch=batch,
        lr=1e-4,
        betas=(0.95, 0.999),
        weight_decay=1e-6,
        warmup=500,
        horizon=EXAMPLE_EPOCHS * ceil(examples / batch),
        clip=1.0,
    )
    noise = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
    about = f"diffusers' unconditional example: UNet2DModel {widths}, DDPM, eps"
    return DiffusersPeer(net, noise, shape, recipe, ("ddim 50",), about)


def tuned(shape: Shape, *, lr: float, precision: Precision, tiny: bool = False) -> DiffusersPeer:
    """The strongest small configuration that we could argue for.

    In an hour on two cores a network sees a fraction of a million pictures, so width goes where it is cheap: 48
    channels at full size (1.3 GFLOP a picture at 28×28, where (64, 128, 128) of two layers, with as many parameters,
    takes 2.2), one layer a level, attention at the coarsest only.  Velocity rather than eps, whose guesses of x0 at
    high noise are poor in a short run (Salimans & Ho 2022, section 4), and the cosine schedule, as the linear one
    destroys small pictures early (Nichol & Dhariwal 2021, section 3.2).
    """
    widths = (48, 96, 192) if max(shape[1:]) <= 32 else (32, 64, 128, 256)
    if tiny:
        widths = (16, 16)
    kinds = (PLAIN,) * (len(widths) - 1) + (ATTENTION,)
    net = UNet2DModel(
        sample_size=max(shape[1:]),
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=tuple(down for down, _ in kinds),
        up_block_types=tuple(up for _, up in reversed(kinds)),
        norm_num_groups=16,
        attention_head_dim=16 if tiny else 32,
    )
    recipe = Recipe(
        batch=32,
        lr=lr,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        warmup=100,
        clip=1.0,
        precision=precision,
        channels_last=True,
        keep_memory=True,
    )
    noise = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    about = f"diffusers tuned: UNet2DModel {widths}, velocity, cosine schedule, average of weights"
    return DiffusersPeer(net, noise, shape, recipe, ("dpm++ 20", "ddim 50"), about, spacing="trailing")


def _frame(side: int, reduction: int) -> tuple[int, int]:
    """Rows before and after that make `side` a multiple of `reduction`."""
    missing = -side % reduction
    return missing // 2, missing - missing // 2
