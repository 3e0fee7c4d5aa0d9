"""Numbers as colours: dark to light in equal steps to the eye, so that equal differences look equal."""

from __future__ import annotations

import numpy as np

# From black over violet and orange to white.
_PALETTE = ("000004", "280b54", "65156e", "9f2a63", "d44842", "f57d15", "fac127", "fcffa4")


def coloured(level: np.ndarray) -> np.ndarray:
    """Levels from 0 to 1, any shape -> RGB (…, 3) uint8."""
    palette, steps = np.array([list(bytes.fromhex(c)) for c in _PALETTE]), np.linspace(0, 1, len(_PALETTE))
    return np.rint(np.stack([np.interp(level, steps, channel) for channel in palette.T], -1)).astype(np.uint8)
