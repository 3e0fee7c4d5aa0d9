"""A simulated flow learned and drawn anew: are the samples turbulence of the same spectrum?

    python examples/flow_field.py [SECONDS]

Vorticity w of an incompressible flow on a periodic square, in two dimensions, decaying from random eddies:

    dw/dt + u·∇w = nu·∇²w,    u = (dψ/dy, -dψ/dx),    ∇²ψ = -w,

by Fourier modes (pseudo-spectral; products freed of aliases by the 2/3 rule, Orszag 1971), third-order Runge-Kutta (Shu
and Osher 1988) and viscosity exact in each stage's step.  Each of the independent flows gives one moment, after its
eddies have merged for a while.  They are written to flow/vorticity.npy as float32 (n, y, x) in 1/s, and learned.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import fromnoise as fn

SIZE, VISCOSITY, STEP = 64, 5e-3, 0.02  # grid points along 2π; m²/s; s
SECONDS = 3.0  # that each flow is followed for


def simulate(flows: int, seed: int = 0) -> np.ndarray:
    """Vorticity (flows, SIZE, SIZE) float32, 1/s."""
    k = np.fft.fftfreq(SIZE, 1 / SIZE)
    ky, kx = np.meshgrid(k, k[: SIZE // 2 + 1], indexing="ij")
    square = kx**2 + ky**2
    inverse = np.divide(1, square, out=np.zeros_like(square), where=square > 0)
    kept = np.maximum(np.abs(kx), np.abs(ky)) < SIZE / 3

    def real(z: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(z, (SIZE, SIZE))

    def carried(z: np.ndarray) -> np.ndarray:
        """-u·∇w of w's modes, without aliases."""
        psi = z * inverse
        product = real(1j * ky * psi) * real(1j * kx * z) - real(1j * kx * psi) * real(1j * ky * z)
        return -np.fft.rfft2(product) * kept

    # Random phases with most energy at wavenumbers about 4, and a speed of 1 m/s on average.
    noise = np.fft.rfft2(np.random.default_rng(seed).normal(size=(flows, SIZE, SIZE)))
    z = noise * square * np.exp(-square / 16) * kept
    z *= 1 / np.sqrt((real(1j * ky * z * inverse) ** 2 + real(1j * kx * z * inverse) ** 2).mean((1, 2)))[:, None, None]
    whole, half = np.exp(-VISCOSITY * square * STEP), np.exp(-VISCOSITY * square * STEP / 2)
    for _ in range(round(SECONDS / STEP)):
        first = whole * (z + STEP * carried(z))
        second = 0.75 * half * z + 0.25 / half * (first + STEP * carried(first))
        z = whole * z / 3 + 2 / 3 * half * (second + STEP * carried(second))
    return real(z).astype(np.float32)


def say(event: object) -> None:
    if isinstance(event, str):
        print(event)


def main(seconds: float | None = 240, steps: int | None = None, folder: str = "flow", settings: tuple = ()) -> fn.Run:
    place = Path(folder)
    place.mkdir(exist_ok=True)
    data = place / "vorticity.npy"
    if not data.exists():
        np.save(data, simulate(1000))
    run = fn.train(data, out=place / "run", budget=seconds, steps=steps, settings=settings, watch=say)
    run.generate(16).save(place / "samples")
    for sentence in run.evaluate(watch=say).sentences:
        print(sentence)
    (spectrum,) = json.loads(run.folder.evaluation.read_text())["physics"]
    for wave, ours, held, real in spectrum["spectrum"]:
        print(f"k = {wave:5.1f}   samples {ours / real - 1:+7.1%}   held-out data {held / real - 1:+7.1%}")
    return run


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 240)
