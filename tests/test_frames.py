"""Folders of numbered pictures as clips: when they are, at what rate, what is left out; and known ends of clips."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import partial

import av
import numpy as np
import pytest
import torch
from datafiles import fill, pack, png
from PIL import Image

import fromnoise as fn
from fromnoise import appraise
from fromnoise.cli import parse_ends
from fromnoise.codec import Codec, ImageCodec, Moving, VideoCodec, videofile
from fromnoise.data import open_dataset, scan
from fromnoise.data.frames import RATE
from fromnoise.data.media import read_as
from fromnoise.errors import FromNoiseError


def pictures(n: int, height: int = 8, width: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), np.uint8)


def folder(name: str, frames: np.ndarray, called: str = "frame_{:04}.png", first: int = 1) -> dict[str, bytes]:
    return {f"{name}/{called.format(first + k)}": png(one) for k, one in enumerate(frames)}


def folders(n: int = 3, frames: int = 6, called: str = "frame_{:04}.png", first: int = 1) -> dict[str, bytes]:
    clips = (folder(f"clip{i}", pictures(frames, seed=i), called, first) for i in range(n))
    return {name: data for clip in clips for name, data in clip.items()}


# ---- when pictures are frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("called", ["frame_{:04}.png", "Frame{}.png", "shot frame-{:03}.png", "frames_{:04}_left.png"])
@pytest.mark.parametrize("first", [0, 1])
def test_folders_of_pictures_that_are_called_frames_are_clips(tmp_path, called, first):
    listing = scan(fill(tmp_path / "set", folders(called=called, first=first, frames=12)))
    assert listing.medium.name == "video" and listing.skipped == ()
    assert list(listing.names(range(3))) == ["clip0", "clip1", "clip2"] and set(listing.sizes) == {(12, 8, 8)}
    said = " ".join(listing.notes)
    assert (
        "3 folders of numbered pictures are clips, 36 frames in all; --fps 0" in said
        and f"{RATE} frames a second" in said
    )


def class_folders() -> dict[str, dict[str, bytes]]:
    """Sets that are pictures, by what makes them such; all are numbered."""
    frames, caption = folders(), {"clip0/frame_0002.txt": b"a cat"}
    table = {"labels.csv": b"file_name,label\nclip0/frame_0002.png,cat\nclip1/frame_0001.png,dog\n"}
    covers = {f"clip{i}/cover.png": png(pictures(1, seed=i)[0]) for i in range(3)}
    ragged = folder("a", pictures(5)) | folder("b", pictures(4)) | {"b/frame_0005.png": png(pictures(1, 9, 9)[0])}
    return {
        "another word": folders(called="img_{:04}.png"),
        "no word": folders(called="{:03}.png"),
        "a later start": folders(first=40),
        "a gap": {name: data for name, data in frames.items() if "0003" not in name},
        "one folder": folder("clip", pictures(9)),
        "no folder": {name.partition("/")[2]: data for name, data in folder("clip", pictures(9)).items()},
        "few": folders(frames=3),
        "other pictures": frames | covers,
        "sizes": ragged,
        "a caption of a frame": frames | caption,
        "a table of frames": frames | table,
    }


@pytest.mark.parametrize("why", class_folders())
def test_class_folders_are_not_taken_for_clips(tmp_path, why):
    files = class_folders()[why]
    listing = scan(fill(tmp_path / "set", files))
    n = sum(name.endswith(".png") for name in files)
    assert listing.medium.name == "image" and len(listing) == n and listing.skipped == ()
    hinted = [note for note in listing.notes if "--fps" in note]
    assert len(hinted) == (why in ("another word", "no word", "a later start", "one folder", "no folder"))
    # And the user decides.
    clips = scan(tmp_path / "set", fps=25)
    assert clips.medium.name == "video" and {header.rate for header in clips.items.headers} == {"25"}


@pytest.mark.parametrize("harm", ["gap", "cover", "size", "few", "damage"])
def test_one_folder_that_is_otherwise_does_not_silence_what_is_said_of_the_others(tmp_path, harm):
    files, odd = folders(4, 6, "{:03}.png"), folder("clip9", pictures(6, seed=9), "{:03}.png")
    if harm == "gap":
        del odd["clip9/003.png"]
    elif harm == "few":
        odd = dict(list(odd.items())[:2])
    else:
        odd |= {
            "cover": {"clip9/cover.png": odd["clip9/001.png"]},
            "size": {"clip9/006.png": png(pictures(1, 9, 9)[0])},
            "damage": {"clip9/001.png": b"\x89PNG"},
        }[harm]
    for name in ("clip9", "aaa"):  # after the others, and first
        again = {one.replace("clip9", name): data for one, data in odd.items()}
        listing = scan(fill(tmp_path / name, files | again))
        said = [note for note in listing.notes if "--fps" in note]
        assert listing.medium.name == "image" and len(said) == 1 and "in most of their folders" in said[0]
        assert "such as clip0/001.png" in said[0], "one that is numbered without gaps"


def test_the_user_may_have_pictures_where_names_say_clips(tmp_path):
    listing = scan(fill(tmp_path / "set", folders()), fps=0)
    assert listing.medium.name == "image" and len(listing) == 18 and not any("--fps" in note for note in listing.notes)


@pytest.mark.parametrize("fps", [-1, float("nan"), 5000])
def test_a_rate_that_is_none_is_said(tmp_path, fps):
    with pytest.raises(FromNoiseError, match=r"--fps is .*: write that"):
        scan(fill(tmp_path / "set", folders()), fps=fps)


def test_a_rate_without_frames_is_said(tmp_path):
    with pytest.raises(FromNoiseError, match="no folders of numbered pictures"):
        scan(fill(tmp_path / "set", {"a.png": png(pictures(1)[0]), "b.png": png(pictures(1)[0])}), fps=25)


@pytest.mark.parametrize("called", ["{:x}.png", "{}.png", "IMG_{}_{:x}.png", "photo-{:x}-a{}.png"])
def test_a_rate_of_pictures_that_are_no_frames_is_one_sentence(tmp_path, called):
    shown = pictures(60)
    if called == "{}.png":  # numbers alone, each in a folder of its own
        files = {f"{k}/{called.format(k)}": png(one) for k, one in enumerate(shown)}
    else:
        files = {called.format(97 * k * k + 10, 7 * k): png(one) for k, one in enumerate(shown)}
    with pytest.raises(
        FromNoiseError, match=r"no folders of numbered pictures.*: name frames as in .*, or leave"
    ) as said:
        scan(fill(tmp_path / "set", files), fps=25)
    assert len(str(said.value)) < 400


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_of_frames_are_clips_too(tmp_path, kind):
    files = folders()
    found = scan(pack(kind, files, tmp_path / f"set.{kind}"))
    assert found.medium.name == "video" and len(found) == 3
    there = scan(fill(tmp_path / "set", files))
    assert np.array_equal(found.items.digest, there.items.digest)


# ---- what clips are made of -----------------------------------------------------------------------------------------


def gappy() -> dict[str, bytes]:
    files = folder("whole", pictures(8)) | folder("gap", pictures(9, seed=1)) | folder("odd", pictures(8, seed=2))
    del files["gap/frame_0003.png"]
    files["odd/frame_0006.png"] = png(pictures(1, 12, 8)[0])
    files |= folder("single", pictures(1, seed=3)) | folder("broken", pictures(7, seed=4))
    files["broken/frame_0007.png"] = files["broken/frame_0007.png"][:-20]
    return files | {"whole/cover.png": png(pictures(1)[0])}


def test_what_is_no_frame_is_left_out_with_a_sentence_and_the_rest_trains(tmp_path):
    data = open_dataset(fill(tmp_path / "set", gappy()), fps=12, cache_dir=tmp_path / "cache", size=(4, 8, 8))
    names = data.names(range(len(data)))
    assert {name: len(clip) for name, clip in zip(names, data.stored[np.arange(len(data))], strict=True)} == {
        "broken": 6, "gap": 6, "odd": 5, "whole": 8,
    }  # fmt: skip
    why = {file.name: file.reason for file in data.listing.skipped}
    assert why.keys() == {
        *("gap/frame_0001.png", "gap/frame_0002.png", "odd/frame_0006.png", "odd/frame_0007.png", "odd/frame_0008.png"),
        *("single/frame_0001.png", "broken/frame_0007.png", "whole/cover.png"),
    }
    assert "longest run" in why["gap/frame_0001.png"] and "longest run" in why["odd/frame_0008.png"]
    assert why["odd/frame_0006.png"].startswith("is 12 x 8 pixels, and most of its folder are 8 x 8")
    assert "a single frame" in why["single/frame_0001.png"] and "no frame" in why["whole/cover.png"]
    assert "beyond frame_0006.png, which cannot be used" in why["odd/frame_0007.png"]
    assert "add what is missing" in why["gap/frame_0002.png"]
    assert "2 of them are not whole, such as gap (no frame after 2)" in " ".join(data.notes)
    assert all(":" in reason for reason in why.values()), "each says what to do"


@pytest.mark.parametrize("harmed", [3, 6])
def test_frames_beside_a_damaged_one_are_said_to_be_so_and_the_longer_part_is_used(tmp_path, harmed):
    files = folder("whole", pictures(8)) | folder("hurt", pictures(8, seed=1))
    name = f"hurt/frame_{harmed:04}.png"
    files[name] = files[name][:-20]
    listing = scan(fill(tmp_path / "set", files), fps=12)
    why = {file.name: file.reason for file in listing.skipped}
    shorter = range(1, 3) if harmed == 3 else range(7, 9)
    assert why.keys() == {name, *(f"hurt/frame_{k:04}.png" for k in shorter)} and "not a readable" in why.pop(name)
    assert all(f"beyond frame_{harmed:04}.png, which cannot be used" in said for said in why.values())
    assert f"1 of them is not whole, such as hurt (frame_{harmed:04}.png cannot be used)" in " ".join(listing.notes)
    assert "missing" not in " ".join([*why.values(), *listing.notes])


def test_a_frame_whose_damage_only_decoding_shows_is_named_and_what_becomes_of_its_clip(tmp_path):
    files = folder("whole", pictures(8)) | folder("hurt", pictures(8, seed=1)) | folder("other", pictures(8, seed=2))
    data = bytearray(png(pictures(1, 64, 64)[0]))
    files |= {f"hurt/frame_{k:04}.png": png(pictures(1, 64, 64, seed=k)[0]) for k in range(1, 9)}
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    files["hurt/frame_0003.png"] = bytes(data)
    opened = open_dataset(fill(tmp_path / "set", files), fps=12, cache_dir=tmp_path / "cache", size=(4, 8, 8))
    (left,) = opened.listing.skipped
    assert left.name == "hurt" and left.reason.startswith("has frame_0003.png, which cannot be used (")
    assert left.reason.endswith("so that the whole clip is left out: replace that frame")


def test_a_window_is_frames_of_one_folder_in_the_order_of_their_numbers(tmp_path):
    shown = pictures(12)
    files = folder("a", shown, "frame_{}.png") | folder("b", shown[::-1], "frame_{}.png")  # 10 comes before 2 by name
    data = open_dataset(fill(tmp_path / "set", files), cache_dir=tmp_path / "cache", size=(12, 8, 8))
    assert isinstance(data.codec, VideoCodec) and data.codec.container == "webp"
    back = data.codec.decode(data.x0([0, 1]))
    assert np.array_equal(back[0], shown) and np.array_equal(back[1], shown[::-1])


def test_a_rate_takes_the_frames_that_are_seen(tmp_path):
    files = folder("a", pictures(12)) | folder("b", pictures(12, seed=1))
    path = fill(tmp_path / "set", files)
    half = open_dataset(path, fps=24, cache_dir=tmp_path / "cache", size=(6, 8, 8))
    whole = open_dataset(path, fps=12, cache_dir=tmp_path / "cache", size=(12, 8, 8))
    assert half.codec.to_json()["rate"] == whole.codec.to_json()["rate"] == "12"
    assert np.array_equal(half.codec.decode(half.x0([1]))[0], pictures(12, seed=1)[::2])
    assert np.array_equal(whole.codec.decode(whole.x0([1]))[0], pictures(12, seed=1))


def test_tables_and_captions_of_folders_describe_clips(tmp_path):
    table = b"clip,fps,kind\nclip0,24,walk\nclip1,12,run\nclip.v2,,walk\n"
    files = folders(2, 8) | folder("clip.v2", pictures(8, seed=5)) | {"about.csv": table}
    files |= {"clip.v2.txt": b"a fox jumps", "clip0.txt": b"a hare sits"}
    listing = scan(fill(tmp_path / "set", files))
    assert listing.medium.name == "video" and listing.skipped == ()
    names = list(listing.names(range(3)))
    assert {name: listing.header(k).rate for k, name in enumerate(names)} == {
        "clip0": "24", "clip1": "12", "clip.v2": str(RATE),
    }  # fmt: skip
    assert [listing.items.columns["kind"][names.index(name)] for name in ("clip0", "clip1")] == ["walk", "run"]
    assert listing.items.columns["caption"][names.index("clip.v2")] == "a fox jumps"
    assert f"nothing says how fast 1 of them are: {RATE}" in " ".join(listing.notes)


def test_folders_of_folders_are_classes_and_splits(tmp_path):
    files = {f"{part}/{kind}/{name}": data for part in ("train", "val") for kind in ("walk", "run")
             for name, data in folders(2, 5).items()}  # fmt: skip
    listing = scan(fill(tmp_path / "set", files))
    assert len(listing) == 8 and {*listing.items.columns["class"].words} >= {"walk", "run"}
    assert sorted(listing.items.split.tolist()) == [0] * 4 + [1] * 4


def test_frames_of_several_modes_and_depths_are_one_clip(tmp_path):
    frames = [png(one) for one in pictures(4, 24, 24)]
    frames += [png(pictures(1, 24, 24, 1)[0]), png(pictures(1, 24, 24, 4)[0])]
    deep = np.full((24, 24, 3), 65535, np.uint16)
    frames += [png(deep), png(deep)]
    files = {f"{clip}/frame_{k}.png": data for clip in "ab" for k, data in enumerate(frames)}
    data = open_dataset(fill(tmp_path / "set", files), cache_dir=tmp_path / "cache", size=(8, 8, 8))
    assert data.listing.mode.startswith("RGBA") and data.codec.shape == (4, 8, 8, 8)
    white = data.codec.decode(data.x0([0]))[0, -1]
    assert (white == 255).all(), "16 bits become 8"


def test_masks_beside_frames_are_left_out(tmp_path):
    files = folders() | {name.replace("clip", "masks/clip"): data for name, data in folders().items()}
    files = {name if name.startswith("masks/") else f"images/{name}": data for name, data in files.items()}
    listing = scan(fill(tmp_path / "set", files), fps=12)
    assert len(listing) == 3 and {file.name.partition("/")[0] for file in listing.skipped} == {"masks"}


# ---- known ends -----------------------------------------------------------------------------------------------------


def image_codec(channels: int = 3) -> VideoCodec:
    image = ImageCodec.full_range(height=8, width=8, channels=channels, alpha=channels == 4, dtype="uint8")
    return VideoCodec(image=image, frames=6, rate="12", container="webp")


def test_the_codec_of_clips_is_one_that_moves():
    assert isinstance(image_codec(), Moving) and isinstance(image_codec(), Codec)
    assert not isinstance(image_codec().image, Moving)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_picture_is_a_frame_of_the_models_own_kind(tmp_path, channels):
    codec, clear = image_codec(channels), np.zeros((40, 64, 4), np.uint8)
    for name, pixels in {
        "grey.png": pictures(1, 40, 64, 1)[0], "opaque.png": pictures(1, 20, 20, 4)[0], "clear.png": clear,
        "deep.png": np.full((16, 16, 3), 65535, np.uint16),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(png(pixels))
        raw = read_as(tmp_path / name, codec)
        assert raw.dtype == np.uint8 and raw.shape[0] == 1 and raw.shape[-1] == channels
        assert codec.beginning(raw).shape == (1, channels, 1, 8, 8)
    deep = codec.decode(codec.beginning(read_as(tmp_path / "deep.png", codec)))
    assert (deep == 255).all(), "16 bits become 8"
    seen = codec.decode(codec.beginning(read_as(tmp_path / "clear.png", codec)))
    # What is clear stays so where there is opacity, and lies over white where there is none.
    assert (seen == (0 if channels == 4 else 255)).all()


def test_what_is_no_frame_is_said(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(FromNoiseError, match=r"a\.tif is .*float32.*: save it as PNG"):
        read_as(tmp_path / "a.tif", image_codec())
    (tmp_path / "none").mkdir()
    with pytest.raises(FromNoiseError, match="no numbered pictures of one size"):
        read_as(tmp_path / "none", image_codec())


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("harm", [lambda data: data[: len(data) // 2], lambda data: bytes(len(data)), lambda data: b""])
def test_an_end_that_is_damaged_is_said_with_a_remedy(tmp_path, ending, harm):
    file = tmp_path / f"last.{ending}"
    Image.fromarray(pictures(1, 64, 64)[0]).save(file)
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(FromNoiseError) as error:
        read_as(file, image_codec())
    what = "(is not a readable image|cannot be decoded) " if file.stat().st_size else "is empty: "
    assert re.match(f"{re.escape(str(file))} {what}", str(error.value))
    assert str(error.value).endswith(": copy or export it again.") and "video" not in str(error.value)


def test_a_folder_of_frames_as_an_end_names_its_damaged_frame(tmp_path):
    files = folder("clip", pictures(5))
    files["clip/frame_0003.png"] = files["clip/frame_0003.png"][:-20]
    fill(tmp_path, files)
    with pytest.raises(FromNoiseError, match=r"clip holds frame_0003\.png, which is no frame .*: replace or remove it"):
        read_as(tmp_path / "clip", image_codec())


def test_ends_of_the_command_line(tmp_path):
    assert parse_ends(None, None, None) == (None, None)
    a, b = tmp_path / "a", tmp_path / "b"
    assert parse_ends(a, None, None) == (a, None) and parse_ends(None, (a, b), None) == (None, (a, b))
    assert parse_ends(a, None, b) == (None, (a, b)) and parse_ends(None, None, b) == (None, (None, b))
    with pytest.raises(FromNoiseError, match="leave out --end"):
        parse_ends(None, (a, b), b)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_opacity_of_webm_is_read(tmp_path, codec):
    file, shown = tmp_path / "a.webm", pictures(6, 4, 6, 4).repeat(8, 1).repeat(8, 2)
    with av.open(str(file), "w") as out:
        stream = out.add_stream(codec, rate=10, options={"crf": "4", "b": "2M", "auto-alt-ref": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        for one in shown:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgba")))
        out.mux(stream.encode())
    header = videofile.probe(file.read_bytes())
    assert header.alpha and header.mode == "RGBA at 10 frames a second"
    back = videofile.decode(file.read_bytes(), Fraction(10), (32, 48))
    assert back.shape == shown.shape and np.abs(back[..., 3].astype(int) - shown[..., 3]).mean() < 8


# ---- from folders to a report ---------------------------------------------------------------------------------------


def square(i: int) -> np.ndarray:
    """A square (8, 16, 16, 3) that goes to the right or down, of a colour of its own."""
    rng = np.random.default_rng(i)
    frames, (y, x) = np.zeros((8, 16, 16, 3), np.uint8), rng.integers(0, 6, 2)
    colour = rng.integers(60, 256, 3)
    for k, frame in enumerate(frames):
        down, right = (k % 6, 0) if i % 2 else (0, k % 6)
        frame[y + down : y + down + 4, x + right : x + right + 4] = colour
    return frames


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("frames")
    files = {name: data for i in range(150) for name, data in folder(f"{i:03}", square(i)).items()}
    patch = pytest.MonkeyPatch()
    patch.setattr(appraise, "learn_features", partial(appraise.learn_features, steps=10))
    net = ["net.widths=[32]", "net.attention=[true]", "net.emb=32", "optim.batch=4", "run.grid_priors=0", "net.patch=4"]
    net += ["run.held_evaluations=2", "run.held_examples=8", "run.preview_examples=4"]
    made = fn.train(fill(place / "set", files), out=place / "run", steps=4, size=(8, 16, 16), fps=8, settings=net)
    yield made
    patch.undo()


def test_folders_of_frames_go_to_samples_and_to_a_report(run, tmp_path):
    made = run.generate(2, steps=2)
    assert made.samples.shape == (2, 8, 16, 16, 3)
    assert sorted(file.name for file in made.save(tmp_path / "out").iterdir())[:2] == ["000000.webp", "000001.webp"]
    assert "Motion: from frame to frame" in " ".join(run.evaluate(n=20).sentences)
    assert run.folder.read_facts()["data"]["fps"] == 8


def test_clips_begin_and_end_as_pictures_of_any_size_say(run, tmp_path):
    Image.fromarray(square(7)[0]).resize((64, 48)).save(tmp_path / "first.png")
    Image.fromarray(np.dstack([square(7)[-1], np.full((16, 16), 90, np.uint8)])).save(tmp_path / "last.png")
    codec = run.release.codec
    first, last = (
        codec.decode(codec.beginning(read_as(tmp_path / name, codec)))[0, 0] for name in ("first.png", "last.png")
    )
    over = run.sample(2, steps=2, between=(tmp_path / "first.png", tmp_path / "last.png"))
    assert over.shape == (2, 8, 16, 16, 3) and (over[:, 0] == first).all() and (over[:, -1] == last).all()
    end = run.sample(2, steps=2, between=(None, tmp_path / "last.png"), length=5)
    assert end.shape[1] == 5 and (end[:, -1] == last).all() and not np.array_equal(end[0, 0], end[1, 0])
    whole = run.sample(1, steps=2, between=(None, square(7)))
    assert np.array_equal(whole[0, -2:], square(7)[:2]), "the first quarter of a window of what it leads to"
    fill(tmp_path, folder("clip", square(8)))
    on = run.sample(1, steps=2, beginning=tmp_path / "clip")
    assert np.array_equal(on[0, :8], square(8)) and on.shape[1] == 16


def test_a_model_that_sees_the_past_alone_leads_to_no_end(run):
    from fromnoise.stream import rolling

    with pytest.raises(FromNoiseError, match="leads to no end"):
        rolling(run.release.codec, sees="past", between=(None, square(1)))
    assert rolling(run.release.codec, sees="both", between=(None, square(1))).recipe.keys() == {"length", "end"}
    assert Fraction(run.release.codec.rate) == 8 and torch.is_tensor(run.release.codec.beginning(square(1)))
