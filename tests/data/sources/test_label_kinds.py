"""Columns of labels that are numbers, levels, or classes together: in tables and in arrays."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tl_jax.data.source import Task
from tl_jax.data.sources import label_columns, tables
from tl_jax.data.sources.arrays import from_arrays
from tl_jax.data.sources.open import open_source
from tl_jax.data.sources.options import LabelKinds

IMAGES = np.zeros((4, 8, 8), np.uint8)


@pytest.fixture
def table(tmp_path):
    """Writes a table of these columns and reads it."""

    def make(suffix="csv", **columns):
        path = tmp_path / f"t.{suffix}"
        rows = [
            dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)
        ]
        if suffix == "parquet":
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        elif suffix == "jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        else:
            cells = [["" if c is None else str(c) for c in row.values()] for row in rows]
            path.write_text("\n".join(",".join(row) for row in [list(columns), *cells]))
        return tables.read(path)

    return make


def encode(table, *columns, **kinds):
    return label_columns.encode_all(table, columns, LabelKinds.of(**kinds))


# ---- numbers


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_numbers_are_regressed(table, suffix):
    read = table(suffix, image=list("abcd"), weight=[1.5, -2.0, None, 3e3])
    [(task, labels)], notes = encode(read, "weight", numbers=("weight",))
    assert (task, task.kind, notes) == (Task("weight", ()), "regression", ())
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.array([1.5, -2, np.nan, 3000], np.float32))


def test_nan_in_a_cell_is_missing_and_said(table):
    [(_, labels)], notes = encode(table(w=["1", "NaN", "2"]), "w", numbers=("w",))
    assert np.isnan(labels).tolist() == [False, True, False]
    assert notes == ("1 cells NaN in the column 'w' count as missing",)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            ["1", "heavy", "inf"],
            "2 cells in column 'w' .*\n  line 3: got 'heavy'\n  line 4: got 'inf'",
        ),
        (["1", "1e40"], "line 3: got '1e40'"),
        (["1", "1_000"], "line 3: got '1_000'"),
        (["", ""], "column 'w' of .* holds no label"),
    ],
)
def test_what_is_no_number_is_refused(table, cells, message):
    read = table(w=cells, image=["x"] * len(cells))
    with pytest.raises(ValueError, match=message):
        encode(read, "w", numbers=("w",))


# ---- levels


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_levels_are_in_the_order_that_is_given_or_that_of_numbers(table, suffix):
    read = table(suffix, grade=["low", "top", "mid", None], p=[0.25, 1.0, 0.0, 0.25])
    kinds = {"grade": ("low", "mid", "top"), "p": ()}
    (grades, places), (numbers, orders) = encode(read, "grade", "p", ordered=kinds)[0]
    assert (grades, grades.kind) == (Task("grade", ("low", "mid", "top"), ordered=True), "ordinal")
    assert places.tolist() == [0, 2, 1, -1]
    assert numbers.class_names == ("0", "0.25", "1")
    assert orders.tolist() == [1, 2, 0, 1]


def test_levels_that_are_given_may_lack_images_and_are_the_same_numbers(table):
    [(task, labels)], notes = encode(table(p=["1.0", "0"]), "p", ordered={"p": ("0", "0.5", "1")})
    assert (task.class_names, labels.tolist()) == (("0", "0.5", "1"), [2, 0])
    assert "the levels of 'p', from low to high: '0', '0.5', '1'" in notes


@pytest.mark.parametrize(
    ("cells", "levels", "message"),
    [
        (["low", "high"], (), "'high', 'low' in column 'g' .* not all numbers, so their order"),
        (["low", "hihg"], ("low", "high"), "line 3 .* 'hihg' .* did you mean 'high'"),
        (["a|b", "a"], ("a", "b"), "holds lists; expected one level in each cell"),
        (["1", "2"], ("1", "1.0", "2"), "expected each once"),
    ],
)
def test_levels_without_an_order_are_refused(table, cells, levels, message):
    with pytest.raises(ValueError, match=message):
        encode(table(g=cells), "g", ordered={"g": levels})


# ---- several columns of one task


def test_columns_of_zeros_and_ones_are_one_multi_label_task(table):
    read = table(cat=["1", "0", ""], dog=["1", "false", "0"], size=["s", "m", "s"])
    encoded, notes = encode(read, "cat", "dog", "size", several=("cat", "dog"))
    assert [task for task, _ in encoded] == [
        Task("label", ("cat", "dog"), multi_label=True),
        Task("size", ("m", "s")),
    ]
    assert encoded[0][1].tolist() == [[1, 1], [0, 0], [-1, 0]]
    assert notes[0] == "the columns 'cat', 'dog' are the classes of one multi-label task"


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"several": ("cat", "size")}, "line 2: got 's' in column 'size'"),
        ({"several": ("cat", "cow")}, "expected some of these columns, each at most once"),
        ({"numbers": ("cat",), "several": ("cat",)}, "expected some of these columns"),
    ],
)
def test_columns_that_are_no_classes_are_refused(table, kinds, message):
    read = table(cat=["1", "0"], size=["s", "m"])
    with pytest.raises(ValueError, match=message):
        encode(read, "cat", "size", **kinds)


def test_other_kinds_of_sources_refuse_them():
    with pytest.raises(ValueError, match=r"got numbers=\('label',\), but of the options"):
        open_source("digits", "train", numbers=("label",))
    assert len(open_source("digits", "test", inputs=open_source("digits", "train").inputs))


# ---- arrays


def test_arrays_have_several_tasks_of_every_kind():
    labels = {
        "kind": ["cat", "dog", "cat", "dog"],
        "grade": [3, 1, -1, 2],
        "width": ["s", "l", "m", "s"],
        "weight": [0.5, np.nan, 2, 1],
        "tags": np.eye(4, 2, dtype=int),
    }
    source = from_arrays(
        IMAGES, labels, {"width": ("s", "m", "l")}, numbers=("weight",), ordered=("grade", "width")
    )
    assert [(task.name, task.kind) for task in source.tasks] == [
        ("kind", "multi_class"),
        ("grade", "ordinal"),
        ("width", "ordinal"),
        ("weight", "regression"),
        ("tags", "multi_label"),
    ]
    assert source.tasks[1].class_names == ("1", "2", "3")
    found = source.task_labels()
    assert list(found) == ["label", "grade", "width", "weight", "tags"]
    assert found["grade"].tolist() == [2, 0, -1, 1]
    assert found["width"].tolist() == [0, 2, 1, 0]
    np.testing.assert_array_equal(found["weight"], np.array([0.5, np.nan, 2, 1], np.float32))
    example = source[3]
    assert {key: example[key] for key in ("label", "grade", "width", "weight")} == {
        "label": 1, "grade": 1, "width": 0, "weight": 1.0,
    }  # fmt: skip
    assert example["tags"].tolist() == [0, 0]
    assert source.labels().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0.5, 1, 2, 3], {}, r"or numbers=\('label',\) if they are quantities"),
        ([1, 2, np.inf, 3], {"numbers": ("label",)}, "got 1 infinite and 0 missing of 4 numbers"),
        ([np.nan] * 4, {"numbers": ("label",)}, "4 missing of 4 numbers"),
        (["a"] * 4, {"numbers": ("label",)}, "expected a number each"),
        (["a", "b", "a", "b"], {"ordered": ("label",)}, "order of the levels 'a', 'b'"),
        (
            {"x": [0, 1, 0, 1]},
            {"numbers": ("y",)},
            "of 'y' in arrays; expected names of the labels",
        ),
        ({"x": [0, 1, 0, 1], "mask": [0, 1, 0, 1]}, {}, "may be one of .*mask"),
        ({"x": [0, 1, 0, 1], "y": [0, 1]}, {}, "got 4 images and 2 labels"),
        ({}, {}, "got no labels"),
    ],
)
def test_labels_of_arrays_that_fit_no_kind_are_refused(labels, options, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(IMAGES, labels, **options)


def test_npz_files_hold_numbers_levels_and_views(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros((4, 3, 8, 8, 1), np.uint8), labels=[1.5, 2.5, 2.5, np.nan])
    source = open_source(f"npz:{path}", "train", numbers=("label",))
    assert (source.tasks[0].kind, source.inputs.views) == ("regression", 3)
    assert [view.shape for view in source[1]["image"]] == [(8, 8, 3)] * 3
    views = {
        f"x_{split}": np.zeros((2, v, 8, 8, 3), np.uint8)
        for split, v in [("train", 3), ("test", 2)]
    }
    np.savez(path, **views, y_train=[0, 1], y_test=[1, 0])
    both = open_source(f"npz:{path}", "train+test")
    assert (both.inputs.views, [len(both[i]["image"]) for i in range(4)]) == (3, [3, 3, 2, 2])
    np.savez(path, images=np.zeros((4, 8, 8), np.uint8), labels=[0, 2, 1, 2])
    source = open_source(f"npz:{path}", "train", ordered={"label": ("low", "mid", "high")})
    assert source.tasks == (Task("label", ("low", "mid", "high"), ordered=True),)
    with pytest.raises(ValueError, match="they are called 'label'"):
        open_source(f"npz:{path}", "train", numbers=("y",))
