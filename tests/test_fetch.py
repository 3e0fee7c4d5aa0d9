"""What becomes of packages that data sets are made from."""

from __future__ import annotations

import csv
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from benchmarks import data, notes
from fromnoise.errors import FromNoiseError


def test_verses_lose_their_references_and_nothing_else(tmp_path):
    reader = tmp_path / "usr" / "bin" / "bible"
    reader.parent.mkdir(parents=True)
    (tmp_path / "usr" / "lib").mkdir()
    reader.write_text("#!/bin/sh\necho 'Ge1:1 In the  beginning.'\necho 'Ge1:2 And: 3:16'\n")
    reader.chmod(0o755)
    data.verses(tmp_path / "usr", tmp_path / "verses")
    assert (tmp_path / "verses" / "verses.txt").read_text() == "In the  beginning.\nAnd: 3:16\n"


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
