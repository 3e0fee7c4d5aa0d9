"""Tables and captions beside images: what they say of which file, and what is wrong with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datafiles import fill, many, noise, opened, png, reasons

from fromnoise.data.doctor import diagnose
from fromnoise.data.scan import Listing, scan
from fromnoise.errors import FromNoiseError


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_table_gives_columns_and_names_what_is_missing(kind, alone, tmp_path):
    names = [f"images/{i}.png" for i in range(60)]
    rows = [
        {"file_name": name, "kind": "ab"[i % 2], "height": str(i / 7), "text": f"picture number {i}, of noise"}
        for i, name in enumerate([*names, "images/lost.png"])
    ]
    header = ",".join(rows[0])
    lines = [json.dumps(row) for row in rows]
    if kind == "csv":
        lines = [header, *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
    table = tmp_path / "set" / f"metadata.{kind}"
    fill(table.parent, {name: png(noise(8, 8, 1)) for name in names} | {table.name: "\n".join(lines).encode()})
    data = opened(table if alone else table.parent, tmp_path, columns=["kind", "height"])
    assert reasons(data.listing) == {"images/lost.png": f"named in metadata.{kind}, but not there"}
    assert [(c.name, c.kind) for c in data.columns] == [("kind", "class"), ("height", "number")]
    age = data.columns[1]
    for i in (0, 17, 59):
        place = data.names(np.arange(60)).index(f"images/{i}.png")
        assert data.cond([place]).values["kind"].item() == i % 2
        assert data.cond([place]).values["height"].item() == pytest.approx((i / 7 - age.mean) / age.std)
        assert data.texts("text", [place]) == [f"picture number {i}, of noise"]
    assert [c.name for c in opened(table.parent, tmp_path).columns] == ["text"], "no column of a table is the class"


@pytest.mark.parametrize("alone", [False, True])
def test_broken_lines_of_a_table_cost_themselves_alone(alone, tmp_path):
    rows = [json.dumps({"file_name": f"{i:03}.png", "height": i}) for i in range(6)]
    one, several = (
        [*rows[:3], '{"file_name": "003.png", "hei', *rows[4:]],
        [*rows[:2], "[1]", "nonsense", "", *rows[4:]],
    )
    for lines, said, filled in (
        (one, "m.jsonl: line 4 is not a JSON object: mend it; the other 5 rows count.", 5),
        (several, "m.jsonl: 2 lines are not JSON objects, the first is line 3: mend them; the other 4 rows count.", 4),
    ):
        folder = fill(tmp_path / f"{filled}", many(6) | {"m.jsonl": "\n".join(lines).encode()})
        data = opened(folder / "m.jsonl" if alone else folder, tmp_path, columns=["height:number"])
        assert said in data.notes and said in diagnose(scan(folder)) and len(data) == (filled if alone else 6)
        assert int(data.cond(np.arange(len(data))).present["height"].sum()) == filled
    with pytest.raises(FromNoiseError, match="no line of it is a JSON object"):
        scan(fill(tmp_path, {"all.jsonl": b"a\nb\n"}) / "all.jsonl")


@pytest.mark.parametrize("lines", [1, 2])
def test_of_equal_keys_in_a_line_of_a_table_the_last_counts_and_is_said(lines, tmp_path):
    rows = [f'{{"file_name": "{i:03}.png", "kind": "a", "more": {{"x": 1, "x": 2}}}}' for i in range(6)]
    rows[2 : 2 + lines] = [row.replace('"more"', '"kind": "b", "more"') for row in rows[2 : 2 + lines]]
    said = {
        1: "m.jsonl: line 3 has the key 'kind' more than once: keep one; the last counts.",
        2: "m.jsonl: 2 lines, the first line 3, have the key 'kind' more than once: keep one; the last counts.",
    }[lines]
    folder = fill(tmp_path / "set", many(6) | {"m.jsonl": "\n".join(rows).encode()})
    data = opened(folder, tmp_path, columns=["kind"])
    assert said in data.notes and said in diagnose(scan(folder)) and not any("'x'" in note for note in data.notes)
    assert data.texts("kind", range(6)) == ["b" if 2 <= i < 2 + lines else "a" for i in range(6)]


def test_of_columns_of_one_name_the_first_counts_and_is_said(tmp_path):
    text = "file_name,kind,kind\n" + "".join(f"{i:03}.png,{'ab'[i % 2]},{'cd'[i % 2]}\n" for i in range(12))
    listing = scan(fill(tmp_path, many(12) | {"m.csv": text.encode()}))
    assert [profile.labels for profile in listing.profiles if profile.name == "kind"] == [("a", "b")]
    assert "m.csv: several columns are called 'kind': rename all but one; the first counts." in listing.notes


def test_files_that_a_table_names_outside_its_folder_are_said_to_lie_there(tmp_path):
    fill(tmp_path, {"other/i0.png": png(noise(8, 8, 3))})
    named = ["000.png", "../other/i0.png", "/etc/passwd", "gone.png", "sub/../../x.png", f"{tmp_path}/set/001.png"]
    folder = fill(tmp_path / "set", many(2) | {"m.csv": "\n".join(["file_name", *named]).encode()})
    why, outside = reasons(scan(folder)), "lies outside the folder: give the table itself as the data"
    assert "not there" in why["gone.png"]
    assert all(outside in why[name] for name in ("../other/i0.png", "/etc/passwd", "../x.png"))
    assert "by its whole path" in why[f"{tmp_path}/set/001.png"]
    assert len(scan(folder / "m.csv")) == 3, "as the sentence promises"


def test_of_several_rows_on_a_file_the_last_value_given_counts(tmp_path):
    text = b"file_name,kind,size\n000.png,a,1\n001.png,b,2\n000.png,,3\n001.png,b,\n000.png,,\n"
    listing = scan(fill(tmp_path, many(2) | {"m.csv": text}))
    columns_ = listing.items.columns
    assert [(columns_["kind"][i], columns_["size"][i]) for i in range(2)] == [("a", "3"), ("b", "2")]
    assert any("lines 2 and 4 name the same file with different values" in note for note in listing.notes)


def test_rows_with_too_many_cells_are_said(tmp_path):
    text = b"file_name,text\n000.png,one, two\n001.png,three,\n002.png,four\n"
    notes = scan(fill(tmp_path, many(3) | {"m.csv": text})).notes
    assert any("m.csv: line 2 has more cells than the first line" in note for note in notes)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_rows_that_contradict_each_other_or_name_nothing_are_said(kind, tmp_path):
    def listed(name: str, *cells: tuple[str, str]) -> Listing:
        lines = [json.dumps({"file_name": file, "kind": value}) for file, value in cells]
        if kind == "csv":
            lines = ["file_name,kind", *(f"{file},{value}" for file, value in cells)]
        return scan(fill(tmp_path / name, many(3) | {f"m.{kind}": "\n".join(lines).encode()}))

    first = 2 if kind == "csv" else 1
    one = listed("one", ("000.png", "a"), ("001.png", "b"), ("./000.png", "c"), ("", "d"))
    assert [one.items.columns["kind"][i] for i in range(3)] == ["c", "b", ""], "the last counts"
    for said in (
        f"m.{kind}: line {first + 3} has no file_name and belongs to no file: fill it in.",
        f"m.{kind}: lines {first} and {first + 2} name the same file with different values: keep one a file; the last "
        "counts.",
    ):
        assert said in one.notes and said in diagnose(one)
    two = listed("two", ("000.png", "a"), ("000.png", "b"), ("001.png", "a"), ("001.png", "b"), ("", "c"), ("", "d"))
    assert any(
        f"2 files are named by several rows with different values, such as lines {first} and" in n for n in two.notes
    )
    assert any(f"2 rows, the first at line {first + 4}, have no file_name" in note for note in two.notes)
    assert not listed("alike", ("000.png", "a"), ("000.png", "a"), ("001.png", "b")).notes, "no contradiction"


def test_captions_beside_images_and_notes_without(tmp_path):
    files = many(6) | {f"{i:03}.txt": f"a noise\nof {i}".encode() for i in range(5)} | {"about.txt": b"hello"}
    data = opened(fill(tmp_path / "set", files), tmp_path)
    assert data.texts("caption", [0, 5]) == ["a noise of 0", ""]
    assert list(reasons(data.listing)) == ["about.txt"]
    assert [c.kind for c in data.columns] == ["tokens"], "what it is called says that it is a condition"
    assert opened(tmp_path / "set", tmp_path, columns=[]).columns == ()


def test_maps_that_a_table_names_and_that_are_not_there_are_said(tmp_path):
    files = {f"{i}.png": png(noise(8, 8, 3)) for i in range(24)} | {f"d{i}.png": png(noise(8, 8, 1)) for i in range(24)}
    del files["d3.png"]
    rows = [f"{i}.png,d{i}.png" for i in range(24)]
    listing = scan(fill(tmp_path / "set", files | {"metadata.csv": "\n".join(["file_name,depth", *rows]).encode()}))
    said = "metadata.csv: depth names a file that is not there, such as d3.png: what it belongs to has no map."
    assert said in listing.notes and len(listing) == 24
