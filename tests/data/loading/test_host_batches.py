"""Batches: their order by (seed, step) alone, every example once, processes that add up."""

import itertools
from collections import Counter

import numpy as np
import pytest

from tests.support.loading import (
    PREPROCESS,
    Failing,
    Numbered,
    OddError,
    Tasked,
    assert_same,
    canvas_image,
    evaluate,
    evaluate_source,
    host_eval,
    host_train,
    take,
)
from tl_jax.data.images import decode
from tl_jax.data.loading import memory_cache
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.order import Uniform
from tl_jax.data.preprocess import eval_image
from tl_jax.data.sources.open import open_source


def labels(batches):
    return [batch["label"].tolist() for batch in batches]


def join(parts):
    """Returns the batches of several processes, joined step by step."""
    return [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]


# ---- training


def test_a_batch_is_canvases_sizes_and_labels():
    source = Numbered(7)
    (batch,) = take(source, 1)
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        "image": ((4, 8, 8, 3), np.uint8),
        "size": ((4, 2), np.int32),
        "label": ((4,), np.int32),
    }
    for image, size, label in zip(batch["image"], batch["size"], batch["label"], strict=True):
        original = source[int(label)]["image"]
        np.testing.assert_array_equal(image, canvas_image(original, 8))
        assert tuple(size) == original.shape[:2]


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (13, 4), (3, 8), (1, 4), (2, 1)])
def test_every_epoch_holds_every_example_once(count, batch_size):
    batches = take(Numbered(count), 3 * count, batch_size=batch_size)
    stream = list(itertools.chain.from_iterable(labels(batches)))
    for epoch in range(len(stream) // count):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (13, 4), (3, 8), (1, 2)])
def test_a_later_start_continues_an_uninterrupted_run(count, batch_size):
    uninterrupted = take(Numbered(count), 31, batch_size=batch_size)
    for start in (1, 3, 4, 10, 29):
        resumed = take(Numbered(count), 31 - start, batch_size=batch_size, start_step=start)
        assert_same(resumed, uninterrupted[start:])


def test_the_order_stays_the_same_between_versions():
    # Recorded runs can be continued and repeated only as long as it does.
    batches = take(Numbered(5), 3, order=Uniform(5, 7))
    assert labels(batches) == [[3, 4, 0, 2], [1, 1, 3, 2], [4, 0, 4, 0]]


def test_labels_of_all_tasks_are_in_the_batches():
    source = Tasked(5)
    for batch in (take(source, 1)[0], take(source, 1, cache="memory")[0]):
        assert {key: (batch[key].shape, batch[key].dtype) for key in ("label", "age")} == {
            "label": ((4, 3), np.int8),
            "age": ((4,), np.int32),
        }
        for age, label in zip(batch["age"], batch["label"], strict=True):
            np.testing.assert_array_equal(label, source[int(age)]["label"])
    last = evaluate_source(source)[-1]
    assert last["label"].tolist() == [[1, -1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert last["age"].tolist() == [4, 0, 0, 0]


@pytest.mark.parametrize("process_count", [2, 4])
@pytest.mark.parametrize(("start_step", "cache"), [(0, "none"), (5, "none"), (5, "memory")])
def test_processes_add_up_to_one(process_count, start_step, cache):
    options = {"batch_size": 8, "start_step": start_step, "cache": cache}
    parts = [
        take(Numbered(13), 6, process_index=i, process_count=process_count, **options)
        for i in range(process_count)
    ]
    assert_same(join(parts), take(Numbered(13), 6, **options))


# ---- the memory cache


def test_the_cache_reads_each_example_once_and_changes_nothing():
    source = Numbered(6)
    cached = take(source, 9, cache="memory", workers=1)
    assert Counter(source.reads) == dict.fromkeys(range(6), 1)
    assert_same(cached, take(Numbered(6), 9))


def test_the_cache_reads_first_what_is_needed_first():
    source = Numbered(13)
    batches = host_train(source, start_step=2, cache="memory", workers=0)
    for number, batch in zip(range(1, 4), batches, strict=False):
        assert set(batch["label"].tolist()) <= set(source.reads)
        assert len(source.reads) <= 4 * number


def test_the_cache_tries_an_example_again_that_could_not_be_read():
    source = Failing(9)
    batches = host_eval(source, batch_size=3, cache="memory", workers=0)
    with pytest.raises(OddError):
        list(batches)
    source.broken = -1
    assert_same(list(batches), evaluate(9, batch_size=3))


def test_batches_can_be_written_to_without_changing_the_cache():
    batches = host_train(Numbered(2), batch_size=2, cache="memory")
    first = next(batches)
    images = first["image"][np.argsort(first["label"])].copy()
    first["image"][:] = 0
    for batch in itertools.islice(batches, 6):
        np.testing.assert_array_equal(batch["image"][np.argsort(batch["label"])], images)


def test_a_cache_larger_than_the_memory_is_refused():
    with pytest.raises(ValueError, match=r"would keep 1000000 images, .* use cache='none'"):
        host_train(Numbered(10**6), canvas=5120, cache="memory")


def test_the_memory_limit_of_a_container_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_cache, "_CGROUP_LIMITS", (tmp_path / "none", tmp_path / "limit"))
    machine = memory_cache.host_memory()
    for text, expected in {"max\n": machine, "1000\n": 1000, f"{10 * machine}": machine}.items():
        (tmp_path / "limit").write_text(text)
        assert memory_cache.host_memory() == expected


# ---- evaluation


@pytest.mark.parametrize(("count", "batches"), [(8, 2), (9, 3), (3, 1), (1, 1)])
def test_every_example_is_evaluated_once_in_order(count, batches):
    result = evaluate(count)
    assert len(result) == batches
    mask = np.concatenate([batch["mask"] for batch in result])
    index = np.concatenate([batch["index"] for batch in result])
    seen = np.concatenate([batch["label"] for batch in result])
    assert mask.tolist() == [True] * count + [False] * (4 * batches - count)
    assert index.tolist() == list(range(count)) + [-1] * (4 * batches - count)
    assert seen[mask].tolist() == list(range(count))
    assert (seen[~mask] == 0).all()


def test_evaluated_images_are_preprocessed():
    (batch,) = evaluate(3)
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        "image": ((4, 6, 7, 3), np.uint8),
        "label": ((4,), np.int32),
        "mask": ((4,), np.bool_),
        "index": ((4,), np.int32),
    }
    for i in range(3):
        expected = eval_image(Numbered(3)[i]["image"], PREPROCESS)
        np.testing.assert_array_equal(batch["image"][i], expected)
    assert not batch["image"][3].any()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 17])
def test_processes_evaluate_every_example_once_in_as_many_batches(count):
    parts = [evaluate(count, batch_size=8, process_index=i, process_count=4) for i in range(4)]
    assert len({len(part) for part in parts}) == 1
    seen = [b["index"][b["mask"]] for part in parts for b in part]
    assert sorted(np.concatenate(seen)) == list(range(count))
    assert_same(join(parts), evaluate(count, batch_size=8))


def test_evaluation_can_be_repeated_and_cached():
    source = Numbered(5)
    batches = host_eval(source, batch_size=2, cache="memory", workers=1)
    assert_same(list(batches), list(batches))
    assert Counter(source.reads) == dict.fromkeys(range(5), 1)


# ---- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6, "process_count": 4}, "a multiple of their number"),
        ({"process_index": 2, "process_count": 2}, "expected 0 <= index < count"),
        ({"start_step": -1}, "expected 0 or more"),
        ({"cache": "device"}, "expected 'memory' or 'none'"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        take(Numbered(5), 1, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "got batch_size=0; expected 1 or more"),
        ({"workers": -1}, "got workers=-1; expected 0 or more"),
        ({"prefetch": -1}, "got prefetch=-1; expected 0 or more"),
        ({"worker_type": "fibre"}, "got worker_type='fibre'; expected one of 'thread', 'process'"),
        ({"cache": "disk"}, "got cache='disk'; expected one of 'none', 'memory', 'device'"),
        ({"stretch_on": "moon"}, "got stretch_on='moon'; expected one of 'auto'"),
        ({"stretch_on": "device", "cache": "memory"}, "expected cache='none'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LoadOptions(**({"batch_size": 4} | options))


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="split 'train' of numbered holds no example"):
        evaluate(0)


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_an_image_that_breaks_while_loading_is_named(tmp_path, save_image, kind):
    for i in range(6):
        save_image(tmp_path / "in" / "a" / f"{i}.png", seed=i)
    source = open_source(f"folder:{tmp_path / 'in'}", "train", data_dir=tmp_path)
    source.paths[2].write_bytes(b"no image")
    with pytest.raises(decode.CorruptImageError, match=str(source.paths[2])):
        if kind == "train":
            take(source, 3)
        else:
            evaluate_source(source, batch_size=2)
