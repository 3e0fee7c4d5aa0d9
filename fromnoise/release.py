"""The release: one file that samples without the data.

`model.safetensors` holds one average of the network's weights and, in its header, everything else that sampling needs:
settings, codec, columns with their values, default sampler.  The rows of the training set's columns come along, so that
conditions nobody asked for are drawn jointly from them.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from fromnoise.build import build_denoiser
from fromnoise.caption import spoken, symbols, unknown
from fromnoise.checkpoint import load, part, save
from fromnoise.codec import Codec, VideoCodec, VolumeCodec, codec_from_json
from fromnoise.codec.medium import POSITION
from fromnoise.cond import Column, Cond
from fromnoise.config import Config, from_json, to_json
from fromnoise.data.clipmaps import from_clip
from fromnoise.data.maps import from_file, from_scan
from fromnoise.data.textencoder import text_encoder
from fromnoise.denoise import ModelDenoiser, NetDenoiser
from fromnoise.errors import Advice
from fromnoise.grid import Times
from fromnoise.prior import Expected
from fromnoise.process import Gaussian
from fromnoise.rng import Rng
from fromnoise.types import FromNoiseError

# Enough rows to draw conditions from; a release must not grow with the data.
MAX_ROWS, MAX_MAPS = 10_000, 64  # of columns that are maps the latter
SHOWN = 10  # labels that a sentence names
NEAR = 0.25  # standard deviations: a training row with such a number agrees with the one asked for


@dataclass(frozen=True, kw_only=True)
class Release:
    denoiser: ModelDenoiser
    codec: Codec
    columns: tuple[Column, ...]
    rows: Cond
    config: Config
    weak: ModelDenoiser | None = None
    """The same network with an early average of its weights, which autoguidance pushes away from."""
    digest: str
    """Hash of weights and header: what a sample's recipe names as its model."""

    def to(self, device: torch.device) -> Release:
        """Moves its networks; returns itself."""
        for denoiser in (self.denoiser, self.weak):
            if denoiser is not None:
                denoiser.to(device)
        return self

    def conditions(
        self, where: Mapping[str, str | float], seed: int, indices: range, codec: Codec | None = None
    ) -> Cond:
        """The conditions of samples `indices` under `seed`: those named by `where`, the others as in a training row.

        The row is one that agrees with what is named, so that nothing asked for is contradicted: of the same class or
        caption, with a number at most a quarter of a standard deviation away.  Where no row agrees the others are
        hidden.  A value of "none" hides the column, unless it is one of its labels.  A map of scans is cut where each
        sample lies, of samples that `codec` decodes if they are other than the model's.  Raises FromNoiseError for an
        unknown column, label or caption, or a number more than a standard deviation beyond what the model has seen.
        """
        known = {c.name: c for c in self.columns}
        for name in where:
            if name not in known:
                have = ", ".join(known) or "none, which train --columns would change"
                raise FromNoiseError(f"The model has no column {name!r}: it was trained with {have}.")
        batch = len(indices)
        if not known:
            return Cond.empty(batch)
        codec = codec or self.codec
        asked = {name: _asked(known[name], str(value), codec) for name, value in where.items()}
        laid = {name: asked.pop(name) for name, value in [*asked.items()] if _lies(known[name], value, codec)}
        agreeing = self._agreeing(asked)
        among = agreeing if len(agreeing) else torch.arange(len(self.rows))
        picked = self.rows.rows(among[(Rng.of(seed, indices, "rows").uniform((batch,)) * len(among)).long()])
        values = dict(picked.values)
        present = {k: p & bool(len(agreeing)) for k, p in picked.present.items()}
        for name, value in asked.items():
            present[name] = torch.full((batch,), value is not None)
            if value is not None:
                # Of samples beyond the window a map is larger than those of training rows.
                values[name] = value.to(values[name].dtype).expand(batch, *value.shape).clone()
        cond = Cond(values, present, batch)
        for name, value in laid.items():
            assert value is not None and isinstance(codec, VolumeCodec)
            cond = cond.having(name, self._cut(name, value, cond, codec))
        return cond

    def as_kept(self, where: Mapping[str, str | float]) -> dict[str, str | float]:
        """What was asked for, as samples keep it: of maps of scans, whose names may be people's, the hash."""
        maps = {c.name for c in self.columns if c.kind == "map" and isinstance(self.codec, VolumeCodec)}
        files = {name: Path(str(value)).expanduser() for name, value in where.items() if name in maps}
        return {**where, **{name: file_digest(file) for name, file in files.items() if file.is_file()}}

    def _cut(self, name: str, value: Tensor, cond: Cond, codec: VolumeCodec) -> Tensor:
        """(b, c, *space), what samples show of a map (c, x, y, z) of a whole scan.

        Raises FromNoiseError where nothing says where they lie.
        """
        parts = []
        for i in range(len(cond)):
            place = self.label(cond, POSITION, i) if POSITION in cond.values else None
            if place is None and any(codec.room):
                raise FromNoiseError(
                    "A map of a scan is cut where a sample lies: ask for a position, of a model that --columns "
                    f"{name},{POSITION} made."
                )
            seen = (slice(a, a + n) for a, n in zip(codec.corner(place).astype(int), codec.block, strict=True))
            parts.append(value[(slice(None), *seen)].reshape(len(value), *codec.shape[1:]))
        return torch.stack(parts)

    def _agreeing(self, asked: Mapping[str, Tensor | None]) -> Int[Tensor, " k"]:
        """The places of the training rows that do not contradict what is asked."""
        agree = torch.ones(len(self.rows), dtype=torch.bool)
        for name, value in asked.items():
            if value is not None and value.shape != self.rows.values[name].shape[1:]:
                agree[:] = False
            elif value is not None:
                far = (self.rows.values[name].double() - value.double()).abs().flatten(1 if value.ndim else 0)
                near = far <= (NEAR if self.rows.values[name].is_floating_point() else 0)
                agree &= self.rows.present[name] & (near.all(1) if near.ndim > 1 else near)
        return agree.nonzero().flatten()

    def label(self, cond: Cond, name: str, i: int) -> str | float | None:
        """What example i is conditioned on, as the user wrote it; None where absent."""
        if not bool(cond.present[name][i]):
            return None
        (column,) = (c for c in self.columns if c.name == name)
        value = cond.values[name][i]
        match column.kind:
            case "class":
                return column.labels[int(value)]
            case "tokens":
                return spoken(column, value.tolist())
            case "map":
                return "a map"
            case "embedding":
                return "a caption"
            case "vector":
                return str([round(float(v), 6) for v in value * column.std + column.mean])
            case _:
                return float(value) * column.std + column.mean


def _lies(column: Column, value: Tensor | None, codec: Codec) -> bool:
    """Whether what is asked for is a map of a whole scan."""
    return column.kind == "map" and value is not None and isinstance(codec, VolumeCodec)


def _asked(column: Column, text: str, codec: Codec) -> Tensor | None:
    """The value that a user typed; None where it hides the column."""
    hidden = not text.strip() or (text.lower() == "none" and text not in column.labels)
    return None if hidden else parse_value(column, text, codec)


def parse_value(column: Column, text: str, codec: Codec) -> Tensor:
    """A class's index, standardised numbers, symbols of words, a caption's vector or a map, from what a user typed.

    Maps are as large as what the codec decodes, but those of scans, which are as large as a scan.
    """
    match column.kind:
        case "class":
            return torch.tensor(_class_index(column, text))
        case "tokens":
            if advice := unknown(column, text):
                warnings.warn(Advice(advice), stacklevel=2)
            return torch.from_numpy(symbols(column, [text])[0]).long()
        case "embedding":
            read = torch.from_numpy(text_encoder(column.encoder, column.digest)([text])[0])
            return (read - column.mean) / column.std
        case "map":
            if isinstance(codec, VolumeCodec):
                return from_scan(column, text, codec)
            if isinstance(codec, VideoCodec):
                return from_clip(column, text, codec)
            return from_file(column, text, codec.shape[1:])
        case "vector":
            parts = text.strip("[] ").split(",")
            if len(parts) != column.size:
                raise FromNoiseError(
                    f"{column.name} is a vector of {column.size} numbers, such as 0.2,0.8, not {text!r}."
                )
            return torch.tensor([_standardised(column, part) for part in parts])
        case _:
            return torch.tensor(_standardised(column, text))


def _class_index(column: Column, text: str) -> int:
    folded = [label.casefold() for label in column.labels]
    if text in column.labels:
        return column.labels.index(text)
    if text.casefold() not in folded:
        raise FromNoiseError(f"{column.name} is never {text!r}: {_suggested(column.labels, text)}.")
    return folded.index(text.casefold())


def _suggested(labels: tuple[str, ...], text: str) -> str:
    """What to ask for in place of a label that is none: the nearest, and of few labels all."""
    folded = [label.casefold() for label in labels]
    close = [labels[folded.index(c)] for c in get_close_matches(text.casefold(), folded, n=3, cutoff=0.4)]
    if len(labels) > SHOWN:
        return f"use one of {', '.join(close or labels[:SHOWN])}, … or none"
    nearest = f"{close[0]}, or else " if close else ""
    others = ", ".join(label for label in labels if label not in close[:1])
    return f"use {nearest}{others}{' or ' * bool(others)}none"


def _standardised(column: Column, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise FromNoiseError(f"{column.name} is a number such as {column.mean:.3g}, not {text!r}.")
    # The model's codes of numbers end one standard deviation beyond what was seen (`nets/condition.py`).
    low, high = column.low - column.std, column.high + column.std
    if not low <= value <= high:
        raise FromNoiseError(
            f"{column.name} was from {column.low:g} to {column.high:g} in training: ask for {low:.4g} to {high:.4g}, "
            f"not {text!r}."
        )
    return (value - column.mean) / column.std


def save_release(
    path: Path,
    denoiser: ModelDenoiser,
    codec: Codec,
    columns: tuple[Column, ...],
    rows: Cond,
    config: Config,
    loss: float,
) -> None:
    """Writes the release at once or not at all; `loss` is its held-out loss."""
    meta = {
        "format": 1,
        "loss": loss,
        "codec": codec.to_json(),
        "columns": [asdict(c) for c in columns],
        "config": to_json(config),
    }
    tensors = {f"weights/{k}": v for k, v in denoiser.state_dict().items()}
    tensors |= {f"rows/{k}": v[:MAX_ROWS] for k, v in rows.values.items()}
    tensors |= {f"present/{k}": v[:MAX_ROWS] for k, v in rows.present.items()}
    if isinstance(denoiser.process, Gaussian) and (expected := denoiser.process.expected) is not None:
        tensors |= {f"expected/{k}": v for k, v in expected.tensors().items()}
    save(path, tensors, meta)


def publish(best: Path, model: Path, weak: Mapping[str, Tensor] | None) -> None:
    """Writes the best release as the run's own, with the early average that may guide it."""
    tensors, meta = load(best)
    if weak is None and meta["config"]["sample"]["reference"] == "weak":
        meta["config"]["sample"] |= {"guidance": 1.0, "reference": "null"}
    save(model, tensors | {f"weak/{k}": v for k, v in (weak or {}).items()}, meta)


def keep_grids(model: Path, grids: tuple[Times, ...]) -> None:
    """Writes grids of sampling into a release."""
    tensors, meta = load(model)
    meta["config"]["sample"]["searched"] = grids
    save(model, tensors, meta)


def load_release(path: Path, autocast: Callable[[], AbstractContextManager] = nullcontext) -> Release:
    """Reads a release on the CPU.  Raises FromNoiseError for a file that is missing, cut or of a later format."""
    tensors, meta = load(path)
    if meta.get("format") != 1:
        raise FromNoiseError(f"{path} has a format this version cannot read: use a newer fromnoise.")

    config, codec = from_json(meta["config"]), codec_from_json(meta["codec"])
    columns = tuple(Column(**{**c, "labels": tuple(c["labels"])}) for c in meta["columns"])
    denoiser = build_denoiser(config, columns, codec.shape[0], len(codec.shape) - 1, autocast)
    denoiser.eval().requires_grad_(False).load_state_dict(part(tensors, "weights/"))
    if (known := part(tensors, "expected/")) and isinstance(denoiser, NetDenoiser):
        denoiser.process = Gaussian(Expected.from_tensors(columns, known))
    weak = None
    if early := part(tensors, "weak/"):
        weak = copy.deepcopy(denoiser)
        weak.load_state_dict(early)
    values = part(tensors, "rows/")
    rows = Cond(values, part(tensors, "present/"), len(next(iter(values.values()), ())))
    return Release(
        denoiser=denoiser, codec=codec, columns=columns, rows=rows, config=config, weak=weak, digest=file_digest(path)
    )


def release_in(file: Path) -> Path:
    """The file as it is.  Raises FromNoiseError for one that cannot be a release, as by what it begins with."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(9)
    except OSError:  # which is said where it is read
        return file
    if file.suffix != ".safetensors" and head[8:] != b"{":  # what a header begins with, behind its length
        raise FromNoiseError(f"{file} is no run: name a run folder, or its model.safetensors.")
    return file


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        hash = blake2b(digest_size=8)
        while block := file.read(1 << 20):
            hash.update(block)
    return hash.hexdigest()
