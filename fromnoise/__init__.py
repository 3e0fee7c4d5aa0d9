"""fromnoise: your data in, a diffusion model you own and can prove things about, out.

import fromnoise as fn
run = fn.train("photos/", budget="10m")
run.sample(16, seed=0)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fromnoise.errors import FromNoiseError, TrainingStopped
from fromnoise.version import __version__

# Threads that wait for each other by spinning make torch several times slower as soon as anything else runs on the
# machine, and threads that sleep at once make it a third slower on an idle one.  So they spin for some microseconds,
# about as long as lies between two operations, and sleep then.  Has no effect once torch is loaded, or if already set.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "6000")

if TYPE_CHECKING:
    from fromnoise.api import Run, load, train
    from fromnoise.forecast import plan
    from fromnoise.recipes import register

__all__ = ["FromNoiseError", "Run", "TrainingStopped", "__version__", "load", "plan", "register", "train"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `fromnoise --help` does not wait for torch.
    if name in ("train", "load", "Run"):
        from fromnoise import api

        return getattr(api, name)
    if name == "plan":
        from fromnoise import forecast

        return forecast.plan
    if name == "register":
        from fromnoise import recipes

        return recipes.register
    raise AttributeError(f"module 'fromnoise' has no attribute {name!r}")
