"""Files of data for tests: pictures of noise, folders, archives; and what a set of them holds."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from fromnoise.data.cache import Dataset, open_dataset
from fromnoise.data.scan import Listing

RNG = np.random.default_rng(0)


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def png(pixels: np.ndarray) -> bytes:
    """A PNG of 8 or 16 bits and 1 to 4 channels, written from the specification."""
    height, width, channels = pixels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def many(n: int, *shape: int) -> dict[str, bytes]:
    return {f"{i:03}.png": png(noise(*(shape or (8, 8, 3)))) for i in range(n)}


def pack(kind: str, files: dict[str, bytes], path: Path) -> Path:
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            for name, data in sorted(files.items()):
                info = tarfile.TarInfo(name if name.startswith(("/", "..")) else f"./{name}")  # as `tar c .` does
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def opened(source, tmp_path: Path, **options) -> Dataset:
    return open_dataset(source, cache_dir=tmp_path / "cache", **options)


def samples(data: Dataset) -> np.ndarray:
    return data.codec.decode(data.x0(np.arange(len(data))))


def reasons(listing: Listing) -> dict[str, str]:
    return {file.name: file.reason for file in listing.skipped}
