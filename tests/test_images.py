"""Files of images: every one gives its own pixels back, and what is none is unreadable and nothing worse."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from datafiles import fill, noise, png, reasons
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fromnoise.data.doctor import diagnose
from fromnoise.data.image import MAX_PIXELS, decode, probe
from fromnoise.data.scan import scan
from fromnoise.data.tree import Unreadable


def saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_pixels_come_back_with_their_own_channels_dtype_and_values(kind, channels, dtype):
    pixels = noise(5, 7, channels, dtype=dtype)
    data = png(pixels)
    if kind == "tif":
        out = io.BytesIO()
        photometric = "rgb" if channels >= 3 else "minisblack"
        extra = ["unassalpha"] if channels in (2, 4) else None
        plain = pixels[..., 0] if channels == 1 else pixels
        tifffile.imwrite(out, plain, photometric=photometric, extrasamples=extra, planarconfig="contig")
        data = out.getvalue()
    header = probe(data)
    assert header.mode == ["grey", "grey-alpha", "RGB", "RGBA"][channels - 1]
    np.testing.assert_array_equal(decode(data, header), pixels)


@pytest.mark.parametrize("layout", ["contig", "separate", "pages", "array"])
def test_five_channels_of_sixteen_bits_in_a_tiff(layout):
    pixels = noise(37, 91, 5, dtype="uint16")
    out, planes = io.BytesIO(), np.moveaxis(pixels, -1, 0)
    if layout == "contig":
        tifffile.imwrite(out, pixels, photometric="minisblack", planarconfig="contig")
    elif layout == "separate":
        tifffile.imwrite(out, planes, photometric="minisblack", planarconfig="separate")
    else:
        tifffile.imwrite(out, planes if layout == "pages" else pixels)
    header = probe(out.getvalue())
    assert (header.height, header.width, header.channels, header.dtype) == (37, 91, 5, "uint16")
    np.testing.assert_array_equal(decode(out.getvalue(), header), pixels)


@pytest.mark.parametrize(
    ("kind", "mode", "options", "expect"),
    [
        ("PNG", "1", {}, "grey"),
        ("PNG", "P", {}, "RGB"),
        ("PNG", "P", {"transparency": 0}, "RGBA"),
        ("PNG", "L", {"transparency": 0}, "grey-alpha"),
        ("PNG", "RGB", {"transparency": (0, 0, 0)}, "RGBA"),
        ("GIF", "L", {}, "grey"),
        ("GIF", "P", {}, "RGB"),
        ("GIF", "P", {"transparency": 0}, "RGBA"),
        ("BMP", "RGB", {}, "RGB"),
        ("WEBP", "RGBA", {"lossless": True, "exact": True}, "RGBA"),
        ("JPEG", "L", {}, "grey"),
        ("JPEG", "CMYK", {}, "RGB"),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}, "RGB"),
        ("TIFF", "RGBA", {}, "RGBA"),
    ],
)
def test_the_header_promises_what_decoding_gives(kind, mode, options, expect):
    image = Image.fromarray(noise(9, 6, 4)).convert(mode) if mode != "P" else Image.fromarray(noise(9, 6))
    if mode == "P":
        image.putpixel((0, 0), 0)
        image.putpalette(noise(768).tobytes())
    data = saved(image, kind, **options)
    header = probe(data)
    assert header.mode == expect and (header.height, header.width) == (9, 6)
    pixels = decode(data, header)
    assert pixels.shape == (9, 6, header.channels)
    if kind != "JPEG":
        plain = {"grey": "L", "grey-alpha": "LA", "RGB": "RGB", "RGBA": "RGBA"}[expect]
        reference = np.asarray(Image.open(io.BytesIO(data)).convert(plain)).reshape(pixels.shape)
        np.testing.assert_array_equal(pixels, reference)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_obeyed(kind, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = saved(Image.fromarray(noise(4, 6, 3)), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    header = probe(data)
    expect = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert (header.height, header.width) == expect.shape[:2]
    np.testing.assert_array_equal(decode(data, header), expect)


def test_a_large_jpeg_is_decoded_small_but_not_too_small():
    image = Image.linear_gradient("L").resize((1600, 1200))
    data = saved(image, "JPEG", quality=95)
    small = decode(data, probe(data), at_least=(64, 64))
    assert 128 <= small.shape[0] < 1200 and 128 <= small.shape[1] < 1600


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert probe(data).more and (decode(data, probe(data)) == 10).all()
    stills = {f"{i}.gif": saved(Image.new("L", (4, 4), i), "GIF") for i in range(4)}  # else it is a set of clips
    assert "several frames" in diagnose(scan(fill(tmp_path, {"a.gif": data} | stills)))


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"BM", b"GIF89a"])
)
@settings(max_examples=200, deadline=None)
def test_garbage_is_unreadable_and_nothing_worse(tail, head):
    try:
        header = probe(head + tail)
        decode(head + tail, header)
    except Unreadable as error:
        assert str(error) and "\n" not in str(error)


def test_a_file_cut_short_is_seen_without_decoding():
    for data in (png(noise(40, 40, 3)), saved(Image.fromarray(noise(40, 40, 3)), "JPEG")):
        with pytest.raises(Unreadable, match="cut short"):
            probe(data[: len(data) // 2])


def test_a_bomb_is_never_decoded(tmp_path, monkeypatch):
    head = struct.pack(">IIBBBBB", 16000, 14464, 8, 6, 0, 0, 0)
    part = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    bomb = b"\x89PNG\r\n\x1a\n" + part + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    fill(tmp_path, {"bomb.png": bomb, "good.png": png(noise(8, 8, 3))})
    monkeypatch.setattr("fromnoise.data.image.decode", lambda *_: pytest.fail("scan decodes nothing"))
    listing = scan(tmp_path)
    assert len(listing) == 1 and "231 megapixels" in reasons(listing)["bomb.png"]
    assert 25e6 <= MAX_PIXELS <= 51e6
