"""Clips that lie on clips: that they stay on them however they are read and cut, and that samples follow them."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from datafiles import fill, png
from PIL import Image

import fromnoise as fn
from fromnoise.codec import ImageCodec, VideoCodec, videofile
from fromnoise.cond import Cond
from fromnoise.data import diagnose
from fromnoise.data.cache import open_dataset
from fromnoise.data.clipmaps import from_clip
from fromnoise.data.scan import scan
from fromnoise.errors import Advice, FromNoiseError
from fromnoise.evaluate import Judgement
from fromnoise.grid import Linear
from fromnoise.posterior import Mean
from fromnoise.process import Gaussian
from fromnoise.rng import Rng
from fromnoise.stepper import DDIM
from fromnoise.stream import Rolling, Walk


def clip(frames: int = 9, height: int = 8, width: int = 8, seed: int = 0) -> np.ndarray:
    """Random pictures (n, h, w, 3), each unlike the one before."""
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def lit(shown: np.ndarray) -> np.ndarray:
    """Where frames are lit: a map of two labels, (n, h, w, 3)."""
    return np.where(shown[..., :1] > 127, 255, 0).astype(np.uint8).repeat(3, 3)


def webp(frames: np.ndarray, rate: Fraction = Fraction(10), format: str = "WEBP") -> bytes:
    out = io.BytesIO()
    images = [Image.fromarray(one) for one in frames]
    videofile.save_animation(out, images, rate, format, **({"lossless": True} if format == "WEBP" else {}))
    return out.getvalue()


def mp4(folder: Path, frames: np.ndarray, rate: int = 10) -> bytes:
    return videofile.save(folder / "m", frames, Fraction(rate), container="mp4", recipe={}).read_bytes()


def opened(tmp_path: Path, files: dict[str, bytes], size: tuple[int, ...] | None = (4, 8, 8), name: str = "set"):
    return open_dataset(fill(tmp_path / name, files), cache_dir=tmp_path / "cache", size=size)


# ---- a map stays on its clip ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sidecar", "folder", "table"])
@pytest.mark.parametrize("frames", [9, 30])
def test_a_map_that_is_its_clips_negative_stays_that_however_both_are_found_and_cut(how, frames, tmp_path):
    clips = {f"{i:02}": clip(frames, seed=i) for i in range(8)}
    name = {"sidecar": "{}.webp", "folder": "videos/{}.webp", "table": "x/{}.webp"}[how]
    map_ = {"sidecar": "{}_depth.webp", "folder": "depth/{}.webp", "table": "y/{}-of.webp"}[how]
    files = {name.format(k): webp(v) for k, v in clips.items()}
    files |= {map_.format(k): webp(255 - v) for k, v in clips.items()}
    if how == "table":
        rows = [json.dumps({"file_name": name.format(k), "depth": map_.format(k)}) for k in clips]
        files["metadata.jsonl"] = "\n".join(rows).encode()
    data = opened(tmp_path, files)
    (column,) = data.columns
    assert (column.name, column.kind, column.labels, column.size) == ("depth", "map", (), 3)
    assert (len(data) > 8) == (frames > 3 * 4), "few clips of three windows are cut into pieces"
    rows = np.arange(len(data))
    for rng in (None, Rng.of(0, rows.tolist(), "a"), Rng.of(0, rows.tolist(), "b")):
        cond, x0 = data.cond(rows, rng), data.x0(rows, rng)
        assert bool(cond.present["depth"].all())
        torch.testing.assert_close(cond.values["depth"], -x0, atol=1e-6, rtol=0)


def test_maps_are_scaled_and_timed_as_their_clips(tmp_path):
    """Of 20 frames a second one in two is taken, and a map of another rate lies on its clip frame by frame."""
    clips = [clip(20, 12, 20, seed=i) for i in range(4)]
    files = {f"{i}.webp": webp(one, Fraction(20)) for i, one in enumerate(clips)}
    files |= {f"{i}_depth.webp": webp(255 - one, Fraction(25 if i else 20)) for i, one in enumerate(clips)}
    data = opened(tmp_path, files)
    assert data.codec.rate == "10" and len(data.notes) > 3
    rows = np.arange(len(data))
    cond, x0 = data.cond(rows), data.x0(rows)
    assert bool(cond.present["depth"].all())
    torch.testing.assert_close(cond.values["depth"], -x0, atol=2.1 / 127.5, rtol=0)


def test_animated_pictures_of_few_colours_are_labels_and_videos_are_not(tmp_path):
    clips = [clip(6, 16, 16, seed=i) for i in range(6)]
    files = {f"{i}.webp": webp(one) for i, one in enumerate(clips)}
    gifs = {f"{i}_mask.gif": webp(lit(one), format="GIF") for i, one in enumerate(clips)}
    data = opened(tmp_path, files | gifs, (6, 16, 16), "labels")
    (column,) = data.columns
    assert column.labels == ("0", "16777215")
    for i, name in enumerate(data.names(np.arange(6))):
        expected = torch.from_numpy(lit(clips[int(Path(name).stem)])[..., 0] / 127.5 - 1).float()
        torch.testing.assert_close(data.cond([i]).values["mask"][0], torch.stack([-expected, expected]))
    videos = {f"{i}_mask.mp4": mp4(tmp_path, lit(one)) for i, one in enumerate(clips)}
    (column,) = opened(tmp_path, files | videos, (6, 16, 16), "grey").columns
    assert (column.labels, column.size) == ((), 1)


# ---- what does not fit ----------------------------------------------------------------------------------------------


def test_a_map_that_does_not_fit_is_named_with_what_to_do_and_the_rest_trains(tmp_path):
    clips = [clip(6, 8, 12, seed=i) for i in range(6)]
    files = {f"{i}.webp": webp(one) for i, one in enumerate(clips)}
    files |= {f"{i}_mask.webp": webp(lit(one)) for i, one in enumerate(clips)}
    files["1_mask.webp"] = webp(lit(clips[1])[:5])
    files["2_mask.webp"] = webp(lit(clips[2])[:, :, :8])
    files["3_mask.webp"] = files["3_mask.webp"][:60]
    files["still.webp"], files["4_mask.png"] = webp(clips[4]), png(lit(clips[4])[0])
    del files["4_mask.webp"]
    data = opened(tmp_path, files)
    here = data.cond(np.arange(len(data))).present["mask"]
    assert {name for name, is_ in zip(data.names(np.arange(len(data))), here.tolist(), strict=True) if is_} == {
        "0.webp",
        "5.webp",
    }
    said = "\n".join(data.notes)
    assert "1_mask.webp has 5 frames, and its clip has 6: give it one for each of its clip" in said
    assert "2_mask.webp is 8 x 8 (height x width), which is no smaller or larger form of its clip's 8 x 12" in said
    assert "3_mask.webp is cut short" in said and "5 of 7 examples have no readable map" in said
    why = {file.name: file.reason for file in data.listing.skipped}
    assert "still picture beside a clip" in why["4_mask.png"]
    assert "mask: 1_mask.webp is not read" in diagnose(scan(tmp_path / "set"), tmp_path / "cache")


@pytest.mark.parametrize("where", ["{}_mask.png", "masks/{}.png"])
def test_as_many_still_masks_as_clips_do_not_make_a_set_of_pictures(where, tmp_path):
    files = {f"{i}.webp": webp(clip(6, seed=i)) for i in range(6)}
    files |= {where.format(i): png(lit(clip(6, seed=i))[0]) for i in range(6)}
    data = opened(tmp_path, files)
    assert sorted(data.names(np.arange(len(data)))) == [f"{i}.webp" for i in range(6)] and not data.columns
    assert {file.name for file in data.listing.skipped} == {where.format(i) for i in range(6)}


def test_a_column_without_one_map_that_fits_is_refused(tmp_path):
    files = {f"{i}.webp": webp(clip(6, seed=i)) for i in range(4)}
    files |= {f"{i}_mask.webp": webp(clip(5, seed=i)) for i in range(4)}
    with pytest.raises(FromNoiseError, match=r"No map of mask can be used \(\d_mask.webp has 5 frames.*--columns"):
        opened(tmp_path, files)


# ---- what is asked for ----------------------------------------------------------------------------------------------


def test_a_map_that_is_asked_for_is_read_as_those_of_training(tmp_path):
    clips = [clip(6, 16, 16, seed=i) for i in range(6)]
    files = {f"{i}.webp": webp(one) for i, one in enumerate(clips)}
    files |= {f"{i}_mask.gif": webp(lit(one), format="GIF") for i, one in enumerate(clips)}
    data = opened(tmp_path, files, (6, 8, 8))
    (column,), codec = data.columns, data.codec
    assert isinstance(codec, VideoCodec)
    for i, name in enumerate(data.names(np.arange(6))):
        asked = from_clip(column, str(tmp_path / "set" / name.replace(".webp", "_mask.gif")), codec)
        torch.testing.assert_close(asked, data.cond([i]).values["mask"][0])
    (tmp_path / "one.png").write_bytes(png(lit(clips[0])[0]))
    still = from_clip(column, str(tmp_path / "one.png"), codec)
    first = from_clip(column, str(tmp_path / "set" / "0_mask.gif"), codec)
    torch.testing.assert_close(still, first[:, :1].expand_as(still))
    (tmp_path / "long.gif").write_bytes(webp(np.concatenate([lit(clips[0]), lit(clips[1])]), format="GIF"))
    with pytest.warns(Advice, match="gives 12 frames at the rate of the samples, which have 6: the first are used"):
        long = from_clip(column, str(tmp_path / "long.gif"), codec)
    torch.testing.assert_close(long, first)
    (tmp_path / "video.mp4").write_bytes(mp4(tmp_path, clips[0]))
    with pytest.raises(FromNoiseError, match=r"of the colours 0, #FFFFFF, and .* has .*, without smoothing"):
        from_clip(column, str(tmp_path / "video.mp4"), codec)
    for wrong in ("lost.mp4", "set"):
        with pytest.raises(FromNoiseError, match=wrong):
            from_clip(column, str(tmp_path / wrong), codec)


class Paints:
    """Knows that a clip is its map."""

    process = Gaussian()

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, cond: Cond, s: torch.Tensor | None = None) -> Mean:
        return Mean(cond.values["mask"].expand_as(x_t))


@pytest.mark.parametrize("total", [6, 11, 20])
def test_in_long_clips_every_window_has_the_map_of_its_own_frames(total):
    mask = torch.rand(2, 1, 15, 4, 4)
    cond = Cond({"mask": mask}, {"mask": torch.ones(2, dtype=torch.bool)}, 2)
    walk = Walk(
        denoise=Paints(),
        stepper=DDIM(),
        times=Linear()(3),
        cond=cond,
        rng=lambda k, use: Rng.of(0, range(2), use, k),
    )
    codec = VideoCodec(
        image=ImageCodec.full_range(height=4, width=4, channels=1, alpha=False, dtype="uint8"),
        frames=total,
        rate="10",
        container="webp",
    )
    made = Rolling(codec=codec, window=6, first=mask[:1, :, :2], last=None, recipe={})(walk, 2, torch.device("cpu"))
    place = torch.arange(total).clamp(max=14)
    torch.testing.assert_close(made[:, :, 2:], mask[:, :, place[2:]])


# ---- all of it ------------------------------------------------------------------------------------------------------


def test_a_run_of_moving_squares_with_masks_from_folder_to_judgement(tmp_path, monkeypatch):
    monkeypatch.setattr("fromnoise.evaluate.obey.STEPS", 5)
    files = {}
    for i in range(260):
        shown = np.full((4, 8, 8, 3), i % 40, np.uint8)
        for k in range(4):
            shown[k, 2:6, (i + k) % 5 : (i + k) % 5 + 3] = 130 + i % 120
        files |= {f"clips/{i:03}.webp": webp(shown), f"masks/{i:03}.gif": webp(lit(shown), format="GIF")}
    tiny = ["net.widths=[32]", "net.attention=[false]", "net.emb=32", "net.patch=2", "optim.batch=8"]
    quick = [*tiny, "run.held_evaluations=1", "run.grid_priors=0"]
    data = fill(tmp_path / "set", files)
    run = fn.train(data, out=tmp_path / "run", steps=4, settings=quick)
    assert [(c.name, c.kind, len(c.labels)) for c in run.release.columns] == [("mask", "map", 2)]
    judgement = run.evaluate(n=20)
    assert isinstance(judgement, Judgement)
    assert [row.column for row in judgement.obedience] == ["mask"]
    alone, mask = fn.load(run.folder.model), str(data / "masks" / "000.gif")
    asked = alone.sample(2, steps=2, where={"mask": mask})
    assert asked.shape[:4] == (2, 4, 8, 8)
    assert not np.array_equal(asked, alone.sample(2, steps=2, where={"mask": "none"}))
    assert alone.sample(1, steps=2, length=7, where={"mask": "none"}).shape[1] == 7
    with pytest.warns(Advice, match="which have 7"):
        assert alone.sample(1, steps=2, length=7, where={"mask": mask}).shape[1] == 7
    with pytest.raises(FromNoiseError, match="A stream has no end, and a map such as mask has one"):
        next(alone.stream(where={"mask": mask}))
    assert next(alone.stream()).shape[:2] == (8, 8)
