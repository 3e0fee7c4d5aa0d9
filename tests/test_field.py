"""Fields: exact there and back in every dtype, missing values where they were, crops by the seed."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from fromnoise.codec import Codec, Extensible, FieldCodec, Physical, codec_from_json
from fromnoise.codec.arrayfile import read_recipe
from fromnoise.codec.field import UNIT
from fromnoise.errors import FromNoiseError
from fromnoise.rng import Rng

SIZES = {1: (13,), 2: (6, 9), 3: (4, 5, 6)}


def values_of(kind: str, dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if dtype == "bool":
        return rng.random(shape) < 0.3
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        low, high = max(info.min, -(2**22)), min(info.max, 2**22)
        return rng.integers(low, high, shape, dtype=dtype, endpoint=True)
    normal = rng.normal(size=shape)
    made = {"normal": 300 + 2 * normal, "heavy": normal / rng.random(shape) ** 3, "constant": 0 * normal + 7.25}
    return made[kind].clip(-6e4, 6e4).astype(dtype)


def fitted(codec: FieldCodec, raws: np.ndarray) -> tuple[FieldCodec, np.ndarray]:
    stored = codec.store_many(raws)
    return codec.fitted(float(stored.min()), float(stored.max()), list(stored))[0], stored


@given(
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["none", "first", "last"]),
    st.sampled_from(["uint8", "int16", "int32", "uint16", "int64", "float16", "float32", "float64", "bool"]),
    st.sampled_from(["normal", "heavy", "constant"]),
    st.sampled_from([0.0, 0.3]),
    st.booleans(),
    st.integers(0, 99),
)
def test_there_and_back_is_the_same_field(axes, layout, dtype, kind, holes, shared, seed):
    rng, channels = np.random.default_rng(seed), 1 if layout == "none" else 2
    raws = values_of(kind, dtype, (5, channels, *SIZES[axes]), rng)
    floats = raws.dtype.kind == "f"
    fill = None if floats and seed % 2 else -999.0 if floats else float(raws.flat[0])
    masks = 0 if not holes or dtype == "bool" else 1 if shared else channels
    if masks:
        gone = np.broadcast_to(rng.random((5, masks, *SIZES[axes])) < holes, raws.shape)
        raws = raws if floats else np.where(raws == fill, raws ^ 1, raws)
        raws = np.where(gone, np.nan if fill is None else fill, raws).astype(dtype)
    raws = raws[:, 0] if layout == "none" else np.moveaxis(raws, 1, -1) if layout == "last" else raws
    codec, stored = fitted(
        FieldCodec(
            space=SIZES[axes],
            channels=channels,
            dtype=dtype,
            layout=layout,
            masks=masks,
            fill=fill if masks else None,
        ),
        raws,
    )
    assert isinstance(codec, Codec) and isinstance(codec, Extensible) and isinstance(codec, Physical)
    x0 = codec.encode(stored)
    assert tuple(x0.shape) == (5, *codec.shape) and bool(x0.isfinite().all())
    back = codec.decode(x0)
    assert back.dtype == raws.dtype and back.shape == raws.shape
    if floats:
        np.testing.assert_array_equal(np.isnan(back), np.isnan(raws))
        there = raws[np.isfinite(raws) & (raws != -999.0)].astype(np.float64)
        scale = np.finfo(dtype).eps / 2 + 1e-6
        np.testing.assert_allclose(back, raws, rtol=scale, atol=scale * float(there.std() + 1e-30))
    else:
        np.testing.assert_array_equal(back, raws)
    torch.testing.assert_close(
        codec.encode(codec.store_many(back)), x0, rtol=0, atol=2e-3 if dtype == "float16" else 3e-5
    )
    assert codec_from_json(json.loads(json.dumps(codec.to_json()))) == codec


def test_channels_of_any_units_come_to_unit_order_and_heavy_tails_are_bent():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(40, 3, 500))
    raws = np.stack([101_325 + 900 * normal[:, 0], 1e-9 * normal[:, 1], np.exp(3 * normal[:, 2])], 1)
    codec, stored = fitted(FieldCodec(space=(500,), channels=3, dtype="float64", layout="first"), raws)
    assert [scale.heavy for scale in codec.scales] == [False, False, True] and codec.floor is None
    x0 = codec.encode(stored)
    np.testing.assert_allclose(x0.std((0, 2)), UNIT, rtol=1e-3)
    np.testing.assert_allclose(x0.mean((0, 2)), 0, atol=1e-3)
    assert float(x0.abs().max()) < 4, "nothing stands alone"


def test_what_is_never_negative_stays_so_and_samples_stay_in_the_range_of_the_dtype():
    rain = np.random.default_rng(0).gamma(0.1, 30, (50, 8, 8)).astype(np.float32)
    codec, _ = fitted(FieldCodec(space=(8, 8), channels=1, dtype="float32"), rain)
    wild = 50 * torch.randn(4, 1, 8, 8)
    assert codec.decode(wild).min() == 0 and np.isfinite(codec.decode(1e4 * wild)).all()
    small, _ = fitted(FieldCodec(space=(8, 8), channels=1, dtype="int8"), (rain.clip(0, 100)).astype(np.int8) - 50)
    assert (small.decode(wild).min(), small.decode(wild).max()) == (-128, 127)


def test_a_window_is_a_function_of_its_stream_and_goes_everywhere():
    codec = FieldCodec(space=(4, 3), channels=1, dtype="float64", whole=False)
    field = np.arange(20.0 * 30).reshape(20, 30)
    stored = [codec.store(field)] * 200
    seen = codec.decode(codec.encode(stored, Rng.of(0, range(200), "x")))
    np.testing.assert_array_equal(seen, codec.decode(codec.encode(stored, Rng.of(0, range(200), "x"))))
    np.testing.assert_array_equal(seen[7:8], codec.decode(codec.encode(stored[:1], Rng.of(0, [7], "x"))))
    corner = np.rint(seen[:, 0, 0]).astype(int)
    assert {0, 16} < set(corner // 30) and {0, 27} < set(corner % 30)
    np.testing.assert_allclose(seen - seen[:, :1, :1], np.broadcast_to(field[:4, :3], seen.shape), atol=1e-3)
    np.testing.assert_allclose(codec.decode(codec.encode(stored[:1]))[0], field[:4, :3], atol=1e-3)
    long = codec.extended(11, "free")
    assert long.shape == (1, 4, 11) and long.decode(torch.zeros(2, *long.shape)).shape == (2, 4, 11)
    np.testing.assert_allclose(codec.beginning(field[:4])[0, 0], field[:4] / 2)
    for wrong in (field, field[0], np.where(field[:4] > 5, np.nan, 1)):
        with pytest.raises(FromNoiseError, match="1 x 4 along"):
            codec.beginning(wrong)


@pytest.mark.parametrize("container", ["npy", "h5", "zarr"])
@pytest.mark.parametrize("dtype,fill", [("float32", None), ("float64", 1e20), ("int16", -32768)])
def test_a_saved_sample_holds_its_values_and_its_recipe(tmp_path, container, dtype, fill):
    codec = FieldCodec(
        space=(4, 5), channels=2, dtype=dtype, layout="first", masks=1, fill=fill, units="K", container=container
    )
    sample = codec.decode(torch.randn(1, *codec.shape))[0]
    recipe = {"seed": 3, "cond": {"class": "Ünï"}}
    file = codec.save(tmp_path / "000001", sample, recipe)
    assert file.name == f"000001.{container}" and read_recipe(file) == recipe
    if container == "npy":
        back, attrs = np.load(file), {"units": "K"}
    elif container == "h5":
        with h5py.File(file) as inside:
            back, attrs = inside["data"][:], dict(inside["data"].attrs)
    else:
        array = zarr.open_array(file, mode="r")
        back, attrs = array[:], dict(array.attrs)
    np.testing.assert_array_equal(back, sample)
    assert back.dtype == dtype and attrs["units"] == "K"
    assert container == "npy" or fill is None or attrs["_FillValue"] == fill
    assert container != "h5" or fill is None or np.asarray(attrs["_FillValue"]).dtype == dtype
    with pytest.raises(FromNoiseError, match="no recipe"):
        read_recipe(tmp_path / f"other.{container}")


def test_previews_show_values_as_light_and_what_is_missing_as_grey():
    rng = np.random.default_rng(0)
    field = np.linspace(-2, 2, 16)[None, :, None] + 0 * rng.random((3, 16, 12))
    field[0, 3, 3] = np.nan
    codec, _ = fitted(FieldCodec(space=(16, 12), channels=1, dtype="float64", masks=1, units="1/s"), field)
    shown = codec.preview(field).astype(int)
    assert shown.shape == (3, 16, 12, 3) and tuple(shown[0, 3, 3]) == (200, 200, 200)
    light = shown[1].sum((1, 2))
    assert (np.diff(light) > 0).all() and "1/s" in codec.legend and "grey" in codec.legend
    volume = FieldCodec(space=(4, 6, 8), channels=2, dtype="float32", layout="last")
    assert volume.preview(np.zeros((2, 4, 6, 8, 2), np.float32)).shape == (2, 6 + 2 + 6, 8 + 2 + 8 + 2 + 6, 3)
    line = FieldCodec(space=(50,), channels=1, dtype="float32")
    page = line.preview(np.sin(np.arange(50, dtype=np.float32) / 5)[None])[0]
    ink = np.ptp(page.astype(int), axis=-1).max(0) > 30
    assert ink[1:-1].all(), "the line goes from end to end"
    assert replace(line, masks=1).preview(np.full((1, 50), np.nan, np.float32)).min() > 200
