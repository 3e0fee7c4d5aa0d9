"""Notes of instruments as sound files, played from a sound font: `NAME-PITCH.wav` and `metadata.csv`.

Pitches are MIDI numbers, 69 = 440 Hz.  A table says of each file its instrument, its pitch and how hard it was played.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

from fromnoise.errors import FromNoiseError

# Name and program of General MIDI; all of them can play every pitch of RANGE.
INSTRUMENTS = {
    "piano": 0, "harpsichord": 6, "glockenspiel": 9, "marimba": 12, "organ": 19, "accordion": 21, "guitar": 24,
    "bass": 32, "violin": 40, "cello": 42, "harp": 46, "strings": 48, "choir": 52, "trumpet": 56, "clarinet": 71,
    "flute": 73,
}  # fmt: skip
RANGE = range(48, 85)  # C3 … C6
HARDNESS = (60, 110)  # velocities of MIDI, up to 127
RATE, SECONDS, HELD = 22050, 1.0, 0.7  # the key is held so long, and the rest of the second is decay


def render(font: Path, folder: Path) -> None:
    """Every instrument, pitch and hardness as one file.  Raises FromNoiseError where the player is missing."""
    try:
        from tinysoundfont import Synth  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise FromNoiseError(
            "Notes are played by tinysoundfont, which is missing: pip install --no-deps tinysoundfont."
        ) from error
    folder.mkdir()
    synth, rows = Synth(samplerate=RATE), []
    sounds = synth.sfload(str(font))
    for instrument, program in INSTRUMENTS.items():
        synth.program_select(0, sounds, 0, program)
        for pitch in RANGE:
            for hardness in HARDNESS:
                synth.noteon(0, pitch, hardness)
                held = np.frombuffer(synth.generate(int(RATE * HELD)), np.float32)
                synth.noteoff(0, pitch)
                rest = np.frombuffer(synth.generate(int(RATE * (SECONDS - HELD))), np.float32)
                synth.sounds_off()
                synth.generate(RATE)  # nothing of this note rings on in the next
                name = f"{instrument}-{pitch}-{hardness}.wav"
                mono = np.concatenate([held, rest]).reshape(-1, 2).mean(1)
                soundfile.write(folder / name, mono, RATE, subtype="PCM_16")
                rows.append((name, instrument, pitch, hardness))
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "instrument", "pitch", "hardness"), *rows])
