"""Where a run computes: device, precision, ranks, and the allocator's habits.

Everything here is chosen at run time on the machine at hand, and said in `Runtime.why`.  Several processes are started
by torchrun, whose environment (RANK, WORLD_SIZE, LOCAL_RANK) is read; with one process every collective is a no-op.

The convention for several ranks: each rank divides the sum of its own examples' losses by the *global* batch, so that
the sum over ranks is the global mean.  Losses, gradients and counts are therefore always combined by SUM, and a run of
N ranks follows the run of one rank at the same global batch up to the order of float32 additions.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fromnoise.types import FromNoiseError

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The machine as this process uses it; `why` says in one line how device and precision were chosen."""

    device: torch.device
    precision: Precision
    threads: int
    rank: int = 0
    world: int = 1
    why: str = ""

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and speaks to the user."""
        return self.rank == 0

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32


def detect(precision: str | None = None, device: str | None = None) -> Runtime:
    """The best device that is there and its faster precision, unless the caller names them.

    Under torchrun it also joins the process group (nccl on CUDA, gloo elsewhere); all ranks take rank 0's precision.
    Raises FromNoiseError for a precision that is unknown or a device that is not there.
    """
    if precision not in (None, *get_args(Precision)):
        raise FromNoiseError(f"Unknown precision {precision!r}: use one of {', '.join(get_args(Precision))}.")
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    place = best_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
        # Left to the interpreter's end, gloo's threads abort the process and torchrun calls a good run failed.
        atexit.register(dist.destroy_process_group)
    threads = torch.get_num_threads()
    if precision is not None:
        narrow, why = precision == "bfloat16", f"{precision} as asked"
    else:
        narrow, why = _prefers_bfloat16(place) if rank == 0 else (False, "")
        ours = Runtime(device=place, precision="float32", threads=threads, rank=rank, world=world)
        # Two ranks may measure differently under load; one that computed in another precision would drift apart.
        narrow = bool(from_main(float(narrow), ours))
    chosen: Precision = "bfloat16" if narrow else "float32"
    why = f"{place.type}, {threads} thread{'s' * (threads != 1)}, {why}" if place.type == "cpu" else f"{place}, {why}"
    return Runtime(device=place, precision=chosen, threads=threads, rank=rank, world=world, why=why)


def autocast(runtime: Runtime) -> torch.autocast:
    """Network code under it computes in bfloat16 over float32 masters; does nothing where float32 was chosen."""
    return torch.autocast(runtime.device.type, dtype=torch.bfloat16, enabled=runtime.precision == "bfloat16")


def all_sum_gradients(params: Iterable[nn.Parameter], runtime: Runtime) -> None:
    """Replaces each `p.grad` by its sum over ranks: the gradient of the global mean loss, by the convention above.

    One flattened float32 all-reduce.  A parameter that no rank used keeps `grad is None`, as with one process; one that
    only some ranks used counts as zero on the others.
    """
    if runtime.world == 1:
        return
    params = list(params)
    used = torch.tensor([float(p.grad is not None) for p in params], device=runtime.device)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    flat = torch.cat([part.reshape(-1).float() for part in parts] + [used])
    dist.all_reduce(flat)
    sums, used = flat[: -len(params)], flat[-len(params) :]
    for p, total, count in zip(params, sums.split([p.numel() for p in params]), used.tolist(), strict=True):
        if count:
            grad = torch.empty_like(p) if p.grad is None else p.grad
            p.grad = grad.copy_(total.view(p.shape))


def all_sum(x: Tensor, runtime: Runtime) -> Tensor:
    """The sum of `x` over ranks, on every rank; `x` itself with one process."""
    if runtime.world == 1:
        return x
    total = x.detach().to(runtime.device, copy=True)
    dist.all_reduce(total)
    return total.to(x.device)


def from_main(value: float, runtime: Runtime) -> float:
    """Rank 0's `value` on every rank: for what only one clock may decide, such as the end of a budget."""
    wide = torch.float32 if runtime.device.type == "mps" else torch.float64
    return all_sum(torch.tensor(value if runtime.is_main else 0.0, dtype=wide), runtime).item()


def barrier(runtime: Runtime) -> None:
    """Returns once every rank has come here."""
    all_sum(torch.zeros(()), runtime)


def reuse_memory() -> bool:
    """Tells glibc to keep freed memory, since a training step frees and asks again for the same large buffers.

    By default every block above 32 MiB is a fresh mapping whose pages are zeroed on first touch; kept blocks made SiLU
    over 50 MB 3.4 times and a convolutional training step 1.8 times faster, for a quarter more resident memory.  Blocks
    come to rest in place after some ten steps of fixed shapes.
    Returns whether it took effect: False on macOS, Windows and musl, where nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(mmap_threshold, 1 << 30)) and bool(mallopt(trim_threshold, -1))


def best_device(name: str | None = None, local_rank: int = 0) -> torch.device:
    """The device called `name`, or the fastest kind that is there.  Raises FromNoiseError for one that is not."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        name = next(kind for kind, found in there.items() if found)
    if not there.get(name.split(":")[0]):
        found = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise FromNoiseError(f"No device {name!r} on this machine: use one of {found}.")
    return torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)


def _prefers_bfloat16(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return native, "bfloat16 since it is native here" if native else "float32 since bfloat16 is not native here"
    if device.type == "mps":
        return False, "float32 as the safe choice"
    ratio = _bfloat16_speed()
    # Autocast also pays for casts, so a small lead in products is a loss in training.
    narrow = ratio > 1.5
    return narrow, f"{'bfloat16' if narrow else 'float32'} since bfloat16 products are {_speed(ratio)} here"


def _speed(ratio: float) -> str:
    """How many times faster, as precisely as it was measured: 1.3, 13, 130."""
    much = float(f"{max(ratio, 1 / ratio):.2g}")
    if much == 1:
        return "as fast as float32"
    return f"{much:,g} times {'faster' if ratio > 1 else 'slower'}"


def _bfloat16_speed(size: int = 384, limit: float = 0.15) -> float:
    """How many times faster a bfloat16 matrix product is than a float32 one, best of a few, within `limit` seconds."""
    wide = torch.ones(size, size)
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    end = time.perf_counter() + limit
    for _ in range(20):
        for dtype in best:
            x = wide.to(dtype)
            start = time.perf_counter()
            torch.mm(x, x)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return best[torch.float32] / best[torch.bfloat16]
