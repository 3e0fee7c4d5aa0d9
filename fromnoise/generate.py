"""From a release to samples, and from samples to files that carry their recipe."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from fromnoise.build import build_grid, build_guidance, build_stepper
from fromnoise.codec import Codec
from fromnoise.cond import Cond
from fromnoise.config import SampleConfig
from fromnoise.release import Release
from fromnoise.rng import Rng
from fromnoise.sample import Counted, Step, last, sample
from fromnoise.sheet import save_sheet, sheet
from fromnoise.types import FromNoiseError

ARRAYS = (".npz", ".npy", ".zip")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """`samples` in the data's own layout, dtype and range; entry k is number index[k] of the seed."""

    samples: np.ndarray
    index: np.ndarray
    seed: int
    cond: dict[str, list[str | float | None]]
    recipe: dict
    codec: Codec

    def __len__(self) -> int:
        return len(self.samples)

    def recipe_of(self, k: int) -> dict:
        """Everything that makes sample k again."""
        cond = {name: values[k] for name, values in self.cond.items()}
        return self.recipe | {"index": int(self.index[k]), "cond": cond}

    def pictures(self) -> np.ndarray:
        """(n, h, w, 3) uint8, for sheets."""
        return self.codec.preview(self.samples)

    def save(self, path: str | Path) -> Path:
        """Writes to a folder (one file a sample and `sheet.png`), a `.zip` of the same, a `.npz` or a `.npy`.

        Nothing is overwritten: raises FromNoiseError where `path` exists, unless it is an empty folder.
        """
        path = Path(path)
        check_free(path)
        try:
            if path.suffix == ".npy":
                np.save(path, self.samples)
            elif path.suffix == ".npz":
                self._save_npz(path)
            elif path.suffix == ".zip":
                with TemporaryDirectory() as folder, zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
                    self._save_files(Path(folder))
                    for file in sorted(Path(folder).iterdir()):
                        archive.write(file, file.name)
            else:
                path.mkdir(exist_ok=True)
                self._save_files(path)
        except OSError as error:
            raise FromNoiseError(f"Cannot write {path} ({error.strerror or error}): choose another --out.") from error
        return path

    def _save_npz(self, path: Path) -> None:
        arrays = {"samples": self.samples, "index": self.index, "seed": np.array(self.seed)}
        arrays |= {f"cond_{name}": np.array(["" if v is None else v for v in vs]) for name, vs in self.cond.items()}
        np.savez_compressed(path, allow_pickle=False, recipe=np.array(json.dumps(self.recipe)), **arrays)

    def _save_files(self, folder: Path) -> None:
        for k, one in enumerate(self.samples):
            self.codec.save(folder / f"{self.index[k]:06d}", one, self.recipe_of(k))
        save_sheet(sheet(self.pictures()), folder / "sheet.png")


def check_free(path: Path) -> None:
    """Raises FromNoiseError if writing samples to `path` would touch something of the user's, or cannot work."""
    try:
        if path.suffix in ARRAYS and path.exists():
            raise FromNoiseError(f"{path} exists already: choose another --out.")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FromNoiseError(f"{path} exists and is not an empty folder: choose another --out.")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FromNoiseError(f"Cannot write {path} ({error.strerror}): choose another --out.") from error


def configure(
    release: Release, *, steps: int | None = None, sampler: str | None = None, guidance: float | None = None
) -> SampleConfig:
    """The release's own way to sample, with what the caller changes.  Raises FromNoiseError for an unknown sampler."""
    known = {"ddim", "ancestral", "heun", "multistep"}
    if sampler is not None and sampler not in known:
        raise FromNoiseError(f"No sampler {sampler!r}: use one of {', '.join(sorted(known))}.")
    if guidance is not None and not math.isfinite(guidance):
        raise FromNoiseError(f"Guidance is a number such as 2, not {guidance}.")
    if steps is not None and steps < 1:
        raise FromNoiseError(f"Sampling takes at least 1 step, not {steps}.")
    given = {"steps": steps, "sampler": sampler, "guidance": guidance}
    return replace(release.config.sample, **{k: v for k, v in given.items() if v is not None})


def walk(release: Release, config: SampleConfig, indices: range, seed: int, cond: Cond) -> Iterator[Step]:
    """The way from noise to the samples `indices` of `seed` under `cond`, one `Step` a move."""
    if release.config.model.flow_map and (config.sampler != "ddim" or config.guidance != 1):
        raise FromNoiseError(
            "A few-step student jumps by ddim alone, with its teacher's guidance learned: leave out the sampler and "
            "guidance, or sample the run that it came from."
        )
    if config.guidance != 1 and config.reference == "null" and not release.columns:
        raise FromNoiseError("Guidance needs conditions or a longer run: leave --guidance at 1.")
    device = next(release.denoiser.parameters()).device
    # A guided step asks two networks, or one network twice.
    nets = [Counted(net) for net in (release.denoiser, release.weak) if net is not None]
    denoise = build_guidance(config, nets[0], nets[1] if len(nets) > 1 else None)
    times = build_grid(config, release.denoiser.start)(config.steps)
    shape = (len(indices), *release.codec.shape)
    x = release.denoiser.process.prior(shape, times[0], Rng.of(seed, indices, "prior")).to(device)
    if x.ndim == 4:
        x = x.to(memory_format=torch.channels_last)
    rng = Rng.of(seed, indices, "steps")
    for step in sample(denoise, build_stepper(config), times, x, cond.to(device), rng):
        yield replace(step, evaluations=sum(net.asked for net in nets) // len(x))


def generate(
    release: Release,
    n: int,
    config: SampleConfig,
    *,
    seed: int = 0,
    where: Mapping[str, str | float] | None = None,
    batch: int = 64,
    first: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Samples:
    """Samples first … first+n-1 of `seed`; each is the same whatever the batch."""
    for name, value, least in (("n", n, 1), ("batch", batch, 1), ("seed", seed, 0)):
        if value < least:
            raise FromNoiseError(f"Sampling takes a {name} of at least {least}, not {value}.")
    parts, conds, evaluations = [], [], 0
    for start in range(first, first + n, batch):
        indices = range(start, min(start + batch, first + n))
        conds.append(release.conditions(where or {}, seed, indices))
        step = last(walk(release, config, indices, seed, conds[-1]))
        evaluations = step.evaluations
        if not bool(step.x.isfinite().all()):
            raise FromNoiseError("Sampling left the range of numbers: ask for a smaller --guidance.")
        parts.append(release.codec.decode(_on_cpu(step.x)))
        if progress:
            progress(len(indices))
    cond = Cond.cat(conds)
    return Samples(
        samples=np.concatenate(parts),
        index=np.arange(first, first + n),
        seed=seed,
        cond={c.name: [release.label(cond, c.name, i) for i in range(n)] for c in release.columns},
        recipe={
            "model": release.digest,
            "precision": "float32",
            "seed": seed,
            "evaluations": evaluations,
            "where": dict(where or {}),
            # Of the grids found for the model the one that was walked; the formula's settings say the rest.
            **asdict(replace(config, searched=tuple(g for g in config.searched if len(g) == config.steps + 1))),
        },
        codec=release.codec,
    )


def trajectory(
    release: Release, n: int, config: SampleConfig, *, seed: int = 0, where: Mapping[str, str | float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of x_t (n, steps+1, h, w, 3) from noise to sample, and of the guesses x0_hat (n, steps, h, w, 3)."""
    steps = list(walk(release, config, range(n), seed, release.conditions(where or {}, seed, range(n))))
    times = build_grid(config, release.denoiser.start)(config.steps)
    prior = release.denoiser.process.prior((n, *release.codec.shape), times[0], Rng.of(seed, range(n), "prior"))

    def pictures(x: Tensor) -> np.ndarray:
        return release.codec.preview(release.codec.decode(_on_cpu(x)))

    states = np.stack([pictures(prior), *(pictures(s.x) for s in steps)], axis=1)
    guesses = np.stack([pictures(s.post.point()) for s in steps if s.post is not None], axis=1)
    return states, guesses


def _on_cpu(x: Tensor) -> Tensor:
    return x.cpu().float() if x.is_floating_point() else x.cpu()
