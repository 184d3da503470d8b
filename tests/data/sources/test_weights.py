"""Weights of examples in every kind of source that has them, and on their way to a batch."""

import numpy as np
import pytest

from tests.support import loading
from tl_jax.data.match_tasks import match_tasks
from tl_jax.data.prepare.pack import prepare_source
from tl_jax.data.source import Source, Task, as_source
from tl_jax.data.sources.arrays import from_arrays
from tl_jax.data.sources.open import open_source
from tl_jax.data.sources.options import InputColumns
from tl_jax.data.subset import carve, few_shot

IMAGES = np.zeros((12, 8, 8), np.uint8) + np.arange(12, dtype=np.uint8)[:, None, None]
LABELS = [0, 1] * 6
WEIGHTS = np.arange(12) / 8
SOURCE = from_arrays(IMAGES, LABELS, example_weights=WEIGHTS)


# ---- from a source to a batch


class Own(Source):
    """A source of a user, whose examples alone know their weights."""

    name, split, tasks, has_weights = "own", "train", (Task("label", ("a", "b")),), True

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"image": IMAGES[index][..., None], "label": index % 2, "example_weight": index / 2}


def test_a_source_says_whether_it_has_weights():
    plain = from_arrays(IMAGES, LABELS)
    assert not plain.has_weights and plain.example_weights().tolist() == [1] * 12
    assert Own().example_weights().tolist() == [0, 0.5, 1, 1.5]
    assert not any("example_weight" in batch for batch in loading.on_host(plain, 1))


def test_an_object_that_is_no_source_may_have_weights():
    class Other:
        name, split, class_names, has_weights = "other", "train", ("a", "b"), True
        labels, __len__, __getitem__ = SOURCE.labels, SOURCE.__len__, SOURCE.__getitem__

    assert as_source(Other()).example_weights().tolist() == WEIGHTS.tolist()


@pytest.mark.parametrize(
    "source",
    [
        SOURCE,
        carve(SOURCE, 0.4, seed=0)[0],
        few_shot(SOURCE, 3, seed=0),
        match_tasks(SOURCE, (Task("label", ("1", "0")),)),
    ],
    ids=["whole", "carved", "few shots", "relabelled"],
)
def test_a_batch_holds_the_weights_of_its_images(source):
    for batch in loading.on_host(source, 3):
        assert batch["example_weight"].dtype == np.float32
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0] / 8, batch["example_weight"])
    names = [source[index]["image"][0, 0, 0] / 8 for index in range(len(source))]
    assert source.example_weights().tolist() == names


@pytest.mark.parametrize("cache", ["memory", "device"])
def test_caches_keep_weights(cache):
    loading.assert_same(
        loading.placed(SOURCE, 5, cache=cache, workers=1), loading.on_host(SOURCE, 5)
    )


def test_batches_of_evaluation_hold_no_weights():
    assert not any("example_weight" in batch for batch in loading.evaluate_source(SOURCE))


# ---- arrays


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1] * 11, r"got int64\[11\] as the example_weights of arrays; expected a number for each"),
        (["1"] * 12, r"got <U1\[12\]"),
        (
            [1] * 11 + [-0.5],
            r"1 of the example_weights .*:\n  row 11: got -0\.5\nexpected a finite",
        ),
        ([1, np.nan, np.inf] * 4, r"8 of .*:\n  row 1: got no number\n  row 2: got inf\n"),
        ([0] * 12, "all 12 of the example_weights of arrays are 0, which trains nothing"),
    ],
)
def test_weights_out_of_range_are_named(weights, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(IMAGES, LABELS, example_weights=weights)


def test_a_file_of_arrays_has_them_beside_the_labels(tmp_path):
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:4], "y_test": LABELS[:4]}
    np.savez(tmp_path / "a.npz", **arrays, sure_train=WEIGHTS)
    spec = f"npz:{tmp_path / 'a.npz'}"
    found = open_source(spec, "train[2:6]", example_weights="sure").example_weights()
    assert found.tolist() == WEIGHTS[2:6].tolist()
    with pytest.raises(ValueError, match="no weights 'sure' of the split 'test'; expected sure, "):
        open_source(spec, "test", example_weights="sure")
    np.savez(tmp_path / "b.npz", images=IMAGES, labels=LABELS, sure=WEIGHTS[:5])
    with pytest.raises(ValueError, match=r"'sure'; expected a number for each of the 12"):
        open_source(f"npz:{tmp_path / 'b.npz'}", "train", example_weights="sure")


def test_other_sources_refuse_the_option():
    with pytest.raises(ValueError, match="got example_weights='sure', but .* 'digits' uses none"):
        open_source("digits", "train", example_weights="sure")


# ---- tables


@pytest.fixture
def open_table(tmp_path, save_image):
    """Writes a table with an image, a split and further cells in each row, and opens a split."""

    def open_rows(cells, split="train", **options):
        lines = ["image,label,split,sure,group"]
        for number, cell in enumerate(cells):
            save_image(tmp_path / f"{number}.png", seed=number)
            lines.append(f"{number}.png,{'xy'[number // 2 % 2]},{cell}")
        (tmp_path / "t.csv").write_text("\n".join(lines))
        return open_source(
            f"manifest:{tmp_path / 't.csv'}", split, data_dir=tmp_path / "data",
            example_weights="sure", **options,
        )  # fmt: skip

    return open_rows


CELLS = ["train,1,A", "train,1,A", "train,.5,B", "train,0,C", "test,,D", "test,x,D"]


def test_a_column_of_a_table_holds_them(open_table):
    source = open_table(CELLS[:5])
    assert source.example_weights().tolist() == [1, 1, 0.5, 0]
    assert [source[index]["example_weight"] for index in range(4)] == [1, 1, 0.5, 0]
    assert source.encoded(2)[1]["example_weight"] == 0.5


def test_rows_without_a_weight_are_named(open_table):
    message = (
        r"2 of the example weights in split 'train' .*:\n  line 3: got no n.*\n  line 4: got -1"
    )
    with pytest.raises(ValueError, match=message):
        open_table(["train,1,A", "train,,A", "train,-1,B", "train,0,C"])
    with pytest.raises(ValueError, match="1 cells in column 'sure' .* are no numbers:\n  line 7"):
        open_table(CELLS)


def test_rows_of_a_group_have_one_weight(open_table):
    by_group = {"columns": InputColumns(group="group")}
    source = open_table(CELLS[:5], **by_group)
    assert source.example_weights().tolist() == [1, 0.5, 0]
    assert source.encoded_views(1)[1]["example_weight"] == 0.5
    with pytest.raises(ValueError, match="1 groups of .* different example weights:\n  group 'A'"):
        open_table(["train,1,A", "train,.25,A", *CELLS[2:5]], **by_group)


def test_a_prepared_set_has_none(open_table, tmp_path):
    open_table(CELLS[:5])
    spec, out = f"manifest:{tmp_path / 't.csv'}", tmp_path / "out"
    prepare_source(spec, out, splits=["train"], progress=False)
    with pytest.raises(ValueError, match=r"no feature 'sure' of numbers.* none \(`prepare` writes"):
        open_source(f"prepared:{out}", "train", example_weights="sure")
