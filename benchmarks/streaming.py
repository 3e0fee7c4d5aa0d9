"""Does a stream hold?  Motion and frames at its end beside the data's, and memory along the way.

    python -m benchmarks.streaming RUN [--frames 300] [--seeds 4]

Streams go on one after the other from nothing; their last 50 frames are measured as `evaluate` measures clips, beside
windows of the data that are held out, those it was trained on, and of the latter those that share the classes that each
stream was told, where there are any.  A PNG shows every 20th frame of each.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
import torch

import fromnoise as fn
from fromnoise.codec import VideoCodec
from fromnoise.data import Dataset
from fromnoise.evaluate import motion
from fromnoise.memory import peak
from fromnoise.release import Release
from fromnoise.sheet import save_sheet, sheet

LAST = 50
SHOWN_EVERY = 20
ALIKE = 20  # windows beside a stream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    run = fn.load(options.run)
    dataset = run.dataset()
    ends, shown = [], []
    for seed in range(options.seeds):
        frames, memory = [], {}
        for k, frame in enumerate(islice(run.stream(seed=seed), options.frames), 1):
            frames.append(frame)
            if k in (LAST, options.frames):
                memory[k] = peak(torch.device("cpu")).process
        print(f"seed {seed}: peak memory", ", ".join(f"{mb:.0f} MB by frame {k}" for k, mb in memory.items() if mb))
        ends.append(np.stack(frames[-LAST:]))
        shown.append(np.stack(frames[::SHOWN_EVERY]))
    # Frames are encoded one by one, as the window of the codec is shorter than what is measured.
    assert isinstance(dataset.codec, VideoCodec), "a stream is of a model of clips"
    image = dataset.codec.image
    x0 = torch.stack([image.encode(end).movedim(0, 1) for end in ends])
    beside = {f"windows of {name}": dataset.indices(name) for name in ("test", "train")}
    if any(column.kind == "class" for column in run.release.columns):
        told = [alike(run.release, dataset, seed) for seed in range(options.seeds)]
        beside["windows of train that share their classes"] = np.concatenate(told)
    for name, indices in beside.items():
        real = dataset.x0(indices)
        print(f"the last {LAST} of {options.frames} frames beside {len(real)} {name}:")
        print(*(f"  {one.sentence}" for one in motion(x0, real)), sep="\n")
    out = Path(options.run) / "stream.png"
    save_sheet(sheet(image.preview(np.concatenate(shown)), columns=len(shown[0])), out)
    print(out)


def alike(release: Release, dataset: Dataset, seed: int) -> np.ndarray:
    """ALIKE training windows, repeated if they are fewer, of the classes that the stream of `seed` is told."""
    drawn, indices = release.conditions({}, seed, range(1)), dataset.indices("train")
    cond = dataset.cond(indices)
    same = np.ones(len(indices), dtype=bool)
    for column in release.columns:
        if column.kind == "class":
            same &= (cond.values[column.name] == drawn.values[column.name]).numpy()
    return np.resize(indices[same], ALIKE)


if __name__ == "__main__":
    main()
