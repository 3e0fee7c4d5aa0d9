"""Likeness: the samples of a student, all together, have the means and covariances of data in the teacher's features.

Matching (`matching.py`) tells each sample where to go and is noisy; what all samples have wrong in common, such as a
shift of means, is small in each and shows in thousands only.  With features z of unit covariance and no mean in the
data, samples of mean m and covariance S have the squared Fréchet distance to it

    |m|² + tr(S + 1 - 2·S^½),                                                                                      (1)

which falls fastest where each z moves against

    2·m + 2·(1 - S^-½)·(z - m).                                                                                    (2)

m and S are those of the last `CROWD` samples, held fixed, and the gradient is a batch's alone (Representation Fréchet
Loss for Visual Generation, arXiv 2604.28190, 2026).

The features are what the teacher's blocks make of an example with a little noise: of each channel its means over halves
of the axes, and its mean square.  Nothing else needs to be learned or shipped, and the features that a run is judged in
stay out of its training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fromnoise.cond import Cond
from fromnoise.denoise import NetDenoiser
from fromnoise.nets import Transformer, UNet
from fromnoise.process import add_noise
from fromnoise.sample import as_time
from fromnoise.types import Data

TIME = 0.1  # of the noise in which features are read
DIM = 128  # directions of features, those of most variance
PER_DIRECTION = 16  # examples of data, at least
ENOUGH = 2 * PER_DIRECTION  # examples of data; fewer have no moments to speak of
CROWD = 3000  # samples that moments are taken over, the latest counting most
HEARD = 500  # samples, before moments mean anything
BASIS = 1024  # examples whose features' directions are found
LEAST = 1e-3  # variance of samples along a direction, so that (2) stays finite
POOL = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


class Likeness(nn.Module):
    """The gradient (2) as a loss for samples of several kinds, each with moments of its own: buffers that it keeps.

    features of x0, by noise like it and its conditions, as `block_features` gives them; not trained here
    real     x0, noise and conditions of data, in batches: thousands of examples
    kinds    of samples: for a student, by how many jumps it took to make them
    summed   over ranks, so that all keep the same moments
    """

    centre: Float[Tensor, " f"]
    white: Float[Tensor, "f d"]
    count: Float[Tensor, " kinds"]
    first: Float[Tensor, "kinds d"]
    second: Float[Tensor, "kinds d d"]

    def __init__(
        self,
        features: Callable[[Data, Data, Cond], Float[Tensor, "b f"]],
        real: Iterable[tuple[Data, Data, Cond]],
        kinds: tuple[int, ...],
        *,
        summed: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        self.features, self.kinds, self.summed = features, kinds, summed
        with torch.no_grad():
            read = torch.cat([features(*batch) for batch in real]).double()
        d = min(DIM, read.shape[1], max(1, len(read) // PER_DIRECTION))
        centre, size = read.mean(0), read.std(0).clamp_min(1e-6)
        # Directions of a part of the data, variances along them of all: those of the same part would be too large.
        read = (read - centre) / size
        directions = torch.linalg.svd(read[:BASIS], full_matrices=False).Vh[:d].T
        values, vectors = torch.linalg.eigh(torch.atleast_2d((read @ directions).T.cov()))
        white = directions @ (vectors * values.clamp_min(1e-9).rsqrt())
        self.register_buffer("centre", centre.float())
        self.register_buffer("white", (white / size[:, None]).float())
        self.register_buffer("count", read.new_zeros(len(kinds)))
        self.register_buffer("first", read.new_zeros(len(kinds), d))
        self.register_buffer("second", read.new_zeros(len(kinds), d, d))

    def forward(self, x: Data, eps: Data, cond: Cond, kinds: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """For each sample x, of one of `kinds`, what has the gradient (2); the moments take x in first."""
        z = (self.features(x, eps, cond) - self.centre.to(x)) @ self.white.to(x)
        loss = z.new_zeros(len(z))
        for place, kind in enumerate(self.kinds):
            of_kind = kinds == kind
            self.take_in(place, z[of_kind].detach().double())
            if bool(of_kind.any()) and self.count[place] >= HEARD:
                mean, slope = (part.to(z) for part in self.slopes(place))
                far = z[of_kind] - mean
                loss[of_kind] = 2 * (z[of_kind] @ mean) + (far @ slope * far).sum(1)
        return loss

    def take_in(self, place: int, z: Float[Tensor, "b d"]) -> None:
        """Moves the moments of a kind of samples; a batch that is not finite leaves them as they are."""
        new = self.summed(torch.cat([z.new_tensor([len(z)]), z.sum(0), (z.T @ z).flatten()]))
        number = float(new[0])
        if number == 0 or not bool(torch.isfinite(new).all()):
            return
        self.count[place] += number
        share = number / min(float(self.count[place]), CROWD)
        self.first[place].lerp_(new[1 : 1 + z.shape[1]] / number, min(share, 1.0))
        self.second[place].lerp_(new[1 + z.shape[1] :].view_as(self.second[place]) / number, min(share, 1.0))

    def slopes(self, place: int) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """m and 1 - S^-½ of eq. (2)."""
        values, vectors = self.spread(place)
        slope = torch.eye(len(values)).to(values) - (vectors * values.clamp_min(LEAST).rsqrt()) @ vectors.T
        return self.first[place], slope

    def distance(self, kind: int) -> float:
        """Eq. (1) of the samples of a kind so far."""
        place = self.kinds.index(kind)
        root = self.spread(place)[0].clamp_min(0).sqrt()
        return float(self.first[place].square().sum() + (root - 1).square().sum())

    def spread(self, place: int) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """Variances of samples, and the directions along which they are."""
        mean = self.first[place]
        return torch.linalg.eigh(self.second[place] - torch.outer(mean, mean))


def block_features(denoise: NetDenoiser, x0: Data, eps: Data, cond: Cond) -> Float[Tensor, "b f"]:
    """What the blocks of a network make of x0 at `TIME`, told of no condition."""
    found: list[Tensor] = []
    net = denoise.net
    assert isinstance(net, UNet | Transformer)

    def read(block: nn.Module, given: object, h: Tensor) -> None:
        h = h.float().movedim(net.tap_axis, 1)
        halves = POOL[h.ndim - 2](h, 2 if min(h.shape[2:]) > 1 else 1)
        means = torch.cat([halves.flatten(1), h.square().flatten(2).mean(2)], 1)
        found.append(means.unflatten(0, (len(x0), -1)).mean(1))  # of clips, over the frames

    with ExitStack() as hooks:
        for name, block in net.taps.items():
            if name.rpartition(".")[2].startswith("block"):
                hooks.callback(block.register_forward_hook(read).remove)
        t = as_time(TIME, x0)
        denoise(add_noise(x0, eps, t), t, cond.null())
    return torch.cat(found, 1)
