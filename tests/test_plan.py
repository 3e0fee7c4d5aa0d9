"""A plan tells what training would do, keeps to a budget's arithmetic, and leaves nothing behind."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import fromnoise as fn
from fromnoise import checkpoint, forecast, session
from fromnoise.cli import main
from fromnoise.config import Config, RunConfig, from_json
from fromnoise.folder import RunFolder
from fromnoise.forecast import Pace, foresee, likely
from fromnoise.gridsearch import BATCH, NODES, WALKS
from fromnoise.prepare import Choice, Prepared, choose, make_session, open_as
from fromnoise.recipes import Facts, Reach, image_net, watched
from fromnoise.runtime import detect
from fromnoise.session import EMA_CHOICES, PREVIEW_STEPS, searching
from fromnoise.trainer import HELD_LEVELS, Stepped, Trainer

TINY = ["net.widths=[32]", "net.attention=[false]", "net.blocks=1", "net.emb=32", "optim.batch=8"]
TINY += ["run.held_examples=8", "run.precision=float32", "sample.steps=4"]
AS_IT_IS = {"size": None, "columns": None, "channels_first": False}


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(forecast, "MEASURED", 0.1)
    monkeypatch.setattr(forecast, "FACTORS", (2.0,))


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_a_plan_describes_the_run_that_training_then_makes_and_leaves_nothing(tmp_path, monkeypatch):
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir(), temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    plan = fn.plan("digits", steps=16, settings=TINY, seed=5)
    assert not files(here) and not list(temporary.glob("fromnoise*"))  # torch keeps a folder there
    run = fn.train("digits", steps=16, settings=TINY, seed=5)
    facts = run.folder.read_facts()
    assert plan.config == from_json(facts["config"])
    assert plan.parameters == sum(p.numel() for p in run.release.denoiser.parameters())
    assert plan.run.steps == facts["used"]["steps"] and plan.run.examples == facts["used"]["examples"]
    assert plan.run.passes == pytest.approx(128 / facts["data"]["examples"]["train"])
    assert facts["used"]["peak_memory"].keys() == asdict(plan.memory).keys()
    disk = sum(path.stat().st_size for path in files(run.folder.path) if path.is_file()) / 1e6
    assert plan.disk == pytest.approx(disk, rel=0.5)
    assert min(plan.sampling, plan.run.rate, plan.cache) > 0


PACES = st.builds(
    Pace,
    start=st.floats(0, 40),
    settling=st.just(0.0),
    step=st.floats(0.5, 8),
    measure=st.floats(0.05, 6),
    preview=st.floats(0.05, 8),
    save=st.floats(0.01, 5),
    ending=st.just(0.0),
)


@pytest.fixture(scope="module")
def digits() -> tuple[Choice, Prepared]:
    runtime = detect("float32", "cpu")
    dataset = open_as("digits", AS_IT_IS)
    chosen = choose(dataset, runtime, TINY, budget=300.0, steps=None, seed=0)
    nowhere = RunFolder(Path("nowhere"))
    return chosen, Prepared(
        folder=nowhere, dataset=dataset, config=chosen.config, runtime=runtime, resumed=False, notes=[]
    )


@settings(max_examples=8, phases=[Phase.generate])  # a smaller example tells no more
@given(pace=PACES)
def test_a_session_of_a_known_pace_keeps_its_budget_and_takes_the_steps_foreseen(digits, pace):
    """What takes time moves a clock of our own by what the pace says; all else is the real session."""
    chosen, prepared = digits
    now = SimpleNamespace(seconds=pace.start)
    pictures = SimpleNamespace(save_sheet=lambda path: Image.new("RGB", (8, 8)).save(path))
    write = checkpoint.save

    def step(trainer, progress):
        now.seconds += pace.step
        at = trainer.position
        trainer.position = replace(at, step=at.step + 1, updates=at.updates + 1, elapsed=now.seconds)
        return Stepped(step=at.step + 1, progress=progress, seconds=now.seconds, loss=1.0, gradient=1.0, rate=1.0)

    def held_out_loss(*_):
        now.seconds += pace.measure
        return [(level, 1.0) for level in HELD_LEVELS]

    def generate(*_, batch):
        now.seconds += pace.preview
        return pictures

    def save(path, *what):
        write(path, *what)
        now.seconds += pace.save if path.name == "last.safetensors" else 0.0

    def search(*_, priors, seconds):
        batch = pace.preview * BATCH * WALKS * NODES * 2 / (chosen.config.run.preview_examples * PREVIEW_STEPS)
        now.seconds += max(0, min(priors // BATCH, int(seconds // batch))) * batch
        return ()

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(Trainer, "_step", step)
        patch.setattr(session, "held_out_loss", held_out_loss)
        patch.setattr(session, "generate", generate)
        patch.setattr(checkpoint, "save", save)
        patch.setattr(session, "search", search)
        patch.setattr(time, "perf_counter", lambda: now.seconds)
        running = make_session(replace(prepared, folder=RunFolder(Path(folder))), begun=0.0)
        for _ in running.run():
            pass
    assert now.seconds == pytest.approx(300.0, rel=0.05)
    foreseen = foresee(chosen, replace(pace, ending=running.ending()))
    assert foreseen.steps == pytest.approx(running.trainer.position.step, rel=0.12)


@given(pace=PACES, budget=st.floats(1, 1e5), factor=st.floats(1.1, 10))
@example(Pace(start=0.0, settling=0.0, step=1.0, measure=1.0, preview=1.0, save=1.0, ending=0.0), 32.0, 2.0)
def test_more_time_never_buys_fewer_steps_and_steps_take_their_time(digits, pace, budget, factor):
    chosen, _ = digits

    def of(**length):
        run = replace(chosen.config.run, **length)
        return foresee(replace(chosen, config=replace(chosen.config, run=run)), pace)

    def without_search(outlook):  # a budget cuts the search of grids short, steps do not
        return outlook.seconds - math.prod(searching(outlook.config, pace.preview))

    short, long = of(budget=budget), of(budget=factor * budget)
    assert short.seconds == budget and short.steps <= long.steps
    assert (short.steps == 0) == (pace.start >= budget)
    counted = of(budget=None, steps=max(1, short.steps))
    assert counted.seconds >= pace.start + counted.steps * pace.step
    if short.steps > chosen.config.run.held_evaluations:  # there and back, but for what falls due at the very end
        tolerance = pace.step + pace.preview + pace.save + 1e-6
        assert without_search(counted) == pytest.approx(without_search(short), abs=tolerance)


@given(examples=st.floats(500, 1e7), rate=st.floats(0.5, 1e4), held=st.integers(1, 5000))
def test_watching_a_run_takes_a_bounded_share_of_its_work(examples, rate, held):
    facts = Facts(examples=1000, held=held, shape=(3, 32, 32), columns=(), std=0.5)
    config = Config(run=RunConfig(budget=examples / rate, preview_first=40, preview_every=max(60, examples / rate / 5)))
    run = watched(config, facts, Reach(rate=rate, examples=examples)).run
    measuring = (run.held_evaluations + len(EMA_CHOICES)) * len(HELD_LEVELS) * run.held_examples / 3
    previews = 2 + max(0, examples / rate - 40) / run.preview_every
    showing = previews * PREVIEW_STEPS * run.preview_examples / 3
    # The fewest that say anything are affordable in runs of minutes, not of seconds.
    assert measuring <= max(0.05 * examples, 120) and showing <= max(0.03 * examples, 100)
    assert 1 <= run.held_examples <= held and run.preview_examples >= 4
    if examples > 1e5:
        assert (run.held_evaluations, run.held_examples, run.preview_examples) == (16, min(held, 64), 32)


SCRIPT = """
import json, sys, tempfile
import numpy as np, torch
import fromnoise as fn
from fromnoise import forecast
from fromnoise.memory import give_back, peak, reset_peak
from fromnoise.runtime import reuse_memory

cpu, sizes = torch.device("cpu"), {}
with tempfile.NamedTemporaryFile() as file:
    file.truncate(64_000_000)
    reset_peak(cpu)
    before = peak(cpu)
    sizes["before"] = before.process
    block = np.ones(80_000_000, np.uint8)
    sizes["block"] = peak(cpu).process
    mapped = np.memmap(file.name, np.uint8, "r")
    mapped[::1024].any()
    both = peak(cpu)
    sizes |= {"process": both.process, "data": both.data - before.data}
    del mapped, block
def now():
    reset_peak(cpu)
    return peak(cpu).process
sizes["reset"] = now()
reuse_memory()
blocks = [bytearray(100_000) for _ in range(500)]
del blocks
sizes["kept"] = now()
give_back()
sizes["given back"] = now()
forecast.MEASURED, forecast.FACTORS = 0.1, ()
for batch in (8, 512):
    plan = fn.plan("digits", steps=50, settings=[*sys.argv[1:], f"optim.batch={batch}"])
    sizes[str(batch)] = plan.memory.process
print(json.dumps(sizes))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems cannot reset the peak")
def test_memory_is_that_of_the_run_and_grows_with_the_batch():
    """In a fresh process, as memory that earlier tests have freed would hide what is asked for now."""
    command = [sys.executable, "-c", SCRIPT, *TINY]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    sizes = json.loads(said.stdout)
    assert sizes["block"] - sizes["before"] == pytest.approx(80, rel=0.1)
    assert sizes["data"] == pytest.approx(64, rel=0.05)
    assert sizes["process"] == pytest.approx(sizes["block"], abs=5)
    assert sizes["reset"] < sizes["block"] - 40
    assert sizes["given back"] < sizes["kept"] - 40 or sizes["kept"] < sizes["reset"] + 5  # the latter without glibc
    assert sizes["512"] > sizes["8"] + 20


@given(examples=st.integers(0, 10**7), more=st.integers(0, 10**7))
def test_what_is_likely_stands_in_the_table_and_never_falls(examples, more):
    for kind, words in likely(examples).items():
        order = [what for _, what in forecast.SEEN[kind]]
        steps = [f"less than {order[0]}", *order, f"at least {order[-1]}"]
        assert steps.index(words) <= steps.index(likely(examples + more)[kind])


def test_the_command_prints_a_plan_or_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sets = [part for setting in TINY for part in ("--set", setting)]

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["fromnoise", "plan", *words])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    code, out, _ = call("digits", "--budget", "5m", *sets)
    assert code == 0
    for heading in ("network", "rate", "memory", "sampling", "disk", "5m", "10m"):
        assert any(line.startswith(heading + " ") for line in out.splitlines()), out
    for words, remedy in (
        (["nowhere"], "nowhere"),
        (["digits", "--budget", "5m", "--steps", "9"], "not both"),
        (["digits", "--budget", "soon"], "90s, 10m or 2h"),
        (["digits", "--columns", "colour"], "label"),
        (["digits", "--set", "optim.bacth=3"], "optim.batch"),
    ):
        code, out, err = call(*words)
        assert code == 2 and "Traceback" not in err and remedy in err.strip().splitlines()[-1]
    assert not files(tmp_path)


@pytest.mark.parametrize("shape, masks", [((1, 28, 28), False), ((4, 32, 32), False), ((3, 64, 64), True)])
def test_noise_goes_out_by_a_mask_where_patches_are_crowded(shape, masks):
    assert image_net(shape, 64).masks == masks
