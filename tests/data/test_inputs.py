"""Further inputs: words, categories and numbers become arrays by what the training split fixes."""

import numpy as np
import pytest

from tl_jax.data import inputs
from tl_jax.data.inputs import Columns, TextOptions
from tl_jax.data.source import Categories, Inputs

COLUMNS = Columns(
    numeric={"age": np.array([3, np.nan, 5, 1], np.float32)},
    categorical={"kind": ["10", "9", None, "7"]},
    text=["The cat, the DOG!", "a cat", None, "an emu"],
    vector=np.array([[1, 2], [np.nan, np.nan], [3, 4], [5, 6]], np.float32),
)
TRAIN = np.arange(3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's 3.5kg", ["it's", "3", "5kg"]),
        ("it\N{RIGHT SINGLE QUOTATION MARK}s 'quoted' --", ["it's", "quoted"]),
        ("снег_и ЁЛКА 雪", ["снег", "и", "ёлка", "雪"]),
        (" ?! ", []),
    ],
)
def test_words_are_runs_of_letters_and_digits_in_lower_case(text, expected):
    assert inputs.words(text) == expected


def test_the_training_split_alone_fixes_categories_and_words():
    fixed = inputs.fit(COLUMNS, TRAIN, views=2)
    assert fixed == Inputs(
        views=2,
        numeric=("age",),
        categorical=(Categories("kind", ("9", "10")),),
        vocabulary=("cat", "the", "a", "dog"),
        max_tokens=4,
        vector=2,
    )


@pytest.mark.parametrize(
    ("options", "words", "length"),
    [
        (TextOptions(max_vocabulary=3), ("cat", "the", "a"), 4),
        (TextOptions(min_count=2), ("cat", "the"), 4),
        (TextOptions(min_count=9), (), 4),
        (TextOptions(max_tokens=2), ("cat", "the", "a", "dog"), 2),
    ],
)
def test_rare_words_are_left_out(options, words, length):
    fixed = inputs.fit(COLUMNS, TRAIN, text=options)
    assert (fixed.vocabulary, fixed.max_tokens) == (words, length)


def test_all_rows_are_encoded_by_what_is_fixed():
    fixed = inputs.fit(COLUMNS, TRAIN, text=TextOptions(max_vocabulary=3))
    arrays = inputs.encode(COLUMNS, fixed)
    assert list(arrays) == ["numeric", "categorical", "tokens", "vector"]
    assert [array.dtype for array in arrays.values()] == [
        np.float32,
        np.int32,
        np.int32,
        np.float32,
    ]
    np.testing.assert_array_equal(arrays["numeric"], [[3], [np.nan], [5], [1]])
    assert arrays["categorical"].tolist() == [[1], [0], [-1], [-1]]
    assert arrays["tokens"].tolist() == [[3, 2, 3, 1], [4, 2, 0, 0], [0] * 4, [1, 1, 0, 0]]
    np.testing.assert_array_equal(arrays["vector"], COLUMNS.vector)


def test_what_is_missing_or_unknown_is_said():
    fixed = inputs.fit(COLUMNS, TRAIN, text=TextOptions(max_tokens=3))
    assert inputs.notes(COLUMNS, fixed, np.arange(4)) == (
        "1 of 4 numbers of 'age' are missing",
        "1 of 4 values of 'kind' are missing",
        "1 of 4 values of 'kind' are not in the training split and count as missing: '7' (1)",
        "1 of 4 texts are missing or have no word",
        "1 of 4 texts are cut after 3 words",
        "2 of 8 words are not in the vocabulary",
        "1 of 4 vectors are missing",
    )
    assert inputs.notes(Columns(), Inputs(), np.arange(4)) == ()


@pytest.mark.parametrize(("rows", "empty"), [([2], "'kind', 'text'"), ([1], "'age', 'vector'")])
def test_a_column_without_a_value_to_train_on_is_refused(rows, empty):
    with pytest.raises(ValueError, match=f"training split has no value of {empty}, so"):
        inputs.fit(COLUMNS, np.asarray(rows))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numeric": ("size",)}, r"got the numeric columns \['age'\] in x; expected \['size'\]"),
        ({"categorical": ()}, r"got the categorical columns \['kind'\] in x; expected \[\]"),
        ({"max_tokens": 0, "vocabulary": ()}, "got the texts True in x; expected False"),
        ({"vector": 3}, "got the length of vectors 2 in x; expected 3"),
    ],
)
def test_other_columns_than_those_of_training_are_refused(changes, message):
    fixed = inputs.fit(COLUMNS, TRAIN)
    inputs.check_match(COLUMNS, fixed, name="x")
    fields = {key: getattr(fixed, key) for key in ("numeric", "categorical", "vocabulary")}
    fields |= {"max_tokens": fixed.max_tokens, "vector": fixed.vector}
    with pytest.raises(ValueError, match=message):
        inputs.check_match(COLUMNS, Inputs(**(fields | changes)), name="x")


def test_numbers_of_words_are_positive():
    with pytest.raises(ValueError, match="got min_count=0; expected 1 or more"):
        TextOptions(min_count=0)
