"""fromnoise: your data in, a diffusion model you own and can prove things about, out.

import fromnoise as fn
run = fn.train("photos/", budget="10m")
run.sample(16, seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fromnoise.errors import FromNoiseError, TrainingStopped
from fromnoise.version import __version__

if TYPE_CHECKING:
    from fromnoise.api import Run, load, train

__all__ = ["FromNoiseError", "Run", "TrainingStopped", "__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `fromnoise --help` does not wait for torch.
    if name in ("train", "load", "Run"):
        from fromnoise import api

        return getattr(api, name)
    raise AttributeError(f"module 'fromnoise' has no attribute {name!r}")
