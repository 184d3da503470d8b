"""Manifests: labels of every form, splits, missing labels and files, bytes, and named rows."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from tl_jax.data.images import decode
from tl_jax.data.source import Task
from tl_jax.data.sources.open import open_source, open_with_options, split_names
from tl_jax.data.sources.options import OpenOptions


@pytest.fixture
def open_in(tmp_path):
    """Opens a split of a table in `tmp_path`, its record of good files beside it."""

    def open_split(path, split="train", **options):
        options = {"validation_fraction": 0.25, "data_dir": tmp_path / "data", **options}
        return open_source(f"manifest:{path}", split, **options)

    return open_split


@pytest.fixture
def write(tmp_path, save_image):
    """Writes a table of rows (dicts), and an image for each name that ends in .png."""

    def write_table(name, rows):
        path = tmp_path / "in" / name
        for i, row in enumerate(rows):
            for cell in row.values():
                if isinstance(cell, str) and cell.endswith(".png"):
                    save_image(tmp_path / "in" / cell, seed=i)
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        elif path.suffix == ".jsonl":
            path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
        else:
            lines = [",".join(rows[0])]
            lines += [",".join("" if c is None else str(c) for c in r.values()) for r in rows]
            path.write_text("\n".join(lines))
        return path

    return write_table


PAIR = ("train", "validation")
SPLITS = ("train", "train", "test", "test")


def png(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def rows_of(labels, splits=None, column="image"):
    rows = [{column: f"{i}.png", "label": label} for i, label in enumerate(labels)]
    for row, split in zip(rows, splits or [], strict=bool(splits)):
        row["split"] = split
    return rows


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_source(write, open_in, suffix, tmp_path):
    rows = [
        {"image": "a b.png", "label": "кот", "split": "train"},
        {"image": "sub/写真.png", "label": "dog", "split": "train"},
        {"image": str(tmp_path / "elsewhere" / "c.png"), "label": "dog", "split": "val"},
    ]
    path = write(f"t.{suffix}", rows)
    if suffix == "tsv":
        path.write_text(path.read_text().replace(",", "\t"))
    train, held = open_in(path), open_in(path, "validation")
    assert train.name == f"manifest:{path}"
    assert train.tasks == (Task("label", ("dog", "кот")),)
    assert train.labels().tolist() == [1, 0]
    assert [train[i]["path"] for i in (0, 1)] == [str(path.parent / r["image"]) for r in rows[:2]]
    assert (len(held), held.split, held.labels().tolist()) == (1, "validation", [0])
    assert held[0]["path"] == rows[2]["image"]
    np.testing.assert_array_equal(train[1]["image"], decode.decode(path.parent / "sub/写真.png"))


@pytest.mark.parametrize("column", ["image", "path", "file", "file_name", "photo"])
def test_the_column_of_images_has_several_names(write, open_in, column):
    path = write("t.csv", rows_of("abab", ["train"] * 4, column))
    named = column if column == "photo" else None
    assert len(open_in(path, image_column=named)) == 4


def test_whole_numbers_are_sorted_as_numbers(write, open_in):
    for suffix, labels in (("csv", ["10", "9", "-1"]), ("jsonl", [10, 9, -1])):
        path = write(f"t.{suffix}", rows_of(labels, ["train"] * 3))
        source = open_in(path)
        assert source.class_names == ("-1", "9", "10")
        assert source.labels().tolist() == [2, 1, 0]


def test_floats_of_pandas_are_whole_numbers(write, open_in):
    path = write("t.parquet", rows_of([2.0, float("nan"), 1.0], ["train"] * 3))
    source = open_in(path)
    assert (source.class_names, source.labels().tolist()) == (("1", "2"), [1, -1, 0])


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_missing_labels_are_minus_one(write, open_in, suffix):
    path = write(f"t.{suffix}", rows_of(["a", None, "b"], ["train"] * 3))
    source = open_in(path)
    assert source.labels().tolist() == [0, -1, 1]
    assert [source[i]["label"] for i in range(3)] == [0, -1, 1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_lists_make_a_multi_label_task(write, open_in, suffix):
    cells = {"csv": ["a| b b", "|", None, "c"]}
    labels = cells.get(suffix, [["a", "b b"], [], None, ["c"]])
    path = write(f"t.{suffix}", rows_of(labels, ["train"] * 4))
    source = open_in(path)
    assert source.tasks == (Task("label", ("a", "b b", "c"), multi_label=True),)
    expected = [[1, 1, 0], [0, 0, 0], [-1, -1, -1], [0, 0, 1]]
    assert source.labels().tolist() == expected
    assert source.labels().dtype == source[0]["label"].dtype == np.int8
    assert [source[i]["label"].tolist() for i in range(4)] == expected


def test_several_columns_are_several_tasks(write, open_in):
    rows = [
        {"image": f"{i}.png", "kind": "ab"[i % 2], "tags": ["x"] * (i % 2), "split": "train"}
        for i in range(4)
    ]
    source = open_in(write("t.jsonl", rows), labels=("kind", "tags"))
    assert source.tasks == (Task("kind", ("a", "b")), Task("tags", ("x",), multi_label=True))
    assert source.class_names == ("a", "b")
    example = source[3]
    assert (example["label"], example["tags"].tolist()) == (1, [1])
    assert "kind" not in example
    assert source.encoded(3)[1].keys() == {"label", "tags", "path"}


def test_classes_are_those_of_all_splits(write, open_in):
    path = write("t.csv", rows_of("abcabb", ["train"] * 3 + ["test"] * 3))
    assert open_in(path, "test").class_names == ("a", "b", "c")
    assert open_in(path, "test").labels().tolist() == [0, 1, 1]


@pytest.mark.parametrize("packed", [True, False])
def test_bytes_in_parquet_are_images(open_in, packed, tmp_path):
    cells = [png(i) for i in range(3)]
    images = [{"bytes": c, "path": None} for c in cells] if packed else cells
    path = tmp_path / "t.parquet"
    table = {"image": images, "label": ["a", "b", "a"], "split": ["train"] * 3}
    pyarrow.parquet.write_table(pyarrow.table(table), path, row_group_size=2)
    source = open_in(path)
    assert source.encoded(1) == (cells[1], {"label": 1, "path": "row 2 of t.parquet"})
    for copy in (source, pickle.loads(pickle.dumps(source))):
        np.testing.assert_array_equal(copy[2]["image"], decode.decode(cells[2]))


def test_a_struct_without_bytes_names_a_file(open_in, tmp_path, save_image):
    save_image(tmp_path / "a.png")
    images = [{"bytes": None, "path": "a.png"}, {"bytes": png(1), "path": "b.png"}]
    table = pyarrow.table({"image": images, "label": [0, 1], "split": ["train"] * 2})
    facts = {"info": {"features": {"label": {"names": ["zebra", "ant"]}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    source = open_in(tmp_path / "t.parquet")
    assert source.class_names == ("zebra", "ant")
    assert [source[i]["path"] for i in (0, 1)] == [
        str(tmp_path / "a.png"),
        "row 2 of t.parquet",
    ]


def test_without_splits_rows_are_held_out_class_by_class(write, open_in):
    path = write("t.csv", rows_of(["a"] * 8 + ["b"] * 16 + [None] * 4))
    train, held = open_in(path), open_in(path, "validation")
    assert sorted([*train.rows, *held.rows]) == list(range(28))
    assert set(held.labels()) >= {0, 1}
    assert 3 <= len(held) <= 12
    assert "no column of splits in t.csv: about 0.25 of each class" in held.notes[0]
    assert open_in(path, "val", seed=1).rows.tolist() != held.rows.tolist()
    assert open_in(path, "val").rows.tolist() == held.rows.tolist()


def test_rows_of_one_file_are_held_out_together(write, open_in, tmp_path):
    ways = "{}.png", "./{}.png", "x/../{}.png", f"{tmp_path}/in/{{}}.png"
    (tmp_path / "in" / "x").mkdir(parents=True)
    rows = [{"image": ways[i // 20].format(i % 20), "label": "ab"[i % 2]} for i in range(80)]
    path = write("t.csv", rows)
    for pair in (("train", "validation"), ("train[:30%]", "train[30%:]")):
        parts = [open_in(path, split) for split in pair]
        assert "60 rows of t.csv name a picture that an earlier row names" in parts[0].notes
        names = [set(part.identities()) for part in parts]
        assert not names[0] & names[1]
        assert sum(map(len, parts)) == 4 * (len(names[0]) + len(names[1]))
    assert "7.png" in {
        name for part in ("train", "val") for name in open_in(path, part).identities()
    }


def test_rows_stay_held_out_when_the_table_grows(write, open_in):
    before = [set(open_in(write("t.csv", rows_of("ab" * 20)), s).identities()) for s in PAIR]
    after = [set(open_in(write("t.csv", rows_of("ab" * 40)[::-1]), s).identities()) for s in PAIR]
    assert before[0] < after[0]
    assert before[1] < after[1]


def test_bytes_stay_held_out_when_the_table_grows(open_in, tmp_path):
    held = []
    for count in (20, 40):
        cells = [png(i) for i in range(count)][:: -1 if count > 20 else 1]
        table = {"image": cells, "label": [i % 2 for i in range(count)]}
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
        held.append(set(open_in(tmp_path / "t.parquet", "validation").identities()))
    assert held[0] < held[1]


def test_rows_of_one_file_with_two_labels_are_named(write, open_in):
    path = write("t.csv", rows_of("abab"))
    (path.parent / "link.png").symlink_to("1.png")
    path.write_text(path.read_text() + "\n./0.png,b\nlink.png,a\n2.png,\n")
    with pytest.raises(ValueError, match=r"(?s)^2 pictures of .* with different labels:") as caught:
        open_in(path)
    assert "0.png: line 2, line 6\n" in str(caught.value)
    assert "1.png: line 3, line 7\n" in str(caught.value)


def test_a_file_in_two_splits_is_named(write, open_in):
    path = write("t.csv", rows_of("abab", ["train", "Train", "test", "more"]))
    path.write_text(path.read_text() + "\n./1.png,b,test\n0.png,a,more\n")
    with pytest.raises(
        ValueError, match=r"(?s)^1 pictures of .* two splits:.*1\.png: line 3, line 6"
    ):
        open_in(path)


@pytest.mark.parametrize("column", ["Split", "SPLIT", "subset", "Set", "usage", "whatever"])
def test_splits_are_known_in_any_spelling(write, open_in, column):
    names = ["Training", "train", "TEST", "Testing", "val", "dev"]
    rows = [{**row, column: names[i]} for i, row in enumerate(rows_of("ababab"))]
    path = write("t.csv", rows)
    assert split_names(f"manifest:{path}") == ("train", "validation", "test")
    assert [len(open_in(path, s)) for s in ("train", "Training", "valid", "test")] == [2] * 4
    said = "splits: train (Training, train), validation (val, dev), test (TEST, Testing)"
    assert said in open_in(path).notes
    with pytest.raises(ValueError, match=r"no split 'x' in .*; it has train \(Training, train\), "):
        open_in(path, "x")


def test_values_that_are_no_splits_are_said(write, open_in):
    path = write("t.csv", [{**row, "fold": i % 3} for i, row in enumerate(rows_of("ab" * 4))])
    assert "the column 'fold' is not read as splits: it holds '0', '1', '2'" in open_in(path).notes
    parted = [{**row, "a": s, "b": s} for row, s in zip(rows_of("abab"), SPLITS, strict=True)]
    with pytest.raises(ValueError, match="columns 'a', 'b' of .* all have splits"):
        open_in(write("t.csv", parted))
    flags = [{**row, "is_valid": i % 2 == 0} for i, row in enumerate(rows_of("abab"))]
    with pytest.raises(ValueError, match="'is_valid' of .* seems to say which rows are of a split"):
        open_in(write("t.csv", flags))


def test_spellings_of_one_number_or_name_are_one_class(write, open_in):
    labels = ["1", "1.0", " 1", "01", "2", "10", "3.0"]
    source = open_in(write("t.csv", rows_of(labels, ["train"] * 7)))
    assert source.class_names == ("1", "2", "3", "10")
    assert source.labels().tolist() == [0, 0, 0, 0, 1, 3, 2]
    assert "spellings joined to one class: '1' and '1.0' and ' 1' and '01'" in source.notes
    source = open_in(write("t.csv", rows_of(["\u00e9", "e\u0301", "None", "007"], ["train"] * 4)))
    assert source.class_names == ("007", "None", "\u00e9")
    assert any("read as classes: 'None'" in note for note in source.notes)


@pytest.mark.parametrize(
    ("label", "message"),
    [("eel\nbig", "has a line break"), ("nan", "stands for a missing label"), ("A b", "case only")],
)
def test_names_that_cannot_be_those_of_classes_are_refused(write, open_in, label, message):
    with pytest.raises(ValueError, match=message):
        open_in(write("t.jsonl", rows_of([label, "a b"], ["train"] * 2)))


@pytest.mark.parametrize("cell", ["['a', 'b']", "['a']", '["a"]', "[0, 1]", "[1]", "[]", "('a',)"])
def test_a_list_written_as_text_is_no_class(write, open_in, cell):
    path = write("t.jsonl", rows_of(["a", "b", cell, "a"]))
    with pytest.raises(ValueError, match=r"line 3 of .*is a list written as text"):
        open_in(path, split="all")
    names = open_in(write("n.jsonl", rows_of(["[unclear]", "(other)", "a b"])), "all").class_names
    assert names == ("(other)", "[unclear]", "a b")


def test_numbers_with_fractions_are_said_to_be_classes(write, open_in):
    source = open_in(write("t.csv", rows_of([0, 0.5, 1, 1.5, 2])), "all")
    assert len(source.class_names) == 5
    assert any("read as 5 classes, one for each number: '0.5', '1.5'" in n for n in source.notes)


@pytest.mark.parametrize("column", ["train", "Test", "is_valid", "in_train_set"])
def test_columns_that_say_which_rows_are_of_a_split_are_refused(write, open_in, column):
    rows = [{**row, column: i % 2} for i, row in enumerate(rows_of("ab" * 4))]
    with pytest.raises(ValueError, match=f"column '{column}' .*seems to say which rows"):
        open_in(write("t.csv", rows))


def test_one_hot_columns_are_one_task(write, open_in):
    rows = [
        {"image": f"{i}.png", "cat": int(i == 0), "dog": float(i == 1), "emu": i == 2,
         "split": "train"} for i in range(3)
    ]  # fmt: skip
    source = open_in(write("t.jsonl", rows), labels=("cat", "dog", "emu"))
    assert source.tasks == (Task("label", ("cat", "dog", "emu")),)
    assert source.labels().tolist() == [0, 1, 2]
    assert "the columns 'cat', 'dog', 'emu' are one-hot: each is a class" in source.notes
    rows[0]["dog"] = 1
    assert len(open_in(write("t.jsonl", rows), labels=("cat", "dog", "emu")).tasks) == 3


def test_paths_of_windows_and_in_blanks_are_found(write, open_in):
    path = write("t.csv", [{"image": f"sub/{i}.png", "label": "ab"[i % 2]} for i in range(4)])
    path.write_text(path.read_text().replace("sub/0", " sub\\0").replace("sub/1", "sub\\1"))
    whole = open_in(path, "all")
    assert [Path(whole[i]["path"]).name for i in range(4)] == [f"{i}.png" for i in range(4)]
    assert whole.identities()[0] == "sub/0.png"


def test_columns_are_known_in_any_case_and_a_missing_header_is_named(write, open_in):
    path = write("t.csv", rows_of("abab", ["train"] * 4))
    path.write_text(path.read_text().replace("image,label", "FileName,Label"))
    assert open_in(path).tasks == (Task("Label", ("a", "b")),)
    path.write_text("0.png,a\n1.png,b\n")
    with pytest.raises(ValueError, match="write image,label above it"):
        open_in(path)


def test_corrupt_images_are_left_out_before_a_part_is_held_out(write, open_in):
    path = write("t.csv", rows_of("ab" * 6))
    for i in (0, 2, 4, 6):
        (path.parent / f"{i}.png").write_bytes(b"no image")
    parts = [open_in(path, split, on_corrupt="skip") for split in PAIR]
    assert all(set(part.labels()) == {0, 1} for part in parts)
    assert sum(map(len, parts)) == 8
    assert sorted(text.split(" (")[0] for part in parts for text in part.skipped) == [
        "line 2", "line 4", "line 6", "line 8"
    ]  # fmt: skip


def test_held_out_rows_do_not_depend_on_where_the_table_is(write, open_in, tmp_path):
    path = write("t.csv", rows_of("ab" * 10))
    before = [Path(open_in(path, "validation")[i]["path"]).name for i in range(4)]
    moved = path.parent.rename(tmp_path / "moved") / path.name
    assert [Path(open_in(moved, "validation")[i]["path"]).name for i in range(4)] == before


def test_a_multi_label_task_is_held_out_as_a_whole(write, open_in):
    path = write("t.jsonl", rows_of([["a"]] * 8 + [["a", "b"]] * 4 + [["b"]]))
    held = open_in(path, "validation")
    assert 1 <= len(held) <= 9


def test_slices_are_random_parts_and_complete(write, open_in):
    path = write("t.csv", rows_of("a" * 10 + "b" * 10, ["train"] * 20))
    parts = [open_in(path, f"train[{s}]").rows.tolist() for s in (":30%", "30%:")]
    assert sorted(parts[0] + parts[1]) == list(range(20))
    assert (len(parts[0]), parts[0]) == (6, sorted(parts[0]))
    assert parts[0] != list(range(6))
    both = open_in(path, "train[:30%]+train[30%:]")
    assert both.rows.tolist() == parts[0] + parts[1]


def test_an_unknown_split_names_the_nearest(write, open_in):
    path = write("t.csv", rows_of("ab", ["train"] * 2))
    with pytest.raises(ValueError, match=r"no split 'trian' in manifest:.*did you mean 'train'"):
        open_in(path, "trian")


@pytest.mark.parametrize("column", ["target", "class_id", "Category", "labels"])
def test_the_column_of_labels_has_several_names(write, open_in, column):
    rows = [{"image": f"{i}.png", column: "ab"[i % 2]} for i in range(8)]
    source = open_in(write("t.csv", rows))
    assert source.class_names == ("a", "b")
    assert f"the labels are those of the column {column!r}" in source.notes


def test_which_of_several_columns_of_labels_is_asked(write, open_in):
    rows = [{"image": f"{i}.png", "class": "ab"[i % 2], "class_id": i % 2} for i in range(8)]
    path = write("t.csv", rows)
    with pytest.raises(ValueError, match=r"'class', 'class_id' may each .*data\.labels .*--labels"):
        open_in(path)
    assert open_in(path, labels=("class",)).class_names == ("a", "b")


def test_names_without_suffixes_are_completed(write, open_in):
    names = [{"file": f"{i}.png", "label": i % 2} for i in range(8)]
    path = write("all.csv", names)
    expected = open_in(path)
    short = [{"file": str(i), "label": i % 2} for i in range(8)]
    completed = open_in(write("t.csv", short))
    assert [each["path"] for each in completed] == [each["path"] for each in expected]
    assert "8 names of images in t.csv are completed by their suffixes" in completed.notes
    (path.parent / "3.jpg").write_bytes((path.parent / "3.png").read_bytes())
    with pytest.raises(ValueError, match="no file .*3\n"):  # Nobody says which.
        open_in(path.parent / "t.csv", split="all")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("0.png", r"0\.png is in .*in/photos: write the paths"),
        ("0", r"0 is in .*in/photos: write the paths"),
        ("C:\\data\\0.png", r"0\.png is in .*in/photos: write the paths"),
        ("/elsewhere/0.png", r"0\.png is in .*in/photos: write the paths"),
        ("https://example.org/0.png", "addresses are not read: download the images"),
    ],
)
def test_files_that_are_elsewhere_are_looked_for(write, open_in, tmp_path, cell, message):
    rows = [{"image": f"photos/{i}.png", "label": i % 2} for i in range(2)]
    path = write("t.jsonl", rows)
    path.write_text(json.dumps({"image": cell, "label": 0}))
    with pytest.raises(ValueError, match=message):
        open_in(path, split="all")


def test_unknown_columns_name_the_nearest(write, open_in):
    path = write("t.csv", rows_of("ab", ["train"] * 2, "photo"))
    with pytest.raises(ValueError, match=r"columns 'photo', 'label', 'split'; expected the images"):
        open_in(path)
    with pytest.raises(ValueError, match=r"no column 'fotos'.*did you mean 'photo'"):
        open_in(path, image_column="fotos")
    with pytest.raises(ValueError, match=r"no column 'labels'.*did you mean 'label'"):
        open_in(path, image_column="photo", labels=("labels",))


def test_missing_files_are_listed_together(write, open_in):
    path = write("t.csv", rows_of("ab" * 10, ["train"] * 16 + ["test"] * 4))
    for i in range(3, 20):
        (path.parent / f"{i}.png").unlink()
    with pytest.raises(ValueError, match=r"^13 images in split 'train' of .* missing:") as caught:
        open_in(path)
    message = str(caught.value)
    assert f"  line 5: no file {path.parent / '3.png'}\n" in message
    assert message.count("no file") == 10
    assert f"and 3 more\npaths are relative to {path.parent}" in message


def test_cells_that_hold_no_image_are_named(write, open_in):
    rows = rows_of("abab", ["train"] * 4)
    rows[1]["image"], rows[3]["image"] = None, 7
    with pytest.raises(ValueError, match=r"(?s)line 2: got None.*line 4: got 7"):
        open_in(write("t.jsonl", rows))


def test_cells_that_are_not_labels_are_listed(write, open_in):
    rows = rows_of(["a", 1.5, {"x": 1}, ["a", None]], ["train"] * 4)
    with pytest.raises(
        ValueError, match=r"^3 labels in column 'label' .* cannot be read"
    ) as caught:
        open_in(write("t.jsonl", rows))
    for part in ("line 2: got 1.5", "line 3: got {'x': 1}", "line 4: ['a', None] has an empty"):
        assert part in str(caught.value)


def test_numbers_beyond_the_files_own_classes_are_named(open_in, tmp_path):
    table = pyarrow.table({"image": ["a.png"] * 2, "label": [0, 2], "split": ["train"] * 2})
    facts = {"info": {"features": {"label": {"names": ["zebra", "ant"]}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"row 2: got 2; expected -1 to 1"):
        open_in(tmp_path / "t.parquet")


def test_a_class_that_training_lacks_is_named(write, open_in):
    rows = rows_of("ababcd", ["train"] * 4 + ["test"] * 2)
    with pytest.raises(ValueError, match=r"^2 classes have no row in the training split") as caught:
        open_in(write("t.csv", rows), "test")
    assert "class 'c' of 'label'; line 6 has it" in str(caught.value)
    only = write("u.csv", [row for row in rows if row["split"] == "test"])
    assert open_in(only, "test").class_names == ("c", "d")


def test_a_class_of_one_image_cannot_be_held_out(write, open_in):
    with pytest.raises(ValueError, match=r"(?s)1 classes of .*line 4: the only image of class 'b'"):
        open_in(write("t.csv", rows_of("aab")))


def test_rows_of_no_split_are_named(write, open_in):
    with pytest.raises(ValueError, match=r"(?s)1 rows of .* have no split:.*line 3"):
        open_in(write("t.csv", rows_of("aba", ["train", None, "train"])))


def test_an_empty_column_of_labels_is_refused(write, open_in):
    with pytest.raises(ValueError, match="column 'label' of .* holds no label"):
        open_in(write("t.csv", rows_of([None, None], ["train"] * 2)))


def test_a_further_task_may_not_hide_the_image(write, open_in):
    rows = [{"file": "a.png", "label": "a", "size": "big", "split": "train"}]
    with pytest.raises(ValueError, match=r"got the labels 'label', 'size'.*rename"):
        open_in(write("t.csv", rows), labels=("label", "size"))


def test_corrupt_files_raise_or_are_skipped_and_listed(write, open_in):
    path = write("t.csv", rows_of("ababab", ["train"] * 6))
    (path.parent / "3.png").write_bytes(b"no image")
    with pytest.raises(decode.CorruptImageError, match=r"(?s)^1 images .*line 5 \(.*3\.png\): "):
        open_in(path)
    source = open_in(path, on_corrupt="skip")
    assert source.labels().tolist() == [0, 1, 0, 0, 1]
    assert len(source.skipped) == 1
    assert source.skipped[0].startswith(f"line 5 ({path.parent / '3.png'}): ")
    for i in (1, 5):
        (path.parent / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"can be decoded in the classes 'b' of 'label'"):
        open_in(path, on_corrupt="skip")


def test_bytes_are_decoded_once_for_as_long_as_the_table_stays(open_in, tmp_path, monkeypatch):
    def write_table(cells):
        table = {"image": cells, "label": [0, 0, 0], "split": ["train"] * 3}
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")

    decoded = []
    real = decode.decode
    monkeypatch.setattr(decode, "decode", lambda data, **k: decoded.append(1) or real(data))
    write_table([png(0), b"no image", png(2)])
    for _ in range(2):
        with pytest.raises(decode.CorruptImageError, match="row 2: "):
            open_in(tmp_path / "t.parquet")
        assert len(decoded) == 3
    assert len(open_in(tmp_path / "t.parquet", on_corrupt="skip")) == 2
    write_table([png(0), png(1), png(3)])
    assert len(open_in(tmp_path / "t.parquet")) == 3
    assert len(decoded) == 6
    (record,) = (tmp_path / "data").rglob("*-bytes.json")
    record.write_text("{")  # As a full disk might leave it.
    assert len(open_in(tmp_path / "t.parquet")) == 3
    assert len(decoded) == 9


def test_images_are_not_decoded_without_verification(write, tmp_path):
    path = write("t.csv", rows_of("ab", ["train"] * 2))
    (path.parent / "0.png").write_bytes(b"no image")
    options = OpenOptions(data_dir=tmp_path / "d", verify=False)
    assert len(open_with_options(f"manifest:{path}", "train", options)) == 2


def test_split_names_are_those_of_the_column(write):
    named = write("t.csv", rows_of("abc", ["x", "y", "val"]))
    assert split_names(f"manifest:{named}") == ("validation", "x", "y")
    assert split_names(f"manifest:{write('u.csv', rows_of('ab'))}") == ("train", "validation")


def test_a_misspelt_on_corrupt_is_refused(write, open_in):
    with pytest.raises(ValueError, match="got on_corrupt='ignore'"):
        open_in(write("t.csv", rows_of("ab", ["train"] * 2)), on_corrupt="ignore")


def test_a_manifest_is_opened_by_its_specification(write, tmp_path):
    rows = [{"shot": f"{i}.png", "kind": "ab"[i % 2]} for i in range(10)]
    path = write("моя таблица.csv", rows)
    source = open_source(
        f"manifest:{path}",
        "validation",
        data_dir=tmp_path / "d",
        validation_fraction=0.4,
        labels=["kind"],
        image_column="shot",
        on_corrupt="skip",
    )
    assert (source.name, source.tasks[0].name) == (f"manifest:{path}", "kind")
    assert set(source.labels()) == {0, 1}
