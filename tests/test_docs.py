"""The documents: their diagrams are exact, their pictures show what they say, and their links lead somewhere."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import fromnoise as fn
from docs.diagrams import Mixture, mixture, quantiles, walk
from docs.figures import NOISED, WEIGHTS, class_column, guided, labelled, noising, way
from docs.headline import MEASURED, TITLES
from fromnoise.build import build_denoiser
from fromnoise.codec import ImageCodec
from fromnoise.cond import Column, Cond
from fromnoise.config import Config, RunConfig, SampleConfig, UNetConfig
from fromnoise.data.scan import BUNDLED
from fromnoise.release import save_release
from fromnoise.stepper import DDIM, Heun

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
CODEC = ImageCodec.full_range(height=4, width=4, channels=1, alpha=False, dtype="uint8")


@pytest.fixture(scope="module")
def data() -> Mixture:
    return mixture([[-1.0, 0.3], [0.8, 0.0]], [0.15, 0.4], [0.3, 0.7])


@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_the_mixture_obeys_tweedies_formula(data, time, seed):
    """(1-t)·E[x0 | x_t] = x_t + t²·∇log p_t(x_t), whatever the law of x0."""
    x = (2 * torch.randn(5, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).requires_grad_()
    t = torch.full((5, 1), time, dtype=torch.float64)
    (score,) = torch.autograd.grad(data.density(x, t).log().sum(), x)
    torch.testing.assert_close((1 - t) * data(x, t, Cond.empty(5)).x0, x + t**2 * score)


def test_the_exact_flow_carries_noise_to_the_mixture():
    one = mixture([[-1.0], [0.8]], [0.15, 0.3], [0.4, 0.6])
    states, evaluations = walk(one, Heun(), 64, quantiles(401))
    ends = states[-1, :, 0]
    assert evaluations == 2 * 63 + 1
    assert bool((ends.diff() > 0).all()), "paths of one dimension never cross"
    assert float((ends < -0.3).double().mean()) == pytest.approx(0.4, abs=0.01)
    assert float(ends.mean()) == pytest.approx(0.4 * -1.0 + 0.6 * 0.8, abs=0.01)
    coarse, _ = walk(one, DDIM(), 4, quantiles(401))
    fine, _ = walk(one, DDIM(), 16, quantiles(401))
    assert (coarse[-1] - states[-1]).abs().mean() > 2 * (fine[-1] - states[-1]).abs().mean()


def test_noising_starts_at_the_example_and_ends_at_the_same_noise_for_all_of_a_row():
    stored = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1), dtype=np.uint8)
    x0 = CODEC.encode(stored)
    page = np.asarray(noising(CODEC, x0, (0.0, 1.0)))
    other = np.asarray(noising(CODEC, -x0, (0.0, 1.0)))
    first = page[24:88, 4:68]
    np.testing.assert_array_equal(first, stored[0].repeat(16, 0).repeat(16, 1).repeat(3, 2))
    np.testing.assert_array_equal(page[24:, 72:], other[24:, 72:])


def test_words_cover_no_pixel_of_the_page():
    page = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8))
    whole = labelled(page, ["a", "b"], ["a longer word", "c"])
    np.testing.assert_array_equal(np.asarray(whole)[-50:, -80:], np.asarray(page))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> fn.Run:
    """A run of an untrained net with a condition that changes its answer."""
    net = UNetConfig(widths=(32,), blocks=1, patch=1, attention=(False,), emb=32)
    config = replace(Config(run=RunConfig(steps=1)), net=net, sample=SampleConfig(steps=2, sampler="ddim"))
    column = Column(name="kind", kind="class", labels=("rare", "frequent", "common"))
    denoiser = build_denoiser(config, (column,), 1)
    for weight in denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(weight.numel()))
    codes = torch.tensor([1] * 5 + [2] * 3 + [0])
    rows = Cond({"kind": codes}, {"kind": torch.ones(9, dtype=torch.bool)}, 9)
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_release(path, denoiser, CODEC, (column,), rows, config, loss=0.0)
    return fn.load(path)


def test_guided_samples_stand_by_class_and_weight_the_most_frequent_class_first(run):
    column = class_column(run.release)
    assert column is not None
    page = guided(run, column, classes=2, n=2)
    block = np.asarray(page)[20:, -3 * 140 :]
    assert (block[4:68] != block[72:136]).any() and (block[:, 4:136] != block[:, 144:276]).any(), "all look alike"
    for i, label in enumerate(("frequent", "common")):
        for j, weight in enumerate(WEIGHTS):
            pictures = run.generate(2, guidance=weight, where={"kind": label}).pictures()
            for k, picture in enumerate(pictures):
                top, left = 4 + 68 * i, 140 * j + 4 + 68 * k
                np.testing.assert_array_equal(block[top : top + 64, left : left + 64][::16, ::16], picture)


def test_the_strip_has_a_column_a_step_and_two_rows_a_sample(run):
    inside = np.asarray(way(run, n=2, steps=3))[20:, -(4 + 3 * 68) :]
    np.testing.assert_array_equal(inside, np.asarray(run.strip(2, steps=3)))


def test_the_emoji_that_are_shown_exist():
    with zipfile.ZipFile(BUNDLED["emoji"]) as archive:
        rows = csv.DictReader(io.TextIOWrapper(archive.open("metadata.csv"), "utf-8"))
        assert set(NOISED) <= {row["text"] for row in rows}


def test_what_the_headline_plots_show_stands_in_the_benchmarks():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    with MEASURED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["panel"] for row in rows} == set(TITLES)
    missing = [row for row in rows if not re.search(rf"(?<![\d.]){re.escape(row['y'])}(?![\d])", text)]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
