"""A column of captions as vectors by a pretrained encoder, each distinct caption read once and then cached."""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np

from fromnoise.cond import Column
from fromnoise.data.columns import Profile
from fromnoise.data.encoded import Coded, Encoded, fitted_to, missing
from fromnoise.data.store import default_cache, keep
from fromnoise.data.textencoder import TextEncoder, at_home, text_encoder
from fromnoise.data.texts import Texts
from fromnoise.errors import FromNoiseError


def encode(profile: Profile, values: Texts, train: np.ndarray, cache: Path | None = None) -> Encoded:
    """The column as a condition of kind "embedding"; `train` (n,) bool says which examples its mean and spread are of.

    Raises FromNoiseError where the encoder cannot be read.
    """
    encoder = text_encoder(profile.encoder)
    table = _read(encoder, values, cache or default_cache())
    there = np.array([bool(word.strip()) for word in values.words])
    present = there[values.codes]
    if not present.any():
        raise FromNoiseError(f"No example has a caption in column {profile.name!r}: leave the column out.")
    used = np.unique(values.codes[fitted_to(present, train)])
    column = Column(
        name=profile.name,
        kind="embedding",
        size=encoder.size,
        mean=float(table[used].mean()),
        std=float(table[used].std()) or 1.0,
        encoder=at_home(profile.encoder),
        digest=encoder.digest,
    )
    standard = ((table - column.mean) / column.std).astype(np.float16)
    about = f"{column.name}: read by the encoder {column.encoder}, {column.size} numbers each; it is not trained along."
    notes = (about, *_longer(column, encoder, values), *missing(column, present, "caption"))
    return Encoded(column=column, values=Coded(standard, values.codes), present=present, notes=notes)


def _read(encoder: TextEncoder, values: Texts, cache: Path) -> np.ndarray:
    digest = blake2b(encoder.digest.encode(), digest_size=16)
    for word in values.words:
        digest.update(word.encode() + b"\0")
    file = cache / "captions" / f"{digest.hexdigest()}.npy"
    if file.exists():
        return np.load(file)
    table = encoder(values.words)
    keep(file, partial(np.save, arr=table))
    return table


def _longer(column: Column, encoder: TextEncoder, values: Texts) -> list[str]:
    long = np.array(encoder.long(values.words))[values.codes]
    if not long.any():
        return []
    return [f"{column.name}: {long.sum():,} with more than {encoder.longest} symbols, the first of which count."]
