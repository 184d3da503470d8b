"""Batches of objects with views and further inputs: every form, order, cache and padding."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from tests.support.loading import (
    PREPROCESS,
    Numbered,
    Tasked,
    Viewed,
    assert_same,
    canvas_image,
    device_eval,
    encoded,
    evaluate_source,
    on_host,
    placed,
    sharding,
    take,
)
from tl_jax.data.images import decode
from tl_jax.data.loading.host_batches import host_train_batches
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.order import Uniform, make_order
from tl_jax.data.loading.readers import TrainReader
from tl_jax.data.preprocess import eval_image
from tl_jax.data.source import Inputs, Source, Task

OTHERS = {
    "label": ((4,), np.float32),
    "grade": ((4,), np.int32),
    "view_mask": ((4, 3), np.bool_),
    "numeric": ((4, 2), np.float32),
    "categorical": ((4, 1), np.int32),
    "tokens": ((4, 4), np.int32),
    "vector": ((4, 2), np.float32),
}


def forms(batch):
    return {key: (value.shape, value.dtype) for key, value in batch.items()}


def test_a_training_batch_has_views_sizes_and_all_inputs():
    source = Viewed(7)
    (batch,) = take(source, 1)
    views = {"image": ((4, 3, 8, 8, 3), np.uint8), "size": ((4, 3, 2), np.int32)}
    assert forms(batch) == views | OTHERS
    for row, index in enumerate(Uniform(7, 0).epoch(0)[:4].tolist()):
        example = source[index]
        for place, view in enumerate(example["image"]):
            assert batch["view_mask"][row, place] == (view is not None)
            if view is None:
                assert not batch["image"][row, place].any()
                assert not batch["size"][row, place].any()
            else:
                np.testing.assert_array_equal(batch["image"][row, place], canvas_image(view, 8))
                assert tuple(batch["size"][row, place]) == view.shape[:2]
        for key in OTHERS.keys() - {"view_mask"}:
            expected = np.asarray(example[key], batch[key].dtype)
            np.testing.assert_array_equal(batch[key][row], expected)


def test_evaluation_counts_each_object_once_and_pads_with_what_is_missing():
    source = Viewed(5)
    batches = evaluate_source(source)
    *_, last = batches
    ends = {"mask": ((4,), np.bool_), "index": ((4,), np.int32)}
    assert forms(last) == {"image": ((4, 3, 6, 7, 3), np.uint8)} | OTHERS | ends
    seen = np.concatenate([batch["index"][batch["mask"]] for batch in batches])
    assert seen.tolist() == [0, 1, 2, 3, 4]
    for place, view in enumerate(source[4]["image"]):
        expected = 0 if view is None else eval_image(view, PREPROCESS)
        np.testing.assert_array_equal(last["image"][0, place], np.broadcast_to(expected, (6, 7, 3)))
    padding = ~last["mask"]
    assert padding.tolist() == [False, True, True, True]
    for key in ("image", "view_mask", "grade", "tokens"):
        assert not last[key][padding].any()
    for key in ("label", "numeric", "vector"):
        assert np.isnan(last[key][padding]).all()
    assert (last["categorical"][padding] == -1).all()
    assert_same(evaluate_source(Viewed(5), cache="memory", workers=1), batches)


@pytest.mark.parametrize(
    "options",
    [
        {"cache": "memory"},
        {"workers": 0},
        {"workers": 1, "worker_type": "process"},
    ],
)
def test_views_do_not_depend_on_how_they_are_read(options):
    assert_same(take(Viewed(7), 4, **options), take(Viewed(7), 4))


def test_a_later_start_and_several_processes_give_the_same_views():
    whole = take(Viewed(7), 5, batch_size=4)
    assert_same(take(Viewed(7), 2, batch_size=4, start_step=3), whole[3:])
    parts = [take(Viewed(7), 5, batch_size=4, process_index=i, process_count=2) for i in range(2)]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
def test_views_come_to_the_devices_as_they_are(cache):
    assert_same(placed(Viewed(7), 4, cache=cache), on_host(Viewed(7), 4))
    if cache != "memory":
        assert_same(
            list(device_eval(Viewed(5), sharding(), cache=cache)), evaluate_source(Viewed(5))
        )


class Stacks(Source):
    """A source whose views are files, all larger than the canvas; some are missing."""

    name, split, tasks, inputs = "stacks", "train", (Task("label", ("a",)),), Inputs(views=2)

    def __init__(self):
        rng = np.random.default_rng(0)
        photos = [Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)) for _ in range(3)]
        self.contents = [
            (encoded(photos[0]), None),
            (encoded(photos[1]), encoded(photos[2], "PNG")),
        ]

    def __len__(self):
        return 2

    def __getitem__(self, index):
        views = [None if c is None else decode.decode(c, name="x") for c in self.contents[index]]
        return {"image": views, "label": 0}

    def encoded_views(self, index):
        return self.contents[index], {"label": 0, "path": ("one", "other")}


def test_views_in_files_are_decoded_at_a_reduced_size():
    source = Stacks()
    fast, whole = TrainReader(source, 8), TrainReader(source, 8, fast_jpeg=False)
    for index in range(2):
        one, other = fast[index], whole[index]
        assert one["view_mask"].tolist() == other["view_mask"].tolist() == [True, index == 1]
        assert one["size"].tolist() == other["size"].tolist()
        difference = np.abs(one["image"].astype(int) - other["image"])
        assert 0 < difference.max() < 60  # Of noise, an inverse cosine transform is another mean.
    np.testing.assert_array_equal(fast[1]["image"][1], whole[1]["image"][1])  # A PNG file.


def test_only_single_images_are_stretched_on_the_device(monkeypatch):
    # What an accelerator does by default, asked of the CPU.
    on_device = LoadOptions.stretches_on_device
    monkeypatch.setattr(
        LoadOptions, "stretches_on_device", lambda self, _: on_device(self, {"gpu"})
    )
    assert "packed" not in placed(Viewed(7), 1)[0]
    assert_same(placed(Viewed(7), 2), on_host(Viewed(7), 2))
    with pytest.raises(ValueError, match="has 3 views an example, and devices stretch single"):
        placed(Viewed(7), 1, stretch_on="device")


def test_further_inputs_of_single_images_are_packed_with_them():
    class Mixed(Numbered):
        inputs = Inputs(numeric=("n",), max_tokens=2)

        def __getitem__(self, index):
            return super().__getitem__(index) | {"numeric": (index,), "tokens": (1, index)}

    source, options = Mixed(6), LoadOptions(4, workers=0)
    order = Uniform(6, 0)
    batch = next(host_train_batches(source, options, canvas=8, order=order, packed=True))
    assert {"packed", "extent", "numeric", "tokens"} < batch.keys()
    assert (
        batch["numeric"][:, 0].tolist() == batch["label"].tolist() == batch["tokens"][:, 1].tolist()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": [np.zeros((4, 4, 3), np.uint8)] * 4}, "got 4 views of one object; expected at"),
        ({"numeric": (1,)}, r"got 'numeric' of shape \[1\]; expected \[2\]"),
        ({"vector": None}, "the example has no 'vector', which the source's `inputs` promise"),
        ({"grade": None}, "the example has no 'grade', which the source's `tasks` promise"),
    ],
)
def test_examples_that_are_not_as_the_source_says_are_refused(changes, message):
    class Odd(Viewed):
        def __getitem__(self, index):
            example = super().__getitem__(index) | changes
            return {key: value for key, value in example.items() if value is not None}

    with pytest.raises(ValueError, match=message) as caught:
        take(Odd(7), 1)
    assert any("while reading example" in note for note in caught.value.__notes__)


def test_numbers_cannot_be_balanced():
    with pytest.raises(ValueError, match="may have numbers as 'weight'; expected sampling='uni"):
        make_order("balanced", Viewed(7), seed=0)


def test_the_range_of_values_holds_in_training_too():
    class Deep(Stacks):
        tasks, inputs, value_range = (Task("label", ("a",)),), Inputs(), (0, 4095)

        def __init__(self):
            pixels = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
            self.data = encoded(Image.fromarray(pixels), "PNG")

        def __getitem__(self, index):
            image = decode.decode(self.data, name="x", value_range=self.value_range)
            return {"image": image, "label": 0}

        def encoded(self, index):
            return self.data, {"label": 0}

    assert TrainReader(Deep(), 8)[0]["image"].max() == 255


def digest(batches):
    result = hashlib.sha256()
    for batch in batches:
        for key in sorted(batch):
            result.update(f"{key} {batch[key].dtype} {batch[key].shape}".encode())
            result.update(np.ascontiguousarray(batch[key]).tobytes())
    return result.hexdigest()[:16]


def test_batches_of_single_images_keep_their_bits():
    # Recorded before there were views; runs of that time go on with the same batches.
    batches = {
        "train": take(Numbered(13), 5),
        "evaluation": evaluate_source(Numbered(13)),
        "several tasks": take(Tasked(9), 4),
        "several tasks, evaluation": evaluate_source(Tasked(9), cache="memory"),
    }
    assert {name: digest(each) for name, each in batches.items()} == {
        "train": "e841ab27570ee888",
        "evaluation": "25a43931e26dee5d",
        "several tasks": "2ce383747c842d90",
        "several tasks, evaluation": "6c06c55f26bc7e74",
    }
