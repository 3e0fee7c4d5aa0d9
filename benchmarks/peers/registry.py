"""The peers by name.  Their libraries are imported only when one of them is asked for."""

from __future__ import annotations

from importlib.util import find_spec

from benchmarks.peers.peer import Peer
from fromnoise.errors import FromNoiseError
from fromnoise.runtime import Precision
from fromnoise.types import Shape

NEEDS = {"shipped": "diffusers", "tuned": "diffusers", "small": "smalldiffusion"}
RATES = {"tuned": (3e-4, 6e-4, 1e-3, 2e-3)}  # tried in short runs before the long one


def build(
    name: str,
    shape: Shape,
    examples: int,
    *,
    lr: float | None = None,
    precision: Precision = "float32",
    tiny: bool = False,
) -> Peer:
    """The peer `name` for pictures of `shape` (c, h, w), untrained; `lr` and `precision` are for those that are tuned.

    Its weights come from torch's shared stream.  Raises FromNoiseError where its library is not installed.
    """
    if name not in NEEDS:
        raise FromNoiseError(f"No peer {name!r}: use {', '.join(NEEDS)}.")
    if find_spec(NEEDS[name]) is None:
        raise FromNoiseError(f"The peer {name!r} needs {NEEDS[name]}: install it as benchmarks/README.md says.")
    if name == "small":
        from benchmarks.peers.small import SmallDiffusionPeer

        return SmallDiffusionPeer(shape, tiny=tiny)
    from benchmarks.peers import diffusers_unet

    if name == "shipped":
        return diffusers_unet.shipped(shape, examples, tiny=tiny)
    return diffusers_unet.tuned(shape, lr=lr or RATES["tuned"][0], precision=precision, tiny=tiny)
