"""Students as users meet them; the laws of what they learn are in `test_walks.py` and `test_matching.py`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fromnoise as fn
from fromnoise import checkpoint
from fromnoise.build import build_grid
from fromnoise.cli import app, main
from fromnoise.config import Config, ModelConfig, RunConfig
from fromnoise.denoise import TokenDenoiser
from fromnoise.distill import STOPS, check_teacher, student_config
from fromnoise.errors import FromNoiseError, NotJudged
from fromnoise.fewsteps import STEPS, FewSteps, Way
from fromnoise.nets import Conditioner
from fromnoise.process import Gaussian
from fromnoise.trainer import Stepped

TINY = ["net.widths=[32]", "net.attention=[false]", "net.blocks=1", "net.emb=32", "optim.batch=16"]
TINY += ["run.held_examples=16", "run.held_evaluations=4", "run.grid_priors=0", "sample.steps=4"]


# ---- as users meet it -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    return fn.train("digits", out=out, steps=30, settings=TINY)


@pytest.fixture(scope="module")
def distilled(run):
    return run, run.distill(steps=20, n=60)


def test_a_student_is_measured_kept_and_used_where_it_is_better(distilled):
    run, measured = distilled
    student = fn.load(run.folder.path / "distilled")
    assert student.config.model.flow_map and not run.config.model.flow_map
    begins, ours = (one.release.denoiser.process.expected for one in (run, student))
    assert torch.equal(begins.axes, ours.axes) and torch.equal(begins.basis, ours.basis)
    assert ours.basis.shape[1:] == run.release.codec.shape and ours.axes.shape[2] == len(ours.basis)
    assert measured == FewSteps.load(student.folder.few_steps) == run.few_steps
    assert {(w.model, w.steps) for w in measured.ways} == {(m, n) for m in ("student", "teacher") for n in STEPS}
    # The student has learned what guidance adds; a guided teacher asks twice within the guidance interval.
    assert all(w.evaluations == w.steps for w in measured.ways if w.model == "student")
    assert all(w.steps <= w.evaluations <= 2 * w.steps for w in measured.ways)
    text = measured.table() + "\n".join(measured.sentences())
    for steps in STEPS:
        best = measured.best(steps)
        made = run.generate(3, steps=steps)
        ours, model = (student, "student") if best.model == "student" else (run, "plain multistep")
        assert made.recipe["model"] == ours.release.digest and made.recipe["sampler"] == best.sampler
        assert np.array_equal(made.samples, ours.sample(3, steps=steps, sampler=best.sampler))
        assert f"In {steps} step" in text and model in text
    # What the caller names is what the caller gets, and the default stays the teacher's.
    for asked in ({"steps": 2, "sampler": "multistep"}, {}, {"steps": 9}):
        assert run.generate(2, **asked).recipe["model"] == run.release.digest


def test_a_student_of_an_earlier_version_is_not_sampled_from_where_it_never_began(distilled):
    run, _ = distilled
    student = fn.load(run.folder.path / "distilled")
    student.release.denoiser.process = Gaussian()
    with pytest.raises(FromNoiseError, match="earlier version: distil"):
        student.sample(1)


def test_the_better_way_is_that_of_the_largest_measured_number():
    def way(model, steps, frechet):
        return Way(model=model, sampler="x", steps=steps, evaluations=steps, frechet=frechet, coverage=0.5)

    student = [way("student", n, 2.0) for n in STEPS]
    teacher = [way("teacher", n, 8.0 / n) for n in STEPS]
    table = FewSteps(
        teacher="a", student="b", samples=9, floor=0.1, ways=(*student, *teacher), default=way("teacher", 24, 0.5)
    )
    assert [table.best(n).model for n in (1, 2, 3)] == ["student"] * 3
    assert [table.best(n).model for n in (5, 8)] == ["student", "teacher"] and table.best(9) is None
    said = table.sentences()
    assert "plain multistep sampling of the teacher is the better choice" in said[3] and "student is" in said[0]


def test_few_steps_without_a_measured_student_are_advised_against(distilled, tmp_path):
    run, _ = distilled
    student = fn.load(run.folder.path / "distilled")
    new = copied(run, tmp_path / "never distilled")
    sentence = "One to three steps of plain sampling make poor samples: fromnoise distill "
    assert new.advice(3) == f"{sentence}'{new.folder.path}' makes a student for so few."
    # Who has steps enough, what was measured, a student itself and a model that can have none.
    alone = fn.load(run.folder.model)
    assert {new.advice(4), new.advice(None), run.advice(1), student.advice(1), alone.advice(1)} == {""}
    asked = ["sample", str(new.folder.path), "-n", "2", "--steps", "1", "--out", str(tmp_path / "samples")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0 and done.stderr.startswith(f"fromnoise: {sentence}"), done.output
    # A student that could not be measured is named, since sampling does not go by it.
    unmeasured = tmp_path / "never distilled" / "distilled"
    unmeasured.mkdir()
    (unmeasured / "model.safetensors").write_bytes(student.folder.model.read_bytes())
    assert str(unmeasured) in fn.load(new.folder.path).advice(1)


def test_a_table_of_other_weights_is_not_believed(distilled):
    run, measured = distilled
    path = run.folder.path / "distilled" / "few-steps.json"
    before = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(before) | {"student": "of another day"}))
        assert fn.load(run.folder.path).few_steps is None
        path.write_text("{")
        with pytest.raises(FromNoiseError, match="few-steps"):
            fn.load(run.folder.path).sample(1, steps=1)
    finally:
        path.write_text(before)
    assert fn.load(run.folder.path).few_steps == measured


def test_a_student_is_as_long_as_its_run_and_starts_from_its_weights(distilled, tmp_path):
    run, _ = distilled
    out = copied(run, tmp_path)
    events = []

    def stop_at_once(event):
        events.append(event)
        if isinstance(event, Stepped):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        out.distill(watch=stop_at_once, settings=["optim.muon_lr=0", "optim.adam_lr=0", "run.save_every=0.001"])
    facts = json.loads((out.folder.path / "distilled" / "run.json").read_text())
    assert facts["config"]["run"]["steps"] == 30 and facts["teacher"] == run.release.digest
    # Without a learning rate the student stays its teacher.
    out.distill(resume=True, steps=2, n=40)
    assert_same(*(weights_of(path) for path in (out.folder.model, out.folder.path / "distilled/model.safetensors")))


def test_a_student_jumps_between_its_teachers_stops_from_where_noise_all_but_hides_the_data():
    for sigma in (0.25, 0.5, 1.0):
        config = Config(model=ModelConfig(sigma_data=sigma), run=RunConfig(steps=1))
        student = student_config(config, [], budget=None, steps=None)
        grids = [build_grid(student.sample, 1.0)(n) for n in range(1, 9)]
        stops = grids[-1]
        assert [t / ((1 - t) * sigma) for t in stops] == pytest.approx(STOPS, rel=0.02)
        for n, grid in enumerate(grids, start=1):
            assert len(grid) == n + 1 and set(grid) <= set(stops) and grid[0] in stops[:3] and grid[-1] == 0
        with pytest.raises(FromNoiseError, match="1 to 8 steps, not 9"):
            build_grid(student.sample, 1.0)(9)


def test_a_student_resumed_is_bit_equal(distilled, tmp_path):
    run, _ = distilled
    calm, disturbed = copied(run, tmp_path / "calm"), copied(run, tmp_path / "disturbed")
    calm.distill(steps=12, n=40)
    seen = []

    def interrupted(event):
        seen.append(event)
        if sum(isinstance(e, Stepped) for e in seen) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disturbed.distill(steps=12, n=40, settings=["run.save_every=0.001"], watch=interrupted)
    disturbed.distill(resume=True, n=40, settings=["run.save_every=60"])
    for file in ("checkpoints/last.safetensors", "model.safetensors"):
        one, other = (checkpoint.load(r.folder.path / "distilled" / file)[0] for r in (calm, disturbed))
        assert_same(one, other)


def test_a_student_of_few_examples_is_made_and_not_measured(tmp_path):
    """The set is too small to measure the student on, which is said before it is trained."""
    few = np.random.default_rng(0).integers(0, 255, (12, 8, 8), dtype=np.uint8)
    run = fn.train(few, out=tmp_path / "few", steps=4, settings=TINY)
    said = []
    with pytest.raises(NotJudged, match="RUN/distilled") as why:
        run.distill(steps=4, data=few, settings=["flow.match_from=0.25"], watch=said.append)
    assert said.index(str(why.value)) < next(n for n, event in enumerate(said) if isinstance(event, Stepped))
    assert (tmp_path / "few" / "distilled" / "model.safetensors").exists()


def test_a_student_that_came_to_no_step_is_begun_anew(distilled, tmp_path):
    out = copied(distilled[0], tmp_path)
    with pytest.raises(FromNoiseError, match="before the first step, after"):
        out.distill(budget=0.001)
    stub = json.loads((tmp_path / "distilled" / "run.json").read_text())
    assert stub["config"]["run"]["budget"] == 0.001
    assert out.distill(steps=2, n=40).samples == 40
    with pytest.raises(FromNoiseError, match="student already"):
        out.distill(steps=2)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path, "weights/")[0]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def copied(run: fn.Run, out: Path) -> fn.Run:
    """A run of its own with the same model, never distilled."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("run.json", "split.jsonl", "model.safetensors", "features.safetensors"):
        (out / name).write_bytes((run.folder.path / name).read_bytes())
    return fn.load(out)


# ---- what cannot work -----------------------------------------------------------------------------------------------


@pytest.fixture
def refused(capsys, monkeypatch):
    def call(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["fromnoise", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr().err.strip().splitlines()
        assert stop.value.code == 2 and said[-1].startswith("fromnoise: ")
        return said[-1]

    return call


def test_what_cannot_be_distilled_is_refused_in_a_sentence(distilled, refused, tmp_path):
    run, _ = distilled
    student = run.folder.path / "distilled"
    assert "student already" in refused("distill", student)
    assert "lone release" in refused("distill", run.folder.model)
    assert "--resume" in refused("distill", run.folder.path)
    assert "nowhere" in refused("distill", tmp_path / "nowhere")
    assert "flow.power" in refused("distill", copied(run, tmp_path / "a").folder.path, "--set", "flow.power=2")
    assert "budget" in refused("distill", copied(run, tmp_path / "b").folder.path, "--budget", "5m", "--steps", 3)
    assert not (tmp_path / "a" / "distilled").exists() and not (tmp_path / "b" / "distilled").exists()


def test_a_student_is_sampled_by_ddim_alone(distilled, refused):
    run, _ = distilled
    student = run.folder.path / "distilled"
    for sampler in ("heun", "multistep", "ancestral"):
        assert "ddim" in refused("sample", student, "--sampler", sampler, "--out", "never")
    assert "guidance" in refused("sample", student, "--guidance", 2, "--out", "never")
    assert "distill" in refused("train", "digits", "--out", student, "--resume", "--steps", 99)
    assert fn.load(student).sample(2, sampler="ddim", steps=1).shape == (2, 8, 8, 1)


def test_a_token_model_is_refused(run):
    tokens = TokenDenoiser(nn.Identity(), Conditioner((), 32), vocab=9)
    with pytest.raises(FromNoiseError, match="tokens"):
        check_teacher(run.folder, replace(run.release, denoiser=tokens))


def test_another_model_is_not_the_students_teacher(distilled, tmp_path):
    run, _ = distilled
    out = copied(run, tmp_path)
    out.distill(steps=1, n=20)
    facts = json.loads((tmp_path / "distilled" / "run.json").read_text())
    (tmp_path / "distilled" / "run.json").write_text(json.dumps(facts | {"teacher": "another"}))
    with pytest.raises(FromNoiseError, match="began with"):
        out.distill(resume=True)
    # Nor is a student of an earlier version, which knew no stops, gone on with; a finished one samples as it did.
    facts["config"]["sample"].pop("jumps")
    facts["config"]["flow"] |= {"t_std": 1.6, "k_last": 0.05}
    (tmp_path / "distilled" / "run.json").write_text(json.dumps(facts))
    with pytest.raises(FromNoiseError, match="taught otherwise"):
        out.distill(resume=True)
