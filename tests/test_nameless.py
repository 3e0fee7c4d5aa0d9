"""Volumes the whole way, from files to samples, and nobody's name anywhere on it."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
import torch
from datafiles import fill
from safetensors.numpy import load_file
from scans import NAMES, TINY, ball, dicom, leaks, named, nifti, planted, series, slice_

import fromnoise as fn
from fromnoise.cli import main
from fromnoise.data import diagnose, scan
from fromnoise.data.splits import TRAIN
from fromnoise.data.volume import Volumes


@pytest.mark.parametrize("kind", ["dicom", "frames", "masks", "nifti", "patients", "tiff"])
def test_no_name_enters_run_folder_cache_log_or_samples(tmp_path, monkeypatch, capfd, kind):
    data, cache, run = planted(tmp_path / "in", kind), tmp_path / "cache", tmp_path / "run"
    assert leaks(data), "the names are there"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    sets = [part for setting in TINY for part in ("--set", setting)]
    out = tmp_path / "out"
    out.mkdir()
    commands = [
        ("doctor", data),
        ("train", data, "--out", run, "--steps", 2, *sets),
        ("sample", run, "-n", 2, "--where", "position=0.5", "--out", out / "files"),
        ("sample", run, "-n", 2, "--out", out / "s.npz"),
        ("sample", run, "-n", 2, "--out", out / "s.zip"),
        ("evaluate", run),
    ]
    masks = dict(enumerate(data.rglob("*_mask.nii")))
    commands += [("sample", run, "--where", f"mask={file}", "--out", out / f"masked{k}") for k, file in masks.items()]
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["fromnoise", *map(str, command)])
        try:
            main()
        except SystemExit as end:
            assert not end.code, command
    said = capfd.readouterr()
    for name in NAMES:
        assert name.lower() not in (said.out + said.err).lower()
    assert (run / "report.html").exists() and len(list((out / "files").iterdir())) == 3
    assert leaks(run) + leaks(cache) + leaks(out) == []
    whose = "of whom there are 3" if kind == "patients" else "one subject"
    assert whose in (run / "report.html").read_text()


def test_what_is_said_of_tables_and_runs_beside_volumes_names_nobody(tmp_path):
    folder = planted(tmp_path / "in", "nifti")
    family, given, *_ = NAMES
    lines = [f"{family}/{given}.nii,one", f"{family}/{given}.nii,zw\u00f6lf", ",none"]
    fill(
        folder,
        {
            f"{family}.csv": "\n".join(["file_name,kind", *lines]).encode("latin-1"),
            f"{family}.{given}/run.json": b"{}",
            f"{family}.{given}/split.jsonl": b'["train", "a"]\n',
        },
    )
    said = diagnose(scan(folder))
    said = said.replace(str(folder), "")
    for part in (
        "a table: lines 2 and 3 name the same",
        "a table: line 4",
        "a table is read as",
        "2 files of a run folder",
    ):
        assert part in said
    assert not any(name.lower() in said.lower() for name in NAMES), said


def test_the_model_holds_what_samples_need_and_no_more(tmp_path):
    data = fill(tmp_path / "in", {f"{k}.dcm": dicom(named(m)) for k, m in series(ball((30, 12, 12))).items()})
    run = fn.train(data, out=tmp_path / "run", steps=2, settings=TINY)
    for file in data.iterdir():
        file.unlink()
    samples = fn.load(tmp_path / "run").sample(2, where={"position": 0.25}, seed=3)
    assert samples.shape == (2, 12, 12, 1) and samples.dtype == np.int32
    assert load_file(run.folder.model) and torch.isfinite(torch.tensor(samples.astype(float))).all()


def test_the_medium_reads_a_single_file_as_its_model_has_it():
    medium, data = Volumes(), nifti(ball((20, 24, 40)), np.eye(4))
    assert medium.sniff(dicom(slice_(ball((4, 5, 6))[0], (0, 0, 0)))[:512]) and not medium.sniff(data[:512])
    header = medium.probe(data)
    codec, _ = medium.choose(header, Counter([header]), None)
    assert medium.read(data, header, codec).shape == (20, 24, 1) and TRAIN == 0
