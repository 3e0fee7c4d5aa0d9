"""Sounds: exact inverses at every rate, loudness kept, crops that are functions of the seed, bad files named."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datafiles import fill, many
from hypothesis import given
from hypothesis import strategies as st

import fromnoise as fn
from fromnoise import appraise
from fromnoise.codec import audiofile, codec_from_json
from fromnoise.codec.audiofile import read_recipe
from fromnoise.codec.sound import UNIT, SoundCodec
from fromnoise.data import diagnose, doctor, open_dataset, scan
from fromnoise.data.store import Ragged
from fromnoise.errors import FromNoiseError, Unreadable
from fromnoise.recipes import Facts, recipe
from fromnoise.rng import Rng
from fromnoise.runtime import Runtime

RATES = (8000, 22050, 44100, 48000)
TINY = ["net.widths=[32]", "net.attention=[false]", "net.emb=32", "optim.batch=8", "run.held_examples=8"]
TINY += ["run.held_evaluations=2", "run.grid_priors=0", "sample.steps=3"]


def wav(samples: np.ndarray, rate: int = 8000, kind: str = "WAV", **more) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, **more)
    return out.getvalue()


def tone(seconds: float, rate: int = 8000, pitch: float = 440.0, channels: int = 1, loud: float = 0.5) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return np.repeat((loud * np.sin(2 * np.pi * pitch * t) * np.exp(-4 * t))[:, None], channels, axis=1)


def hits(n: int, rate: int = 8000, seed: int = 0, **more) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    kinds = ("kick", "snare")
    return {
        f"{kinds[i % 2]}_{i:03}.wav": wav(tone(rng.uniform(0.05, 0.2), rate, rng.uniform(60, 2000), **more), rate)
        for i in range(n)
    }


def signal(kind: str, n: int, channels: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.uniform(-1, 1, (n, channels)).astype(np.float32)
    y = np.zeros((n, channels), np.float32)
    if kind == "impulse" and n:
        y[rng.integers(n), :] = 1.0
    if kind == "quiet tone":
        y[:] = 1e-4 * np.sin(np.arange(n) * rng.uniform(0.01, 3))[:, None]
    return y


# ---- the codec ------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(RATES),
    st.sampled_from([1, 2]),
    st.integers(1, 30),
    st.floats(0, 1.0),
    st.sampled_from(["noise", "impulse", "quiet tone", "silence"]),
    st.integers(0, 99),
)
def test_there_and_back_is_the_same_sound_to_100_dB(rate, channels, frames, share, kind, seed):
    codec = SoundCodec(
        rate=rate,
        channels=channels,
        bins=2 ** int(np.log2(rate / 80)),
        frames=frames + 1,
        gains=(0.7,) * (2 ** int(np.log2(rate / 80)) + 1),
    )
    y = signal(kind, round(share * codec.length), channels, seed)
    x0 = codec.encode([codec.store(y)])
    assert tuple(x0.shape[1:]) == codec.shape and bool(x0.isfinite().all())
    back = codec.decode(x0)[0]
    error = np.sum((back[: len(y)].astype(np.float64) - y) ** 2) + np.sum(back[len(y) :].astype(np.float64) ** 2)
    assert error <= 1e-10 * np.sum(y.astype(np.float64) ** 2), "100 dB; silence stays silence"


def test_energy_is_kept_and_magnitudes_are_compressed():
    codec = SoundCodec(rate=8000, channels=1, bins=64, frames=33)
    y = torch.randn(2, 1, codec.length, generator=torch.Generator().manual_seed(0))
    z = codec.spectra(y)
    full = 2 * z.abs().square().sum() - z[:, :, 0].abs().square().sum()
    assert float(full / y.square().sum()) == pytest.approx(1, rel=1e-4)
    loud, quiet = (codec.encode([codec.store(gain * y[0].T.numpy())]) for gain in (1.0, 0.01))
    torch.testing.assert_close(quiet, 0.1 * loud, rtol=1e-4, atol=1e-5)


def test_what_is_wrong_with_the_highest_frequency_stays_as_faint_as_it_is():
    """Both share row 0: compressed together, an error of the one would be multiplied by the root of the other."""
    codec = SoundCodec(rate=8000, channels=1, bins=64, frames=9)
    x0 = codec.encode([np.full((codec.length, 1), 0.5, np.float32)])
    wrong = x0.clone()
    wrong[:, 1, 0] += 0.02
    error = codec.decode(wrong) - codec.decode(x0)
    assert np.abs(error).max() < 1e-3


def test_one_gain_for_all_clips_so_that_loudness_is_kept():
    clips = [np.random.default_rng(i).normal(0, 0.1 * (i + 1), (3000, 2)).astype(np.float32) for i in range(5)]
    codec, _ = SoundCodec(rate=8000, channels=2, bins=64, frames=40).fitted(-1, 1, clips)
    x0 = codec.encode(clips)
    assert float(x0.std()) == pytest.approx(UNIT, rel=1e-3)
    assert (x0.flatten(1).std(1).diff() > 0).all()
    assert codec_from_json(json.loads(json.dumps(codec.to_json()))) == codec


def test_a_crop_is_a_function_of_its_stream_and_covers_the_clip():
    codec = SoundCodec(rate=8000, channels=1, bins=64, frames=9, crop="random")
    clip = np.arange(4000, dtype=np.float32)[:, None] / 4000
    batch = [clip] * 64
    first = [codec.decode(codec.encode(batch, Rng.of(0, range(64), "x")))[:, 0, 0] * 4000 for _ in range(2)]
    np.testing.assert_array_equal(*first)
    alone = codec.decode(codec.encode([clip], Rng.of(0, [7], "x")))[0, 0, 0] * 4000
    assert alone == pytest.approx(first[0][7], abs=0.1)
    assert first[0].min() < 400 and first[0].max() > 4000 - codec.length - 400
    kept = replace(codec, crop="start")
    np.testing.assert_allclose(kept.decode(kept.encode(batch, Rng.of(0, range(64))))[:, 0, 0], 0, atol=1e-5)


@pytest.mark.parametrize(
    "container,subtype", [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("flac", "PCM_24")]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_saved_sample_has_its_recipe_no_silence_at_its_end_and_no_click(tmp_path, container, subtype, channels):
    codec = SoundCodec(rate=22050, channels=channels, bins=256, frames=65, container=container, subtype=subtype)
    sample = np.zeros((codec.length, channels), np.float32)
    sample[:6000] = 0.5 * np.sin(np.arange(6000) * 0.2)[:, None]
    recipe = {"seed": 3, "cond": {"class": "Ünï"}, "searched": [list(np.linspace(1, 0, 40))]}
    file = codec.save(tmp_path / "000001", sample, recipe)
    assert file.name == f"000001.{container}" and read_recipe(file) == json.loads(json.dumps(recipe))
    back, rate = soundfile.read(file, always_2d=True)
    assert rate == 22050 and 6000 <= len(back) < 6200 and back.shape[1] == channels
    np.testing.assert_allclose(back[100:5900], sample[100:5900], atol=1e-4)
    assert np.abs(back[[0, -1]]).max() < 1e-3
    loud = np.ones((codec.length, channels), np.float32)
    assert np.abs(codec.ended(loud)[[0, -1]]).max() == 0 and len(codec.ended(loud)) == codec.length
    assert len(codec.ended(0 * loud)) > 1, "silence can be saved, too"


def test_a_preview_shows_frequency_upwards_and_loudness_as_light():
    codec = SoundCodec(rate=8000, channels=1, bins=64, frames=33)
    low, high = (np.sin(np.arange(codec.length) * w)[None, :, None].astype(np.float32) for w in (0.3, 2.5))
    pictures = codec.preview(np.concatenate([low, high, 0 * low])).astype(int).sum(-1).mean(2)
    assert pictures.shape == (3, 128) and pictures[0].argmax() > 100 and pictures[1].argmax() < 40
    assert pictures[2].max() < 10


# ---- sets of sounds -------------------------------------------------------------------------------------------------


def test_a_folder_of_sounds_is_recognised_and_comes_back(tmp_path):
    files = hits(40)
    data = open_dataset(fill(tmp_path / "set", files), cache_dir=tmp_path / "cache")
    assert data.listing.medium.name == "sound" and isinstance(data.stored, Ragged)
    assert [c.name for c in data.columns] == ["word"] and data.columns[0].labels == ("kick", "snare")
    for i in (0, 17, 39):
        y, _ = soundfile.read(io.BytesIO(files[data.names([i])[0]]), always_2d=True)
        np.testing.assert_allclose(data.stored[np.array([i])][0], y, atol=1e-6)
        n = min(len(y), data.codec.length)
        np.testing.assert_allclose(data.codec.decode(data.x0([i]))[0, :n], y[:n], atol=1e-4)
    again = open_dataset(tmp_path / "set", cache_dir=tmp_path / "cache")
    assert again.fingerprint == data.fingerprint and torch.equal(again.x0([3, 5]), data.x0([3, 5]))
    assert "8 kHz mono" in diagnose(data.listing)


def test_the_most_common_rate_and_channel_count_win_and_are_said(tmp_path):
    files = hits(20, 22050, channels=2) | {f"odd_{k}.wav": d for k, d in enumerate(hits(4, 44100, 1).values())}
    data = open_dataset(fill(tmp_path / "set", files), cache_dir=tmp_path / "cache")
    assert (data.codec.rate, data.codec.channels) == (22050, 2)
    assert any("4 are resampled to 22.05 kHz" in note for note in data.notes)
    assert any("4 are doubled to stereo" in note for note in data.notes)
    place = data.names(np.arange(24)).index("odd_0.wav")
    y, _ = soundfile.read(io.BytesIO(files["odd_0.wav"]))
    there = data.stored[np.array([place])][0]
    assert len(there) == pytest.approx(len(y) / 2, abs=1) and there.shape[1] == 2


def test_what_is_said_of_rates_counts_the_sounds_that_are_read(tmp_path):
    silent = {f"silent_{i}.wav": wav(np.zeros((800, 1)), 16000) for i in range(3)}
    others = {"fast.wav": wav(tone(0.1, 16000), 16000), "wide.wav": wav(tone(0.1, 8000, channels=2), 8000)}
    said = diagnose(scan(fill(tmp_path / "set", hits(10) | silent | others)), tmp_path / "cache")
    assert "10 of 8 kHz mono, 1 of 16 kHz mono, 1 of 8 kHz stereo" in said
    assert "sounds of several rates, 11 of 8 kHz, 1 of 16 kHz: 1 is resampled to 8 kHz, the most common rate." in said
    assert "sounds in mono and in stereo, 11 mono, 1 stereo: 1 is averaged to mono" in said


def test_resampling_keeps_a_tone_and_drops_what_the_rate_cannot_hold(tmp_path):
    files = hits(5, 8000) | {"z1.wav": wav(tone(0.5, 48000, 1000), 48000), "z2.wav": wav(tone(0.5, 48000, 9000), 48000)}
    data = open_dataset(fill(tmp_path / "set", files), cache_dir=tmp_path / "cache")
    kept, dropped = (data.stored[np.array([data.names(np.arange(7)).index(n)])][0] for n in ("z1.wav", "z2.wav"))
    np.testing.assert_allclose(kept[400:-400], tone(0.5, 8000, 1000)[400:-400], atol=0.01)
    assert np.abs(dropped[400:-400]).max() < 0.01


def test_hits_keep_their_start_and_recordings_are_shown_in_parts(tmp_path):
    short = open_dataset(fill(tmp_path / "a", hits(20) | {"long_1.wav": wav(tone(9.0))}), cache_dir=tmp_path / "c")
    assert short.codec.crop == "start" and any("cut off" in note for note in short.notes)
    long = open_dataset(
        fill(tmp_path / "b", {f"{i}.wav": wav(tone(5.0 + i)) for i in range(4)}), cache_dir=tmp_path / "c"
    )
    assert long.codec.crop == "random" and long.codec.length / 8000 == pytest.approx(4, rel=0.05)
    first, other = (long.x0([0, 1], Rng.of(0, [0, 1], "train", step)) for step in (0, 1))
    assert not torch.equal(first, other) and torch.equal(first, long.x0([0, 1], Rng.of(0, [0, 1], "train", 0)))
    asked = open_dataset(tmp_path / "b", size=0.3, cache_dir=tmp_path / "c")
    assert asked.codec.length / 8000 == pytest.approx(0.3, rel=0.25)
    with pytest.raises(FromNoiseError, match="seconds"):
        open_dataset(tmp_path / "b", size=(32, 32), cache_dir=tmp_path / "c")


def test_what_cannot_be_heard_is_named_and_the_rest_trains(tmp_path):
    mp3, ogg = wav(tone(1.0, 22050), 22050, "MP3"), wav(tone(1.0, 22050), 22050, "OGG")
    whole, flac = wav(tone(0.2)), wav(tone(0.2), kind="FLAC")
    bad = {
        "cut.mp3": mp3[: len(mp3) // 2],
        "cut.wav": whole[: len(whole) // 2],
        "cut.flac": flac[: len(flac) // 2],
        "cut.ogg": ogg[: len(ogg) // 2],
        "silent.wav": wav(np.zeros((4000, 1))),
        "point.wav": wav(np.ones((1, 1))),
        "words.wav": b"this is no sound at all",
        "empty.wav": b"",
        "nan.wav": wav(np.where(np.arange(4000) < 2000, 0.1, np.nan), subtype="FLOAT"),
        "matlab.wav": wav(32768 * tone(0.2), subtype="FLOAT"),
        "gain.wav": wav(100 * tone(0.2), subtype="FLOAT"),
        "six.wav": wav(np.repeat(tone(0.2), 6, axis=1)),
    }
    data = open_dataset(fill(tmp_path / "set", hits(40) | bad | {"lonely_1.wav": wav(tone(0.1, pitch=99))}))
    reasons = {file.name: file.reason for file in data.listing.skipped}
    assert set(reasons) == set(bad) and len(data) == 41
    words = {"cut.mp3": "again", "cut.wav": "again", "cut.flac": "again", "cut.ogg": "again"}
    words |= {"silent.wav": "silent", "six.wav": "stereo", "nan.wav": "at 0.250 s", "gain.wav": "highest"}
    words |= {"matlab.wav": "divide it by 32768"}
    for name, word in (words | {"point.wav": "1 sample", "words.wav": "not a readable sound"}).items():
        assert word in reasons[name], (name, reasons[name])
    assert "copy" in reasons["empty.wav"]
    said = diagnose(scan(tmp_path / "set"), tmp_path / "other cache")
    assert "41 examples, 12 files skipped" in said
    assert all(f"  {name}: {why}" in said for name, why in reasons.items()), "doctor names what train leaves out"
    assert any("single example (lonely)" in note for note in open_dataset(tmp_path / "set", columns=["word"]).notes)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_is_whole_or_named_wherever_it_is_cut(subtype):
    noise_ = np.random.default_rng(0).normal(0, 0.1, 48000)
    whole = wav(noise_, 48000, "OGG", subtype=subtype)
    assert audiofile.probe(whole).frames == 48000
    for size in np.linspace(60, len(whole) - 1, 50).astype(int).tolist():
        with pytest.raises(Unreadable, match="cut short"):
            audiofile.probe(whole[:size])


@pytest.mark.parametrize("loud", [0.9, 1.5, 7.9])
def test_floats_above_full_scale_are_sounds_still(loud):
    y = np.full((800, 1), loud, np.float32)
    data = wav(y, subtype="FLOAT")
    np.testing.assert_array_equal(audiofile.decode(data, audiofile.probe(data), rate=8000, channels=1), y)


def test_what_is_too_much_to_decode_is_said_and_damage_inside_is_named_once_it_is_known(tmp_path, monkeypatch):
    folder = fill(tmp_path / "set", hits(20) | {"silent.wav": wav(np.zeros((4000, 1)))})
    monkeypatch.setattr(doctor, "MUCH", 1000)
    before = diagnose(scan(folder), tmp_path / "c")
    assert "judged by their headers" in before and "is silent" not in before and not list((tmp_path / "c").glob("*"))
    open_dataset(folder, cache_dir=tmp_path / "c")
    after = diagnose(scan(folder), tmp_path / "c")
    assert "judged by their headers" not in after and "silent.wav: is silent" in after


def test_of_mixed_media_most_files_win_and_the_others_are_listed(tmp_path):
    listing = scan(fill(tmp_path / "a", hits(4) | many(2)))
    assert listing.medium.name == "sound" and len(listing) == 4
    assert [f.name for f in listing.skipped if f.reason.startswith("image, and most")] == ["000.png", "001.png"]
    listing = scan(fill(tmp_path / "b", hits(4) | many(4)))
    assert listing.medium.name == "image" and len(listing) == 4, "of equally many the first medium"
    listing = scan(fill(tmp_path / "c", {"sound": wav(tone(0.1)), "a.wav": wav(tone(0.2)), "a.txt": b"a tone"}))
    assert len(listing) == 2 and "caption" in [p.name for p in listing.profiles]


def test_a_recipe_fits_any_rate_and_length():
    cpu = Runtime(device=torch.device("cpu"), precision="float32", threads=1, why="for a test")
    for bins, frames in ((64, 8), (64, 512), (512, 136)):
        facts = Facts(examples=200, held=20, shape=(2, bins, frames), columns=(), std=0.5, medium="sound")
        config, _ = recipe(facts, cpu, budget=60.0, steps=None)
        cells = np.array([bins, frames]) / config.net.patch
        assert cells.max() <= 64 and cells.min() >= 4 and config.net.masks


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> fn.Run:
    folder = tmp_path_factory.mktemp("sounds")
    files = hits(210) | {f"kick_flac_{i}.flac": wav(tone(0.1, pitch=50 + i), kind="FLAC") for i in range(3)}
    return fn.train(fill(folder / "set", files), out=folder / "run", steps=3, size=0.1, settings=TINY)


def test_samples_go_beyond_the_window(run, tmp_path):
    codec = run.release.codec
    assert isinstance(codec, SoundCodec)
    for number, more in enumerate(({"length": 0.3}, {"loop": True}, {"loop": True, "length": 0.25})):
        samples = run.generate(2, **more)
        files = sorted(samples.save(tmp_path / f"{number}").glob("*.wav"))
        sizes = {soundfile.info(file).frames for file in files}
        assert sizes == {samples.samples.shape[1]}, "asked-for lengths are not trimmed"
        assert sizes.pop() / codec.rate == pytest.approx(more.get("length", codec.length / codec.rate), abs=0.02)
        assert more.items() <= read_recipe(files[1]).items()
    y = tone(0.12)
    soundfile.write(tmp_path / "start.wav", y, 8000, subtype="FLOAT")
    made = run.sample(1, beginning=tmp_path / "start.wav")[0]
    kept = (len(y) // codec.bins - 1) * codec.bins
    assert np.abs(made[:kept] - y[:kept]).max() < 1e-4 and len(made) >= len(y) + codec.length - 2 * codec.bins
    y[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", y, 8000, subtype="FLOAT")
    with pytest.raises(FromNoiseError, match=r"nan.wav holds NaN"):
        run.sample(1, beginning=tmp_path / "nan.wav")
    with pytest.raises(FromNoiseError, match=r"start.txt"):
        run.sample(1, beginning=tmp_path / "start.txt")


def test_samples_are_sounds_like_the_data(run, tmp_path):
    samples = run.generate(3, where={"word": "snare"})
    assert samples.samples.shape == (3, run.release.codec.length, 1) and samples.samples.dtype == np.float32
    folder = samples.save(tmp_path / "out")
    assert sorted(p.name for p in folder.iterdir()) == ["000000.wav", "000001.wav", "000002.wav", "sheet.png"]
    assert read_recipe(folder / "000001.wav")["cond"] == {"word": "snare"}
    assert len(scan(folder)) == 3, "samples are data again"


def test_the_report_card_of_sounds_plays_them(run, monkeypatch):
    monkeypatch.setattr(appraise, "learn_features", partial(appraise.learn_features, steps=10))
    monkeypatch.setattr(appraise, "obedience", partial(appraise.obedience, steps=10))
    judgement = run.evaluate(n=24)
    assert judgement.row("samples").frechet > judgement.row("floor").frechet
    page = Path(run.folder.report).read_text()
    assert page.count("<audio controls") == 12 and "data:audio/wav;base64," in page and "frequency" in page
