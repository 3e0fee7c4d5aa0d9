"""Equal processor seconds for settings of the sound recipe: how far are the sounds that they make from the data's?

    python -m benchmarks.sound drums/ --seconds 150 --set model.target=x0 --sheet drums.png

Trains in one thread by the process's own clock, draws samples without guidance, and compares what can be heard in one
space, whatever the codec and the target: mean, deviation and slope over the clip of 64 log-mel bands (-80 dB of full
scale is silence), whitened to the leading principal components of the training set.  `frechet` is the Fréchet distance
there of the samples to the training set, `held` that of held-out clips, `half` that of as many clips of the training
set as there are samples to the others; `quiet` is the level in dB that a tenth of a clip's spectra stay below, the
median over clips, of samples and of data.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fromnoise.build import build_denoiser, build_objective
from fromnoise.codec.sound import SoundCodec
from fromnoise.config import Config
from fromnoise.data import Dataset, open_dataset
from fromnoise.evaluate.distance import Moments, frechet
from fromnoise.generate import generate
from fromnoise.prepare import choose
from fromnoise.release import Release
from fromnoise.runtime import detect, reuse_memory
from fromnoise.sheet import save_sheet, sheet
from fromnoise.trainer import Skipped, Trainer, held_out_loss

COMPONENTS, SILENCE, HOP, BATCH = 12, -80.0, 512, 16


class Ruler:
    """The space of comparison, fixed by the training set's clips."""

    def __init__(self, codec: SoundCodec, clips: np.ndarray) -> None:
        frames = -(-clips.shape[1] // HOP) + 1
        self.codec = SoundCodec(rate=codec.rate, channels=codec.channels, bins=HOP, frames=frames)
        x = self.statistics(clips)
        self.mean, self.std = x.mean(0), x.std(0).clamp_min(1e-6)
        _, self.scale, axes = torch.linalg.svd((x - self.mean) / self.std, full_matrices=False)
        self.axes, self.scale = axes[:COMPONENTS], self.scale[:COMPONENTS] / (len(x) - 1) ** 0.5
        self.train = self(clips)

    def levels(self, clips: np.ndarray) -> Tensor:
        """(n, length, channels) -> (n, bands, frames) in dB of full scale."""
        y = torch.from_numpy(np.ascontiguousarray(clips)).float().mT
        y = torch.nn.functional.pad(y, (0, self.codec.length - y.shape[-1]))
        power = torch.cat([self.codec.spectra(part).abs().square().mean(1) for part in y.split(BATCH)]).double()
        return 10 * (self.codec.bands.to(power) @ power).clamp_min(10 ** (SILENCE / 10)).log10()

    def statistics(self, clips: np.ndarray) -> Tensor:
        levels = self.levels(clips)
        ramp = torch.linspace(-1, 1, levels.shape[-1], dtype=levels.dtype)
        slope = (levels * ramp).mean(-1) / ramp.square().mean()
        return torch.cat([levels.mean(-1), levels.std(-1), slope], 1)

    def __call__(self, clips: np.ndarray) -> Tensor:
        return (((self.statistics(clips) - self.mean) / self.std) @ self.axes.T) / self.scale

    def distance(self, clips: np.ndarray) -> float:
        return frechet(Moments.of(self(clips)), Moments.of(self.train))

    def half(self, n: int) -> float:
        mixed = self.train[np.random.default_rng(0).permutation(len(self.train))]
        return frechet(Moments.of(mixed[:n]), Moments.of(mixed[n:]))

    def quiet(self, clips: np.ndarray) -> float:
        loudness = 10 * (10 ** (self.levels(clips) / 10)).mean(1).log10()
        return float(loudness.quantile(0.1, dim=1).median())


def clips(data: Dataset, indices: np.ndarray) -> np.ndarray:
    return np.concatenate([data.codec.decode(data.x0(part)) for part in np.array_split(indices, len(indices) // 8)])


def train(data: Dataset, config: Config, seconds: float) -> tuple[Trainer, float]:
    """A trainer after `seconds` of processor time, and the held-out loss of its average."""
    begun = time.process_time()
    objective = build_objective(config)
    trainer = Trainer(
        config=config,
        denoiser=build_denoiser(config, data.columns, data.codec.shape[0], 2),
        objective=objective,
        data=data,
        indices=data.indices("train"),
        runtime=replace(detect("float32"), threads=1),
        clock=lambda: time.process_time() - begun,
    )
    for event in trainer.run():
        assert not isinstance(event, Skipped), event
    levels = held_out_loss(trainer.average(), objective, data, data.indices("val"), BATCH)
    print("held-out loss", levels, flush=True)
    return trainer, float(np.mean([loss for _, loss in levels]))


def contend(
    data: Dataset, settings: Sequence[str], seconds: float, n: int, where: dict[str, str | float]
) -> tuple[dict[str, object], np.ndarray]:
    """The figures of one set of settings, and its samples."""
    config = choose(data, detect("float32"), settings, budget=seconds, steps=None, seed=0).config
    trainer, held = train(data, config, seconds)
    rows = data.cond(data.indices("train"))
    release = Release(
        denoiser=trainer.average(), codec=data.codec, columns=data.columns, rows=rows, config=config, digest=""
    )
    sounds = generate(release, n, replace(config.sample, guidance=1.0), where=where, batch=BATCH).samples
    known = clips(data, data.indices("train"))
    assert isinstance(data.codec, SoundCodec)
    ruler, unseen = Ruler(data.codec, known), clips(data, data.indices("val"))
    figures = {"frechet": ruler.distance(sounds), "held": ruler.distance(unseen), "half": ruler.half(n), "loss": held}
    figures |= {"quiet": ruler.quiet(sounds), "quiet_data": ruler.quiet(known)}
    about = {"settings": " ".join(settings), "shape": data.codec.shape, "steps": trainer.position.step}
    return {**about, **{name: round(value, 3) for name, value in figures.items()}}, sounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--codec", nargs="*", default=[], metavar="NAME=NUMBER", help="bins=256 frames=270")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--where", nargs="*", default=[], metavar="COLUMN=LABEL")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    reuse_memory()
    data = open_dataset(args.data)
    if args.codec and isinstance(data.codec, SoundCodec):
        changes = {name: json.loads(value) for name, value in (pair.split("=") for pair in args.codec)}
        codec = replace(data.codec, **changes)
        data = replace(data, codec=codec.fitted(-1, 1, list(data.stored[data.indices("train")]))[0])
    row, sounds = contend(data, args.set, args.seconds, args.n, dict(pair.split("=") for pair in args.where))
    if args.sheet:
        save_sheet(sheet(data.codec.preview(sounds[:24]), columns=8), args.sheet)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
