"""A peer from a small library: smalldiffusion as its own Fashion-MNIST example sets it.

`examples/fashion_mnist_unet.py`: Scaled(Unet) with 64 channels, (1, 1, 2), attention at half size, log-linear schedule
of 800 levels from .01 to 20, AdamW 7e-4, average of weights .999, 20 accelerated steps with gam 1.6, float32.

Two departures are kind to it.  Batch 128 instead of 1,024, of which an hour on two cores holds only some two hundred.
And no picture is flipped, since flipped garments are not in the data that samples are compared with.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import deque

from jaxtyping import Float
from torch import Tensor

from benchmarks.peers.peer import Recipe
from fromnoise.errors import FromNoiseError
from fromnoise.types import Shape


def _leave_out_init(name: str) -> None:
    """Makes the modules of a package importable without running its `__init__`.

    smalldiffusion's imports torchvision for data sets that we do not use, and torchvision pins its own torch.
    """
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.modules[name] = importlib.util.module_from_spec(spec)


_leave_out_init("smalldiffusion")

from smalldiffusion.diffusion import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    ScheduleLogLinear,
    generate_train_sample,
    samples,
)
from smalldiffusion.model import Scaled  # noqa: E402  # pyright: ignore[reportMissingImports]
from smalldiffusion.model_unet import Unet  # noqa: E402  # pyright: ignore[reportMissingImports]


class SmallDiffusionPeer:
    """smalldiffusion's U-Net, loss and sampler, on square pictures."""

    packages = ("smalldiffusion", "accelerate")
    ways = ("accelerated 20",)

    def __init__(self, shape: Shape, *, tiny: bool = False) -> None:
        channels, side, _ = shape
        if shape[1] != shape[2]:
            raise FromNoiseError(f"smalldiffusion's U-Net takes square pictures, not {shape[1:]}: leave it out.")
        multiples = (1, 1) if tiny else (1, 1, 2) if side <= 32 else (1, 1, 2, 2)
        width = 32 if tiny else 64
        self.net = Scaled(Unet)(  # pyright: ignore[reportArgumentType]
            side,
            channels,
            channels,
            ch=width,
            ch_mult=multiples,
            num_res_blocks=1 if tiny else 2,
            attn_resolutions=() if tiny else (side // 2 if side <= 32 else side // 4,),
        )
        self.schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
        self.recipe = Recipe(batch=128, lr=7e-4, constant=True, average="ramp", most_decay=0.999)
        self.about = f"smalldiffusion's Fashion-MNIST example: Scaled(Unet) of {width} channels, {multiples}, eps"

    def loss(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        clean, sigma, eps, _ = generate_train_sample(x0, self.schedule)  # pyright: ignore[reportArgumentType]
        return self.net.get_loss(clean, sigma, eps)

    def sample(self, n: int, way: str) -> Float[Tensor, "n c h w"]:
        sigmas = self.schedule.sample_sigmas(int(way.split()[1]))
        (x,) = deque(samples(self.net, sigmas, gam=1.6, batchsize=n), maxlen=1)  # pyright: ignore[reportArgumentType]
        assert isinstance(x, Tensor)
        return x
