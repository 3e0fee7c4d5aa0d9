"""Text as a user meets it: files read, models trained and prompted, samples written and judged."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from datafiles import fill
from hypothesis import given
from hypothesis import strategies as st

import fromnoise as fn
from fromnoise.codec import ImageCodec
from fromnoise.data import diagnose, open_dataset, scan
from fromnoise.data.documents import decode, documents, passages
from fromnoise.errors import FromNoiseError, Unreadable
from fromnoise.evaluate.judge_text import judge_text
from fromnoise.generate import configure, generate
from fromnoise.trainer import Stepped

# ---- reading --------------------------------------------------------------------------------------------------------


def test_encodings_are_said_or_refused_in_a_sentence():
    german = "Über die Brücke gehört ein Gruß, schön und süß."
    assert decode(german.encode(), "a") == (german, None)
    assert decode(german.encode("utf-8-sig"), "a")[0] == german
    assert decode(german.encode("utf-16"), "a")[0] == german
    text, said = decode(german.encode("cp1252"), "a.txt")
    assert text == german and said is not None and "Windows-1252" in said
    broken = german.encode()[:20] + b"\xc3" + german.encode()[20:]
    faults = [(broken, "broken UTF-8 at byte"), (bytes(range(128, 256)), "broken"), (b"a\x00b", "a NUL byte at byte 1")]
    faults += [
        (german.encode(end), "looks like UTF-16 without its mark.* save it as UTF-8")
        for end in ("utf-16-le", "utf-16-be")
    ]
    faults += [(b"ab\x01", "control character 1"), (german.encode("utf-16")[:-1], "broken UTF-16 at byte")]
    faults += [(np.random.default_rng(0).bytes(10_000), "is no plain text"), (broken + b"\x00", "is no plain text")]
    for data, reason in faults:
        with pytest.raises(Unreadable, match=reason):
            decode(data, "a.txt")


def test_one_file_is_a_document_a_line_and_several_are_one_each():
    lines = documents({"a.txt": b"one\n\n  \ntwo\r\nthree"})
    assert lines.texts == ("one", "two", "three") and lines.names == ("a.txt:1", "a.txt:4", "a.txt:5")
    files = documents({"a.txt": b"one\ntwo", "b.txt": b"", "c.txt": b"three"})
    assert files.texts == ("one\ntwo", "three") and "several files" in files.notes[-1]
    assert len(documents({"a.txt": b"one\ntwo", "b.txt": b"x"}, by="line").texts) == 3
    several = {f"{i}.txt": b"one line\n" * 120 for i in range(3)}
    assert len(documents(several).texts) == 360 and "many lines" in documents(several).notes[-1]
    with pytest.raises(Unreadable, match="blank lines"):
        documents({"a.txt": b"\n \n"})


def test_long_lines_are_said_to_be_cut_into_passages():
    long = " ".join(["word"] * 1000)
    alone = documents({"a.txt": long.encode()})
    assert len(alone.texts) == 3
    assert alone.notes[-1] == (
        "3 documents, passages of at most 2,000 characters cut from one long line, as there is one file."
    )
    some = documents({"a.txt": f"one\n{long}\n{long}\ntwo".encode()})
    assert "one a line, but for 2 longer than 2,000 characters, in passages, as" in some.notes[-1]
    assert "one a line, as" in documents({"a.txt": b"one\ntwo"}).notes[-1]


def test_broken_running_text_is_put_into_passages():
    words = np.random.default_rng(0).integers(1, 9, 2000)
    lines, line = [], ""
    for i, n in enumerate(words):
        line += " " * bool(line) + "x" * n
        if len(line) > 60 or i % 90 == 89:
            lines += [line] + [""] * (i % 90 == 89)
            line = ""
    found = documents({"novel.txt": "\n".join(lines).encode()})
    assert "running text" in found.notes[-1] and all(len(text) <= 2000 for text in found.texts)
    assert sum(text.count("x") for text in found.texts) == sum(words) - len(line.replace(" ", ""))


@given(text=st.text(alphabet="ab .\n", max_size=400), limit=st.integers(4, 40))
def test_passages_lose_nothing_but_blank_lines(text, limit):
    pieces = passages(text, limit)
    assert all(0 < len(piece) <= limit for piece in pieces)
    assert "".join(pieces).replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")


# ---- from files to a report -----------------------------------------------------------------------------------------

ALPHABET = "abcdefghijkl"
SHORT = ["run.held_evaluations=4", "net.width=64", "net.depth=2", "sample.steps=32"]


def spelt(n: int) -> list[str]:
    """Texts such as "k l a b c", whose letters follow each other."""
    rng = np.random.default_rng(0)
    draws = zip(rng.integers(12, size=n).tolist(), rng.integers(3, 12, n).tolist(), strict=True)
    return [" ".join((ALPHABET * 2)[start : start + length]) for start, length in draws]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "letters.txt").write_text("\n".join(spelt(600)))
    return fn.train(folder / "letters.txt", out=folder / "run", steps=220, settings=SHORT)


def test_texts_are_learned_and_a_seed_means_the_same_text_in_any_batch(run):
    texts = run.sample(24, batch=24).tolist()
    assert run.sample(5, batch=2).tolist() == texts[:5] and len(set(texts)) > 12
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    assert np.mean([ALPHABET.find(b) == (ALPHABET.find(a) + 1) % 12 for a, b in pairs]) > 0.6, texts
    assert run.config.sample.sampler == "unmask" and run.config.net.padding == run.release.codec.padding


def test_a_prompt_is_kept_and_what_is_no_prompt_or_way_is_refused(run):
    texts = run.sample(6, prompt="c d ___ h___", batch=4).tolist()
    assert all(re.fullmatch(r"c d.+ h.+", text) for text in texts), texts
    assert run.sample(6, prompt="c d ___ h___").tolist() == texts
    assert run.generate(1, prompt="b ___").recipe["prompt"] == "b ___"
    with pytest.raises(FromNoiseError, match="prompt takes"):
        run.sample(1, prompt="a b c " * 60 + "___")
    with pytest.raises(FromNoiseError, match="ddim, unmask"):
        run.sample(1, sampler="heun")


def test_samples_become_files_without_pickles(run, tmp_path):
    samples = run.generate(3)
    assert samples.save(tmp_path / "x.txt").read_text().splitlines() == samples.samples.tolist()
    assert json.loads((tmp_path / "x.json").read_text())["samples"] == 3
    for name in ("x.npy", "x.npz"):
        found = np.load(samples.save(tmp_path / name), allow_pickle=False)
        assert (found if name == "x.npy" else found["samples"]).tolist() == samples.samples.tolist()
    folder = samples.save(tmp_path / "folder")
    assert (folder / "000001.txt").read_text() == samples.samples[1]
    assert json.loads((folder / "000001.json").read_text())["index"] == 1
    assert run.strip(2, steps=3).width > 900


def test_a_text_model_is_judged_by_bits_and_by_its_words(run):
    judgement = run.evaluate(n=24)
    assert judgement.bits["gzip -9"].value > 1 and judgement.documents >= 20
    assert len(judgement.sentences) == 4 and "gzip" in judgement.sentences[1] and "not copy" in judgement.sentences[2]
    assert any(line.startswith("a 5-gram model") for line in judgement.table())
    report = run.folder.report.read_text()
    assert "bits a character" in report and run.sample(1, seed=1)[0] in report
    assert json.loads(run.folder.evaluation.read_text())["bits"]["gzip -9"]["value"] == judgement.bits["gzip -9"].value


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path):
    lists = spelt(200)
    settings = [*SHORT, "run.save_every=0.001"]
    whole = fn.train(lists, out=tmp_path / "whole", steps=12, settings=settings)

    def stop(event: object) -> None:
        if isinstance(event, Stepped) and event.step == 7:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(fn.TrainingStopped):
        fn.train(lists, out=tmp_path / "halved", steps=12, settings=settings, watch=stop)
    halved = fn.train(lists, out=tmp_path / "halved", steps=12, resume=True)
    for one, other in zip(whole.denoiser.parameters(), halved.denoiser.parameters(), strict=True):
        assert torch.equal(one, other)


def test_folders_of_texts_have_classes_splits_and_notes(tmp_path):
    poems = {f"{kind}/{i}.txt": f"{kind} poem\nnumber {i}".encode() for kind in ("sad", "wry") for i in range(30)}
    data = open_dataset(
        fill(tmp_path / "poems", poems | {"README.md": b"about", "bad.txt": b"\xc3\xbc\xc3", "no.md": b""})
    )
    assert (
        len(data) == 60
        and [c.name for c in data.columns] == ["class"]
        and "wry poem" in data.codec.decode(data.x0([59]))[0]
    )
    assert {file.name: file.reason.split(":")[0] for file in data.listing.skipped} == {
        "README.md": "a note, not an example",
        "bad.txt": "is broken UTF-8 at byte 2",
        "no.md": "is empty",
    }
    lines = "\n".join(spelt(150)).encode()
    named = open_dataset(fill(tmp_path / "named", {"train.txt": lines, "valid.text": lines, "test.md": lines}))
    assert np.bincount(named.splits).tolist() == [150, 150, 150] and next(iter(named.names([0]))).startswith(
        "test.md:1"
    )
    strings = open_dataset(np.array(["one two", "one two", " ", *spelt(90)]))
    assert len(strings) == 92 and strings.splits[0] == strings.splits[1]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\n \n", "blank lines"),
        (b"one line", "is one document"),
        ("schön ".encode() * 5 + b"\xc3 and more\n", "broken UTF-8 at byte"),
        (b"a\x00b\nc", "no plain text"),
    ],
)
def test_bad_files_get_a_sentence_and_a_remedy(data, said, tmp_path):
    with pytest.raises(FromNoiseError, match=said) as caught:
        open_dataset(fill(tmp_path, {"a.txt": data}) / "a.txt")
    assert "a.txt" in str(caught.value) and ": " in str(caught.value) and "\n" not in str(caught.value)


def test_doctor_says_of_vocabulary_and_window_what_train_will_choose(tmp_path):
    file = fill(tmp_path, {"a.txt": "\n".join(spelt(150)).encode()}) / "a.txt"
    data, said = open_dataset(file), diagnose(scan(file))
    assert f"x0       {data.codec.shape[0]} (symbols)" in said and data.codec.shape[0] < 256
    assert sum(note in said for note in data.notes if note.startswith(("vocabulary", "window"))) == 2


def test_latin_1_is_read_and_said(tmp_path):
    lines = "\n".join(f"Über {text}" for text in spelt(40))
    data = open_dataset(fill(tmp_path, {"a.txt": lines.encode("latin-1")}))
    assert any("Latin-1" in note for note in data.notes) and str(data.codec.decode(data.x0([0]))[0]).startswith("Über")


def test_a_model_that_repeats_its_training_texts_is_caught(run):
    train = [f"{a} b c d e f{i}" for i, a in enumerate("uvwxyz" * 8)]
    held = [f"{a} q r s t g{i}" for i, a in enumerate("uvwxyz" * 4)]
    for samples, copies in ((train[:20], True), (held[:20], False)):
        judgement = judge_text(run.denoiser, run.release.codec, samples, train, held)
        assert judgement.copies == copies and judgement.whole == float(copies) and judgement.chance == 0
        assert judgement.sentences[2].startswith("It copies" if copies else "It does not copy")


def test_a_model_of_something_else_takes_no_prompt_and_does_not_unmask(run):
    pictures = ImageCodec.full_range(height=8, width=8, channels=1, alpha=False, dtype="uint8")
    other = replace(run.release, codec=pictures)
    with pytest.raises(FromNoiseError, match="models of text"):
        generate(other, 1, run.config.sample, prompt="a ___")
    with pytest.raises(FromNoiseError, match="ancestral, ddim, heun, multistep"):
        configure(other, sampler="unmask")
