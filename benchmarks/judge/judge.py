"""The frozen judge of Fashion-MNIST: `python -m benchmarks.judge.judge samples.npy --data DIR`.

A small classifier of the ten classes looks at samples; its 128 features before the last non-linearity are compared
with those of the 60,000 training images.  README.md freezes the protocol; the weights are `judge.safetensors`.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import safe_open
from torch import Tensor, nn

from fromnoise.evaluate.distance import Moments, frechet, kernel_distance, manifold
from fromnoise.evaluate.neighbours import CopyCheck, copy_check, nearest
from fromnoise.types import FromNoiseError

WEIGHTS = Path(__file__).with_name("judge.safetensors")
COUNT = 5000  # examples in every row of the table
SEED = 0
Images = UInt8[np.ndarray, "n 28 28"]


class JudgeNet(nn.Module):
    """(b, 1, 28, 28) in [-1, 1] -> logits (b, 10); the features (b, 128) are what the judge compares."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 64, 128)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
            for a, b in pairwise(widths)
        )
        self.project = nn.Linear(128 * 3 * 3, 128)
        self.classify = nn.Linear(128, 10)

    def features(self, x: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 128"]:
        for stage in self.stages:
            x = stage(x)
        return self.project(x.flatten(1))

    def forward(self, x: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 10"]:
        return self.classify(torch.relu(self.features(x)))


def load_judge() -> tuple[JudgeNet, Moments]:
    """The frozen network, and the moments of its features on the 60,000 training images."""
    with safe_open(WEIGHTS, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    moments = Moments(mean=tensors.pop("train.mean"), cov=tensors.pop("train.cov"), count=60_000)
    net = JudgeNet()
    net.load_state_dict(tensors)
    return net.eval(), moments


def scale(images: UInt8[Tensor, "n 28 28"]) -> Float[Tensor, "n 1 28 28"]:
    return images[:, None].float() / 127.5 - 1


@torch.no_grad()
def embed(net: JudgeNet, images: Images) -> Float[Tensor, "n 128"]:
    return torch.cat([net.features(scale(part)) for part in torch.from_numpy(images).split(1000)])


def read_idx(folder: Path, name: str) -> np.ndarray:
    """An IDX file of unsigned bytes, gzipped or not: 4 bytes of magic (the last is the rank), big-endian sizes, data.

    Written out here because the judge must not change when the package's own reader does.
    """
    found = sorted(folder.glob(f"{name}-idx*-ubyte*"))
    if not found:
        raise FromNoiseError(f"No {name}-idx?-ubyte[.gz] in {folder}: give the folder with Fashion-MNIST's IDX files.")
    raw = gzip.decompress(found[0].read_bytes()) if found[0].suffix == ".gz" else found[0].read_bytes()
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()


def corruptions(images: Images, labels: UInt8[np.ndarray, "n"]) -> Iterator[tuple[str, Images]]:
    """The five references: name and `COUNT` corrupted training images each, drawn with a fixed seed."""
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(images))
    some = images[order[:COUNT]]
    yield "noise, 10 grey levels", _noisy(some, 10, rng)
    yield "noise, 20 grey levels", _noisy(some, 20, rng)
    yield "blur, 3x3 mean", _mean3(some)
    yield "erased block, 10x10", _erased(some, 10, rng)
    yield "three classes missing", images[order[labels[order] >= 3][:COUNT]]


def _noisy(images: Images, sigma: float, rng: np.random.Generator) -> Images:
    return np.rint(images + rng.normal(0, sigma, images.shape)).clip(0, 255).astype(np.uint8)


def _mean3(images: Images) -> Images:
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.rint(windows.mean((-2, -1))).astype(np.uint8)


def _erased(images: Images, side: int, rng: np.random.Generator) -> Images:
    out = images.copy()
    for image, (y, x) in zip(out, rng.integers(0, 29 - side, (len(out), 2)), strict=True):
        image[y : y + side, x : x + side] = 0
    return out


def row(name: str, fake: Float[Tensor, "n 128"], real: Float[Tensor, "n 128"], train: Moments) -> dict:
    """One line of the table: Fréchet distance to all training images, the rest against `COUNT` of them."""
    kernel, near = kernel_distance(real, fake), manifold(real, fake)
    return {
        "name": name,
        "frechet": frechet(Moments.of(fake), train),
        "kernel": kernel.value,
        "kernel_error": kernel.error,
        "precision": near.precision,
        "recall": near.recall,
        "coverage": near.coverage,
    }


def distance_to_training(samples: Images, train: Images, held: Images) -> CopyCheck:
    """Pixel distances (in [-1, 1] units) to all training images: of samples, and of as many test images."""

    def search(images: Images):
        batches = (torch.from_numpy(train[i : i + 10_000]).float() / 127.5 for i in range(0, len(train), 10_000))
        return nearest(torch.from_numpy(images).float() / 127.5, batches, k=2)

    return copy_check(search(samples), search(held), space="pixel values")


def judge(samples: Images, folder: Path, *, say: Callable[[str], None] = lambda _: None) -> dict:
    """The whole protocol on exactly `COUNT` samples: a dict of plain numbers.  Takes a minute or two."""
    if samples.dtype != np.uint8 or samples.shape != (COUNT, 28, 28):
        raise FromNoiseError(
            f"The judge looks at {COUNT} samples as uint8 ({COUNT}, 28, 28), not {samples.dtype} {samples.shape}: "
            f"sample exactly {COUNT} into an .npy or .npz file."
        )
    net, moments = load_judge()
    train, labels, test = (read_idx(folder, name) for name in ("train-images", "train-labels", "t10k-images"))
    real = embed(net, train[np.random.default_rng(SEED + 1).permutation(len(train))[:COUNT]])
    held = test[:COUNT]
    sets = [("samples", samples), ("floor: test images", held), *corruptions(train, labels)]
    rows = []
    for name, images in sets:
        say(f"looking at {name}")
        rows.append(row(name, embed(net, images), real, moments))
    say("searching the nearest training images")
    copies = distance_to_training(samples, train, held)
    return {"count": COUNT, "rows": rows, "copies": vars(copies) | {"verdict": copies.verdict}}


def table(result: dict) -> str:
    """The result as text."""
    lines = [f"{'':24}{'Fréchet':>9}{'kernel':>18}{'precision':>11}{'recall':>8}{'coverage':>10}"]
    for r in sorted(result["rows"], key=lambda r: r["frechet"]):
        kernel = f"{r['kernel']:.4f} ± {r['kernel_error']:.4f}"
        shares = f"{r['precision']:11.3f}{r['recall']:8.3f}{r['coverage']:10.3f}"
        lines.append(f"{r['name']:24}{r['frechet']:9.3f}{kernel:>18}{shares}")
    c = result["copies"]
    lines.append(f"\nnearest training image, median: {c['median_ratio']:.3f} times that of test images. {c['verdict']}")
    return "\n".join(lines)


def load_samples(path: Path) -> np.ndarray:
    """`samples` of an `.npz`, or an `.npy`; a channel axis of size one may stand last or second."""
    loaded = np.load(path, allow_pickle=False)
    array = loaded["samples"] if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    one = [axis for axis in (1, 3) if array.ndim == 4 and array.shape[axis] == 1]
    return array.squeeze(one[0]) if one else array


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge samples of Fashion-MNIST.")
    parser.add_argument("samples", type=Path, help=f".npy or .npz with {COUNT} uint8 images (28, 28)")
    parser.add_argument("--data", type=Path, required=True, help="folder with Fashion-MNIST's four IDX files")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    try:
        result = judge(load_samples(options.samples), options.data, say=lambda text: print(text, flush=True))
    except FromNoiseError as error:
        parser.exit(2, f"{error}\n")
    print("\n" + table(result))
    text = json.dumps(result, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
