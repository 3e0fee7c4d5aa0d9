"""How much memory a run takes, defined so that two runs can be compared, and giving it back.

process   the most physical memory that this process held at once since `reset_peak`, less `data`
data      pages of mapped files without code, foremost of the decoded examples; they count as resident as they are read,
          and the system takes them back at need
device    the most memory that tensors took on a CUDA device at once since then

Linux counts a process's own peak (VmHWM), which can be reset; macOS gives the peak since the process began, mapped
pages included; elsewhere `process` is None.  All in MB of 10^6 bytes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from fromnoise.errors import FromNoiseError

_SELF = Path("/proc/self")
HELD_AT_ONCE = 8  # numbers that sampling holds at once for each value of a sample


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


def peak(device: torch.device) -> Peak:
    """The peak so far, and the pages of data as they are now."""
    mapped, whole = _mapped(), _resident()
    return Peak(
        process=None if whole is None else (whole - mapped) / 1e6,
        data=mapped / 1e6,
        device=torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
    )


def in_machine() -> int | None:
    """Bytes of physical memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, some systems not these names
        return None


def fitting(values: int, batch: int) -> int:
    """How many samples of so many values can be made at a time, at most `batch`.  Raises FromNoiseError for none."""
    one, there = HELD_AT_ONCE * 4 * values, in_machine()
    if there is None or batch * one <= there:
        return batch
    if one > there:
        raise FromNoiseError(
            f"One sample of that length takes some {one / 1e9:.3g} GB to make, and this machine has {there / 1e9:.3g}: "
            "ask for a shorter one."
        )
    return there // one


def give_back() -> None:
    """Returns freed memory to the system, as after decoding: `runtime.reuse_memory` would keep it for good.

    Does nothing where there is no glibc.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


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


def _mapped() -> int:
    """The resident bytes of mapped files that hold no code; 0 where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return 0
    sizes, code, file = Counter[str](), set[str](), ""
    for line in (_SELF / "smaps").read_text(errors="surrogateescape").splitlines():
        words = line.split(None, 5)
        if "-" in words[0]:  # address range, permissions, offset, device, inode, path
            file = words[5] if len(words) == 6 and words[5].startswith("/") else ""
            if "x" in words[1] or file.startswith("/dev/"):
                code.add(file)
        elif words[0] == "Rss:" and file:
            sizes[file] += int(words[1]) * 1024
    return sum(size for file, size in sizes.items() if file not in code)


def _kilobytes(text: str, name: str) -> int:
    return int(text.split(name, 1)[1].split(None, 1)[0]) * 1024
