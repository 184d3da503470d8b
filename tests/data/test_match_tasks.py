"""Other data for networks of several tasks: labels by name, what is missing, what is unknown."""

import numpy as np
import pytest

from tl_jax.data.match_tasks import match_tasks
from tl_jax.data.source import Task
from tl_jax.data.sources.arrays import from_arrays

TASKS = (
    Task("kind", ("cat", "dog")),
    Task("tags", ("old", "new", "wet"), multi_label=True),
    Task("weight", ()),
)
IMAGES = np.zeros((3, 4, 4), np.uint8)


def other(kind=("dog", "cat", "dog"), **labels):
    classes = {"tags": ("wet", "old")} if "tags" in labels else None
    return from_arrays(
        IMAGES, {"kind": list(kind), **labels}, classes, numbers=labels.keys() & {"weight"}
    )


def test_tasks_and_classes_are_matched_by_name():
    source = other(weight=[1.0, np.nan, 3.0], tags=np.array([[1, 0], [0, -1], [0, 1]]))
    matched = match_tasks(source, TASKS)
    assert matched.tasks == TASKS
    found = matched.task_labels()
    assert found["label"].tolist() == matched.labels().tolist() == [1, 0, 1]
    assert found["tags"].tolist() == [[0, -1, 1], [-1, -1, 0], [1, -1, 0]]
    np.testing.assert_array_equal(found["weight"], np.array([1, np.nan, 3], np.float32))
    example = matched[2]
    assert (example["label"], example["weight"], example["tags"].tolist()) == (1, 3.0, [1, -1, 0])
    assert match_tasks(matched, TASKS) is matched


def test_labels_of_a_task_that_is_not_there_are_missing():
    matched = match_tasks(other(), TASKS)
    assert np.isnan(matched.task_labels()["weight"]).all()
    assert (matched.task_labels()["tags"] == -1).all()
    assert "no labels 'tags'" in matched.notes[-1]
    assert "no labels 'weight'" in matched.notes[-1]


def test_a_single_task_has_any_name():
    source = from_arrays(IMAGES, {"grams": [1.0, 2.0, 3.0]}, numbers=("grams",))
    assert match_tasks(source, TASKS[2:]).labels().tolist() == [1, 2, 3]
    assert match_tasks(other(), [Task("species", ("emu", "dog", "cat"))]).labels().tolist() == [
        1,
        2,
        1,
    ]


def test_labels_of_other_classes_are_refused_or_missing():
    source = other(kind=("dog", "cow", "dog"))
    with pytest.raises(ValueError, match=r"not trained on:\n  kind: 'cow' \(1\)\n"):
        match_tasks(source, TASKS)
    skipped = match_tasks(source, TASKS, unknown="skip")
    assert skipped.labels().tolist() == [1, -1, 1]
    assert "'cow' (1)" in skipped.notes[-1]


def test_tasks_of_another_kind_or_of_no_known_name_are_refused():
    ordered = from_arrays(IMAGES, {"kind": [0, 1, 2], "x": [0, 1, 0]}, ordered=("kind",))
    with pytest.raises(ValueError, match="of the kind 'ordinal'; expected 'multi_class'"):
        match_tasks(ordered, TASKS)
    nameless = from_arrays(IMAGES, {"a": [0, 1, 0], "b": [0, 1, 0]})
    with pytest.raises(ValueError, match="has the labels 'a', 'b', none of the tasks 'kind'"):
        match_tasks(nameless, TASKS)
