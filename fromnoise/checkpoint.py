"""Checkpoints that are there whole or not at all: one safetensors file each, tensors plus a JSON state in its header.

A file is written beside its final place, flushed to the disk, and only then renamed over the old one, so that a kill,
a power cut or a full disk at any moment leaves the previous checkpoint intact.  Reading never runs code.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fromnoise.ema import PowerEma, Snapshot
from fromnoise.types import FromNoiseError

KEY = "fromnoise"  # the header entry that holds our state and tells our files from others
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, object]) -> None:
    """Writes `tensors` and the JSON-able `meta` to `path`, replacing what was there at once or not at all.

    Raises FromNoiseError when the disk is full or the folder cannot be written; the previous file is then untouched.
    At most one tensor is copied at a time, and none that is contiguous on the CPU.
    """
    state = json.dumps(meta, ensure_ascii=False, allow_nan=False)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_temporaries(path)
        with open(temporary, "wb") as file:
            _write(file, tensors, state)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove_temporaries(path)
        raise _explained(error, path, sum(x.nbytes for x in tensors.values())) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says in one sentence why `path` cannot be written: FromNoiseError instead of OSError."""
    try:
        yield
    except OSError as error:
        raise _explained(error, path) from error


def replace_text(path: Path, text: str | Iterable[str]) -> None:
    """Writes a text file, given whole or in parts, at once or not at all; raises as `writing`."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        # Names of files may hold bytes that are no text.
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines([text] if isinstance(text, str) else text)
        temporary.replace(path)


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, which is taken off."""
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def load(path: Path, prefix: str = "") -> tuple[dict[str, Tensor], dict]:
    """The tensors, on the CPU and in memory of their own, and the `meta` of a file written by `save`.

    Only tensors whose name starts with `prefix` are read, and it is taken off their names.
    Raises FromNoiseError in one sentence for a file that is missing, cut short, damaged or not ours.
    """
    with _opened(path) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        # A clone lets go of the mapped file, which Windows would not let the next save replace.
        return {name.removeprefix(prefix): file.get_tensor(name).clone() for name in names}, _state(file)


def load_meta(path: Path) -> dict:
    """The `meta` alone, without reading a tensor; raises as `load`."""
    with _opened(path) as file:
        return _state(file)


def save_snapshot(folder: Path, ema: PowerEma, step: int) -> None:
    """Writes the averages after `step` to `folder`.

    float16 halves the space; its rounding averages out in a reconstruction (as EDM2 does).
    """
    averages = {s: {k: _half(x) for k, x in ema.weights(s).items()} for s in ema.averages}
    tensors = {f"{s}/{name}": x for s, weights in averages.items() for name, x in weights.items()}
    save(folder / f"step-{step:09d}.safetensors", tensors, {"step": step, "sigmas": list(ema.averages)})


def read_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots of a folder in order of step, their tensors unread."""
    return [
        Snapshot(step=step, sigma_rel=sigma, load=partial(_average, path, sigma))
        for step, path in sorted(_snapshot_files(folder).items())
        for sigma in load_meta(path)["sigmas"]
    ]


def drop_snapshots_after(folder: Path, step: int) -> None:
    """Forgets what a killed run wrote after the checkpoint that it is resumed from."""
    for later, path in _snapshot_files(folder).items():
        if later > step:
            path.unlink()


def _write(file: BinaryIO, tensors: Mapping[str, Tensor], state: str) -> None:
    """The safetensors format: length of the header (8 bytes, little endian), JSON header, tensors one after the other.

    The library's own writer hides the cause of a failed write and leaves temporary files of unknown names when killed.
    """
    header: dict[str, object] = {"__metadata__": {KEY: state}}
    end = 0
    for name, x in tensors.items():
        start, end = end, end + x.nbytes
        header[name] = {"dtype": DTYPES[x.dtype], "shape": list(x.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for x in tensors.values():
        file.write(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as file:
            if KEY not in (file.metadata() or {}):
                raise FromNoiseError(f"{path} is a safetensors file but not one of fromnoise: name a run's own file.")
            yield file
    except FileNotFoundError as error:
        raise FromNoiseError(f"There is no checkpoint {path}: check the path, or train first.") from error
    except PermissionError as error:
        raise FromNoiseError(f"The checkpoint {path} may not be read: change its permissions.") from error
    except (OSError, SafetensorError) as error:
        raise FromNoiseError(
            f"{path} is cut short or not a checkpoint ({error}): use another checkpoint, or train again."
        ) from error


def _state(file: safe_open) -> dict:
    return json.loads(file.metadata()[KEY])


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there, and the file system orders the rename itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_temporaries(path: Path) -> None:
    """Also those of killed runs: a run has one writer, so any other temporary file of this name is dead."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        stale.unlink(missing_ok=True)


def _explained(error: OSError, path: Path, size: int = 0) -> FromNoiseError:
    kept = "; what was there before is untouched" if path.exists() else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        need = f" and {path.name} needs {size / 2**20:.0f} MiB" if size else f": {path.name} was not written"
        return FromNoiseError(f"The disk of {path.parent} is full{need}{kept}. Free space, then resume.")
    return FromNoiseError(f"Cannot write {path} ({error.strerror}){kept}: make the folder writable, then resume.")


def _snapshot_files(folder: Path) -> dict[int, Path]:
    return {int(path.stem.removeprefix("step-")): path for path in folder.glob("step-*.safetensors")}


def _half(x: Tensor) -> Tensor:
    return x.half() if x.is_floating_point() else x


def _average(path: Path, sigma: float) -> dict[str, Tensor]:
    return load(path, f"{sigma}/")[0]
