"""Manifests of objects: several images, groups of rows, and columns of further inputs."""

import json
import pickle

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tl_jax.data.inputs import TextOptions
from tl_jax.data.source import Categories, Inputs
from tl_jax.data.sources.open import open_source
from tl_jax.data.sources.options import InputColumns


@pytest.fixture
def open_rows(tmp_path, save_image):
    """Writes rows (dicts) as a table, an image for each new name in .png, and opens a split."""

    def open_table(rows, split="train", *, suffix="csv", **options):
        path = tmp_path / "in" / f"t.{suffix}"
        for number, row in enumerate(rows):
            for cell in row.values():
                if isinstance(cell, str) and cell.endswith(".png"):
                    file = tmp_path / "in" / cell
                    if not file.exists():
                        save_image(file, seed=number, size=(9 + number, 7))
        if suffix == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        elif suffix == "jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        else:
            cells = [["" if c is None else str(c) for c in row.values()] for row in rows]
            path.write_text("\n".join("\t".join(row) for row in [list(rows[0]), *cells]))
        return open_source(f"manifest:{path}", split, data_dir=tmp_path / "data", **options)

    return open_table


def shapes(example):
    return [None if view is None else view.shape for view in example["image"]]


# ---- several image columns


PAIRS = [
    {"front": "a.png", "side": "b.png", "label": "x", "split": "train"},
    {"front": None, "side": "c.png", "label": "y", "split": "train"},
    {"front": "d.png", "side": None, "label": "x", "split": "test"},
]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_columns_of_images_are_views_at_their_own_places(open_rows, suffix, tmp_path):
    source = open_rows(PAIRS, image_column=("front", "side"), suffix=suffix)
    assert (len(source), source.inputs) == (2, Inputs(views=2))
    assert shapes(source[0]) == [(7, 9, 3), (7, 9, 3)]
    assert shapes(source[1]) == [None, (7, 10, 3)]
    assert source[1]["path"] == ("", str(tmp_path / "in" / "c.png"))
    assert source.identities() == ["a.png", "c.png"]
    assert "the columns 'front', 'side' are views of one object" in source.notes
    assert "2 of 6 views are missing" in source.notes
    assert source.encoded(0) is None
    contents, facts = source.encoded_views(1)
    assert contents == (None, (tmp_path / "in" / "c.png").read_bytes())
    assert facts == {"label": 1, "path": source[1]["path"]}
    assert shapes(pickle.loads(pickle.dumps(source))[1]) == shapes(source[1])
    test = open_rows(PAIRS, "test", image_column=("front", "side"), inputs=source.inputs)
    assert shapes(test[0]) == [(7, 11, 3), None]


def test_an_object_needs_one_image(open_rows):
    rows = [*PAIRS, {"front": None, "side": " ", "label": "x", "split": "test"}]
    with pytest.raises(ValueError, match=r"1 objects of .* have no image:\n  line 5\n"):
        open_rows(rows, image_column=("front", "side"))


def test_columns_that_are_another_number_of_views_are_refused(open_rows):
    with pytest.raises(ValueError, match="got 2 image columns .front, side. and 3 views"):
        open_rows(PAIRS, image_column=("front", "side"), inputs=Inputs(views=3))
    with pytest.raises(ValueError, match=r"got the image columns \['front', 'front'\]"):
        open_rows(PAIRS, image_column=("front", "front"))
    with pytest.raises(ValueError, match="got single images, no views .*; expected 2"):
        open_rows([PAIRS[0], PAIRS[2]], image_column="front", inputs=Inputs(views=2))


# ---- groups of rows


def group_rows(splits="AABCCCD", **cells):
    """Returns a row for each letter, which is its group; lower case is of the test split."""
    rows = []
    for number, letter in enumerate(splits):
        row = {"image": f"{number}.png", "group": letter, "label": "xy"[ord(letter.lower()) % 2]}
        rows.append(row | {key: values[number] for key, values in cells.items()})
    return rows


BY_GROUP = {"columns": InputColumns(group="group")}


def test_rows_of_a_group_are_views_and_stay_together(open_rows):
    splits = {
        split: open_rows(group_rows("AABCCCDEEFGGHIJ"), split, **BY_GROUP)
        for split in ("train", "validation")
    }
    names = {split: set(source.identities()) for split, source in splits.items()}
    assert names["train"] | names["validation"] == set("ABCDEFGHIJ")
    assert not names["train"] & names["validation"]
    for source in splits.values():
        assert source.inputs.views == 3
        for index, name in enumerate(source.identities()):
            assert len(source[index]["image"]) == "AABCCCDEEFGGHIJ".count(name)
    assert any("10 groups of the column 'group' are objects of 1 to 3" in n for n in source.notes)


def test_of_a_large_group_evenly_spaced_views_are_taken(open_rows):
    columns = InputColumns(group="group", views=3)
    source = open_rows(group_rows("AAAAAAABB"), "all", columns=columns)
    assert [shape[1] for shape in shapes(source[0])] == [9, 12, 15]
    assert shapes(source[1]) == [(7, 16, 3), (7, 17, 3)]
    assert any("1 groups have more than 3 images: 3 are taken" in note for note in source.notes)
    fixed = open_rows(group_rows("AAAAAAABB"), "all", **BY_GROUP, inputs=Inputs(views=2))
    assert (len(fixed[0]["image"]), fixed.inputs.views) == (2, 2)


def test_slices_keep_groups_whole(open_rows):
    parts = [
        open_rows(group_rows("AABBCCDD", split=["train"] * 8), spec, **BY_GROUP)
        for spec in ("train[:50%]", "train[50%:]")
    ]
    assert [len(part) for part in parts] == [2, 2]
    assert set(parts[0].identities()) | set(parts[1].identities()) == set("ABCD")


def test_groups_that_share_a_picture_are_not_parted(open_rows):
    rows = group_rows("AABBCCDDEEFF")
    rows[3]["image"], rows[2]["label"], rows[3]["label"] = (
        "1.png",
        rows[0]["label"],
        rows[0]["label"],
    )
    source = open_rows(rows, "all", **BY_GROUP)
    assert source.identities() == ["A", "A", "C", "D", "E", "F"]
    rows[2]["label"] = rows[3]["label"] = "other"
    with pytest.raises(ValueError, match="1 pictures of .* have rows with different labels"):
        open_rows(rows, "all", **BY_GROUP)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "z"}, r"1 groups of .* different labels 'label':\n  group 'C'\n"),
        ({"split": "test"}, r"1 groups of .* in several splits:\n  group 'C': test, train\n"),
        ({"group": None}, r"1 rows of .* have no group:\n  line 5\n"),
        ({"age": "5"}, r"1 groups of .* different values of 'age':\n  group 'C'\n"),
    ],
)
def test_groups_whose_rows_contradict_each_other_are_refused(open_rows, changes, message):
    rows = group_rows("AABCCCD", split=["train"] * 7, age=["1"] * 7)
    rows[3] |= changes
    with pytest.raises(ValueError, match=message):
        open_rows(rows, columns=InputColumns(group="group", numeric=("age",)))


def test_what_one_row_of_a_group_lacks_another_may_have(open_rows):
    rows = group_rows("AABB", age=[None, "1", None, None], w=["2", None, None, None])
    rows[1]["label"] = None
    columns = InputColumns(group="group", numeric=("age",))
    source = open_rows(rows, "all", columns=columns, labels=("label", "w"), numbers=("w",))
    np.testing.assert_array_equal(source.input_arrays()["numeric"], [[1], [np.nan]])
    found = source.task_labels()
    assert found["label"].tolist() == [1, 0]
    np.testing.assert_array_equal(found["w"], [2, np.nan])


def test_a_view_that_cannot_be_decoded_is_a_missing_one(open_rows, tmp_path):
    rows = group_rows("AABBCC", split=["train"] * 6)
    open_rows(rows, **BY_GROUP)
    for number in (1, 4, 5):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"no image")
    rows += [{"image": "9.png", "group": "G", "label": rows[4]["label"], "split": "train"}]
    source = open_rows(rows, on_corrupt="skip", **BY_GROUP)
    assert source.identities() == ["A", "B", "G"]
    assert shapes(source[0]) == [(7, 9, 3), None]
    assert [text.split(" ")[1] for text in source.skipped] == ["3", "6", "7"]
    with pytest.raises(ValueError, match="3 images in split 'train'"):
        open_rows(rows, **BY_GROUP)


def test_a_changed_view_changes_the_marks(open_rows, tmp_path, save_image):
    rows = group_rows("AABB", split=["train"] * 4)
    before = open_rows(rows, **BY_GROUP).content_marks()
    save_image(tmp_path / "in" / "1.png", seed=77, size=(30, 30))
    after = open_rows(rows, **BY_GROUP).content_marks()
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]


def test_images_in_the_table_are_grouped_too(open_rows, tmp_path):
    files = [tmp_path / "in" / f"{number}.png" for number in range(4)]
    open_rows(group_rows("AABB"), "all", **BY_GROUP)
    contents = [file.read_bytes() for file in files]
    cells = [{"bytes": data, "path": None} for data in contents]
    cells[3] = {"bytes": contents[0], "path": None}
    rows = [row | {"image": cell} for row, cell in zip(group_rows("AABC"), cells, strict=True)]
    rows[3]["label"] = rows[0]["label"]
    source = open_rows(rows, "all", suffix="parquet", **BY_GROUP)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.encoded_views(0)[0] == (contents[0], contents[1])
    assert shapes(copy[1]) == [(7, 11, 3)]
    assert source.identities() == ["A", "B", "A"]  # C has a picture of A.


# ---- columns of further inputs


COLUMNS = InputColumns(
    numeric=("age", "height"), categorical=("place",), text=("title", "words"), vector=("v",)
)


def rich_rows():
    return [
        {"image": f"{number}.png", "label": "xy"[number % 2], "split": split, "age": age,
         "height": 1.5, "place": place, "title": "On", "words": words, "v": vector}
        for number, (split, age, place, words, vector) in enumerate([
            ("train", 3, "sea", "the sea", [1.0, 2.0]),
            ("train", None, "1.0", "a sea", None),
            ("train", 5, "1", None, [0.5, -1.0]),
            ("test", 7, "wood", "the wood", [3.0, 4.0]),
        ])
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_columns_are_inputs_as_the_training_split_fixes_them(open_rows, suffix):
    rows = rich_rows()
    if suffix == "csv":
        for row in rows:
            row["v"] = row["v"] and " ".join(map(str, row["v"]))
    train = open_rows(rows, suffix=suffix, columns=COLUMNS)
    assert train.inputs == Inputs(
        numeric=("age", "height"),
        categorical=(Categories("place", ("1", "sea")),),
        vocabulary=("on", "sea", "a", "the"),
        max_tokens=3,
        vector=2,
    )
    assert train[0].keys() == {
        "image",
        "label",
        "path",
        "numeric",
        "categorical",
        "tokens",
        "vector",
    }
    arrays = train.input_arrays()
    np.testing.assert_array_equal(arrays["numeric"], [[3, 1.5], [np.nan, 1.5], [5, 1.5]])
    assert arrays["categorical"].tolist() == [[1], [0], [0]]
    assert arrays["tokens"].tolist() == [[2, 5, 3], [2, 4, 3], [2, 0, 0]]
    np.testing.assert_array_equal(arrays["vector"], [[1, 2], [np.nan, np.nan], [0.5, -1]])
    test = open_rows(rows, "test", suffix=suffix, columns=COLUMNS)
    assert test.inputs == train.inputs
    assert test.input_arrays()["tokens"].tolist() == [[2, 5, 1]]
    assert test.input_arrays()["categorical"].tolist() == [[-1]]
    assert any("'place' are not in the training split" in note for note in test.notes)


def test_given_inputs_decide_what_other_data_mean(open_rows):
    fixed = Inputs(categorical=(Categories("place", ("wood", "sea")),))
    columns = InputColumns(categorical=("place",))
    source = open_rows(rich_rows(), "all", columns=columns, inputs=fixed)
    assert source.inputs == fixed
    assert source.input_arrays()["categorical"].tolist() == [[1], [-1], [-1], [0]]
    with pytest.raises(ValueError, match="name the same columns"):
        open_rows(rich_rows(), "all", columns=InputColumns(numeric=("age",)), inputs=fixed)


def test_words_are_limited(open_rows):
    options = TextOptions(max_tokens=2, max_vocabulary=1)
    source = open_rows(rich_rows(), columns=InputColumns(text=("words",), text_options=options))
    assert (source.inputs.vocabulary, source.inputs.max_tokens) == (("sea",), 2)


def test_a_slice_of_the_training_split_fixes_them_alone(open_rows):
    columns = InputColumns(text=("words",))
    sizes = {
        spec: len(open_rows(rich_rows(), spec, columns=columns).inputs.vocabulary)
        for spec in ("train", "train[:34%]+train[67%:]", "test", "all")
    }
    assert sizes["train"] == sizes["test"] == sizes["all"] == 3
    assert sizes["train[:34%]+train[67%:]"] < 3


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        ({"numeric": ("age",)}, {"age": "old"}, r"1 cells in column 'age' .*\n  line 1: got 'old'"),
        ({"numeric": ("age",)}, {"age": float("inf")}, "line 1: got inf"),
        ({"numeric": ("ages",)}, {}, "no column 'ages' in .* did you mean 'age'"),
        ({"numeric": ("label",)}, {}, "'label' of .* used twice; .* what is to be predicted"),
        ({"categorical": ("place",), "text": ("place",)}, {}, "'place' of .* used twice"),
        ({"categorical": ("v",)}, {}, "cells in column 'v' of .* are no names"),
        ({"text": ("v",)}, {}, r"'v' of .* are no texts:\n  line 1: got \[1.0, 2.0\]"),
        ({"vector": ("v",)}, {"v": [1.0]}, "line 3: 2 numbers, where line 1 has 1"),
        ({"vector": ("v",)}, {"v": [1.0, float("nan")]}, "line 1: got .* not all finite"),
        ({"vector": ("v",)}, {"v": "1 b"}, "line 1: got '1 b'"),
        ({"vector": ("v",)}, {"v": []}, "line 1: got an empty list"),
        ({"vector": ("v", "age")}, {"age": None}, "1 rows of .* have a part of the vector alone"),
    ],
)
def test_columns_that_cannot_be_read_are_refused(open_rows, columns, changes, message):
    rows = rich_rows()
    rows[0] |= changes
    with pytest.raises(ValueError, match=message):
        open_rows(rows, suffix="jsonl", columns=InputColumns(**columns))


def test_several_columns_are_one_vector(open_rows):
    source = open_rows(rich_rows(), suffix="jsonl", columns=InputColumns(vector=("v", "age")))
    vectors = source.input_arrays()["vector"]
    np.testing.assert_array_equal(vectors, [[1, 2, 3], [np.nan] * 3, [0.5, -1, 5]])


def test_names_of_a_hugging_face_set_are_categories_too(open_rows, tmp_path):
    open_rows(rich_rows())
    facts = {
        "info": {
            "features": {
                "label": {"names": ["dog", "cat"], "_type": "ClassLabel"},
                "place": {"names": ["sea", "wood"], "_type": "ClassLabel"},
                "tags": [{"names": ["p", "q"], "_type": "ClassLabel"}],
            }
        }
    }
    rows = [
        {"image": f"{n}.png", "label": n % 2, "place": place, "tags": [n % 2], "split": "train"}
        for n, place in enumerate([1, 0, -1])
    ]
    table = pyarrow.Table.from_pylist(rows)
    table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
    path = tmp_path / "in" / "hf.parquet"
    pyarrow.parquet.write_table(table, path)
    source = open_source(
        f"manifest:{path}", "train", data_dir=tmp_path, labels=("label", "tags"),
        columns=InputColumns(categorical=("place",)),
    )  # fmt: skip
    assert [task.class_names for task in source.tasks] == [("dog", "cat"), ("p", "q")]
    assert source.inputs.categorical == (Categories("place", ("sea", "wood")),)
    assert source.input_arrays()["categorical"].tolist() == [[1], [0], [-1]]
