"""The command line as users meet it: what works, and one sentence with the remedy for what cannot."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import fromnoise as fn
from fromnoise import appraise
from fromnoise.asking import parse_columns, parse_size, parse_where
from fromnoise.cli import main
from fromnoise.codec import ImageCodec, VideoCodec
from fromnoise.extend import asked_length

TINY = ["net.widths=[32]", "net.attention=[false]", "net.blocks=1", "net.emb=32", "optim.batch=8"]
TINY += ["run.held_examples=8", "run.held_evaluations=2", "run.grid_priors=0", "sample.steps=4"]


def call(capsys, monkeypatch, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `fromnoise words…`, in this process."""
    monkeypatch.setattr(sys, "argv", ["fromnoise", *map(str, words)])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def fromnoise(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *words: call(capsys, monkeypatch, *words)


def train(fromnoise, data, out, *more):
    sets = [part for setting in TINY for part in ("--set", setting)]
    return fromnoise("train", data, "--out", out, "--steps", 3, "--no-report", *sets, *more)


def pictures(folder: Path, n: int = 12, size=(16, 16), mode: str = "RGB") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(mode) + n)
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    for i in range(n):
        pixels = rng.integers(0, 256, (*size, *channels), dtype=np.uint8)
        Image.fromarray(pixels, mode).save(folder / f"{mode}-{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model of the digits, trained for a moment, conditional on their label."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    return fn.train("digits", out=out, steps=30, settings=TINY)


# ---- what works -----------------------------------------------------------------------------------------------------


def test_help_is_there_at_once():
    best = min(timed([sys.executable, "-m", "fromnoise", "--help"]) for _ in range(5))
    assert best < 0.5


def timed(command: list[str]) -> float:
    """Seconds of processor time: those of the clock say what else runs."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize("out", ["folder", "x.npz", "x.npy", "x.zip"])
def test_samples_are_written_with_their_recipe(fromnoise, run, tmp_path, out):
    code, said, _ = fromnoise("sample", run.folder.path, "-n", 5, "--seed", 3, "--where", "label=7", "--out", out)
    assert code == 0 and "5 samples" in said
    if out == "x.npy":
        assert np.array_equal(np.load(out), run.sample(5, seed=3, where={"label": "7"}))
    elif out == "x.npz":
        held = np.load(out)
        assert held["samples"].shape == (5, 8, 8, 1) and list(held["index"]) == [0, 1, 2, 3, 4]
        assert list(held["cond_label"]) == ["7"] * 5
        assert json.loads(str(held["recipe"]))["model"] == run.release.digest
    else:
        read = zipfile.ZipFile(out).read if out == "x.zip" else lambda name: (Path(out) / name).read_bytes()
        one = Image.open(io.BytesIO(read("000004.png")))
        recipe = json.loads(one.text["fromnoise"])
        assert recipe["seed"] == 3 and recipe["index"] == 4 and recipe["cond"] == {"label": "7"}
        assert Image.open(io.BytesIO(read("sheet.png"))).mode == "RGB"


def test_samples_and_a_strip_by_default_lie_in_the_run(fromnoise, run, tmp_path):
    code, said, _ = fromnoise("sample", run.folder.path, "-n", 2, "--strip", "way.png")
    assert code == 0 and str(run.folder.path / "samples") in said
    assert Image.open("way.png").size[0] > 100


def test_a_release_alone_samples_without_the_data(run, tmp_path):
    alone = tmp_path / "model.safetensors"
    alone.write_bytes(run.folder.model.read_bytes())
    assert np.array_equal(fn.load(alone).sample(3), run.sample(3))


def test_the_same_sample_in_any_batch_and_in_another_process(run, tmp_path):
    one, seven, many = (run.sample(64, seed=5, batch=b).astype(int) for b in (1, 7, 64))
    out = tmp_path / "other.npy"
    command = ["sample", str(run.folder.path), "-n", "64", "--seed", "5", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "fromnoise", *command], check=True, capture_output=True)
    for other in (seven, many, np.load(out).astype(int)):
        assert (abs(other - one) <= 1).mean() >= 0.99


@pytest.mark.parametrize(
    "name,make,shape,dtype",
    [
        ("odd size", lambda p: pictures(p, size=(37, 91)), (37, 91, 3), np.uint8),
        ("grey", lambda p: pictures(p, mode="L"), (16, 16, 1), np.uint8),
        (
            "mixed channels",
            lambda p: pictures(pictures(pictures(p, mode="L"), mode="RGB"), mode="RGBA"),
            (16, 16, 4),
            np.uint8,
        ),
        ("five channels of 16 bits", lambda p: tiffs(p), (12, 20, 5), np.uint16),
        ("one image", lambda p: pictures(p, n=1), (16, 16, 3), np.uint8),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_odd_but_usable_sets_train(fromnoise, tmp_path, name, make, shape, dtype):
    folder = make(tmp_path / "data")
    code, _, said = train(fromnoise, folder, "run")
    assert code == 0, said
    samples = fn.load("run").sample(2)
    assert samples.shape == (2, *shape) and samples.dtype == dtype


def tiffs(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 2**16, (12, 20, 5), dtype=np.uint16)
        tifffile.imwrite(folder / f"{i}.tif", pixels, photometric="minisblack", planarconfig="contig")
    return folder


def test_a_broken_file_is_named_and_the_rest_trains(fromnoise, tmp_path):
    folder = pictures(tmp_path / "data")
    whole = (folder / "RGB-3.png").read_bytes()
    (folder / "RGB-3.png").write_bytes(whole[: len(whole) // 2])
    code, _, said = train(fromnoise, folder, "run")
    assert code == 0, said
    skipped = json.loads(Path("run/run.json").read_text())["data"]["skipped"]
    assert [name for name, _ in skipped] == ["RGB-3.png"] and skipped[0][1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(fromnoise, tmp_path):
    folder = pictures(tmp_path / "data")
    (folder / "RGB-3.png").chmod(0)
    code, said, _ = fromnoise("doctor", folder)
    assert code == 0 and "RGB-3.png" in said and "ermission" in said


def test_the_report_is_written(fromnoise, run, monkeypatch):
    for name in ("learn_features", "obedience"):
        monkeypatch.setattr(appraise, name, partial(getattr(appraise, name), steps=50))
    code, said, _ = fromnoise("evaluate", run.folder.path, "-n", 40)
    assert code == 0 and "held-out data" in said
    assert json.loads(run.folder.evaluation.read_text())["count"] >= 20
    assert "<html" in run.folder.report.read_text()


# ---- what cannot work -----------------------------------------------------------------------------------------------


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert code == 2, (out, err)
    assert "Traceback" not in err
    sentence = err.strip().splitlines()[-1]
    assert sentence.startswith("fromnoise: ")
    for word in words:
        assert word in sentence, sentence


def test_bad_data_is_refused(fromnoise, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("hello")
    (tmp_path / "objects.npy").write_bytes(b"\x93NUMPY garbage")
    refused(train(fromnoise, "empty", "run"), "empty")
    refused(train(fromnoise, "texts", "run"), "texts")
    refused(train(fromnoise, "nowhere", "run"), "nowhere")
    refused(train(fromnoise, "objects.npy", "run"), "objects.npy")
    assert not Path("run").exists()


def test_bad_settings_are_refused(fromnoise, tmp_path):
    refused(train(fromnoise, "digits", "run", "--set", "optim.bacth=3"), "optim.bacth", "optim.batch")
    refused(train(fromnoise, "digits", "run", "--set", "optim.batch=many"), "optim.batch")
    refused(train(fromnoise, "digits", "run", "--set", "nonsense"), "nonsense")
    refused(train(fromnoise, "digits", "run", "--set", "sample.guidance=-1"), "sample.guidance=-1", "equal to 0")
    refused(train(fromnoise, "digits", "run", "--columns", "colour"), "colour", "label")
    refused(train(fromnoise, "digits", "run", "--size", "big"), "big")
    refused(fromnoise("train", "digits", "--out", "run", "--budget", "soon"), "soon")
    refused(fromnoise("train", "digits", "--out", "run", "--budget", "5m", "--steps", "9"), "budget", "steps")
    refused(fromnoise("train", "digits", "--resume"), "--out")
    assert not Path("run").exists()


def test_nothing_of_the_users_is_overwritten(fromnoise, run, tmp_path):
    pictures(tmp_path / "mine")
    before = sorted(p.name for p in Path("mine").iterdir())
    refused(train(fromnoise, "digits", "mine"), "mine", "--out")
    refused(fromnoise("sample", run.folder.path, "--out", "mine"), "mine", "--out")
    Path("x.npy").write_text("precious")
    refused(fromnoise("sample", run.folder.path, "--out", "x.npy"), "x.npy")
    refused(fromnoise("sample", run.folder.path, "--strip", "x.npy"), "x.npy")
    assert Path("x.npy").read_text() == "precious"
    assert sorted(p.name for p in Path("mine").iterdir()) == before
    refused(train(fromnoise, "digits", run.folder.path), "--resume")


def test_a_place_that_cannot_be_written_is_refused(fromnoise, run, tmp_path):
    Path("file").write_text("in the way")
    refused(train(fromnoise, "digits", "file/run"), "file/run")
    refused(fromnoise("sample", run.folder.path, "--out", "file/samples"), "file/samples")


def test_bad_runs_are_refused(fromnoise, run, tmp_path):
    whole = run.folder.model.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.999):
        Path("cut.safetensors").write_bytes(whole[: int(len(whole) * share)])
        refused(fromnoise("sample", "cut.safetensors"), "cut.safetensors")
    refused(fromnoise("sample", "nowhere"), "nowhere")
    picture = next(pictures(tmp_path / "some", n=1).iterdir())
    for command in ("sample", "evaluate", "distill"):
        refused(fromnoise(command, picture), f"{picture} is no run: name a run folder, or its model.safetensors.")
    refused(fromnoise("evaluate", tmp_path), str(tmp_path))
    refused(fromnoise("sample", run.folder.path, "--where", "label=eleven"), "eleven")
    refused(fromnoise("sample", run.folder.path, "--where", "size=3"), "size", "label")
    refused(fromnoise("sample", run.folder.path, "--where", "label"), "COLUMN=VALUE")
    refused(fromnoise("sample", run.folder.path, "--sampler", "magic"), "magic", "heun")


def test_a_cut_checkpoint_and_changed_data_stop_a_resume(fromnoise, tmp_path):
    folder = pictures(tmp_path / "data")
    assert train(fromnoise, folder, "run")[0] == 0
    last = Path("run/checkpoints/last.safetensors")
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    longer = ("train", folder, "--out", "run", "--resume", "--steps", 6, "--no-report")
    refused(fromnoise(*longer), "last.safetensors")
    last.write_bytes(whole)
    pictures(folder, n=13)
    refused(fromnoise(*longer), "data")


def test_a_finished_run_is_left_alone_until_it_is_given_more(fromnoise, tmp_path):
    assert train(fromnoise, "digits", "run")[0] == 0
    before = Path("run/model.safetensors").read_bytes()
    code, _, said = fromnoise("train", "digits", "--out", "run", "--resume", "--no-report")
    assert code == 0 and "finished" in said and Path("run/model.safetensors").read_bytes() == before
    code, _, said = fromnoise("train", "digits", "--out", "run", "--resume", "--no-report", "--steps", 6)
    assert code == 0 and "going on from step 3" in said
    assert Path("run/model.safetensors").read_bytes() != before


def test_a_folder_of_the_users_own_comes_before_a_bundled_set(fromnoise, tmp_path):
    pictures(tmp_path / "digits", n=4)
    code, said, _ = fromnoise("doctor", "digits")
    assert code == 0 and "4 examples" in said


def test_what_no_machine_can_do_is_refused_before_it_is_tried(fromnoise, run, tmp_path):
    refused(train(fromnoise, "digits", "run", "--size", 100_000), "100000", "--size")
    for wrong in ("nan", "inf", "-5", "-0.1"):
        refused(fromnoise("sample", run.folder.path, "--guidance", wrong), "Guidance is a number from 0 up", wrong)
    refused(fromnoise("sample", run.folder.path, "--guidance", "1e38"), "--guidance")


def test_lengths_are_given_in_the_mediums_own_unit_and_fit_the_machine(fromnoise, run, tmp_path):
    refused(fromnoise("sample", run.folder.path, "--seconds", 2), "pixels", "--width")
    refused(fromnoise("sample", run.folder.path, "--width", 32, "--frames", 3), "pixels", "--width")
    refused(fromnoise("sample", run.folder.path, "--width", 10**13), "GB", "shorter")
    image = ImageCodec.full_range(height=8, width=8, channels=1, alpha=False, dtype="uint8")
    clips = VideoCodec(image=image, frames=4, rate="25/2", container="webp")
    assert asked_length(clips, seconds=2.0, width=None, frames=None) == 25
    assert asked_length(clips, seconds=None, width=None, frames=9) == 9
    assert asked_length(clips, seconds=None, frames=None) is None
    for seconds in (float("nan"), float("inf"), 0.0, -1.0):
        with pytest.raises(
            fn.FromNoiseError, match=f"length of {seconds:g} seconds is none: ask for a positive number"
        ):
            asked_length(clips, seconds=seconds, frames=None)


def test_where_samples_go_is_said_once_and_by_its_own_option(fromnoise, run, tmp_path):
    refused(fromnoise("sample", run.folder.path, "--out", "one.PNG"), "one.PNG", "--out one", ".npz")
    Path("way.png").write_text("precious")
    refused(fromnoise("sample", run.folder.path, "--strip", "way.png"), "way.png", "--strip")
    refused(fromnoise("sample", run.folder.path, "--where", "label=3", "--where", "label=4"), "label", "once")
    assert Path("way.png").read_text() == "precious" and not Path("one.PNG").exists()


def test_moved_data_are_found_where_they_are_said_to_lie(fromnoise, tmp_path):
    folder = pictures(tmp_path / "data")
    assert train(fromnoise, folder, "run")[0] == 0
    folder.rename(tmp_path / "elsewhere")
    refused(fromnoise("evaluate", "run"), str(folder), "--data")
    code, out, err = fromnoise("evaluate", "run", "--data", "elsewhere")
    assert code == 0 and "Not judged: " in out and "to each other" in out and out.rstrip().endswith("report.html"), err
    assert "to each other" in Path("run/report.html").read_text()
    pictures(tmp_path / "others", n=13)
    refused(fromnoise("evaluate", "run", "--data", "others"), "others", "not what this run began with")
    assert train(fromnoise, "elsewhere", "run", "--columns", "colour", "--resume")[0] == 2


def test_the_version_is_said(fromnoise):
    assert fromnoise("--version")[1].strip() == f"fromnoise {fn.__version__}"


def test_names_that_are_no_text_train(fromnoise, tmp_path):
    folder = pictures(tmp_path / "data", n=6)
    try:
        os.rename(folder / "RGB-0.png", os.fsencode(folder) + b"/\xff\xfe.png")
    except OSError:
        pytest.skip("this file system takes text only")
    code, _, said = train(fromnoise, folder, "run")
    assert code == 0, said


def test_words_are_read():
    assert parse_size("32") == 32 and parse_size("48x64") == (48, 64) and parse_size(None) is None
    assert parse_columns("a, b") == ["a", "b"] and parse_columns("none") == [] and parse_columns(None) is None
    assert parse_where(["a=b=c", "d=Food & Drink"]) == {"a": "b=c", "d": "Food & Drink"}
    assert parse_where(["a=b=0.5", "a=c=1"], ["a", "a=b"]) == {"a=b": "0.5", "a": "c=1"}
    assert parse_where(["a=b"], ["a=b", "a"]) == {"a": "b"} and parse_size("0.02") == 0.02
    for small in ("0", "-1", "0x8", "0.001"):
        with pytest.raises(
            fn.FromNoiseError, match=r"1 or more pixels.* 0\.02 or more seconds" if small != "0x8" else "0x8"
        ):
            parse_size(small)
