"""Arrays in memory as objects of several views, and with further inputs."""

import pickle

import numpy as np
import pytest

from tl_jax.data import subset
from tl_jax.data.inputs import Columns, TextOptions
from tl_jax.data.relabel import match_to
from tl_jax.data.source import Categories, Inputs, as_source
from tl_jax.data.sources.arrays import from_arrays

LABELS = [0, 1, 0, 1]
COLUMNS = Columns(
    numeric={"age": np.array([1, 2, np.nan, 4])},
    categorical={"kind": ["p", None, "q", "p"]},
    text=["one", "two two", None, "one"],
    vector=np.array([[1, 2], [np.nan, np.nan], [3, 4], [5, 6.0]]),
)


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_views_are_an_axis_of_the_array_with_a_mask():
    images, mask = pictures(4, 3, 6, 5, 1), np.ones((4, 3), bool)
    mask[2, 1] = False
    source = from_arrays(images, LABELS, view_mask=mask)
    assert source.inputs == Inputs(views=3)
    views = source[2]["image"]
    assert views[1] is None
    for place in (0, 2):
        np.testing.assert_array_equal(views[place], np.repeat(images[2, place], 3, axis=2))
    assert all(view is not None for view in source[0]["image"])


def test_views_are_a_list_of_images_for_each_example():
    views = [
        [pictures(4, 4), None],
        [pictures(5, 6, 3)],
        [None, pictures(7, 8, 4)],
        [pictures(2, 2)],
    ]
    source = from_arrays(views, LABELS)
    assert source.inputs.views == 2
    shapes = [[v if v is None else v.shape for v in source[i]["image"]] for i in range(4)]
    assert shapes == [[(4, 4, 3), None], [(5, 6, 3)], [None, (7, 8, 3)], [(2, 2, 3)]]
    marks = source.content_marks()
    views[0][1] = pictures(3, 3)
    changed = from_arrays(views, LABELS).content_marks()
    assert [one == other for one, other in zip(marks, changed, strict=True)] == [False] + [True] * 3


def test_columns_become_inputs_that_another_split_is_read_by():
    train = from_arrays(pictures(4, 6, 6), LABELS, columns=COLUMNS)
    assert train.inputs == Inputs(
        numeric=("age",),
        categorical=(Categories("kind", ("p", "q")),),
        vocabulary=("one", "two"),
        max_tokens=2,
        vector=2,
    )
    example = train[1]
    assert example.keys() == {"image", "label", "numeric", "categorical", "tokens", "vector"}
    assert (example["tokens"].tolist(), example["categorical"].tolist()) == ([3, 3], [-1])
    other = Columns(
        numeric={"age": [7]}, categorical={"kind": ["z"]}, text=["three one"], vector=[[0, 1]]
    )
    test = from_arrays(pictures(1, 6, 6), [1], ["0", "1"], columns=other, inputs=train.inputs)
    assert test.input_arrays()["tokens"].tolist() == [[1, 2]]
    assert any("'z' (1)" in note for note in test.notes)
    limited = from_arrays(
        pictures(4, 6, 6), LABELS, columns=COLUMNS, text_options=TextOptions(max_vocabulary=1)
    )
    assert limited.inputs.vocabulary == ("one",)


def test_parts_of_a_source_and_its_wrappers_keep_views_and_inputs():
    images = pictures(12, 2, 6, 6, 3)
    labels = {"kind": [0, 1] * 6, "weight": np.arange(12) / 2}
    columns = Columns(numeric={"n": np.arange(12)})
    source = from_arrays(images, labels, numbers=("weight",), columns=columns)

    class Duck:
        name, split, class_names, tasks = "duck", "train", source.class_names, source.tasks
        inputs = source.inputs
        labels, input_arrays, task_labels = source.labels, source.input_arrays, source.task_labels

        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            return source[index]

    few = subset.few_shot(source, 2, seed=0)
    train, held = subset.carve(source, 0.3, seed=0)
    named = match_to(source, ("1", "0"))
    for part in (few, train, held, named, as_source(Duck()), pickle.loads(pickle.dumps(few))):
        assert part.inputs == source.inputs
        weights, arrays = part.task_labels()["weight"], part.input_arrays()
        for index in range(len(part)):
            example = part[index]
            assert len(example["image"]) == 2
            assert example["weight"] == weights[index] == example["numeric"][0] / 2
            assert arrays["numeric"][index] == example["numeric"]
            assert part.task_labels()["label"][index] == example["label"]
    assert len(train) + len(held) == 12
    assert named.task_labels()["label"].tolist() == [1, 0] * 6


def test_numbers_can_be_carved_and_levels_drawn():
    numbers = from_arrays(pictures(20, 4, 4), np.arange(20.0), numbers=("label",))
    train, held = subset.carve(numbers, 0.2, seed=0)
    assert (len(train) + len(held), len(held) > 0) == (20, True)
    assert held.labels().dtype == np.float32
    with pytest.raises(ValueError, match="has the regression 'label'; few-shot subsets need one"):
        subset.few_shot(numbers, 1, seed=0)
    levels = from_arrays(pictures(6, 4, 4), [0, 1, 2] * 2, ordered=("label",))
    drawn = subset.few_shot(levels, 1, seed=0)
    assert (sorted(drawn.labels().tolist()), drawn.tasks[0].kind) == ([0, 1, 2], "ordinal")
    assert match_to(levels, ("2", "1", "0")).tasks[0].ordered


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((4, 2, 6, 6), np.uint8), {}, "expected uint8"),
        (
            np.zeros((4, 2, 6, 6, 3), np.uint8),
            {"view_mask": np.ones((4, 3), bool)},
            r"got a view_mask bool\[4, 3\] .*; expected bool \[N, V\]",
        ),
        (
            np.zeros((4, 2, 6, 6, 3), np.uint8),
            {"view_mask": np.arange(8).reshape(4, 2) > 1},
            "example 0 of arrays has no view",
        ),
        ([[np.zeros((4, 4), np.uint8)]] * 3 + [[None]], {}, "example 3 of arrays has no view"),
        ([[np.zeros((4, 4), np.uint8)]] * 3 + [np.zeros((4, 4), np.uint8)], {}, "3 lists of views"),
        (
            np.zeros((4, 3, 6, 6, 3), np.uint8),
            {"inputs": Inputs(views=2)},
            "got 3 views in arrays; expected at most 2",
        ),
        (np.zeros((4, 6, 6), np.uint8), {"inputs": Inputs(views=2)}, "got single images, no views"),
    ],
)
def test_views_of_other_forms_are_refused(images, options, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(images, LABELS, **options)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"numeric": {"age": [1, np.inf, 2, 3]}}, "got infinity in the rows 1 of column 'age'"),
        ({"numeric": {"age": [1, 2]}}, r"got int64\[2\] in column 'age' .* expected numbers \[4\]"),
        ({"numeric": {"age": ["a"] * 4}}, "expected numbers"),
        ({"categorical": {"kind": ["p"]}}, "got 1 values of 'kind' for 4 images"),
        ({"text": ["a", 3, "b", "c"]}, "text 1 of arrays is 3; expected a string"),
        ({"vector": np.zeros((4, 2, 2))}, r"expected numbers \[4, 1\]"),
        ({"vector": [[1, np.nan], [1, 1], [1, 1], [1, 1]]}, "NaN in a part of the vectors 0"),
    ],
)
def test_columns_of_other_forms_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(np.zeros((4, 6, 6), np.uint8), LABELS, columns=Columns(**columns))
