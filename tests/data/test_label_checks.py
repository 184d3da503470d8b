"""Labels of a run's splits: what is refused before training, and what is said."""

import numpy as np
import pytest

from tl_jax.data.label_checks import check_splits
from tl_jax.data.source import Inputs, Source, Task

MULTI = Task("tags", ("a", "b", "c"), multi_label=True)
GRADE = Task("grade", ("low", "high"), ordered=True)
WEIGHT = Task("weight", ())
KIND = Task("kind", ("x", "y", "z"))


class Labelled(Source):
    """A source with these labels of its tasks, and no image."""

    def __init__(self, split="train", inputs=None, **labels):
        self.name, self.split = "labelled", split
        tasks = {task.name: task for task in (MULTI, GRADE, WEIGHT, KIND)}
        self.tasks = tuple(tasks[name] for name in labels)
        self.inputs = inputs or Inputs()
        self._labels = list(labels.values())

    def __len__(self):
        return len(self._labels[0])

    def __getitem__(self, index):
        raise AssertionError("no image is needed")

    def task_labels(self):
        keys = ["label", *(task.name for task in self.tasks[1:])]
        labels = zip(keys, self.tasks, self._labels, strict=True)
        return {key: np.asarray(each, task.dtype) for key, task, each in labels}


def check(train, test=None):
    splits = {"train": Labelled(**train)}
    if test is not None:
        splits["test"] = Labelled("test", **test)
    return check_splits(splits, "train")


def test_good_labels_need_no_word():
    labels = {"kind": [0, 1, 2], "grade": [1, 0, 1], "weight": [0.5, -3, 2]}
    assert check(labels, labels) == ()
    assert check({"tags": [[1, 0, 0], [0, 1, 1]]}) == ()


def test_missing_labels_and_classes_of_one_split_are_said():
    train = {"kind": [0, 1, -1], "grade": [0, 1, 1], "tags": [[1, 1, 0], [0, -1, 0], [-1, -1, -1]]}
    test = {"kind": [2, 1, 1], "grade": [-1, -1, -1], "tags": [[0, 0, 1]] * 3}
    assert check(train, test) == (
        "1 of 3 examples of split 'train' have no 'kind'",
        "split 'train' has no example of the classes 'z' of 'kind', so they cannot be learned",
        "split 'test' has no example of the classes 'x' of 'kind'",
        "3 of 3 examples of split 'test' have no 'grade'",
        "1 of 3 examples of split 'train' have no 'tags'",
        "split 'train' has no example of the classes 'c' of 'tags', so they cannot be learned",
        "split 'test' has no example of the classes 'a', 'b' of 'tags'",
    )


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"kind": [0, 3, 1]}, None, r"1 labels of 'kind' in split 'train'(.|\n)*1: 3(.|\n)*to 2"),
        ({"kind": [0, 1, -2]}, None, "expected -1 .missing. to 2"),
        ({"tags": [[0, 2, 0]]}, None, "expected -1 .missing. to 1"),
        ({"weight": [1, np.inf]}, None, "expected finite numbers, NaN where one is missing"),
        ({"kind": [0, 1]}, {"kind": [7]}, "out of range:\n  0: 7\n"),
        ({"kind": [-1, -1]}, None, "no example of split 'train' .* has a label of 'kind'"),
        ({"kind": [0, 1], "weight": [np.nan] * 2}, None, "has a label of 'weight'; leave the task"),
        ({"kind": [0, 1], "weight": [2, 2]}, None, "all labels of 'weight' .* are 2; expected two"),
        ({"kind": [0, 1], "grade": [1, 1]}, None, "all labels of 'grade' .* are 'high'; expected"),
        ({"kind": [0, 1]}, {"kind": [-1]}, "split 'test' of labelled has no label of 'kind'"),
        ({"kind": [0, 1]}, {"grade": [1]}, "'train' and 'test' have different tasks"),
        (
            {"kind": [0, 1], "inputs": Inputs(max_tokens=3, vocabulary=("a",))},
            {"kind": [0, 1], "inputs": Inputs(max_tokens=3, vocabulary=("b",))},
            r"have different inputs \(vocabulary\); open the second with inputs=",
        ),
    ],
)
def test_labels_that_mean_nothing_are_refused(train, test, message):
    with pytest.raises(ValueError, match=message):
        check(train, test)


@pytest.mark.parametrize(
    ("labels", "form"),
    [
        (np.zeros(2, np.float32), r"got labels float32\[2\] of 'kind' .* expected int32\[2\]"),
        (np.zeros((2, 3), np.int32), r"got labels int32\[2, 3\] of 'kind'"),
        (np.zeros(3, np.int32), r"got labels int32\[3\] of 'kind'"),
    ],
)
def test_labels_of_another_form_than_their_task_are_refused(labels, form):
    class Wrong(Labelled):
        def task_labels(self):
            return {"label": labels}

    with pytest.raises(ValueError, match=form):
        check_splits({"train": Wrong(kind=[0, 1])}, "train")
