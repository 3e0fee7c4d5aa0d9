"""How much memory a run takes, defined so that two runs can be compared.

process   the most physical memory that this process held at once since `reset_peak`, less the pages of the decoded data
data      those pages: read through a mapped file, they count as resident, and the system takes them back at need
device    the most memory that tensors took on a CUDA device at once since then

Linux counts a process's own peak (VmHWM), which can be reset; macOS gives the peak since the process began, mapped
pages included; elsewhere `process` is None.  All in MB of 10^6 bytes.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

_SELF = Path("/proc/self")


@dataclass(frozen=True, kw_only=True)
class Peak:
    process: float | None
    data: float
    device: float | None


def reset_peak(device: torch.device) -> None:
    """Forgets what the process held before, where the system can."""
    if sys.platform.startswith("linux"):
        with suppress(OSError):  # not allowed in some sandboxes; the peak then counts from the process's beginning
            (_SELF / "clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device, data: np.ndarray | None = None) -> Peak:
    """The peak so far; `data` is the mapped array whose pages are counted apart."""
    mapped = _mapped(Path(data.filename)) if isinstance(data, np.memmap) and data.filename else 0
    whole = _resident()
    return Peak(
        process=None if whole is None else (whole - mapped) / 1e6,
        data=mapped / 1e6,
        device=torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
    )


def _resident() -> int | None:
    """The peak of resident memory in bytes.

    Not ru_maxrss on Linux, where a process inherits that of the one that started it.
    """
    if sys.platform.startswith("linux"):
        return _kilobytes((_SELF / "status").read_text(), "VmHWM:")
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def _mapped(file: Path) -> int:
    """The resident bytes of `file` as this process maps it; 0 where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return 0
    total, ours = 0, False
    for line in (_SELF / "smaps").read_text(errors="surrogateescape").splitlines():
        if "-" in line.split(" ", 1)[0]:  # address range, permissions, offset, device, inode, path
            ours = line.endswith(str(file))
        elif ours and line.startswith("Rss:"):
            total += _kilobytes(line, "Rss:")
    return total


def _kilobytes(text: str, name: str) -> int:
    return int(text.split(name, 1)[1].split(None, 1)[0]) * 1024
