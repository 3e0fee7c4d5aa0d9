"""Contact sheets show every image, unblurred and in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.sheet import sheet, strip


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.integers(0, 5)
)
def test_every_tile_is_its_image_enlarged(n, height, width, columns, scale, gap):
    images = np.random.default_rng(n).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    page = np.asarray(sheet(images, columns=columns, scale=scale, gap=gap))
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top, left = gap + row * (height * scale + gap), gap + column * (width * scale + gap)
        tile = page[top : top + height * scale, left : left + width * scale]
        np.testing.assert_array_equal(tile, image.repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize(("side", "tile"), [(8, 64), (28, 84), (64, 64), (200, 200)])
def test_small_images_are_made_visible(side, tile):
    page = sheet(np.zeros((1, side, side, 3), np.uint8), gap=0)
    assert page.size == (tile, tile)


def test_titles_take_room_of_their_own():
    images = np.zeros((4, 64, 64, 3), np.uint8)
    plain, titled = sheet(images, columns=2), sheet(images, columns=2, titles=["cat", "dog"])
    assert titled.height > plain.height and titled.width == plain.width
    tiles = (np.asarray(titled) == 0).all(-1).sum()
    assert tiles == 4 * 64 * 64, "no title covers a pixel of an image"


def test_a_strip_has_examples_as_rows_and_steps_as_columns():
    steps = [
        np.full((3, 2, 2, 3), 10 * k, np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None, None] for k in range(5)
    ]
    page = np.asarray(strip(steps, scale=1, gap=0))
    assert page.shape == (6, 10, 3)
    assert page[::2, ::2, 0].tolist() == [[10 * k + row for k in range(5)] for row in range(3)]
