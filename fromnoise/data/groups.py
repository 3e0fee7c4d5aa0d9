"""Groups found in data that has no classes: a condition that needs no labels.

A model of everything at once must first decide what to make.  Told which of k groups an example belongs to, it spends
its capacity on how members differ, and sampling draws a group as often as it occurs, so that what is sampled is still
the whole (self-guided and self-conditioned diffusion: Hu et al. 2023, Li et al. 2024).  The groups are k-means of the
examples' leading principal components, seen small.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor

from fromnoise.codec import Moving
from fromnoise.cond import Column
from fromnoise.data.cache import Dataset
from fromnoise.data.columns import UNCONDITIONAL
from fromnoise.data.encoded import Encoded
from fromnoise.data.listing import Listing
from fromnoise.data.store import default_cache, keep

NAME = "group"
_MOST, _FEWEST = 256, 4
_SIDE = 16  # of the picture that groups are found in
_COMPONENTS = 64
_FITTED = 20_000  # training examples that components and centres are found from
_CHUNK = 4096


def propose(examples: int) -> int:
    """How many groups so many training examples are worth: 0.8·√n, and none where that is less than 4."""
    k = min(_MOST, round(0.8 * examples**0.5))
    return k if k >= _FEWEST else 0


def of_data(listing: Listing, asked: Sequence[str]) -> list[str]:
    """The columns of `asked` that the data itself must have: all but "group", unless that is one of its own."""
    own = {profile.name for profile in listing.profiles}
    return [name for name in asked if name != NAME or NAME in own]


def with_groups(dataset: Dataset, asked: Sequence[str] | None) -> Dataset:
    """The data set with groups as a condition, if the columns that were `asked` for are that, or none of its own are.

    A column "group" that comes with the data goes before.
    """
    if any(profile.name == NAME for profile in dataset.listing.profiles):
        return dataset
    if len(dataset.codec.shape) != 3 and not isinstance(dataset.codec, Moving):  # neither pictures nor clips of them
        return dataset
    k = propose(len(dataset.indices("train")))
    if asked is not None and NAME in asked:
        return grouped(dataset, max(k, _FEWEST))
    return grouped(dataset, k) if asked is None and not dataset.columns and k else dataset


def grouped(dataset: Dataset, k: int) -> Dataset:
    """The data set with the column "group", of at most `k` groups, the largest first; found once and then cached."""
    file = default_cache() / "groups" / f"{dataset.fingerprint}-{'x'.join(map(str, dataset.codec.shape))}-{k}.npy"
    try:
        values = np.load(file)
    except (OSError, ValueError):
        values = find_groups(dataset, k)
        keep(file, partial(np.save, arr=values))
    labels = tuple(map(str, range(int(values.max()) + 1)))
    if len(labels) == 1:
        return replace(dataset, notes=(*dataset.notes, "groups: all examples are of one kind, so that there are none."))
    column = Column(name=NAME, kind="class", labels=labels)
    found = Encoded(column=column, values=values, present=np.ones(len(values), dtype=bool))
    # Of its own columns it is unconditional, and of groups it is not.
    others = [note for note in dataset.notes if not note.startswith(f"{UNCONDITIONAL},")]
    told = [note.replace(f"{UNCONDITIONAL}: ", "no column is a condition: ") for note in others]
    note = f"groups: {len(labels)} kinds of examples, found without labels, are the condition; --columns none for none."
    return replace(
        dataset,
        columns=(*dataset.columns, column),
        encoded=(*dataset.encoded, found),
        notes=(*told, note),
    )


def find_groups(dataset: Dataset, k: int) -> np.ndarray:
    """(n,) int64, the group of every example; components and centres are those of the training split alone."""
    rng = np.random.default_rng(0)
    fitted = np.sort(rng.permutation(dataset.indices("train"))[:_FITTED])
    x = torch.cat(list(_small(dataset, fitted)))
    mean = x.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        components = torch.pca_lowrank(x - mean, q=min(_COMPONENTS, *x.shape), center=False, niter=4)[2]
    with warnings.catch_warnings():
        # Of few distinct examples some groups are empty, and of none that differ there are no distances to draw by.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        centres, first = kmeans2(((x - mean) @ components).numpy(), min(k, len(x)), iter=20, minit="++", rng=rng)
    order = np.argsort(-np.bincount(first, minlength=len(centres)), kind="stable")
    centres = centres[order][: len(np.unique(first))]  # without the empty ones
    everyone = _small(dataset, np.arange(len(dataset)))
    return np.concatenate([vq(((part - mean) @ components).numpy(), centres)[0] for part in everyone]).astype(np.int64)


def _small(dataset: Dataset, indices: np.ndarray) -> Iterator[Float[Tensor, "b d"]]:
    """The examples no more than _SIDE wide, a chunk at a time."""
    for start in range(0, len(indices), _CHUNK):
        x = dataset.codec.percept(dataset.x0(indices[start : start + _CHUNK]))
        height, width = x.shape[2:]
        yield F.adaptive_avg_pool2d(x, (min(height, _SIDE), min(width, _SIDE))).flatten(1)
