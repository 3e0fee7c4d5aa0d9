"""Checkpoints are whole or not there: through kills, full disks and cut files."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fromnoise import checkpoint
from fromnoise.checkpoint import drop_snapshots_after, load, load_meta, read_snapshots, save, save_snapshot
from fromnoise.ema import PowerEma, reconstruct
from fromnoise.types import FromNoiseError

TENSORS = {
    "model/kernel": torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last),
    "model/half": torch.randn(5, 2).bfloat16(),
    "model/transposed": torch.arange(6).reshape(2, 3).mT,
    "ema/step": torch.tensor(7.0),
    "ema/none": torch.zeros(0, 3),
    "ema/flags": torch.tensor([True, False]),
}
META = {"step": 3, "elapsed": 1.5, "names": ["Food & Drink", "Grün"], "config": {"lr": 3e-4}}


def assert_same(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        assert x.dtype == theirs[name].dtype and torch.equal(x, theirs[name]), name


def test_what_was_saved_comes_back(tmp_path):
    path = tmp_path / "deep" / "last.safetensors"
    save(path, TENSORS, META)
    tensors, meta = load(path)
    assert_same(TENSORS, tensors)
    assert meta == META == load_meta(path)
    assert_same({"step": TENSORS["ema/step"], "none": TENSORS["ema/none"], "flags": TENSORS["ema/flags"]},
                load(path, "ema/")[0])  # fmt: skip
    assert os.listdir(path.parent) == [path.name]
    tensors["model/half"].zero_()
    assert_same(TENSORS, load(path)[0])


def test_the_file_is_plain_safetensors(tmp_path):
    save(tmp_path / "x.safetensors", TENSORS, META)
    assert_same(TENSORS, load_file(tmp_path / "x.safetensors"))


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path):
    path, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    save(path, TENSORS, META)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    for end in {
        0,
        1,
        7,
        8,
        9,
        8 + header // 2,
        8 + header - 1,
        8 + header,
        9 + header,
        len(whole) // 2,
        len(whole) - 1,
    }:
        cut.write_bytes(whole[:end])
        with pytest.raises(FromNoiseError, match="cut short"):
            load(cut)


@pytest.mark.parametrize("content", [b"not a checkpoint " * 50, b"\x00" * 4096, b"\x80\x04pickle" * 20])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FromNoiseError, match="not a checkpoint"):
        load(tmp_path / "x")


def test_other_refusals_say_what_is_wrong(tmp_path):
    with pytest.raises(FromNoiseError, match="no checkpoint"):
        load(tmp_path / "nothing")
    with pytest.raises(FromNoiseError, match="not a checkpoint"):
        load(tmp_path)
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(FromNoiseError, match="not one of fromnoise"):
        load(tmp_path / "other.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(FromNoiseError, match="Cannot write"):
        save(tmp_path / "file" / "last", TENSORS, META)
    with pytest.raises(ValueError):
        save(tmp_path / "last", TENSORS, {"loss": float("nan")})


@pytest.mark.parametrize("broken", ["write", "fsync", "replace"])
def test_a_fault_at_any_stage_leaves_the_previous_checkpoint(tmp_path, monkeypatch, broken):
    path = tmp_path / "last.safetensors"
    save(path, TENSORS, META)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    where = checkpoint if broken == "write" else os
    monkeypatch.setattr(where, "_write" if broken == "write" else broken, full)
    with pytest.raises(FromNoiseError, match=r"disk of .* is full .* untouched"):
        save(path, {"x": torch.zeros(3)}, {"step": 4})
    monkeypatch.undo()
    assert load(path)[1] == META
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to mount")
def test_a_disk_that_really_fills_up(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        path = tmp_path / "last.safetensors"
        save(path, {"x": torch.ones(1000)}, {"step": 1})
        with pytest.raises(FromNoiseError, match=r"full and last\.safetensors needs 4 MiB"):
            save(path, {"x": torch.zeros(2**20)}, {"step": 2})
        assert os.listdir(tmp_path) == [path.name]
        tensors, meta = load(path)
        assert meta == {"step": 1} and tensors["x"].sum() == 1000
        save(path, {"x": torch.ones(1000)}, {"step": 2})
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


SAVER = """
import sys, torch
from pathlib import Path
from fromnoise.checkpoint import save
for step in range(10**9):
    save(Path(sys.argv[1]), {"x": torch.full((300_000,), float(step))}, {"step": step})
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_killed_at_random_moments_the_file_is_always_whole(tmp_path):
    path = tmp_path / "last.safetensors"
    root = Path(checkpoint.__file__).parents[1]
    for wait in torch.rand(3).mul(0.15).tolist():
        seen = path.stat().st_mtime_ns if path.exists() else 0
        process = subprocess.Popen([sys.executable, "-c", SAVER, str(path)], cwd=root)
        deadline = time.monotonic() + 60
        while not (path.exists() and path.stat().st_mtime_ns != seen) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        tensors, meta = load(path)
        assert torch.equal(tensors["x"], torch.full((300_000,), float(meta["step"])))
    (tmp_path / f".{path.name}.99999.tmp").write_bytes(b"left by a killed run")
    save(path, {}, {})
    assert os.listdir(tmp_path) == [path.name]


def test_snapshots_reconstruct(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = PowerEma(model)
    wanted = PowerEma(model, [0.07])
    torch.manual_seed(0)
    for n in range(1, 241):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p), alpha=0.1)
        model[1].num_batches_tracked.fill_(n)
        ema.update(n)
        wanted.update(n)
        if n % 20 == 0:
            save_snapshot(tmp_path, ema, n)
    snapshots = read_snapshots(tmp_path)
    assert sorted({s.step for s in snapshots}) == list(range(20, 241, 20))
    weights = reconstruct(snapshots, 0.07)
    assert weights["1.num_batches_tracked"] == 240
    model.load_state_dict(weights)
    for name, x in wanted.weights(0.07).items():
        if x.is_floating_point():
            assert (weights[name] - x).abs().max() < 0.02, name
    drop_snapshots_after(tmp_path, 200)
    assert max(s.step for s in read_snapshots(tmp_path)) <= 200
