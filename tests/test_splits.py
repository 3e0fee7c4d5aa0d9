"""Which columns and splits data have: the rules, and what is said of them."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest
from datafiles import RNG, fill, many, noise, opened, png
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.data import columns
from fromnoise.data.encoded import encode
from fromnoise.data.splits import HELD_OUT_MOST, OPEN, TEST, TRAIN, VAL, assign, folder_roles, hash_split, hold_groups
from fromnoise.data.texts import Texts
from fromnoise.errors import FromNoiseError


def hashes(contents: list[int]) -> np.ndarray:
    """(n, 2) uint64, as a scan gives them."""
    digests = b"".join(blake2b(str(c).encode(), digest_size=16).digest() for c in contents)
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)


def test_the_rule_of_columns():
    role = {
        name: columns.profile(name, Texts.of(values)).role
        for name, values in {
            "few": ["a", "b"] * 10,
            "rare": ["a", "b", "c", "d"],
            "grades": [str(i % 5) for i in range(50)],
            "ages": [str(i % 30) for i in range(300)],
            "label": [str(i % 30) for i in range(300)],
            "names": [f"person {i}" for i in range(30)],
        }.items()
    }
    assert role == {
        "few": "class",
        "rare": "text",
        "grades": "class",
        "ages": "number",
        "label": "class",
        "names": "text",
    }


def test_numbers_are_standardised_by_the_training_rows_and_gaps_are_absent():
    values = Texts.of([*map(str, range(40)), ""])
    train = np.arange(41) < 20
    encoded = encode(columns.profile("age", values), values, train)
    assert encoded.column.mean == 9.5 and (encoded.column.low, encoded.column.high) == (0, 19)
    assert encoded.values[train].mean() == pytest.approx(0, abs=1e-6) and encoded.values[train].std() == pytest.approx(
        1
    )
    assert encoded.present.sum() == 40 and not encoded.present[-1]


def test_a_wrong_column_names_the_right_ones(tmp_path):
    files = {f"{label}/{i}.png": png(noise(8, 8, 1)) for label in ("cat", "dog") for i in range(5)}
    with pytest.raises(FromNoiseError, match=r"'klass'.*class"):
        opened(fill(tmp_path, files), tmp_path / "c", columns=["klass"])
    assert opened(tmp_path, tmp_path / "c", columns=[]).columns == ()


def test_folders_are_splits_classes_and_paths():
    splits, classes, folders = folder_roles(["top/train/cat/a", "top/train/dog", "top/test/cat/a", "top/extra"])
    assert splits == [TRAIN, TRAIN, TEST, OPEN]
    assert classes == ["cat", "dog", "cat", "extra"] and folders == ["cat/a", "dog", "cat/a", "extra"]
    assert folder_roles(["vehicles/train", "vehicles/car"])[0] == [OPEN, OPEN], "a class called train"


@given(st.lists(st.integers(0, 200), min_size=2, max_size=400))
@settings(max_examples=50)
def test_the_hash_split_keeps_copies_together_and_both_sides_filled(contents):
    digests = hashes(contents)
    held = hash_split(digests)
    sides = {c: {bool(h) for d, h in zip(contents, held, strict=True) if d == c} for c in contents}
    assert all(len(side) == 1 for side in sides.values())
    if len(sides) > 1:
        assert held.any() and not held.all()
    order = RNG.permutation(len(digests))
    np.testing.assert_array_equal(hash_split(digests[order]), held[order])


@given(sizes=st.lists(st.integers(1, 60), min_size=2, max_size=30), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_groups_are_held_out_whole_at_least_one_and_about_a_tenth_of_the_examples(sizes, seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 2**64, (len(sizes), 2), dtype=np.uint64)
    whose = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    held = hold_groups(groups[whose])
    out = set(whose[held].tolist())
    assert 1 <= len(out) < len(sizes) and not out & set(whose[~held].tolist())
    # Never so many that leaving out the last would have come nearer, never so few that one more would have.
    assert held.sum() < 0.3 * len(whose) or held.sum() == min(sizes)
    order = rng.permutation(len(whose))
    np.testing.assert_array_equal(hold_groups(groups[whose][order]), held[order])
    smallest_missing = min(size for group, size in enumerate(sizes) if group not in out)
    assert held.sum() >= 0.1 * len(whose) - smallest_missing / 2


@pytest.mark.parametrize("seed", range(20))
def test_of_few_equal_groups_one_is_held_out_whatever_they_hold(seed):
    groups = np.random.default_rng(seed).integers(0, 2**64, (4, 2), dtype=np.uint64)
    assert hold_groups(groups.repeat(20, axis=0)).sum() == 20
    assert hold_groups(groups[:1].repeat(20, axis=0)).sum() == 0, "one group is trained on"


def test_the_hash_split_is_a_tenth_and_no_more_than_its_limit():
    digests = RNG.integers(0, 1 << 64, (80_000, 2), dtype=np.uint64)
    assert 900 < hash_split(digests[:10_000]).sum() < 1_100
    assert hash_split(digests).sum() == HELD_OUT_MOST


def test_a_split_that_a_table_says_is_kept_and_is_no_property_of_an_example(tmp_path):
    text = "file_name,split,kind\n" + "".join(f"{i:03}.png,{'test' if i > 7 else 'train'},{i % 2}\n" for i in range(10))
    data = opened(fill(tmp_path, many(10) | {"m.csv": text.encode()}), tmp_path)
    assert list(data.names(data.indices("test"))) == ["008.png", "009.png"]
    assert "split" not in data.listing.items.columns and "kind" in data.listing.items.columns
    word = text.replace("train", "left").replace("test", "right")
    other = opened(fill(tmp_path / "word", many(10) | {"m.csv": word.encode()}), tmp_path)
    assert "split" in other.listing.items.columns


def test_named_splits_are_kept_and_leaks_are_said(tmp_path):
    same = png(noise(8, 8, 1))
    files = {f"{s}/{i}.png": png(noise(8, 8, 1)) for s in ("train", "test") for i in range(4)}
    files |= {"train/x.png": same, "test/y.png": same, "val/z.png": png(noise(8, 8, 1))}
    data = opened(fill(tmp_path, files), tmp_path / "c")
    assert [len(data.indices(split)) for split in ("train", "val", "test")] == [5, 1, 5]
    assert any("1 of those held out are exact copies" in note for note in data.notes)
    assert data.columns == (), "a split is no class"


def test_the_best_model_is_not_chosen_on_a_named_test_set():
    named, digests = np.array([TRAIN] * 300 + [TEST] * 50), hashes([*range(250), *range(50), *range(1000, 1050)])
    splits, why = assign(named, digests)
    np.testing.assert_array_equal(splits == TEST, named == TEST)
    assert 10 < (splits == VAL).sum() < 60 and "for validation" in why and "copies" not in why
    assert {*map(bytes, digests[splits == VAL])}.isdisjoint(map(bytes, digests[splits == TRAIN]))
    assert "flatters" in assign(np.array([TRAIN, TEST, TEST]), hashes([0, 1, 2]))[1], "one example cannot be divided"


def test_one_image_is_a_usable_set(tmp_path):
    data = opened(fill(tmp_path, {"a.png": png(noise(8, 8, 1))}), tmp_path / "c")
    assert [data.indices(s).tolist() for s in ("train", "val", "test")] == [[0], [0], [0]]
    assert (assign(np.full(2, OPEN), hashes([0, 1]))[0] == VAL).sum() == 1
