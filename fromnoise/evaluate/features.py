"""Features in which examples are compared, learned on the user's own training split.

A network trained on photographs has no opinion about X-rays, sounds or volumes.  So a small convolutional network
learns here, in well under a minute on a CPU, at once

    content   two crops of one example, differently lit, are closer than crops of others (instance discrimination with
              the NT-Xent loss; Chen et al. 2020, eq. 1): tells examples apart, so sees missing kinds
    fidelity  how an example was harmed (not, noise, blur, ghost of another, exchanged parts) and how strongly: sees
              what crops and lighting are invariant to
    labels    the class, where the data have one

Tried on digits and on 32-pixel emoji, with harms that no task shows (a Gaussian model of the pixels, changed hue and
contrast, warps, absent classes) beside those that it does.  On digits, noise is invisible with random weights, and with
fidelity alone clean data collapse to a point: absent classes are invisible and a blur stands at thousands of times the
floor.  On emoji, noise is invisible unless the first map is free of normalisation and sees the input's fine detail as
extra channels.  Features are whitened over clean and harmed examples together; over clean ones alone the fidelity
features, nearly constant there, would drown all others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import ceil, prod
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fromnoise.evaluate.corrupt import blur, shuffle_blocks
from fromnoise.rng import derive_seed
from fromnoise.types import FromNoiseError

DIM = 64
WIDTHS = (32, 64, 96)
POSITIONS = 256  # of the first map, at most: bounds the cost whatever the size of the data
DETAIL = 4.0  # brings the residue of a blur to the order of the data
BATCH = 32
PEAK_LR = 3e-3
TEMPERATURE = 0.2
KINDS = 5
FLOOR = 1e-3  # of the largest variance: weaker directions are not blown up by the whitening
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@runtime_checkable
class Features(Protocol):
    """What an example looks like to the judge: x0 (b, c, *d) -> (b, dim), deterministic, of order 1."""

    name: str
    dim: int

    def __call__(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b f"]: ...


@runtime_checkable
class Examples(Protocol):
    """Encoded examples by index, in memory or not; a tensor (n, c, *d) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray, /) -> Tensor: ...


class Pyramid(nn.Module):
    """A plain convolutional pyramid; the spatial means of every depth, mixed linearly, are the features.

    The first stage is not normalised: after a group norm the mean of a map, which is what is read, says little.
    """

    def __init__(self, channels: int, space: Sequence[int]) -> None:
        super().__init__()
        conv = CONVOLUTIONS[len(space) - 1]
        stride = _stem_stride(space)
        first, second, third = WIDTHS
        self.stem = conv(2 * channels, first, stride + 2, stride=stride, padding=1)
        self.stages = nn.ModuleList(
            (
                nn.Sequential(conv(first, first, 3, padding=1), nn.SiLU(), conv(first, first, 3, padding=1), nn.SiLU()),
                _halve(conv, first, second),
                _halve(conv, second, third),
            )
        )
        self.mix = nn.Linear(sum(WIDTHS), DIM)

    def forward(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b f"]:
        x = self.stem(torch.cat([x, DETAIL * (x - blur(x))], 1))
        means = []
        for stage in self.stages:
            x = stage(x)
            means.append(x.flatten(2).mean(2))
        return self.mix(torch.cat(means, 1))


def _halve(conv: type[nn.Module], a: int, b: int) -> nn.Sequential:
    down, same = conv(a, b, 3, stride=2, padding=1), conv(b, b, 3, padding=1)
    return nn.Sequential(down, nn.GroupNorm(8, b), nn.SiLU(), same, nn.GroupNorm(8, b), nn.SiLU())


def _stem_stride(space: Sequence[int]) -> int:
    """The smallest stride, equal along all axes, that leaves at most `POSITIONS`."""
    stride = 1
    while prod(ceil(n / stride) for n in space) > POSITIONS:
        stride += 1
    return stride


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the weights depend on; a cached file with other facts is trained again."""

    version: int
    channels: int
    space: tuple[int, ...]
    examples: int
    classes: int
    steps: int
    seed: int
    digest: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


class LearnedFeatures:
    """A trained `Pyramid` with a fixed centre and whitening; implements `Features`."""

    def __init__(self, net: Pyramid, mean: Tensor, white: Tensor, facts: Facts) -> None:
        self.net, self.mean, self.white, self.facts = net.eval(), mean, white, facts
        self.name = "learned on the training split" + (", with its labels" if facts.classes else "")
        self.dim = DIM

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b f"]:
        if tuple(x.shape[1:]) != (self.facts.channels, *self.facts.space):
            raise FromNoiseError(
                f"These features were learned on examples of shape {(self.facts.channels, *self.facts.space)}, not "
                f"{tuple(x.shape[1:])}: learn them again on this data."
            )
        parts = [(self.net(part.float()) - self.mean) @ self.white for part in x.split(256)]
        return torch.cat(parts) if parts else x.new_zeros(0, DIM)

    def save(self, path: Path) -> None:
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()} | {"mean": self.mean, "white": self.white}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        save_file(tensors, part, metadata={"features": self.facts.to_json()})
        part.replace(path)

    @staticmethod
    def load(path: Path, facts: Facts) -> LearnedFeatures | None:
        """The features cached at `path`; None where there are none, broken ones, or those of other facts."""
        try:
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get("features") != facts.to_json():
                    return None
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (not a dict)
        except (FileNotFoundError, SafetensorError):
            return None
        net = Pyramid(facts.channels, facts.space)
        net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
        return LearnedFeatures(net, tensors["mean"], tensors["white"], facts)


def learn_features(
    train: Examples,
    labels: Int[Tensor, "n"] | None = None,
    *,
    steps: int = 300,
    seed: int = 0,
    cache: Path | None = None,
) -> LearnedFeatures:
    """Features learned on `train`, whose examples have one to three spatial axes of at least 4 and any channel count.

    Deterministic in the data, `labels`, `steps` and `seed` (on one machine and thread count).  `cache` is a
    `.safetensors` file that is read if its facts match and written otherwise.
    """
    if len(train) < 8:
        raise FromNoiseError(f"Features need at least 8 training examples, not {len(train)}: give more data.")
    facts = _facts(train, labels, steps, seed)
    cached = LearnedFeatures.load(cache, facts) if cache else None
    if cached:
        return cached
    with torch.random.fork_rng(devices=[]):  # the layers draw their initial weights from the global stream
        torch.manual_seed(derive_seed(seed, "features"))
        net = Pyramid(facts.channels, facts.space)
        heads = _Heads(facts.classes)
    _fit(net, heads, train, labels, facts)
    learned = LearnedFeatures(net, *_whitening(net, train, facts), facts)
    if cache:
        learned.save(cache)
    return learned


def _facts(train: Examples, labels: Tensor | None, steps: int, seed: int) -> Facts:
    first = train[np.arange(min(64, len(train)))]
    space = tuple(first.shape[2:])
    if not 1 <= len(space) <= 3 or min(space) < 4:
        raise FromNoiseError(f"Features need one to three spatial axes of at least 4, not {space}.")
    digest = sha256(first.float().contiguous().numpy().tobytes())
    if labels is not None:
        digest.update(labels.numpy().tobytes())
    return Facts(
        version=1,
        channels=first.shape[1],
        space=space,
        examples=len(train),
        classes=0 if labels is None else int(labels.max()) + 1,
        steps=steps,
        seed=seed,
        digest=digest.hexdigest()[:16],
    )


class _Heads(nn.Module):
    """One readout per task; thrown away after training."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.content = nn.Sequential(nn.SiLU(), nn.Linear(DIM, DIM))
        self.kind = nn.Linear(DIM, KINDS)
        self.level = nn.Linear(DIM, KINDS)
        self.label = nn.Linear(DIM, classes) if classes else None


def _fit(net: Pyramid, heads: _Heads, train: Examples, labels: Tensor | None, facts: Facts) -> None:
    generator = torch.Generator().manual_seed(derive_seed(facts.seed, "features", "tasks"))
    parameters = [*net.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, PEAK_LR, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LR, total_steps=facts.steps)
    for _ in range(facts.steps):
        index = torch.randperm(len(train), generator=generator)[:BATCH]
        x = train[index.numpy()].float()
        y = None if labels is None else labels[index]
        loss = _fidelity(net, heads, x, generator) + _content(net, heads, x, y, generator)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()


def _content(net: Pyramid, heads: _Heads, x: Tensor, y: Tensor | None, generator: torch.Generator) -> Tensor:
    features = net(torch.cat([_view(x, generator), _view(x, generator)]))
    z = F.normalize(heads.content(features), dim=1)
    alike = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    partner = (torch.arange(len(z)) + len(x)) % len(z)
    loss = F.cross_entropy(alike, partner)
    if heads.label is not None and y is not None:
        loss = loss + F.cross_entropy(heads.label(features), torch.cat([y, y]))
    return loss


def _fidelity(net: Pyramid, heads: _Heads, x: Tensor, generator: torch.Generator) -> Tensor:
    harmed, kind, level = _harm(x, generator)
    features = net(harmed)
    told = heads.level(features).gather(1, kind[:, None])[:, 0]
    return F.cross_entropy(heads.kind(features), kind) + 4 * F.mse_loss(told, level)


def _view(x: Float[Tensor, "b c *d"], generator: torch.Generator) -> Float[Tensor, "b c *e"]:
    """A crop of three quarters of each side (one place for the batch), each channel with its own gain and offset."""
    crop = [slice(None), slice(None)]
    for n in x.shape[2:]:
        side = ceil(0.75 * n)
        start = int(torch.randint(n - side + 1, (1,), generator=generator))
        crop.append(slice(start, start + side))
    light = torch.randn(2, *x.shape[:2], *(1,) * (x.ndim - 2), generator=generator)
    return x[tuple(crop)] * (1 + 0.2 * light[0]) + 0.1 * light[1]


def _harm(
    x: Float[Tensor, "b c *d"], generator: torch.Generator
) -> tuple[Tensor, Int[Tensor, "b"], Float[Tensor, "b"]]:
    """Each example harmed in one of `KINDS` ways: the batch, the kinds, and how strongly (0 to 1)."""
    kind = torch.randint(KINDS, (len(x),), generator=generator)
    level = torch.rand(len(x), generator=generator)
    w = level.view(-1, *(1,) * (x.ndim - 1))
    ways = (
        x,
        x + 0.5 * w**2 * torch.randn(x.shape, generator=generator),
        torch.lerp(x, blur(x, 4), w),
        torch.lerp(x, x.roll(1, 0), 0.5 * w),
        shuffle_blocks(x, generator),
    )
    out = torch.stack(ways)[kind, torch.arange(len(x))]
    return out, kind, torch.where((kind == 0) | (kind == KINDS - 1), 0.0, level)


@torch.no_grad()
def _whitening(net: Pyramid, train: Examples, facts: Facts) -> tuple[Float[Tensor, "f"], Float[Tensor, "f f"]]:
    """Centre of clean features, and the whitening by the covariance over clean and harmed ones."""
    generator = torch.Generator().manual_seed(derive_seed(facts.seed, "features", "whitening"))
    index = torch.randperm(len(train), generator=generator)[:2000].numpy()
    batches = [train[part].float() for part in np.array_split(index, ceil(len(index) / 250))]
    clean = torch.cat([net(x) for x in batches])
    harmed = torch.cat([net(_harm(x, generator)[0]) for x in batches])
    values, vectors = torch.linalg.eigh(torch.cat([clean, harmed]).double().T.cov())
    white = vectors * (values + FLOOR * values.max()).rsqrt()
    return clean.mean(0), white.float().contiguous()
