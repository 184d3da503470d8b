"""Tables: the same rows from CSV, JSONL and Parquet, and every bad line named."""

import json
import pickle

import pyarrow
import pyarrow.parquet
import pytest

from tl_jax.data.sources import tables
from tl_jax.data.sources.open import open_source, split_names

ROWS = {"image": ["a b.png", "мост.png", "c.png"], "label": ["cat", None, "dog, big"]}


def write(path, rows=ROWS):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(rows), path)
    elif path.suffix == ".jsonl":
        lines = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
        path.write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    else:
        sep = "\t" if path.suffix == ".tsv" else ","
        lines = [rows, *zip(*rows.values(), strict=True)]
        cells = [[f'"{cell}"' if cell else "" for cell in line] for line in lines]
        path.write_text("\n".join(sep.join(line) for line in cells) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".CSV"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    table = tables.read(write(tmp_path / f"my table{suffix}"))
    assert {name: list(table.columns[name]) for name in table.columns} == ROWS
    assert len(table) == 3


def test_rows_are_counted_as_an_editor_does(tmp_path):
    assert tables.read(write(tmp_path / "t.csv")).place(0) == "line 2"
    assert tables.read(write(tmp_path / "t.jsonl")).place(1) == "line 3"
    assert tables.read(write(tmp_path / "t.parquet")).place(2) == "row 3"


def test_csv_from_spreadsheets_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffimage , label\r\n"a, ""b"".png",x\r\n\r\nc.png,\r\n'.encode())
    table = tables.read(path)
    assert dict(table.columns) == {"image": ['a, "b".png', "c.png"], "label": ["x", None]}
    assert table.place(1) == "line 4"


def test_keys_that_a_line_lacks_are_empty(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"image": "a"}\n{"label": ["x", "y"], "image": "b"}\n')
    assert dict(tables.read(path).columns) == {"image": ["a", "b"], "label": [None, ["x", "y"]]}


def test_bad_lines_are_listed_together(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("image,label\n" + "a,b\n" + "a,b,c\n" * 12 + "a\n")
    with pytest.raises(ValueError, match=r"^13 lines of .*t\.csv cannot be read:") as caught:
        tables.read(path)
    message = str(caught.value)
    assert "  line 3: 3 cells under 2 column names\n" in message
    assert "line 12:" in message
    assert "line 13:" not in message
    assert "and 3 more" in message


def test_bad_json_is_listed_together(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"image": "a"}\n{"image": \n[1, 2]\n')
    with pytest.raises(ValueError, match=r"(?s)^2 lines .*line 2: Expect.*line 3: a list, not an"):
        tables.read(path)


@pytest.mark.parametrize("header", ["image,image", ",", ""])
def test_a_first_line_without_names_is_refused(tmp_path, header):
    (tmp_path / "t.csv").write_text(f"{header}\na,b\n")
    with pytest.raises(ValueError, match="expected the names of the columns, each once"):
        tables.read(tmp_path / "t.csv")


@pytest.mark.parametrize("content", [b"image\n\xff\xfe\n", b'image\n"a\n'])
def test_text_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*t\.csv.*save it as UTF-8"):
        tables.read(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_table_without_rows_is_refused(tmp_path, name):
    rows = {"image": pyarrow.array([], "string")}
    path = write(tmp_path / name, rows)
    with pytest.raises(ValueError, match="holds no row"):
        tables.read(path)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a table, \.csv"):
        tables.read(tmp_path / "t.csv")
    (tmp_path / "t.xlsx").write_text("x")
    with pytest.raises(ValueError, match=r"got the table 't\.xlsx'; expected a name.*as CSV"):
        tables.read(tmp_path / "t.xlsx")
    (tmp_path / "t.parquet").write_text("x" * 100)
    with pytest.raises(ValueError, match=r"cannot read .*t\.parquet"):
        tables.read(tmp_path / "t.parquet")


def test_bytes_stay_packed_until_asked_for_and_travel(tmp_path):
    path = write(tmp_path / "t.parquet", {"image": [b"one", None, b"three"], "n": [1, 2, 3]})
    column = tables.read(path).columns["image"]
    copy = pickle.loads(pickle.dumps(column))
    assert [column[0], column[1], copy[2], len(copy)] == [b"one", None, b"three", 3]


def test_bytes_that_do_not_fit_into_memory_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", {"image": [bytes(10_000)], "n": [1]})
    monkeypatch.setattr(tables.os, "sysconf", lambda name: 2)
    with pytest.raises(ValueError, match=r"column 'image' .* kept in memory, and this machine"):
        tables.read(path).columns["image"]


def test_hugging_faces_names_of_classes_are_read(tmp_path):
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["dog", "cat"], "_type": "ClassLabel"},
        "tags": {"feature": {"names": ["a", "b"], "_type": "ClassLabel"}, "_type": "Sequence"},
    }
    facts = json.dumps({"info": {"features": features}})
    table = pyarrow.table({"image": [b"x"], "label": [1], "tags": [[0]]})
    table = table.replace_schema_metadata({"huggingface": facts})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert tables.read(tmp_path / "t.parquet").class_names == {
        "label": ("dog", "cat"),
        "tags": ("a", "b"),
    }


@pytest.mark.parametrize("facts", ["{", "[]", '{"info": 3}', '{"info": {"features": {"a": 1}}}'])
def test_other_metadata_is_passed_over(tmp_path, facts):
    table = pyarrow.table({"image": ["x"]}).replace_schema_metadata({"huggingface": facts})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert tables.read(tmp_path / "t.parquet").class_names == {}


@pytest.mark.parametrize("separator", [";", "\t"])
def test_another_separator_is_seen_in_the_first_line_and_said(tmp_path, separator):
    path = tmp_path / "t.csv"
    path.write_bytes(f"image{separator}label\r\na.png{separator}x, y\r\n".encode("utf-8-sig"))
    table = tables.read(path)
    assert dict(table.columns) == {"image": ["a.png"], "label": ["x, y"]}
    assert "are separated by" in table.notes[0]


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_first_line_that_names_the_separator_is_passed_over(tmp_path, separator):
    path = tmp_path / "t.csv"
    path.write_text(f"sep={separator}\nimage{separator}label\na.png{separator}x\n")
    table = tables.read(path)
    assert dict(table.columns) == {"image": ["a.png"], "label": ["x"]}
    assert table.place(0) == "line 3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,label\na,b\nc,caf\xe9\n", "line 3 is not UTF-8 .*; save it as UTF-8"),
        ('image,label\na,b\nc,"x"y\n', "line 3: .*quotes in cells doubled"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        tables.read(tmp_path / "t.csv")


def write_shards(folder, **columns_by_file):
    """Writes a Parquet file for each name, with the names of Hugging Face's classes."""
    facts = json.dumps({"info": {"features": {"label": {"names": ["dog", "cat"]}}}})
    for name, columns in columns_by_file.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pyarrow.table(columns).replace_schema_metadata({"huggingface": facts})
        pyarrow.parquet.write_table(table, path)


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000-of-00001"),
        ("default/train/0000", "default/train/0001", "default/test/0000"),
        ("train-0-of-2", "train-1-of-2", "test"),
    ],
)
def test_the_parquet_files_of_a_folder_are_one_table_with_its_splits(tmp_path, names):
    contents = {
        name: {"image": [b"%d" % number, b"x"], "label": [number % 2, 1]}
        for number, name in enumerate(names)
    }
    write_shards(tmp_path / "set", **contents)
    (tmp_path / "set" / ".cache").mkdir()
    (tmp_path / "set" / ".cache" / "other.parquet").write_text("passed over")
    table = tables.read(tmp_path / "set")
    assert (len(table), set(table.columns)) == (6, {"image", "label", "split"})
    rows = list(zip(table.columns["split"], table.columns["image"], strict=True))
    expected = {name: contents[name]["image"] for name in sorted(names)}
    assert [image for _, image in rows] == [image for each in expected.values() for image in each]
    assert [split for split, _ in rows] == [
        "test" if "test" in name else "train" for name in expected for _ in range(2)
    ]
    assert table.class_names == {"label": ("dog", "cat")}
    assert table.place(3) == f"row 2 of {sorted(names)[1]}.parquet"
    assert table.folder == tmp_path / "set"


def test_files_whose_names_are_no_splits_are_one_table_without_splits(tmp_path):
    write_shards(tmp_path, birds={"image": ["a"]}, bees={"image": ["b"]})
    table = tables.read(tmp_path)
    assert (list(table.columns), table.columns["image"]) == (["image"], ["b", "a"])


def test_files_of_several_tables_and_folders_without_one_are_refused(tmp_path):
    write_shards(tmp_path, train={"image": ["a"]}, test={"picture": ["b"]})
    with pytest.raises(ValueError, match=r"train.parquet has other columns or classes than .*test"):
        tables.read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no file .parquet in .*; expected a table"):
        tables.read(tmp_path / "empty")


def test_a_folder_of_parquet_files_is_a_source(tmp_path, save_image):
    for number in range(4):
        save_image(tmp_path / "set" / f"{number}.png", seed=number)
    data = [(tmp_path / "set" / f"{number}.png").read_bytes() for number in range(4)]

    def cells(*numbers):
        return {"image": [{"bytes": data[n], "path": None} for n in numbers], "label": [0, 1]}

    write_shards(tmp_path / "set", **{"train-0-of-1": cells(0, 1), "test-0-of-1": cells(2, 3)})
    spec = f"manifest:{tmp_path / 'set'}"
    source = open_source(spec, "test", data_dir=tmp_path / "data")
    assert (source.class_names, len(source)) == (("dog", "cat"), 2)
    assert source.encoded(1)[0] == data[3]
    assert split_names(spec) == ("train", "test")
    assert source[0]["path"] == "row 1 of test-0-of-1.parquet of set"
    broken = cells(2, 3)
    broken["image"][1]["bytes"] = b"no image"
    write_shards(tmp_path / "set", **{"test-0-of-1": broken})
    with pytest.raises(ValueError, match="1 images in split 'test'"):
        open_source(spec, "test", data_dir=tmp_path / "data")
    # Paths are relative to the folder.
    write_shards(
        tmp_path / "set", **{"train-0-of-1": {"image": ["0.png", "1.png"], "label": [0, 1]}}
    )
    (tmp_path / "set" / "test-0-of-1.parquet").unlink()
    source = open_source(spec, "train", data_dir=tmp_path / "data")
    assert source.identities() == ["0.png", "1.png"]
