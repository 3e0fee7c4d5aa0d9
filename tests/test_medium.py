"""A new medium is one codec file and one recipe function: genes, whose letters are tokens, from files to a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datafiles import fill

import fromnoise as fn
from fromnoise import appraise
from fromnoise.codec import CODECS, Codec, Medium
from fromnoise.config import Config, SampleConfig, TokensConfig
from fromnoise.data.media import MEDIA
from fromnoise.errors import FromNoiseError, Unreadable
from fromnoise.recipes import RECIPES, Facts, Recipe
from fromnoise.rng import Rng
from fromnoise.types import Data, Shape

LETTERS = b"ACGT"


@dataclass(frozen=True, kw_only=True)
class GeneCodec:
    length: int

    @property
    def shape(self) -> Shape:
        return (self.length,)

    axes, ragged, vocab, legend = ("letters",), False, len(LETTERS), ""

    def store(self, raw: np.ndarray) -> np.ndarray:
        return raw

    def store_many(self, raws: np.ndarray) -> np.ndarray:
        return raws

    def fitted(self, smallest: float, largest: float, some: Sequence[np.ndarray] = ()) -> tuple[GeneCodec, list[str]]:
        return self, []

    def encode(self, stored: np.ndarray | Sequence[np.ndarray], rng: Rng | None = None) -> Data:
        return torch.from_numpy(np.searchsorted(np.frombuffer(LETTERS, np.uint8), np.asarray(stored)))

    def decode(self, x0: Data) -> np.ndarray:
        return np.frombuffer(LETTERS, np.uint8)[x0.clamp(max=len(LETTERS) - 1).numpy()]

    def percept(self, x0: Data) -> torch.Tensor:
        return F.one_hot(x0, len(LETTERS)).movedim(-1, 1).float()

    def preview(self, samples: np.ndarray) -> np.ndarray:
        return np.repeat(samples[:, None, :, None], 3, axis=3).repeat(8, axis=1)

    def save(self, path: Path, sample: np.ndarray, recipe: Mapping[str, object]) -> Path:
        file = path.with_name(path.name + ".gene")
        file.write_bytes(sample.tobytes())
        return file

    def to_json(self) -> dict[str, object]:
        return {"kind": "gene", **asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> GeneCodec:
        return GeneCodec(length=int(str(data["length"])))


@dataclass(frozen=True, kw_only=True)
class GeneHeader:
    length: int
    channels: int = 1
    mode: str = "letters"
    dtype: str = "uint8"

    @property
    def size(self) -> Shape:
        return (self.length,)


class Genes:
    name, formats, suffixes, axes = "gene", "GENE", frozenset({".gene"}), ("letters",)
    header, codec = GeneHeader, GeneCodec

    def sniff(self, head: bytes) -> bool:
        return False

    def probe(self, data: bytes) -> GeneHeader:
        if set(data) - set(LETTERS):
            raise Unreadable("holds other letters than A, C, G and T: correct it")
        return GeneHeader(length=len(data))

    def read(self, data: bytes, header: GeneHeader, codec: GeneCodec) -> np.ndarray:
        return np.frombuffer(data, np.uint8)

    def family(self, header: GeneHeader) -> str:
        return f"{header.length} letters"

    def common(self, headers: Counter[GeneHeader]) -> tuple[GeneHeader, list[str]]:
        return next(iter(headers)), []

    def choose(self, common: GeneHeader, headers: Counter, size: object) -> tuple[GeneCodec, list[str]]:
        return GeneCodec(length=common.length), []

    def remarks(self, header: GeneHeader, codec: GeneCodec, headers: Counter) -> list[str]:
        return []


def genes(config: Config, facts: Facts, width: int) -> Config:
    assert facts.vocab is not None
    net = TokensConfig(vocab=facts.vocab, width=64, depth=2, heads=2, emb=64)
    return replace(config, net=net, sample=SampleConfig(sampler="ddim", steps=8))


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    fn.register(Genes(), genes)
    yield
    for known in (MEDIA, CODECS, RECIPES):
        del known["gene"]


def test_a_medium_of_ones_own_goes_from_files_to_a_report_card(tmp_path, monkeypatch):
    monkeypatch.setattr(appraise, "learn_features", partial(appraise.learn_features, steps=10))
    assert isinstance(Genes(), Medium) and isinstance(GeneCodec(length=3), Codec) and isinstance(genes, Recipe)
    rng = np.random.default_rng(0)
    # Each letter is followed by the next one or itself: what is learned can be seen.
    steps = np.cumsum(rng.integers(0, 2, (300, 12)), axis=1) + rng.integers(0, 4, (300, 1))
    files = {f"{i:03}.gene": bytes(np.frombuffer(LETTERS, np.uint8)[row % 4]) for i, row in enumerate(steps)}
    folder = fill(tmp_path / "set", files | {"bad.gene": b"ACGX", "short.gene": b"ACG"})
    run = fn.train(folder, out=tmp_path / "run", steps=150, settings=["run.held_evaluations=4", "optim.batch=32"])
    x = np.searchsorted(np.frombuffer(LETTERS, np.uint8), run.sample(64))
    assert x.shape == (64, 12) and np.mean((np.diff(x) % 4) <= 1) > 0.75, "half of them would be by chance"
    assert np.array_equal(run.sample(3, seed=1), fn.load(tmp_path / "run").sample(3, seed=1))
    assert {f.name for f in run.dataset().listing.skipped} == {"bad.gene", "short.gene"}
    assert run.evaluate(n=24).row("floor").frechet >= 0
    file = run.generate(1).save(tmp_path / "out") / "000000.gene"
    assert set(file.read_bytes()) <= set(LETTERS)


def test_a_name_or_an_ending_has_one_owner():
    with pytest.raises(FromNoiseError, match="gene"):
        fn.register(Genes(), genes)
