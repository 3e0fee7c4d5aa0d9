"""What the data say as conditions: captions, vectors, maps; what is asked at sampling; and whether it is obeyed."""

from __future__ import annotations

import csv
import io
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datafiles import fill, many, noise, png
from hypothesis import given
from hypothesis import strategies as st

import fromnoise as fn
from fromnoise.build import build_denoiser
from fromnoise.caption import LONGEST, caption_column, spoken, symbols, unknown, words
from fromnoise.codec import ImageCodec
from fromnoise.codec.augment import augmented
from fromnoise.cond import Column, Cond
from fromnoise.config import Config, RunConfig, UNetConfig
from fromnoise.data import columns, diagnose, maps
from fromnoise.data.cache import open_dataset
from fromnoise.data.encoded import encode
from fromnoise.data.pairs import beside
from fromnoise.data.remarks import remarks
from fromnoise.data.scan import scan
from fromnoise.data.texts import Texts
from fromnoise.errors import Advice, FromNoiseError
from fromnoise.evaluate import Asked, Judgement, obedience
from fromnoise.generate import prompted
from fromnoise.release import Release, parse_value
from fromnoise.rng import Rng

# ---------------------------------------------------------------- captions as symbols


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_training_captions_come_back_word_by_word(captions):
    if not any(words(text) for text in captions):
        with pytest.raises(FromNoiseError, match="leave the column out"):
            caption_column("text", dict.fromkeys(captions, 1))
        return
    column = caption_column("text", dict.fromkeys(captions, 1))
    rows = symbols(column, captions)
    for text, row in zip(captions, rows, strict=True):
        assert spoken(column, row.tolist()) == " ".join(words(text)[: column.length])
        assert not words(text) or unknown(column, text) == ""
    assert column.length <= LONGEST and rows.max() < column.size


def test_words_are_folded_and_scripts_without_spaces_are_cut():
    assert words("Red-HAIRED ｗｏｍａｎ, café!") == ["red", "haired", "woman", "café"]
    assert words("赤いハート red") == [*"赤いハート", "red"] and words("हिन्दी है") == ["हिन्दी", "है"]


def test_strange_words_are_named_with_what_is_near_and_left_out():
    column = caption_column("text", {"red heart": 2, "green apple": 1})
    assert spoken(column, symbols(column, ["big red Hearts"])[0].tolist()) == "red"
    said = unknown(column, "big red hearts")
    assert "'big'" in said and "did you mean 'heart'" in said
    with pytest.raises(FromNoiseError, match=r"No training caption has a word of 'zzz': use words such as"):
        unknown(column, "zzz")


# ---------------------------------------------------------------- what is hidden in training


def test_dropping_leaves_every_subset_and_single_columns_as_often_as_before():
    n, rate = 4000, 0.1
    values = {"a": torch.zeros(n), "b": torch.zeros(n), "text": torch.ones(n, 5, dtype=torch.long)}
    cond = Cond(values, {name: torch.ones(n, dtype=torch.bool) for name in values}, n)
    dropped = cond.drop(rate, Rng.of(0, range(n)))
    patterns = torch.stack(list(dropped.present.values()), 1).long() @ torch.tensor([1, 2, 4])
    shares = patterns.bincount(minlength=8) / n
    assert (shares > 0.02).all() and shares[7] > 0.5
    assert float((dropped.values["text"] == 0).float().mean()) == pytest.approx(rate, abs=0.01)
    alone = Cond({"a": values["a"]}, {"a": torch.ones(n, dtype=torch.bool)}, n).drop(rate, Rng.of(0, range(n)))
    assert float(alone.present["a"].float().mean()) == pytest.approx((1 - rate) ** 2, abs=0.02)


# ---------------------------------------------------------------- what is asked at sampling


@pytest.fixture(scope="module")
def release() -> Release:
    """An untrained model of pictures with a class, a number that goes with it, and a caption."""
    caption = caption_column("text", {"red heart": 1, "green apple": 1})
    kind = Column(name="kind", kind="class", labels=("apple", "heart"))
    size = Column(name="size", kind="number", low=0.0, high=10.0, mean=5.0, std=5.0)
    config = replace(Config(run=RunConfig(steps=1)), net=UNetConfig(widths=(32,), patch=2, attention=(True,), emb=32))
    rows = Cond(
        {
            "text": torch.from_numpy(symbols(caption, ["green apple", "red heart"])).long().repeat(4, 1),
            "kind": torch.tensor([0, 1] * 4),
            "size": torch.tensor([-1.0, 1.0] * 4),
        },
        {name: torch.ones(8, dtype=torch.bool) for name in ("text", "kind", "size")},
        8,
    )
    codec = ImageCodec.full_range(height=8, width=8, channels=1, alpha=False, dtype="uint8")
    every = (caption, kind, size)
    denoiser = build_denoiser(config, every, 1).eval()
    return Release(denoiser=denoiser, codec=codec, columns=every, rows=rows, config=config, digest="")


def test_what_is_not_asked_never_contradicts_what_is(release):
    for where, others in (
        ({"kind": "heart"}, {"size": 1.0}),
        ({"text": "Green apple!"}, {"size": -1.0, "kind": 0}),
        ({"size": "9.5"}, {"kind": 1}),
    ):
        cond = release.conditions(where, 0, range(6))
        for name, value in others.items():
            assert bool(cond.present[name].all()) and bool((cond.values[name] == value).all()), (where, name)
    none = release.conditions({"kind": "heart", "size": 0.0}, 0, range(6))
    assert not none.present["text"].any(), "no row is a heart of size 0"
    everything = release.conditions({}, 0, range(40))
    assert set(everything.values["kind"].tolist()) == {0, 1} and bool(everything.present["text"].all())


def test_what_cannot_be_asked_for_is_said_with_what_can(release):
    for where, said in (
        ({"kind": "haert"}, "kind is never 'haert': use heart, or else apple or none[.]"),
        ({"kind": "zzz"}, "kind is never 'zzz': use apple, heart or none[.]"),
        ({"size": "nan"}, "size is a number such as 5, not 'nan'"),
        ({"size": "big"}, "size is a number such as 5, not 'big'"),
        ({"size": "inf"}, "ask for -5 to 15, not 'inf'"),
    ):
        with pytest.raises(FromNoiseError, match=said):
            release.conditions(where, 0, range(1))
    many = replace(release.columns[1], labels=tuple(f"label {i}" for i in range(20)))
    with pytest.raises(FromNoiseError, match=r"use one of label 1.*, … or none"):
        parse_value(many, "labl 1", release.codec)


def test_a_prompt_is_the_caption_and_an_empty_one_hides_it(release):
    assert prompted(release, None, "red heart") == ({"text": "red heart"}, None)
    assert release.label(release.conditions({"text": "RED heart"}, 0, range(1)), "text", 0) == "red heart"
    assert not release.conditions({"text": ""}, 0, range(1)).present["text"].any()
    with pytest.raises(FromNoiseError, match="each caption once"):
        prompted(release, {"text": "apple"}, "heart")
    with pytest.raises(FromNoiseError, match="trained with captions"):
        prompted(replace(release, columns=release.columns[1:]), None, "heart")
    with pytest.warns(Advice, match="'blue': left out"):
        release.conditions({"text": "blue heart"}, 0, range(2))


# ---------------------------------------------------------------- columns and their rule


def test_a_column_is_what_is_said_after_the_colon(tmp_path):
    rows = [{"file_name": f"{i:03}.png", "size": i % 4, "pose": [i / 10, 1.5]} for i in range(40)]
    table = "\n".join(map(json.dumps, rows)).encode()
    fill(tmp_path / "set", many(40) | {"metadata.jsonl": table})

    def opened(*names: str):
        return open_dataset(tmp_path / "set", columns=names, cache_dir=tmp_path / "c")

    data = opened("size", "pose")
    assert [(c.kind, c.size) for c in data.columns] == [("class", 1), ("vector", 2)]
    pose = data.columns[1]
    place = data.names(np.arange(40)).index("007.png")
    np.testing.assert_allclose(data.cond([place]).values["pose"][0] * pose.std + pose.mean, [0.7, 1.5], rtol=1e-5)
    assert [c.kind for c in opened("size:number").columns] == ["number"]
    for wrong in ("size:vector", "size:map"):
        with pytest.raises(FromNoiseError, match="cannot be a"):
            opened(wrong)


def test_bad_values_get_a_sentence_and_the_rest_trains(tmp_path):
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["file_name", "label", "caption", "age", "same", "gone"])
    for i in range(40):
        caption = "café " * 10_000 if i == 3 else "" if i < 3 else f"café {i % 7}"
        writer.writerow([f"{i:03}.png", "rare" if i == 9 else "ab"[i % 2], caption, "nan" if i == 5 else i, 7, "nan"])
    fill(tmp_path / "set", many(40) | {"m.csv": table.getvalue().encode("latin-1")})
    data = open_dataset(tmp_path / "set", columns=["label", "caption", "age"], cache_dir=tmp_path / "c")
    assert len(data) == 40 and not data.listing.skipped
    notes = "\n".join(data.notes)
    for said in (
        "m.csv is read as Windows-1252",
        "1 label with a single example (rare)",
        "caption: 3 of 40 examples have no known word",
        f"caption: 1 with up to 10,000 words, of which the first {LONGEST} count",
        "age: 1 of 40 examples have no number",
    ):
        assert said in notes
    assert "café" in data.columns[1].labels
    cond = data.cond(np.arange(40))
    assert all(bool(torch.isfinite(v.float()).all()) for v in cond.values.values())
    with pytest.raises(FromNoiseError, match="no column 'same' with more than one value"):
        open_dataset(tmp_path / "set", columns=["same"], cache_dir=tmp_path / "c")


def test_a_number_that_never_changes_in_training_is_said():
    values = Texts.of(["1"] * 5 + ["2"])
    encoded = encode(columns.profile("n", values, "number"), values, np.arange(6) < 5)
    assert "teaches nothing" in encoded.notes[0] and np.isfinite(encoded.values[np.arange(6)]).all()


@given(st.lists(st.sampled_from(["", "NA", "n/a", "NaN", "null", "None", "-", "?"]), min_size=1, max_size=9))
def test_words_for_what_is_missing_are_empty_cells_among_numbers(words_):
    numbers = [str(i / 4) for i in range(30)]
    plain, spelt = Texts.of([*numbers, *[""] * len(words_)]), Texts.of([*numbers, *words_])
    every = np.ones(len(plain), dtype=bool)
    for role in (None, "number"):
        one, other = (columns.profile("size", values, role) for values in (plain, spelt))
        assert (other.role, other.filled, other.low, other.high) == ("number", one.filled, one.low, one.high)
        assert sum(other.missing.values()) == sum(map(bool, words_))
        first, second = (encode(p, v, every) for p, v in ((one, plain), (other, spelt)))
        assert first.column == second.column
        np.testing.assert_array_equal(first.present, second.present)
        assert any("as empty" in note for note in second.notes) == any(words_)
    grades = columns.profile("grade", Texts.of([*["1", "2"] * 10, *words_]))
    assert grades.role == "class" and grades.labels == ("1", "2"), "of numbers that are classes, too"


def test_words_for_what_is_missing_are_words_where_not_all_else_is_a_number():
    assert columns.profile("kind", Texts.of(["none", "hat"] * 10)).labels == ("hat", "none")
    assert columns.profile("sign", Texts.of(["1", "-"] * 10)).labels == ("1", "-")


def test_what_is_no_number_in_a_column_asked_for_as_one_is_counted(tmp_path):
    cells = [*map(str, range(36)), "n/a", "big", "big", "huge"]
    table = "\n".join(["file_name,size", *(f"{i:03}.png,{cell}" for i, cell in enumerate(cells))]).encode()
    fill(tmp_path / "set", many(40) | {"m.csv": table})
    with pytest.raises(FromNoiseError, match="3 of 40 cells are none, the first 'big': empty them"):
        open_dataset(tmp_path / "set", columns=["size:number"], cache_dir=tmp_path / "c")
    (tmp_path / "set" / "m.csv").write_bytes(table.replace(b"big", b"").replace(b"huge", b"NULL"))
    data = open_dataset(tmp_path / "set", columns=["size"], cache_dir=tmp_path / "c")
    assert any("size: of its cells 2 that say 'n/a', 'NULL' count as empty" in note for note in data.notes)
    assert "number from 0 to 35, 36 of 40 filled; 2 that say 'n/a', 'NULL' count as empty" in diagnose(data.listing)
    with pytest.raises(FromNoiseError, match="no cell is one"):
        columns.profile("size", Texts.of(["nan", "-"]), "number")


def test_infinite_numbers_count_as_empty_in_the_profile_as_in_training(tmp_path):
    cells = [*map(str, range(39)), "inf"]
    table = "\n".join(["file_name,size", *(f"{i:03}.png,{cell}" for i, cell in enumerate(cells))]).encode()
    data = open_dataset(fill(tmp_path / "set", many(40) | {"m.csv": table}), columns=["size"], cache_dir=tmp_path / "c")
    assert int(data.cond(np.arange(40)).present["size"].sum()) == 39
    assert "number from 0 to 38, 39 of 40 filled; 1 that says 'inf' counts as empty" in diagnose(data.listing)


def test_numbers_too_large_to_compute_with_are_no_number_column_and_said(tmp_path):
    cells = [*map(str, range(39)), "1e300"]
    table = "\n".join(["file_name,size", *(f"{i:03}.png,{cell}" for i, cell in enumerate(cells))]).encode()
    listing = scan(fill(tmp_path / "set", many(40) | {"m.csv": table}))
    assert [profile.role for profile in listing.profiles] == ["text"]
    assert any("size: 1 of its numbers is beyond 1e+100, as '1e300'" in note for note in listing.notes)
    with pytest.raises(FromNoiseError, match="'1e300' is beyond"):
        columns.profile("size", Texts.of(cells), "number")
    assert columns.profile("pose", Texts.of(["[1, 2]", "[1, -1e300]"])).role == "text"
    assert columns.profile("size", Texts.of(["1", "-1e99"])).role == "number"


@pytest.mark.parametrize("spelt", ["{},5", "{}.31 cm", "8,{:03}", "{}%", "{}kg/m3", "$ {}.50", "{}°C"])
def test_numbers_with_units_or_commas_are_said_to_be_text(spelt):
    cells = {"size": Texts.of([*(spelt.format(i) for i in range(40)), "", "n/a"])}
    (said,) = remarks(cells, [columns.profile("size", cells["size"])])
    assert said.startswith("size: nearly all cells are numbers, all of them with a unit or a comma as in")
    assert said.endswith("write them as 5.31.")


def test_texts_that_only_hold_numbers_are_not_remarked_on():
    for cells in ("a{}", "{}-05-01", "{}:30", "picture {}", "{} red hats", "3fa9{}", "{}.png", "{}"):
        values = Texts.of(cells.format(i) for i in range(40))
        assert not list(remarks({"x": values}, [columns.profile("x", values)])), cells


def test_a_role_that_is_none_and_none_beside_others_are_said():
    profiles = [columns.profile("size", Texts.of(map(str, range(9))))]
    with pytest.raises(FromNoiseError, match=r"'colour', which is no role and no folder: write size, or size:"):
        columns.choose(profiles, columns.plain(["size:colour"], profiles))
    with pytest.raises(FromNoiseError, match="none stands alone"):
        columns.choose(profiles, ["none", "size"])


def test_what_is_called_none_or_alone_in_its_class_is_remarked_on(tmp_path):
    kinds = ["lone", *(["hat", "none"] * 20)]
    table = "\n".join(["file_name,kind,none", *(f"{i:03}.png,{k},{i}" for i, k in enumerate(kinds))]).encode()
    said = diagnose(scan(fill(tmp_path / "set", many(41) | {"m.csv": table})), tmp_path / "c")
    assert "kind: one of its labels is called none, so that --where kind=none asks for it" in said
    assert "a column is called none, which for --columns means no column at all: rename it." in said
    assert said.count("kind: 1 label with a single example (lone)") == 1


# ---------------------------------------------------------------- maps


def test_maps_are_found_by_names_and_lone_words_are_not():
    assert beside(["a.png", "a_mask.png", "b_mask.png"]) == {"mask": {"a.png": "a_mask.png"}}
    assert beside(["images/1.jpg", "masks/1.png", "depth/1.tif"]) == {
        "mask": {"images/1.jpg": "masks/1.png"},
        "depth": {"images/1.jpg": "depth/1.tif"},
    }
    assert beside(["hats/1.png", "masks/1.png", "cat/sketch_2.png"]) == {}, "a class called masks"


@pytest.mark.parametrize("how", ["sidecar", "folder", "table"])
def test_maps_belong_to_their_images_however_they_are_found(how, tmp_path):
    pictures = {f"{i:02}": noise(8, 8, 3) for i in range(12)}
    masks = {name: np.where(pixels[..., :1] > 127, 255, 0).astype(np.uint8) for name, pixels in pictures.items()}
    image = {"sidecar": "{}.png", "folder": "images/{}.png", "table": "x/{}.png"}[how]
    mask = {"sidecar": "{}_mask.png", "folder": "masks/{}.png", "table": "y/{}-of.png"}[how]
    files = {image.format(k): png(v) for k, v in pictures.items()} | {mask.format(k): png(v) for k, v in masks.items()}
    if how == "table":
        rows = [json.dumps({"file_name": image.format(k), "mask": mask.format(k)}) for k in pictures]
        files["metadata.jsonl"] = "\n".join(rows).encode()
    data = open_dataset(fill(tmp_path / "set", files), cache_dir=tmp_path / "c")
    (column,) = data.columns
    assert (len(data), column.name, column.kind, column.labels) == (12, "mask", "map", ("0", "255"))
    for i, name in enumerate(data.names(np.arange(12))):
        expected = masks[Path(name).stem][..., 0] / 127.5 - 1
        value = data.cond([i]).values["mask"][0]
        np.testing.assert_array_equal(value[1], expected)
        np.testing.assert_array_equal(value[0], -expected)


def test_a_map_that_cannot_be_read_is_named(tmp_path):
    files = {f"images/{i}.png": png(noise(8, 8, 3)) for i in range(12)}
    files |= {f"masks/{i}.png": png(noise(8, 8, 1)) for i in range(12)}
    files["masks/7.png"] = files["masks/7.png"][:40]
    said = diagnose(scan(fill(tmp_path / "set", files)), tmp_path / "c")
    assert "mask: masks/7.png is not read, and its examples train without it: " in said
    assert "masks/6.png is not read" not in said


def test_examples_without_a_readable_map_train_without_it(tmp_path):
    files = {f"images/{i}.png": png(noise(8, 8, 3)) for i in range(12)}
    broken = {f"masks/{i}.png": b"no picture" for i in range(12)}
    data = fill(tmp_path / "set", {**files, **broken, "masks/7.png": png(noise(8, 8, 1))})
    opened = open_dataset(data, cache_dir=tmp_path / "c")
    assert opened.cond(range(12)).present["mask"].tolist().count(True) == 1
    with pytest.raises(FromNoiseError, match="No map of mask can be read: mend them"):
        open_dataset(fill(tmp_path / "none", {**files, **broken}), cache_dir=tmp_path / "c")


def test_a_map_that_is_asked_for_has_the_colours_of_the_training_maps_and_any_size(tmp_path):
    column = Column(name="mask", kind="map", size=3, labels=("0", "255", "16711680"), low=-1.0, high=1.0)
    red = np.zeros((16, 32, 3), np.uint8)
    red[..., 0] = 255
    (tmp_path / "red.png").write_bytes(png(red))
    value = maps.from_file(column, str(tmp_path / "red.png"), (8, 8))
    assert value.shape == (3, 8, 8) and bool((value[2] == 1).all()) and bool((value[:2] == -1).all())
    (tmp_path / "photo.png").write_bytes(png(noise(8, 8, 3)))
    with pytest.raises(
        FromNoiseError, match=r"of the colours 0, 255, #FF0000, and '.*photo\.png' has .* and \d+ more: give"
    ):
        maps.from_file(column, str(tmp_path / "photo.png"), (8, 8))
    (tmp_path / "one.png").write_bytes(png(np.full((8, 8, 1), 7, np.uint8)))
    with pytest.raises(FromNoiseError, match="has the colour 7: give"):
        maps.from_file(column, str(tmp_path / "one.png"), (8, 8))


def test_augmentation_moves_an_image_and_its_map_alike():
    x0 = torch.rand(16, 2, 8, 8) * 2 - 1
    cond = Cond({"mask": x0[:, :1].clone()}, {"mask": torch.ones(16, dtype=torch.bool)}, 16)
    moved, with_map = augmented(x0, cond, 0.5, Rng.of(0, range(16)), flip=True)
    assert not torch.equal(moved, x0)
    torch.testing.assert_close(with_map.values["mask"], moved[:, :1])


# ---------------------------------------------------------------- obedience


def test_the_judge_tells_who_obeys_from_who_does_not(monkeypatch):
    monkeypatch.setattr("fromnoise.evaluate.obey.STEPS", 100)
    draw = torch.Generator().manual_seed(0)
    n = 400
    level, kind = torch.rand(n, generator=draw) * 2 - 1, torch.randint(3, (n,), generator=draw)
    text = torch.stack([kind + 1, torch.full_like(kind, 4)], 1)
    x = 0.05 * torch.randn(n, 3, 8, 8, generator=draw)
    x[torch.arange(n), kind] += 1.0
    x += 0.5 * level[:, None, None, None]
    values = {"kind": kind, "level": level, "text": text}
    cond = Cond(values, {name: torch.ones(n, dtype=torch.bool) for name in values}, n)
    every = (
        Column(name="kind", kind="class", labels=("r", "g", "b")),
        Column(name="level", kind="number", low=-1.0, high=1.0),
        Column(name="text", kind="tokens", labels=("r", "g", "b", "light"), size=5, length=2),
    )
    deaf = Cond({k: v[200:300].roll(1, 0) for k, v in values.items()}, cond[200:300].present, 100)
    good = obedience(
        every, x[:200], cond[:200], Asked(x=x[200:300], cond=cond[200:300]), Asked(x=x[300:], cond=cond[300:])
    )
    bad = obedience(every, x[:200], cond[:200], Asked(x=x[200:300], cond=deaf), Asked(x=x[300:], cond=cond[300:]))
    for heard, ignored in zip(good, bad, strict=True):
        if heard.met:
            assert heard.samples > 0.9 and heard.held > 0.9 and ignored.samples < 0.6, heard.column
        else:
            assert heard.samples < 0.08 and ignored.samples > 0.25, heard.column
        assert heard.held == ignored.held and heard.column in heard.sentence


# ---------------------------------------------------------------- all of it


def test_a_run_with_captions_and_masks_from_folder_to_judgement(tmp_path, monkeypatch):
    monkeypatch.setattr("fromnoise.evaluate.obey.STEPS", 20)
    files, texts = {}, ("dark red square", "a bright square")
    for i in range(500):
        square = np.zeros((8, 8, 1), np.uint8)
        square[i % 4 : i % 4 + 4, 2:6] = 255
        shade = 90 if i % 2 == 0 else 250
        files |= {
            f"images/{i:03}.png": png((square // 255 * shade).repeat(3, 2) + noise(8, 8, 1) // 60),
            f"masks/{i:03}.png": png(square),
            f"images/{i:03}.txt": texts[i % 2].encode(),
        }
    data = fill(tmp_path / "set", files)
    tiny = ["net.widths=[32]", "net.attention=[true]", "net.emb=32", "net.patch=2", "optim.batch=16"]
    quick = [*tiny, "run.held_evaluations=2", "run.grid_priors=0", "loss.augment=0.1"]
    run = fn.train(data, out=tmp_path / "run", steps=12, settings=quick)
    assert {c.name: c.kind for c in run.release.columns} == {"caption": "tokens", "mask": "map"}
    judgement = run.evaluate(n=24)
    assert isinstance(judgement, Judgement)
    assert {row.column for row in judgement.obedience} == {"caption", "mask"}
    kept = json.loads(run.folder.evaluation.read_text())
    assert [row["column"] for row in kept["obedience"]] == [row.column for row in judgement.obedience]
    mask = tmp_path / "one.png"
    mask.write_bytes(png(np.full((8, 8, 1), 255, np.uint8)))
    shutil.rmtree(data)
    alone = fn.load(run.folder.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = alone.sample(3, steps=2, prompt="bright square", where={"mask": str(mask)})
    np.testing.assert_array_equal(
        asked, alone.sample(3, steps=2, where={"caption": "Bright, square!", "mask": str(mask)})
    )
    none = alone.sample(3, steps=2, prompt="", where={"mask": "none"})
    np.testing.assert_array_equal(none, alone.sample(3, steps=2, where={"caption": "none", "mask": "none"}))
    with pytest.raises(FromNoiseError, match="mask is an image"):
        alone.sample(1, where={"mask": str(tmp_path / "lost.png")})
