"""Settings: JSON round trips, overrides, and sentences for what does not exist."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fromnoise import recipes
from fromnoise.cond import Column
from fromnoise.config import Config, RunConfig, from_json, override, to_json
from fromnoise.errors import FromNoiseError
from fromnoise.recipes import WIDTHS, Facts, reach, recipe
from fromnoise.runtime import Runtime

BASE = Config(run=RunConfig(steps=10))
CPU = Runtime(device=torch.device("cpu"), precision="float32", threads=1, why="for a test")


def test_settings_survive_json():
    config = override(BASE, ["net.widths=[32,64,96]", "loss.t_mean=-0.3", "model.target=x0"])
    assert from_json(to_json(config)) == config
    assert config.net.widths == (32, 64, 96) and config.loss.t_mean == -0.3


def test_runs_of_earlier_versions_are_read_and_their_retired_settings_cannot_be_asked_for():
    tree = to_json(BASE)
    tree["flow"]["match_likeness"] = 0.15
    assert from_json(tree) == BASE
    with pytest.raises(FromNoiseError, match=r"No setting 'flow\.match_likeness': did you mean flow\.match_"):
        override(BASE, ["flow.match_likeness=0.15"])


def test_another_network_starts_from_its_own_defaults_wherever_it_stands():
    config = override(BASE, ["net.depth=3", "net.kind=transformer"])
    assert config.net.kind == "transformer" and config.net.depth == 3


def test_a_run_has_one_length():
    assert override(BASE, ["run.budget=60"]).run.steps is None
    with pytest.raises(FromNoiseError, match=r"run\.steps or run\.budget"):
        override(BASE, ["run.steps=null"])


@pytest.mark.parametrize(
    "setting,words",
    [
        ("optim.bacth=3", r"optim\.bacth.*optim\.batch"),
        ("widths=3", r"net\.widths"),
        ("net.depth=3", r"net\.depth"),
        ("optim", "name=value"),
        ("optim.batch=0", r"optim\.batch=0"),
        ("optim.batch=many", r"optim\.batch='many'"),
        ("sample.guidance=NaN", r"sample\.guidance"),
        ("loss.weight=heavy", "velocity"),
        ("net.kind=mlp", "transformer"),
    ],
)
def test_what_does_not_work_is_named(setting, words):
    with pytest.raises(FromNoiseError, match=words):
        override(BASE, [setting])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (4, 64, 64), (5, 12, 20), (3, 37, 91), (1, 200, 200)])
def test_the_recipe_fits_any_picture_and_grows_with_the_budget(shape):
    facts = Facts(examples=1000, held=100, shape=shape, columns=(), std=0.5)
    short, speed = recipe(facts, CPU, budget=10.0, steps=None)
    long, _ = recipe(facts, CPU, budget=1e9, steps=None)
    assert short.net.widths[-1] < long.net.widths[-1] == 2 * max(WIDTHS)
    assert max(shape[1:]) / short.net.patch <= 24
    assert reach(short, facts, speed).examples > 0


def test_a_run_in_steps_does_not_depend_on_the_machine(monkeypatch):
    facts = Facts(examples=1000, held=100, shape=(3, 32, 32), columns=(), std=0.5)
    here = recipe(facts, CPU, budget=None, steps=500)[0]
    assert here == recipe(facts, CPU, budget=None, steps=500)[0]
    for speed in (1e9, 1e14):
        monkeypatch.setattr(recipes, "matmul_speed", lambda runtime, speed=speed: speed)
        assert recipe(facts, CPU, budget=None, steps=500)[0] == here


def test_of_few_long_films_the_last_weights_are_kept_and_nothing_pushes_them_from_their_past():
    facts = Facts(examples=200, held=30, shape=(3, 16, 32, 32), columns=(), std=0.5, medium="video", pieces=True)
    films, _ = recipe(facts, CPU, budget=None, steps=500)
    assert films.run.keep == "last" and films.sample.guidance == 1
    caption = Column(name="caption", kind="tokens", size=50, length=8)
    clips, _ = recipe(replace(facts, columns=(caption,), pieces=False), CPU, budget=None, steps=500)
    assert clips.run.keep == "best" and clips.sample.guidance == 2
