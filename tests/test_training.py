"""Training as a user runs it: bit-equal resume, ranks, divergence, Ctrl-C, full disks."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fromnoise as fn
from fromnoise import checkpoint
from fromnoise.api import parse_budget
from fromnoise.config import RunConfig
from fromnoise.session import RolledBack, Session
from fromnoise.trainer import Skipped, Stepped, order, share

TINY = ["net.widths=[32]", "net.attention=[false]", "net.blocks=1", "net.emb=32", "optim.batch=16"]
QUICK = [*TINY, "run.held_examples=16", "run.held_evaluations=4", "run.grid_priors=0"]


def command(out: Path, steps: int, *more: str, settings=QUICK) -> list[str]:
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["-m", "fromnoise", "train", "digits", "--out", str(out), "--steps", str(steps), "--no-report", *sets, *more]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def weights(run: Path) -> dict[str, torch.Tensor]:
    last, _ = checkpoint.load(run / "checkpoints" / "last.safetensors")
    release, _ = checkpoint.load(run / "model.safetensors")
    return {f"last/{k}": v for k, v in last.items()} | {f"release/{k}": v for k, v in release.items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_killed_twenty_times_a_run_ends_with_the_weights_of_the_undisturbed_one(tmp_path):
    steps, often = 240, ["--set", "run.save_every=0.3"]
    subprocess.run(
        [sys.executable, *command(tmp_path / "calm", steps)], check=True, env=environment(), capture_output=True
    )
    truth = weights(tmp_path / "calm")
    dice, kills, chain = random.Random(0), 0, 0
    while kills < 20:
        out, chain = tmp_path / f"disturbed-{chain}", chain + 1
        more: list[str] = []
        while True:
            process = subprocess.Popen(
                [sys.executable, *command(out, steps, *more, *often)],
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            # Any moment counts: while the data is scanned, in a step, in a save, after the last one.
            wait_for(out / "run.json", process)
            try:
                _, said = process.communicate(timeout=dice.uniform(0.0, 2.0) if kills < 20 else None)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
                more = ["--resume"] if (out / "run.json").exists() else []
                continue
            assert process.returncode == 0, said.decode()
            break
        assert_same(weights(out), truth)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)


def test_two_ranks_follow_one(tmp_path):
    steps = 100
    sets = [*QUICK, "run.precision=float32"]
    for ranks in (1, 2):
        launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        said = subprocess.run(
            [sys.executable, *launcher, *command(tmp_path / str(ranks), steps, settings=sets)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert said.returncode == 0, said.stderr
    one, two = (losses(tmp_path / str(ranks)) for ranks in (1, 2))
    assert len(one) == len(two) == steps
    assert np.allclose(one, two, rtol=1e-3)


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "step"]


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, *command(out, 100_000)], env=environment(), stderr=subprocess.PIPE, text=True
    )
    wait_for(out / "metrics.jsonl", process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"fromnoise train digits --out {out} --resume" in said
    position = checkpoint.load_meta(out / "checkpoints" / "last.safetensors")["position"]
    assert position["step"] >= 1
    assert "Traceback" not in said


def test_a_nan_is_named_skipped_and_when_it_stays_rolled_back(tmp_path, monkeypatch):
    from fromnoise.objectives import Regression

    events, honest = [], Regression.error
    poison = {"from": 8, "to": 14}

    def error(self, x0_hat, x0, t):
        step = sum(isinstance(e, Stepped | Skipped) for e in events)
        value = honest(self, x0_hat, x0, t)
        return value * torch.nan if torch.is_grad_enabled() and poison["from"] <= step < poison["to"] else value

    monkeypatch.setattr(Regression, "error", error)
    run = fn.train(
        "digits", out=tmp_path / "run", steps=20, settings=[*QUICK, "run.save_every=0.001"], watch=events.append
    )
    skipped = [e for e in events if isinstance(e, Skipped)]
    assert skipped[0].step == 9 and len(skipped[0].examples) == 16
    (back,) = [e for e in events if isinstance(e, RolledBack)]
    assert back.step == 8 and back.factor == 0.5
    assert np.isfinite(run.sample(2)).all()


def test_a_full_disk_is_said_and_the_checkpoint_survives(tmp_path, monkeypatch):
    import errno

    out = tmp_path / "run"
    events = []
    real = checkpoint._write

    def full(file, tensors, state):
        if sum(isinstance(e, Stepped) for e in events) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, tensors, state)

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(fn.FromNoiseError, match="full"):
        fn.train("digits", out=out, steps=20, settings=[*QUICK, "run.save_every=0.001"], watch=events.append)
    assert checkpoint.load_meta(out / "checkpoints" / "last.safetensors")["position"]["step"] >= 5
    monkeypatch.undo()
    fn.train("digits", out=out, resume=True)
    fn.train("digits", out=tmp_path / "calm", steps=20, settings=[*QUICK, "run.save_every=0.001"])
    assert_same(weights(out), weights(tmp_path / "calm"))


def test_a_budget_is_kept(tmp_path):
    begun = time.perf_counter()
    fn.train("digits", out=tmp_path / "run", budget="12s", settings=TINY)
    assert 10 < time.perf_counter() - begun < 14


def test_every_example_is_seen_once_an_epoch_and_ranks_share_it_out():
    indices = np.arange(100, 117)
    seen = np.concatenate([order(indices, step, 5, seed=3) for step in range(17)])
    for epoch in seen.reshape(5, 17):
        assert sorted(epoch) == list(indices)
    assert not np.array_equal(seen[:17], seen[17:34])
    parts = [share(10, rank, 3) for rank in range(3)]
    assert [i for part in parts for i in part] == list(range(10))


@pytest.mark.parametrize("text,seconds", [("90s", 90), ("10m", 600), ("1.5h", 5400), ("1d", 86400), (45, 45)])
def test_budgets_are_read(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "ten minutes", "-5m", "0", "5 weeks"])
def test_a_budget_that_cannot_be_read_is_refused(text):
    with pytest.raises(fn.FromNoiseError, match="90s, 10m or 2h"):
        parse_budget(text)


def test_a_young_run_is_saved_soon_and_an_old_one_every_minute():
    now, saves = 0.0, [3.0]  # seconds; that it took to begin
    run = SimpleNamespace(
        trainer=SimpleNamespace(elapsed=lambda: now), config=SimpleNamespace(run=RunConfig(steps=1)), saved_at=3.0
    )
    for now in np.arange(3, 600, 0.1).tolist():
        if Session._due(run):
            saves.append(now)
            run.saved_at = now
    gaps = np.diff(saves)
    assert gaps[0] < 5.5 and (np.diff(gaps) > -0.2).all() and gaps.max() < 60.5 and len(saves) < 20
