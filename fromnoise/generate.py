"""From a release to samples, and from samples to files that carry their recipe."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args, get_type_hints

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from fromnoise.beyond import beyond_window, maps
from fromnoise.build import build_grid, build_guidance, build_stepper
from fromnoise.codec import Codec, Moving, TextCodec
from fromnoise.cond import CAPTIONED, Cond
from fromnoise.config import SampleConfig
from fromnoise.data.groups import NAME as GROUP
from fromnoise.data.media import MEDIA
from fromnoise.denoise import Denoiser
from fromnoise.extend import Extension
from fromnoise.grid import Times
from fromnoise.memory import fitting
from fromnoise.release import Release
from fromnoise.rng import Rng
from fromnoise.sample import Counted, Step, as_time, last, sample
from fromnoise.sheet import moving, save_sheet, sheet
from fromnoise.stream import Rolling, Walk, rolled
from fromnoise.template import Barred, filling
from fromnoise.types import FromNoiseError

SAMPLERS = get_args(get_type_hints(SampleConfig)["sampler"])
FILES = (".npz", ".npy", ".zip", ".txt")
MOVING = 16  # clips of a sheet that moves


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

    def asked(self, k: int) -> str:
        """What was asked of sample k, "" for nothing."""
        named = [
            values[k] for name, values in self.cond.items() if name != GROUP
        ]  # whose numbers say nothing to people
        return ", ".join(_told(value) for value in named if value is not None)

    def pictures(self) -> np.ndarray:
        """(n, h, w, 3) uint8, for sheets."""
        return self.codec.preview(self.samples)

    def sheet(self, most: int | None = None) -> Image:
        """A contact sheet, with what was asked for below each sample where that differs."""
        n = min(len(self), most or len(self))
        asked = [self.asked(k) for k in range(n)]
        return sheet(self.pictures()[:n], labels=asked if len(set(asked)) > 1 else None)

    def moving_sheet(self, most: int) -> bytes | None:
        """An animated PNG of the first samples, where they are clips."""
        if not isinstance(self.codec, Moving):
            return None
        return moving(self.codec.moving(self.samples[:most]), Fraction(self.codec.rate))

    def lines(self, most: int = 8) -> list[str]:
        """The first samples for a terminal, where they are texts."""
        return self.samples[:most].tolist() if isinstance(self.codec, TextCodec) else []

    @property
    def array(self) -> np.ndarray:
        """`samples` in a dtype that array files hold: of strings the widest that is needed."""
        return np.array(self.samples.tolist()) if self.samples.dtype.kind == "T" else self.samples

    def save(self, path: str | Path) -> Path:
        """Writes to a folder (one file a sample and `sheet.png`), a `.zip` of the same, a `.npz` or a `.npy`; texts
        also to a `.txt`, with the recipe in a `.json` beside it.

        Nothing is overwritten: raises FromNoiseError where `path` exists, unless it is an empty folder.
        """
        path = Path(path)
        check_free(path)
        try:
            if path.suffix == ".npy":
                np.save(path, self.array)
            elif path.suffix == ".npz":
                self._save_npz(path)
            elif path.suffix == ".txt":
                self._save_lines(path)
            elif path.suffix == ".zip":
                with TemporaryDirectory() as folder, zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
                    self._save_files(Path(folder))
                    for file in sorted(Path(folder).rglob("*")):  # a Zarr is a folder of its own
                        archive.write(file, file.relative_to(folder))
            else:
                path.mkdir(exist_ok=True)
                self._save_files(path)
        except OSError as error:
            raise FromNoiseError(f"Cannot write {path} ({error.strerror or error}): choose another --out.") from error
        return path

    def _save_npz(self, path: Path) -> None:
        arrays = {"samples": self.array, "index": self.index, "seed": np.array(self.seed)}
        arrays |= {f"cond_{name}": np.array(["" if v is None else v for v in vs]) for name, vs in self.cond.items()}
        np.savez_compressed(path, allow_pickle=False, recipe=np.array(json.dumps(self.recipe)), **arrays)

    def _save_lines(self, path: Path) -> None:
        """A sample a line, or with blank lines between them where one has several."""
        if not isinstance(self.codec, TextCodec):
            raise FromNoiseError(f"{path.name} would be a text, and these samples are none: name a folder or a .zip.")
        texts = self.samples.tolist()
        between = "\n\n" if any(len(text.splitlines()) > 1 for text in texts) else "\n"
        path.write_text(between.join(texts) + "\n", encoding="utf-8")
        recipe = self.recipe | {"first": int(self.index[0]), "samples": len(self), "cond": self.cond}
        path.with_suffix(".json").write_text(json.dumps(recipe, ensure_ascii=True), encoding="utf-8")

    def _save_files(self, folder: Path) -> None:
        for k, one in enumerate(self.samples):
            self.codec.save(folder / f"{self.index[k]:06d}", one, self.recipe_of(k))
        self.save_sheet(folder / "sheet.png")

    def save_sheet(self, path: Path) -> None:
        """The contact sheet as a PNG; of clips, beside it, one that moves."""
        save_sheet(self.sheet(), path)
        if (moves := self.moving_sheet(MOVING)) is not None:
            path.with_stem(path.stem + "-moving").write_bytes(moves)


def check_free(path: Path, option: str = "--out", files: tuple[str, ...] = FILES) -> None:
    """Raises FromNoiseError if writing to `path`, named by `option`, would touch something of the user's, or cannot
    work; it is one file if it ends in one of `files`, and a folder otherwise."""
    try:
        if path.suffix.lower() not in files and any(
            path.suffix.lower() in medium.suffixes for medium in MEDIA.values()
        ):
            raise FromNoiseError(
                f"{path} would be a folder, with a file for each sample: write {option} {path.with_suffix('')}, or one "
                f"file that ends in {', '.join(files)}."
            )
        beside = [path.with_suffix(".json")] if path.suffix == ".txt" else []
        for file in [path, *beside] if path.suffix in files else []:
            if file.exists():
                raise FromNoiseError(f"{file} exists already: choose another {option}.")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FromNoiseError(f"{path} exists and is not an empty folder: choose another {option}.")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FromNoiseError(f"Cannot write {path} ({error.strerror}): choose another {option}.") from error


def configure(
    release: Release, *, steps: int | None = None, sampler: str | None = None, guidance: float | None = None
) -> SampleConfig:
    """The release's own way to sample, with what the caller changes.  Raises FromNoiseError for an unknown sampler."""
    tokens = release.codec.vocab is not None
    fit = {name for name in SAMPLERS if (name in ("ddim", "unmask") if tokens else name != "unmask")}
    if sampler is not None and sampler not in fit:
        what = f"sampler {sampler!r}" if sampler not in SAMPLERS else f"way to sample this model by {sampler}"
        raise FromNoiseError(f"No {what}: use one of {', '.join(sorted(fit))}.")
    if guidance is not None and not 0 <= guidance < math.inf:  # below 0 it would push away from what is asked for
        raise FromNoiseError(f"Guidance is a number from 0 up, such as 2 (1 is off), not {guidance:g}.")
    if steps is not None and steps < 1:
        raise FromNoiseError(f"Sampling takes at least 1 step, not {steps}.")
    given = {"steps": steps, "sampler": sampler, "guidance": guidance}
    return replace(release.config.sample, **{k: v for k, v in given.items() if v is not None})


def walk(
    release: Release,
    config: SampleConfig,
    indices: range,
    seed: int,
    cond: Cond,
    template: str | None = None,
    beyond: Extension | Rolling | None = None,
) -> Iterator[Step]:
    """The way from noise to the samples `indices` of `seed` under `cond`, one `Step` a move.

    `template`, for models of text, is a text with gaps to be filled (`template.py`); `beyond` says how samples go
    beyond the model's window (`extend.py`), which clips do in one `Step` (`stream.py`).
    """
    denoise, nets = _asked(release, config)
    device = next(release.denoiser.parameters()).device
    if isinstance(beyond, Rolling):
        x = beyond(_walk(release, denoise, config, indices, seed, cond.to(device)), len(indices), device)
        end = as_time(0.0, x)
        yield Step(x=x, post=None, t=end, s=end, evaluations=sum(net.asked for net in nets) // len(x))
        return
    times = _times(release, config, begun=beyond is None)
    shape = (len(indices), *(release if beyond is None else beyond).codec.shape)
    x = release.denoiser.process.prior(shape, times[0], Rng.of(seed, indices, "prior"), cond=cond).to(device)
    if isinstance(release.codec, TextCodec) and release.codec.barred:
        denoise = Barred(denoise, release.codec.barred)
    if template is not None:
        assert isinstance(release.codec, TextCodec)
        denoise, x = filling(denoise, template, release.codec, Rng.of(seed, indices, "prompt"), device)
    if beyond is not None:
        denoise = beyond(denoise, x)
    if x.ndim == 4:
        x = x.to(memory_format=torch.channels_last)
    rng = Rng.of(seed, indices, "steps")
    for step in sample(denoise, build_stepper(config), times, x, cond.to(device), rng):
        yield replace(step, evaluations=sum(net.asked for net in nets) // len(x))


def _asked(release: Release, config: SampleConfig) -> tuple[Denoiser, list[Counted]]:
    """The release's denoiser with the guidance of `config`, and its networks as they count what they are asked."""
    if release.config.model.flow_map and (config.sampler != "ddim" or config.guidance != 1):
        raise FromNoiseError(
            "A few-step student jumps by ddim alone, with its teacher's guidance learned: leave out the sampler and "
            "guidance, or sample the run that it came from."
        )
    if config.jumps and getattr(release.denoiser.process, "expected", None) is None:
        raise FromNoiseError("This student was made by an earlier version: distil its run again, or sample the run.")
    if config.guidance != 1 and config.reference == "null" and not release.columns:
        raise FromNoiseError("Guidance needs conditions or a longer run: leave --guidance at 1.")
    # A guided step asks two networks, or one network twice.
    nets = [Counted(net) for net in (release.denoiser, release.weak) if net is not None]
    return build_guidance(config, nets[0], nets[1] if len(nets) > 1 else None), nets


def _times(release: Release, config: SampleConfig, *, begun: bool) -> Times:
    """The grid of `config`, from noise on unless samples are `begun` with what is expected of an example: that knows
    nothing of frames that they go on from, and not what is larger.  A student knows no other beginning."""
    start = release.denoiser.start
    times = build_grid(config, start)(config.steps)
    return times if begun or config.jumps or times[0] >= start else (start, *times)


def _walk(release: Release, denoise: Denoiser, config: SampleConfig, indices: range, seed: int, cond: Cond) -> Walk:
    """How the windows of clips are sampled."""
    return Walk(
        denoise=denoise,
        stepper=build_stepper(config),
        times=_times(release, config, begun=False),
        cond=cond,
        rng=lambda k, use: Rng.of(seed, indices, use, k),
    )


def stream(
    release: Release,
    config: SampleConfig,
    *,
    seed: int = 0,
    where: Mapping[str, str | float] | None = None,
    prompt: str | None = None,
    beginning: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Frames (h, w, c) of one clip without end, in memory that does not grow; they go on from a raw `beginning`."""
    codec = release.codec
    if not isinstance(codec, Moving):
        raise FromNoiseError("A stream is of a model of clips, and this is none: use sample.")
    start = beyond_window(release, length=codec.frames if beginning is None else None, beginning=beginning)
    assert isinstance(start, Rolling)
    asked = start.asked(prompted(release, where, prompt)[0])
    if given := [name for name in maps(release) if str(asked[name]).strip().lower() not in ("", "none")]:
        raise FromNoiseError(
            f"A stream has no end, and a map such as {given[0]} has one: ask for samples of its --frames instead."
        )
    cond = release.conditions(asked, seed, range(1))
    device = next(release.denoiser.parameters()).device
    walk = _walk(release, _asked(release, config)[0], config, range(1), seed, cond.to(device))
    known = None if start.first is None else start.first.to(device)
    for new in rolled(walk, torch.zeros(1, *codec.shape, device=device), known):
        yield from codec.decode(_on_cpu(new))[0]


def prompted(
    release: Release, where: Mapping[str, str | float] | None, prompt: str | None
) -> tuple[dict[str, str | float], str | None]:
    """(conditions, template): what a prompt means to a model, beside `where`.

    To a model of text it is a text with gaps, to any other the caption: the same as `where` with the caption's column.
    An empty one hides the caption.  Raises FromNoiseError where the model was trained without captions.
    """
    asked = dict(where or {})
    if prompt is None or isinstance(release.codec, TextCodec):
        return asked, prompt
    captions = [column.name for column in release.columns if column.kind in CAPTIONED]
    if not captions:
        raise FromNoiseError(
            "A prompt is for models of text and for those trained with captions, and this is neither: leave --prompt "
            "out, or train with --columns naming a column of captions."
        )
    if len(captions) > 1 or captions[0] in asked:
        raise FromNoiseError(f"Say each caption once: {' '.join(f'--where {name}=…' for name in captions)}.")
    return asked | {captions[0]: prompt}, None


def generate(
    release: Release,
    n: int,
    config: SampleConfig,
    *,
    seed: int = 0,
    where: Mapping[str, str | float] | None = None,
    prompt: str | None = None,
    given: Cond | None = None,
    beyond: Extension | Rolling | None = None,
    batch: int = 64,
    first: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Samples:
    """Samples first … first+n-1 of `seed`; each is the same whatever the batch.

    `where` and `prompt` say what is asked of all (`prompted`), `given` what is asked of each, in their place.
    """
    assert given is None or (len(given) == n and where is None and prompt is None)
    asked, template = prompted(release, where, prompt)
    asked = asked if beyond is None else beyond.asked(asked)
    for name, value, least in (("n", n, 1), ("batch", batch, 1), ("seed", seed, 0)):
        if value < least:
            raise FromNoiseError(f"Sampling takes a {name} of at least {least}, not {value}.")
    parts, conds, evaluations = [], [], 0
    codec = (release if beyond is None else beyond).codec
    batch = fitting(math.prod(codec.shape), batch)
    for start in range(first, first + n, batch):
        indices = range(start, min(start + batch, first + n))
        conds.append(
            release.conditions(asked, seed, indices, codec)
            if given is None
            else given[start - first : indices.stop - first]
        )
        step = last(walk(release, config, indices, seed, conds[-1], template, beyond))
        evaluations = step.evaluations
        if not bool(step.x.isfinite().all()):
            raise FromNoiseError("Sampling left the range of numbers: ask for a smaller --guidance.")
        parts.append(codec.decode(_on_cpu(step.x)))
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
            "where": release.as_kept(where or {}),
            **({} if prompt is None else {"prompt": prompt}),
            **({} if beyond is None else beyond.recipe),
            # Of the grids found for the model the one that was walked; the formula's settings say the rest.
            **asdict(replace(config, searched=tuple(g for g in config.searched if len(g) == config.steps + 1))),
        },
        codec=codec,
    )


def trajectory(
    release: Release,
    n: int,
    config: SampleConfig,
    *,
    seed: int = 0,
    where: Mapping[str, str | float] | None = None,
    prompt: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of x_t (n, steps+1, h, w, 3) from noise to sample, and of the guesses x0_hat (n, steps, h, w, 3)."""
    asked, template = prompted(release, where, prompt)
    cond = release.conditions(asked, seed, range(n))
    steps = list(walk(release, config, range(n), seed, cond, template))
    begin, rng = _times(release, config, begun=True)[0], Rng.of(seed, range(n), "prior")
    prior = release.denoiser.process.prior((n, *release.codec.shape), begin, rng, cond=cond)
    seen = [prior, *(s.x for s in steps), *(s.post.point() for s in steps if s.post is not None)]
    # All at once, so that pages of text are of one height.
    shown = release.codec.preview(np.concatenate([release.codec.decode(_on_cpu(x)) for x in seen]))
    shown = shown.reshape(len(seen), n, *shown.shape[1:]).swapaxes(0, 1)
    return shown[:, : len(steps) + 1], shown[:, len(steps) + 1 :]


def _told(value: str | float | None) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _on_cpu(x: Tensor) -> Tensor:
    return x.cpu().float() if x.is_floating_point() else x.cpu()
