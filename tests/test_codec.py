"""The laws of the image codec: exact inverses where the data allow it, and within rounding where they do not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fromnoise.codec.image import ImageCodec, read_recipe
from fromnoise.errors import FromNoiseError

MODES = {"grey": (1, False), "grey-alpha": (2, True), "RGB": (3, False), "RGBA": (4, True)}


def codec_for(raw: np.ndarray, alpha: bool) -> ImageCodec:
    height, width, channels = raw.shape
    return ImageCodec.full_range(height=height, width=width, channels=channels, alpha=alpha, dtype=str(raw.dtype))


def round_trip(codec: ImageCodec, raw: np.ndarray) -> np.ndarray:
    return codec.decode(codec.encode(codec.store(raw)[None]))[0]


def images(dtypes: list[str], channels: list[int]):
    shapes = st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from(channels))
    return st.sampled_from(dtypes).flatmap(lambda dtype: hnp.arrays(dtype, shapes))


@given(images(["uint8", "uint16"], [1, 2, 3, 5]))
def test_integers_without_alpha_come_back_bit_for_bit(raw):
    codec = codec_for(raw, alpha=False)
    fitted, _ = codec.fitted(float(raw.min()), float(raw.max()))
    for c in (codec, fitted):
        back = round_trip(c, raw)
        assert back.dtype == raw.dtype
        np.testing.assert_array_equal(back, raw)


@given(images(["uint8", "uint16"], [2, 4]))
def test_alpha_is_exact_and_colour_within_the_rounding_of_the_premultiplied(raw):
    back = round_trip(codec_for(raw, alpha=True), raw)
    full = np.iinfo(raw.dtype).max
    alpha = raw[..., -1:].astype(np.float64)
    np.testing.assert_array_equal(back[..., -1], raw[..., -1])
    error = np.abs(back[..., :-1].astype(np.float64) - raw[..., :-1])
    seen = np.broadcast_to(alpha > 0, error.shape)
    assert (error <= 0.5 * full / np.maximum(alpha, 1) + 0.5)[seen].all()
    assert (back[..., :-1][~seen] == 0).all()


@given(images(["uint8", "uint16"], [1, 2, 3, 4]), st.sampled_from(list(MODES)))
def test_any_mode_becomes_any_wider_one_and_keeps_what_is_seen(raw, mode):
    channels, alpha = MODES[mode]
    assume(channels >= raw.shape[2])
    height, width, has = raw.shape
    opaque = raw.copy()
    if has in (2, 4):
        opaque[..., -1] = np.iinfo(raw.dtype).max
    codec = ImageCodec.full_range(height=height, width=width, channels=channels, alpha=alpha, dtype=str(raw.dtype))
    back = round_trip(codec, opaque)
    colours = opaque[..., : has - (has in (2, 4))]
    kept = back[..., : channels - alpha]
    np.testing.assert_array_equal(kept, np.broadcast_to(colours, kept.shape))
    if alpha:
        assert (back[..., -1] == np.iinfo(raw.dtype).max).all()


def test_eight_bits_in_sixteen_keep_black_and_white():
    codec = ImageCodec.full_range(height=1, width=2, channels=1, alpha=False, dtype="uint16")
    back = round_trip(codec, np.array([[[0], [255]]], np.uint8))
    assert back.ravel().tolist() == [0, 65535]


@given(hnp.arrays("float32", (3, 4, 2), elements=st.floats(-1e4, 1e4, width=32)))
def test_floats_come_back_within_float32_of_their_range(raw):
    codec, _ = codec_for(raw, alpha=False).fitted(float(raw.min()), float(raw.max()))
    x0 = codec.encode(codec.store(raw)[None])
    assert x0.dtype == torch.float32 and x0.abs().max() <= 1
    np.testing.assert_allclose(codec.decode(x0)[0], raw, atol=1e-6 * (codec.high - codec.low), rtol=0)


def test_the_range_fits_the_data():
    codec = ImageCodec.full_range(height=1, width=1, channels=1, alpha=False, dtype="uint16")
    twelve, _ = codec.fitted(3.0, 4095.0)
    assert (twelve.low, twelve.high) == (0, 4095)
    assert codec.fitted(3.0, 40000.0)[0].high == 65535
    assert codec.fitted(0.0, 0.0)[0].high == 65535, "a constant set has no range of its own"


@settings(max_examples=25)
@given(hnp.arrays("float32", (2, 4, 3, 3), elements=st.floats(-3, 3, width=32)))
def test_whatever_a_network_says_decodes_within_the_range(x0):
    codec = ImageCodec(height=3, width=3, channels=4, alpha=True, dtype="uint8", low=0.0, high=255.0)
    samples = codec.decode(torch.from_numpy(x0))
    assert samples.dtype == np.uint8 and samples.shape == (2, 3, 3, 4)
    premultiplied = codec.encode(np.stack([codec.store(s) for s in samples]))
    alpha_error = (premultiplied[:, 3] - torch.from_numpy(x0[:, 3]).clamp(-1, 1)).abs().max()
    assert alpha_error <= 1 / 255 + 1e-6


def test_resampling_is_antialiased_centred_and_blind_to_hidden_colour():
    stripes = np.zeros((64, 96, 1), np.uint8)
    stripes[:, ::2] = 255
    codec = ImageCodec.full_range(height=8, width=8, channels=1, alpha=False, dtype="uint8")
    assert np.abs(codec.store(stripes).astype(int) - 127).max() <= 2, "stripes finer than a pixel become grey"
    sides = np.full((64, 192, 1), 255, np.uint8)
    sides[:, 64:128] = 0
    assert codec.store(sides)[:, 1:-1].max() <= 30, "the centre square is kept"
    hidden = np.zeros((16, 16, 4), np.uint8)
    hidden[..., 0] = 255  # red where nothing is seen
    hidden[4:12, 4:12] = (0, 0, 255, 255)
    codec = ImageCodec.full_range(height=5, width=5, channels=4, alpha=True, dtype="uint8")
    assert codec.store(hidden)[..., 0].max() == 0, "no fringe of the hidden red"


def test_json_round_trip_and_refusal_of_strangers():
    codec = ImageCodec(height=37, width=91, channels=5, alpha=False, dtype="uint16", low=0.0, high=4095.0)
    data = json.loads(json.dumps(codec.to_json()))
    assert ImageCodec.from_json(data) == codec and codec.shape == (5, 37, 91)
    for wrong in ({**data, "kind": "audio"}, {**data, "new": 1}):
        with pytest.raises(FromNoiseError):
            ImageCodec.from_json(wrong)


def test_preview_lays_alpha_over_white_and_spans_the_range():
    rgba = ImageCodec.full_range(height=1, width=2, channels=4, alpha=True, dtype="uint8")
    shown = rgba.preview(np.array([[[[255, 0, 0, 255], [0, 0, 0, 0]]]], np.uint8))
    assert shown.tolist() == [[[[255, 0, 0], [255, 255, 255]]]]
    digits = ImageCodec(height=1, width=2, channels=1, alpha=False, dtype="uint8", low=0.0, high=16.0)
    assert digits.preview(np.array([[[[0], [16]]]], np.uint8))[0, 0].tolist() == [[0, 0, 0], [255, 255, 255]]
    many = ImageCodec.full_range(height=1, width=1, channels=5, alpha=False, dtype="uint16")
    assert many.preview(np.full((1, 1, 1, 5), 65535, np.uint16)).shape == (1, 1, 1, 3)


@pytest.mark.parametrize(
    ("dtype", "channels", "alpha", "suffix"),
    [
        ("uint8", 1, False, ".png"),
        ("uint8", 2, True, ".png"),
        ("uint8", 3, False, ".png"),
        ("uint8", 4, True, ".png"),
        ("uint16", 1, False, ".png"),
        ("uint16", 2, True, ".tif"),
        ("uint16", 3, False, ".tif"),
        ("uint16", 4, True, ".tif"),
        ("uint16", 5, False, ".tif"),
        ("uint8", 2, False, ".tif"),
        ("float32", 1, False, ".tif"),
        ("int16", 3, False, ".tif"),
    ],
)
def test_saved_files_hold_the_same_pixels_and_the_recipe(tmp_path, dtype, channels, alpha, suffix):
    rng = np.random.default_rng(0)
    sample = rng.integers(0, 200, (5, 7, channels)).astype(dtype)
    codec = codec_for(sample, alpha)
    recipe = {"seed": 3, "where": {"class": "Ünï"}, "steps": 8}
    path = codec.save(tmp_path / "sample.0001", sample, recipe)
    assert path.name == "sample.0001" + suffix
    read = np.asarray(Image.open(path)) if suffix == ".png" else tifffile.imread(path)
    np.testing.assert_array_equal(read.reshape(sample.shape), sample)
    assert read_recipe(path) == recipe


def test_a_file_without_a_recipe_says_so(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(FromNoiseError, match="holds no recipe"):
        read_recipe(tmp_path / "a.png")
