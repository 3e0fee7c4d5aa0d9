"""Clips from files to report: rates and windows, frames that see each other, what goes on and what lies between."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import sys
import time
from collections import Counter
from fractions import Fraction
from functools import partial

import av
import numpy as np
import pytest
import torch
from datafiles import fill
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import fromnoise as fn
from fromnoise import appraise
from fromnoise.build import build_denoiser, build_objective
from fromnoise.codec import Codec, Extensible, ImageCodec, Medium, Sharing, VideoCodec, codec_from_json, videofile
from fromnoise.codec.timing import seen, timing
from fromnoise.codec.videofile import VideoHeader
from fromnoise.cond import Cond
from fromnoise.config import Config, LossConfig, OptimConfig, RunConfig, UNetConfig
from fromnoise.data import open_dataset, scan
from fromnoise.data.video import Videos
from fromnoise.density import LogitNormal
from fromnoise.errors import FromNoiseError, Unreadable
from fromnoise.evaluate.motion import measured, motion
from fromnoise.grid import Linear
from fromnoise.objectives.regression import levels_apart
from fromnoise.rng import Rng
from fromnoise.runtime import Runtime
from fromnoise.stepper import Multistep
from fromnoise.stream import Walk, rolled, rolling
from fromnoise.trainer import Trainer

RATES = st.sampled_from([Fraction(10), Fraction(12), Fraction(25, 2), Fraction(30), Fraction(1000, 33), Fraction(24)])


def clip(frames: int = 9, height: int = 16, width: int = 20, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Coarse random pictures (n, h, w, c), each unlike the one before."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (frames, height // 4, width // 4, channels), np.uint8).repeat(4, 1).repeat(4, 2)


def written(tmp_path, frames: np.ndarray, rate: Fraction, container: str) -> bytes:
    return videofile.save(tmp_path / "clip", frames, rate, container=container, recipe={"seed": 3}).read_bytes()


@given(rate=RATES, frames=st.integers(2, 40), held=st.sets(st.integers(1, 39), max_size=5))
@settings(max_examples=15, deadline=None)
def test_an_animated_webp_gives_back_every_pixel_frame_and_the_rate(tmp_path_factory, rate, frames, held):
    shown = clip(frames, 8, 8, 4)
    shown[shown[..., 3] == 0] = 0  # what is invisible has no colour
    for k in held:
        if k < frames:
            shown[k] = shown[k - 1]  # what WebP keeps once
    folder = tmp_path_factory.mktemp("webp")
    data = written(folder, shown, rate, "webp")
    header = videofile.probe(data)
    assert (header.frames, header.alpha, header.variable) == (frames, True, False)
    back = videofile.decode(data, Fraction(header.rate), (8, 8))
    assert np.array_equal(back, shown)
    assert videofile.read_recipe(folder / "clip.webp") == {"seed": 3}


def test_a_picture_that_claims_to_be_huge_is_left_out_and_the_rest_is_read(tmp_path):
    huge = b"GIF89a" + b"\xff" * 4 + b"\x00" * 3 + b"," + b"\x00" * 4 + b"\xff" * 4 + b"\x00" + b"\x02" * 40
    (tmp_path / "huge.gif").write_bytes(huge)
    for name in "ab":
        written(tmp_path, clip(4, 8, 8, seed=ord(name)), Fraction(10), "webp")
        (tmp_path / "clip.webp").rename(tmp_path / f"{name}.webp")
    listing = scan(tmp_path)
    assert len(listing) == 2 and [file.name for file in listing.skipped] == ["huge.gif"]


@pytest.mark.parametrize("container", ["mp4", "webm"])
@pytest.mark.parametrize("rate", [Fraction(12), Fraction(25, 2), Fraction(30000, 1001)])
def test_a_video_keeps_its_frames_and_its_rate(tmp_path, container, rate):
    shown = clip(13, 32, 40)
    data = written(tmp_path, shown, rate, container)
    header = videofile.probe(data)
    assert (header.frames, header.size[1:], Fraction(header.rate)) == (13, (32, 40), rate)
    back = videofile.decode(data, rate, (32, 40))
    assert back.shape == shown.shape
    # Each frame is its own and no neighbour's, whatever the compression does to colours.
    apart = np.abs(back[:, None].astype(int) - shown[None]).mean((2, 3, 4))
    assert (apart.argmin(1) == np.arange(13)).all()
    assert videofile.read_recipe(tmp_path / f"clip.{container}") == {"seed": 3}


def test_a_lower_rate_shows_what_is_seen_at_its_times(tmp_path):
    shown = clip(12, 8, 8, 4)
    shown[..., 3] = 255
    data = written(tmp_path, shown, Fraction(24), "webp")
    assert np.array_equal(videofile.decode(data, Fraction(12), (8, 8)), shown[::2])
    assert np.array_equal(videofile.decode(data, Fraction(48), (8, 8)), shown.repeat(2, 0))


@given(rate=RATES, places=st.lists(st.integers(1, 3), min_size=2, max_size=60), floor=st.booleans())
@settings(deadline=None)
def test_the_rate_is_found_from_rounded_times(rate, places, floor):
    """Frames that stay for 1 to 3 periods, at times rounded to whole ms in either way, most of them for one."""
    stays = [1, 1, 1, *places, *[1] * len(places)]
    moments = [k / rate * 1000 for k in np.cumsum([0, *stays]).tolist()]
    ticks = [int(moment) if floor else round(moment) for moment in moments]
    found = timing(ticks, Fraction(1, 1000))
    assert not found.variable and found.frames == sum(stays)
    again = [round(k / found.rate * 1000) for k in np.cumsum([0, *stays]).tolist()]
    assert max(abs(a - b) for a, b in zip(again, ticks, strict=True)) <= 2


def test_a_rate_that_varies_is_called_so():
    found = timing([0, 40, 95, 120, 200, 233], Fraction(1, 1000))
    assert found.variable and found.rate > 0
    assert seen(found.times, Fraction(10)).tolist() == [0, 2]


# ---- a set ----------------------------------------------------------------------------------------------------------


def animation(frames: np.ndarray, duration: int = 100, format: str = "WEBP") -> bytes:
    out, images = io.BytesIO(), [Image.fromarray(one) for one in frames]
    images[0].save(out, format, save_all=True, append_images=images[1:], duration=duration, lossless=True, exact=True)
    return out.getvalue()


def still(seed: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(clip(1, seed=seed)[0]).save(out, "WEBP", lossless=True)
    return out.getvalue()


def test_a_folder_of_which_a_quarter_is_animated_is_a_set_of_clips(tmp_path):
    files = {f"{i}.webp": animation(clip(seed=i)) for i in range(5)} | {f"still{i}.webp": still(i) for i in range(9)}
    files |= {f"{i}.gif": animation(clip(seed=i), format="GIF") for i in range(2)} | {"a.png": b""}
    listing = scan(fill(tmp_path / "clips", files))
    assert listing.medium.name == "video" and len(listing) == 7
    why = {file.name: file.reason for file in listing.skipped}
    assert "still picture among clips" in why["still0.webp"] and "most of the set is video" in why["a.png"]
    assert "7 animated pictures are clips" in listing.notes[0]
    files = {f"{i}.webp": still(i) for i in range(9)} | {"moves.webp": animation(clip())}
    assert scan(fill(tmp_path / "stills", files)).medium.name == "image"


def broken(tmp_path) -> dict[str, bytes]:
    """Files that give no clip, by what is said of them."""
    whole = written(tmp_path, clip(40, 32, 40), Fraction(25), "mp4")
    one = written(tmp_path, clip(1, 32, 40), Fraction(25), "mp4")
    webp = animation(clip())
    return {
        "is empty": b"",
        "not a readable video": whole[: len(whole) // 2],
        "holds one frame": one,
        "cut short": webp[: len(webp) // 2],
        "still picture": still(),
    }


def test_files_that_give_no_clip_are_named_with_a_remedy_and_the_rest_trains(tmp_path):
    told = broken(tmp_path)
    for why, data in told.items():
        with pytest.raises(Unreadable, match=why) as error:
            Videos().probe(data)
        assert ":" in str(error.value)  # the remedy
    files = {f"{i}.mp4": written(tmp_path, clip(20, 32, 40, seed=i), Fraction(25), "mp4") for i in range(3)}
    files |= {"slow.mp4": written(tmp_path, clip(20, 64, 64), Fraction(10), "mp4")}
    files |= {f"bad{i}.mp4": data for i, data in enumerate(told.values()) if not data.startswith(b"RIFF")}
    data = open_dataset(fill(tmp_path / "set", files), cache_dir=tmp_path / "cache")
    assert len(data) == 4 and len(data.listing.skipped) == 3
    assert isinstance(data.codec, VideoCodec) and data.codec.rate == "25/2"
    said = " ".join(data.notes)
    assert "of 25 frames a second one in 2 is taken" in said and "1 clips of another rate" in said
    assert "windows of 10 frames" in said and "2 different sizes become 32 x 32" in said


def proposed(frames: list[int], size: tuple[int, ...] | None = None) -> tuple[VideoCodec, str]:
    """The codec of clips of so many frames of 32 x 32, and what is said of it."""
    one = VideoHeader(frames=1, height=32, width=32, rate="12", channels=3, alpha=False)
    headers = Counter(dataclasses.replace(one, frames=n) for n in frames)
    chosen, notes = Videos().choose(Videos().common(headers)[0], headers, size)
    return chosen, " ".join(notes)


@given(frames=st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_the_window_is_the_clip_a_tenth_of_the_way_from_the_shortest(frames):
    codec, said = proposed(frames)
    assert codec.frames == min(max(sorted(frames)[(len(frames) - 1) // 10], 4), 16)
    whole = sum(n <= codec.frames for n in frames)
    held = {0: "no clip", len(frames): "every clip"}.get(whole, f"{whole} of {len(frames)} clips")
    assert f"hold {held} whole" in said and ("each step sees a part" in said) == (whole < len(frames))
    assert "of longer ones" not in said or 0 < whole < len(frames)
    assert "frames are 32 x 32" in said and "become" not in said


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([20] * 12, "12 clips are few, and are cut into .*; the end of each clip is held out"),
        ([20, 5, 5], "3 clips are few, and are cut into .*; the end of 1 of them is held out"),
        ([40], "a single clip is cut into .*; the end of each clip is held out"),
    ],
)
def test_what_is_said_of_pieces_is_so(tmp_path, frames, says):
    files = {f"{i}.webp": animation(clip(n, 8, 8, seed=i)) for i, n in enumerate(frames)}
    data = open_dataset(fill(tmp_path / "set", files), cache_dir=tmp_path / "cache", size=(4, 8, 8))
    said = " ".join(data.notes)
    assert re.search(says, said) and "long clips" not in said
    lengths = {len(one) for one in data.stored[np.arange(len(data))]}
    low, high = min(lengths), max(lengths)
    assert f"into {len(data)} pieces of {low if low == high else f'{low} to {high}'} frames" in said


def filmed(file, frames: int, *, seconds: float = 0.0, times: np.ndarray | None = None) -> bytes:
    """A video at 20 frames a second, or of frames at `times` in ms, with so many seconds of sound."""
    noise = np.random.default_rng(0)
    with av.open(str(file), "w") as out:
        pictures = out.add_stream("libvpx" if file.suffix == ".webm" else "libx264", rate=20)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        if times is not None:
            pictures.codec_context.time_base = Fraction(1, 1000)
        sound = out.add_stream("libopus" if file.suffix == ".webm" else "aac", rate=48000) if seconds else None
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (48, 64, 3), dtype=np.uint8), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[i]), Fraction(1, 1000)
            out.mux(pictures.encode(frame))
        out.mux(pictures.encode())
        for i in range(int(seconds * 50)):
            tone = noise.normal(0, 0.1, (2, 960)).astype(np.float32)
            heard = av.AudioFrame.from_ndarray(tone, format="fltp", layout="stereo")
            heard.sample_rate, heard.pts, heard.time_base = 48000, 960 * i, Fraction(1, 48000)
            out.mux(sound.encode(heard))
        out.mux(sound.encode() if sound else [])
    return file.read_bytes()


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize("kind", ["plain", "long sound", "variable"])
def test_a_whole_file_is_whole_whatever_its_sound_and_rate_and_a_cut_one_is_named(tmp_path, suffix, kind):
    times = np.cumsum(np.random.default_rng(0).integers(10, 120, 60)) if kind == "variable" else None
    data = filmed(tmp_path / f"a.{suffix}", 60, seconds=6 if kind == "long sound" else 0, times=times)
    header = videofile.probe(data)
    assert header.variable == (kind == "variable")
    lasts = 3 if times is None else (times[-1] - times[0]) / 1000
    assert header.seconds == pytest.approx(lasts, abs=0.15)
    with pytest.raises(Unreadable, match="cut short" if suffix == "mkv" else "not a readable video"):
        videofile.probe(data[: len(data) // 2])


def test_a_video_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    data = written(tmp_path, clip(4), Fraction(25), "mp4")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(Unreadable, match=r"pip install 'fromnoise\[video\]'"):
        Videos().probe(data)


def codec(frames: int = 6, channels: int = 3, size: int = 8) -> VideoCodec:
    image = ImageCodec.full_range(height=size, width=size, channels=channels, alpha=channels == 4, dtype="uint8")
    return VideoCodec(image=image, frames=frames, rate="12", container="webp")


def test_the_medium_keeps_its_promises():
    assert isinstance(Videos(), Medium) and isinstance(Videos(), Sharing)
    assert isinstance(codec(), Codec) and isinstance(codec(), Extensible)
    assert codec_from_json(codec().to_json()) == codec()


@given(lengths=st.lists(st.integers(1, 15), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_window_is_a_part_of_its_clip_and_comes_back_exactly(lengths, seed):
    clips, one = [clip(n, 8, 8, seed=seed + n) for n in lengths], codec()
    x0 = one.encode([one.store(c) for c in clips], Rng.of(seed, range(len(clips))))
    for k, (raw, back) in enumerate(zip(clips, one.decode(x0), strict=True)):
        n = min(len(raw), 6)
        starts = [a for a in range(len(raw) - n + 1) if np.array_equal(raw[a : a + n], back[:n])]
        assert starts and (back[n:] == raw[-1]).all()
        # Drawn for this example, whatever else is in the batch.
        alone = one.encode([one.store(raw)], Rng.of(seed, [k]))
        assert torch.equal(alone[0], x0[k])


# ---- frames that see each other -------------------------------------------------------------------------------------


def network(frames: str | None, steps: int = 1, width: int = 32) -> Config:
    net = UNetConfig(widths=(width, 2 * width), blocks=1, patch=2, attention=(False, True), emb=64, frames=frames)
    return Config(
        net=net,
        loss=LossConfig(time_axes=(0,), drop=0.0),
        run=RunConfig(steps=steps, ema=0.1),
        optim=OptimConfig(batch=8, warmup_steps=20),
    )


@pytest.mark.parametrize("frames", ["past", "both"])
def test_an_answer_depends_on_what_its_frame_may_see(frames):
    denoise = build_denoiser(network(frames), (), 1, 3)
    generator = torch.Generator().manual_seed(0)
    for weight in denoise.net.parameters():
        nn.init.normal_(weight, std=0.2, generator=generator)
    x, t = torch.randn(2, 1, 6, 8, 8, generator=generator), torch.rand(2, 1, 6, 1, 1, generator=generator)
    later_x, later_t = x.clone(), t.clone()
    later_x[:, :, 3:] += 1
    later_t[:, :, 3:] *= 0.5
    one, other = (denoise(a, b, Cond.empty(2)).x0 for a, b in ((x, t), (later_x, later_t)))
    changed = (one - other).abs().amax((0, 1, 3, 4))
    assert torch.equal(changed[:3], torch.zeros(3)) == (frames == "past")
    assert (changed[3:] > 1e-4).all()
    # One level for all is the same level for each.
    same = t[:, :, :1]
    assert torch.equal(denoise(x, same, Cond.empty(2)).x0, denoise(x, same.expand(2, 1, 6, 1, 1), Cond.empty(2)).x0)


def test_levels_are_together_apart_or_known():
    b, n = 2000, 7
    t = torch.full((b, 1, 1, 1, 1), 0.6, dtype=torch.float64)
    levels = levels_apart(LogitNormal(), t, (b, 2, n, 4, 4), (0,), Rng.of(0, range(b)))[:, 0, :, 0, 0]
    together, known = (levels == 0.6).all(1), (levels == 0).any(1)
    assert abs(float(together.double().mean()) - 0.4) < 0.06 and abs(float(known.double().mean()) - 0.3) < 0.06
    some = levels[known]
    assert ((some == 0) | (some == 0.6)).all() and (some == 0.6).any(1).all()
    # Of ten known ends four are beginnings, two are ends alone, and four both, where there is room.
    begun, ended = some[:, 0] == 0, some[:, -1] == 0
    assert (begun | ended).all() and abs(float((~begun).double().mean()) - 0.2) < 0.06
    assert abs(float((begun & ended).double().mean()) - 0.4 * 0.59) < 0.06
    # What is known is at the ends: unknown frames have no known one between them.
    assert ((some.diff(dim=1) < 0).sum(1) <= 1).all() and ((some.diff(dim=1) > 0).sum(1) <= 1).all()
    apart = levels[~together & ~known]
    assert len(apart) and (apart.diff(dim=1) != 0).all()


class Bars:
    """Clips (1, frames, 8, 8) of an upright bar that goes one pixel a frame to the left or right, round and round."""

    def __init__(self, n: int, frames: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.way = rng.integers(0, 2, n) * 2 - 1
        at = (rng.integers(0, 8, n)[:, None] + self.way[:, None] * np.arange(frames)) % 8
        bar = (np.arange(8) == at[..., None]) | (np.arange(8) == (at[..., None] + 1) % 8)
        self.data = torch.from_numpy(np.where(bar, 0.8, -0.8)).float()[:, None, :, None].expand(-1, -1, -1, 8, -1)

    def x0(self, indices: np.ndarray, rng: Rng | None = None) -> torch.Tensor:
        return self.data[torch.as_tensor(indices)]

    def cond(self, indices: np.ndarray, rng: Rng | None = None) -> Cond:
        return Cond.empty(len(indices))


def walk(denoise, n: int, first: int = 0) -> Walk:
    rng = partial(lambda k, use: Rng.of(0, range(first, first + n), use, k))
    return Walk(denoise=denoise, stepper=Multistep(), times=Linear(shift=2.0)(6), cond=Cond.empty(n), rng=rng)


def test_a_continuation_follows_the_way_that_its_beginning_went():
    """The bar of four known frames goes on as it went, in the next window and in those after it, which know no more of
    it than the model's own frames."""
    config, data = network("both", steps=220), Bars(256, 8, 0)
    begun = time.perf_counter()
    trainer = Trainer(
        config=config,
        denoiser=build_denoiser(config, (), 1, 3),
        objective=build_objective(config),
        data=data,
        indices=np.arange(256),
        runtime=Runtime(device=torch.device("cpu"), precision="float32", threads=1),
        clock=lambda: time.perf_counter() - begun,
    )
    for _ in trainer.run():
        pass
    held = Bars(24, 8, 1)
    known, blank = held.data[:, :, :4], torch.zeros(24, 1, 8, 8, 8)
    stream = rolled(walk(trainer.average(), 24), blank, known)
    x = torch.cat([known, *(next(stream) for _ in range(4))], 2)[:, 0].mean(2)  # the profile of each frame
    steps = torch.stack([(x[:, :-1].roll(way, -1) * x[:, 1:]).sum(-1) for way in (-1, 0, 1)], -1).argmax(-1) - 1
    right = (steps[:, 3:] == torch.from_numpy(held.way)[:, None]).float().mean(0)
    assert right[:4].mean() > 0.7 and right.mean() > 0.5  # by chance a third


def test_what_is_known_stays_and_a_clip_does_not_depend_on_its_batch():
    denoise = build_denoiser(network("both"), (), 1, 3).eval()
    known = Bars(3, 5, 0).data
    blank = torch.zeros(3, 1, 6, 8, 8)
    stream = rolled(walk(denoise, 3), blank, known)
    blocks = [next(stream) for _ in range(3)]
    assert [block.shape[2] for block in blocks] == [3, 3, 3]
    alone = rolled(walk(denoise, 1, 1), blank[:1], known[1:2])
    for block in blocks:
        assert torch.allclose(next(alone)[0], block[1], atol=1e-5)
    plan = rolling(codec(6, 1), sees="both", between=(clip(9, 8, 8, 1), clip(9, 8, 8, 1, seed=1)))
    x = plan(walk(denoise, 2), 2, torch.device("cpu"))
    assert plan.first is not None and plan.last is not None
    assert torch.equal(x[:, :, :1], plan.first.expand(2, *plan.first.shape[1:])) and x.shape[2] == 6
    assert torch.equal(x[:, :, -1:], plan.last.expand(2, *plan.last.shape[1:]))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"loop": True}, "do not loop"),
        ({"between": (clip(2, 8, 8, 1), clip(2, 8, 8, 1)), "sees": "past"}, "net.frames=both"),
        ({"between": (clip(2, 8, 8, 1), clip(2, 8, 8, 1)), "length": 9}, "--frames 3 to 6"),
        ({"beginning": clip(9, 8, 8, 1), "length": 9}, "--frames 10 or more"),
    ],
)
def test_what_cannot_be_made_is_said(asked, why):
    with pytest.raises(FromNoiseError, match=why):
        rolling(codec(6, 1), **{"sees": "both", **asked})


def test_motion_is_measured_in_shares_of_the_range():
    x = torch.zeros(1, 1, 3, 2, 2)
    x[:, :, 1:, 0] = 0.5  # half of all places change once in two moves, by a quarter of the range
    found = measured(x)
    assert found["change"] == pytest.approx(0.25 / 4) and found["stillness"] == pytest.approx(0.75)
    assert found["brightness"] == pytest.approx(0.5 + 0.25 / 3)
    assert "much as in held-out data" in motion(x, x)[0].sentence
    assert "0.5 times held-out" in motion(x / 2, x)[0].sentence


# ---- from files to a report -----------------------------------------------------------------------------------------


def balls(i: int) -> bytes:
    """A square that goes to the right or down, of a colour of its own, on nothing."""
    rng = np.random.default_rng(i)
    frames, (y, x) = np.zeros((12, 16, 16, 4), np.uint8), rng.integers(0, 6, 2)
    colour = [*rng.integers(60, 256, 3), 255]
    for k, frame in enumerate(frames):
        down, right = (k % 6, 0) if i % 2 else (0, k % 6)
        frame[y + down : y + down + 4, x + right : x + right + 4] = colour
    return animation(frames, 125)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    files = {f"{i:03}.webp": balls(i) for i in range(150)}
    patch = pytest.MonkeyPatch()
    patch.setattr(appraise, "learn_features", partial(appraise.learn_features, steps=10))
    net = ["net.widths=[32]", "net.attention=[true]", "net.emb=32", "optim.batch=4", "run.grid_priors=0", "net.patch=4"]
    net += ["run.held_evaluations=2", "run.held_examples=8", "run.preview_examples=4"]
    made = fn.train(fill(folder / "set", files), out=folder / "run", steps=4, size=(8, 16, 16), settings=net)
    yield made
    patch.undo()


def test_clips_go_from_files_to_samples_in_their_own_form(run, tmp_path):
    samples = run.generate(3, steps=2)
    assert samples.samples.shape == (3, 8, 16, 16, 4) and samples.samples.dtype == np.uint8
    folder = samples.save(tmp_path / "out")
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["000000.webp", "000001.webp", "000002.webp", "sheet-moving.png", "sheet.png"]
    header = videofile.probe((folder / "000001.webp").read_bytes())
    assert (header.frames, header.rate, header.mode) == (8, "8", "RGBA at 8 frames a second")
    assert np.array_equal(
        videofile.decode((folder / "000001.webp").read_bytes(), Fraction(8), (16, 16)), samples.samples[1]
    )
    assert videofile.read_recipe(folder / "000001.webp")["index"] == 1
    with Image.open(folder / "sheet-moving.png") as sheet:
        assert getattr(sheet, "n_frames", 1) == 8
    # Samples are data again, without their sheets.
    assert len(scan(folder)) == 3


def test_clips_go_on_lead_over_and_never_end(run, tmp_path):
    raw = balls(999)
    (tmp_path / "a.webp").write_bytes(raw)
    start = videofile.decode(raw, Fraction(8), (16, 16))
    on = run.sample(2, steps=2, beginning=tmp_path / "a.webp", length=20)
    assert on.shape == (2, 20, 16, 16, 4) and np.array_equal(on[0, :12], start)
    over = run.sample(2, steps=2, between=(tmp_path / "a.webp", start[::-1]))
    assert np.array_equal(over[1, :2], start[-2:]) and np.array_equal(over[1, -2:], start[::-1][:2])
    Image.fromarray(start[0]).save(tmp_path / "first.png")
    still = run.sample(1, steps=2, beginning=tmp_path / "first.png")
    assert still.shape[1] == 9 and np.array_equal(still[0, 0], start[0])
    long, stream = run.sample(1, steps=2, length=20), run.stream(steps=2)
    assert all(np.array_equal(next(stream), frame) for frame in long[0])


def test_the_report_shows_clips_moving_and_says_how_they_move(run):
    judgement = run.evaluate(n=20)
    told = " ".join(judgement.sentences)
    assert "Motion: from frame to frame" in told and "held-out data" in told
    assert {measure.name for measure in judgement.motion} == {"Motion", "Rest", "Brightness", "Contrast"}
    page = run.folder.report.read_text(encoding="utf-8")
    assert "Samples in motion" in page and len(page) < 5e6
    clips = re.findall(r'<video controls[^>]* src="data:video/webm;base64,([^"]+)"', page)
    assert len(clips) == appraise.PLAYED
    frames, rate, _ = played(base64.b64decode(clips[1]))
    assert frames.shape == (8, 128, 128, 3) and rate == 8


def played(file: bytes) -> tuple[np.ndarray, Fraction, str]:
    """Frames (n, h, w, 3), their rate and the comment of a WebM, by PyAV alone."""
    with av.open(io.BytesIO(file)) as inside:
        stream = inside.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in inside.decode(stream)]
        said = {name.lower(): value for name, value in inside.metadata.items()}
        return np.stack(frames), Fraction(stream.average_rate or 0), said["comment"]


@pytest.mark.parametrize("size, enlarged", [((16, 20), (128, 160)), ((5, 7), (100, 140)), ((131, 20), (132, 20))])
def test_a_player_shows_every_frame_over_white_at_its_rate(size, enlarged):
    shown = np.zeros((5, *size, 4), np.uint8)
    shown[:, : size[0] // 2] = [200, 30, 30, 255]  # above; nothing below
    shown[np.arange(5), :, np.arange(5)] = [0, 0, 0, 255]  # a line that moves
    image = ImageCodec.full_range(height=size[0], width=size[1], channels=4, alpha=True, dtype="uint8")
    codec = VideoCodec(image=image, frames=5, rate="25/2", container="webp")
    media, file = codec.player(shown, {"seed": 3}) or ("", b"")
    frames, rate, said = played(file)
    assert media == "video/webm" and rate == Fraction(25, 2) and said == '{"seed": 3}'
    assert frames.shape == (5, *enlarged, 3)
    times = enlarged[1] // size[1]
    middle = frames[:, times // 2 :: times, times // 2 :: times][:, : size[0], : size[1]].astype(int)
    assert np.abs(middle - image.preview(shown)).mean() < 6
    assert (middle.mean((1, 3)).argmin(1) == np.arange(5)).all()


def test_without_pyav_clips_have_no_player(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert videofile.webm(clip(), Fraction(12), {}) is None


def test_few_long_clips_are_cut_and_their_ends_held_out(tmp_path):
    files = {f"{i}.webp": animation(clip(60, 8, 8, seed=i)) for i in range(2)}
    data = open_dataset(fill(tmp_path / "set", files), cache_dir=tmp_path / "cache", size=(8, 8, 8))
    train, held = data.indices("train"), data.indices("val")
    assert len(held) == 2 * 5 and len(train) == 2 * 41 and "are cut into" in " ".join(data.notes)
    names = data.names(np.arange(len(data)))
    assert names[0] == "0.webp[0]" and len(set(names)) == len(names)
    seen = {frame.tobytes() for clip in data.stored[train] for frame in clip}
    assert not any(frame.tobytes() in seen for clip in data.stored[held] for frame in clip)
