"""Random orders of n things that are never written down, so that one place of ten million costs what one of ten does.

A Feistel network on pairs x = l + a·r of Z_a × Z_b, a = ⌈√n⌉, b = ⌈n/a⌉, whose rounds are, in turn,

    l ← l + F_i(r) mod a,        r ← r + F_i(l) mod b,

each with an inverse, hence a permutation of the a·b pairs (Black and Rogaway 2002, the generalised Feistel cipher).
The few pairs from n on are permuted again until they fall below n (their "cycle walking"), which they do, because the
cycle of a number below n leads back to it.  F_i is the finaliser of SplitMix64 (Steele, Lea and Flood 2014), keyed.
"""

from __future__ import annotations

import math

import numpy as np

_ROUNDS = 16  # with 8 some orders of five things are a fifth more likely than others


def shuffled(places: np.ndarray, n: int, *entropy: int) -> np.ndarray:
    """(k,) places of 0 … n-1 -> (k,) int64, what stands there in the random order that `entropy` names."""
    assert n > 0 and (len(places) == 0 or 0 <= places.min() <= places.max() < n), (places, n)
    keys = np.random.SeedSequence(entropy).generate_state(_ROUNDS, np.uint64)
    a = max(1, math.isqrt(n - 1) + 1)
    b = -(-n // a)
    x = _permuted(places.astype(np.uint64), keys, np.uint64(a), np.uint64(b))
    while (beyond := x >= n).any():
        x[beyond] = _permuted(x[beyond], keys, np.uint64(a), np.uint64(b))
    return x.astype(np.int64)


def _permuted(x: np.ndarray, keys: np.ndarray, a: np.uint64, b: np.uint64) -> np.ndarray:
    r, left = np.divmod(x, a)
    for i, key in enumerate(keys):
        if i % 2 == 0:
            left = (left + _mixed(r + key) % a) % a
        else:
            r = (r + _mixed(left + key) % b) % b
    return left + a * r


def _mixed(x: np.ndarray) -> np.ndarray:
    """64 bits in which every bit of x turns about half; uint64 wraps around, as it should."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
