"""Batches: their order by (seed, step) alone, every example once, processes that add up."""

import dataclasses
import itertools
import multiprocessing
import threading
import time
import traceback
from collections import Counter

import numpy as np
import pytest

from tl_jax.data.images import decode
from tl_jax.data.loading import memory_cache
from tl_jax.data.loading.host_batches import eval_batches, train_batches
from tl_jax.data.loading.order import Uniform
from tl_jax.data.preprocess import Preprocess, canvas_image, eval_image
from tl_jax.data.source import Task
from tl_jax.data.sources.folder import open_folder


@dataclasses.dataclass
class Numbered:
    """A source of images of different sizes; an image's label is its index."""

    count: int
    name: str = "numbered"
    split: str = "train"
    skipped: tuple[str, ...] = ()
    reads: list[int] = dataclasses.field(default_factory=list)

    @property
    def class_names(self):
        return tuple(f"class {i}" for i in range(self.count))

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads.append(index)
        rng = np.random.default_rng(index)
        shape = (6 + index % 3, 5 + index % 4, 3)
        return {"image": rng.integers(0, 256, shape, np.uint8), "label": index}


class OddError(Exception):
    """An error that cannot be copied to another process."""

    def __init__(self, message):
        super().__init__(message)
        self.lock = threading.Lock()


class Failing(Numbered):
    """A source of which one example cannot be read."""

    broken = 5

    def __getitem__(self, index):
        if index == self.broken:
            raise OddError("the disk is on fire")
        return super().__getitem__(index)


class Tasked(Numbered):
    """A source with a multi-label task and a further task, the index."""

    @property
    def tasks(self):
        return (
            Task("kinds", ("a", "b", "c"), multi_label=True),
            Task("age", tuple(map(str, range(self.count)))),
        )

    def __getitem__(self, index):
        kinds = np.array([index % 4 == 0, -1, index % 2], np.int8)
        return {**super().__getitem__(index), "label": kinds, "age": index}


def reading_threads():
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def take(source, count, **options):
    defaults = {"batch_size": 4, "canvas": 8, "seed": 0}
    return list(itertools.islice(train_batches(source, **(defaults | options)), count))


def labels(batches):
    return [batch["label"].tolist() for batch in batches]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


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


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = []
    for seed in (0, 1, 2):
        stream = list(itertools.chain(*labels(take(Numbered(20), 15, seed=seed))))
        orders += [tuple(stream[i : i + 20]) for i in (0, 20, 40)]
    assert len(set(orders)) == 9
    assert tuple(range(20)) not in orders


def test_the_order_is_near_uniform():
    firsts = Counter(labels(take(Numbered(5), 1, batch_size=1, seed=s))[0][0] for s in range(300))
    assert set(firsts) == set(range(5))
    assert max(firsts.values()) < 100


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (13, 4), (3, 8), (1, 2)])
@pytest.mark.parametrize("start_step", [1, 3, 4, 10, 29])
def test_a_later_start_continues_an_uninterrupted_run(count, batch_size, start_step):
    whole = take(Numbered(count), 31, batch_size=batch_size)
    resumed = take(Numbered(count), 31 - start_step, batch_size=batch_size, start_step=start_step)
    assert_same(resumed, whole[start_step:])


def test_the_order_is_what_it_always_was():
    # Recorded runs can be continued and repeated only as long as the order stays: this pins it.
    assert labels(take(Numbered(5), 3, seed=7)) == [[3, 4, 0, 2], [1, 1, 3, 2], [4, 0, 4, 0]]


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize("count", [1, 3, 13])
def test_neither_workers_nor_the_cache_change_the_batches(workers, cache, count):
    options = {"workers": workers, "cache": cache, "start_step": 3}
    assert_same(take(Numbered(count), 20, **options), take(Numbered(count), 20, start_step=3))


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_worker_processes_change_nothing(cache):
    with train_batches(
        Numbered(13), batch_size=4, canvas=8, seed=0, workers=2, worker_type="process", cache=cache
    ) as batches:
        assert_same(list(itertools.islice(batches, 9)), take(Numbered(13), 9))
    assert multiprocessing.active_children() == []


def test_evaluation_by_worker_processes_changes_nothing():
    options = {"workers": 2, "worker_type": "process"}
    assert_same(evaluate(13, **options), evaluate(13, workers=0))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("worker_type", ["thread", "process"])
def test_an_error_of_a_worker_says_of_which_example_it_is(worker_type):
    source = Failing(9, split="validation")
    batches = eval_batches(
        source, batch_size=3, preprocess=PREPROCESS, workers=1, worker_type=worker_type
    )
    expected = OddError if worker_type == "thread" else RuntimeError
    with pytest.raises(expected) as caught:
        list(batches)
    shown = "".join(traceback.format_exception_only(caught.value))
    assert "OddError: the disk is on fire" in shown
    assert "while reading example 5 of split 'validation' of numbered" in shown


def test_who_stops_early_waits_for_no_more_than_what_is_being_read():
    source = Numbered(10**6)
    for batch in eval_batches(source, batch_size=2, preprocess=PREPROCESS, workers=2):
        assert batch["label"].tolist() == [0, 1]
        break
    with train_batches(source, batch_size=2, canvas=8, seed=0) as batches:
        next(batches)
    wait_until(lambda: not reading_threads())
    read = len(source.reads)
    assert read <= 2 * 2 * 2 * (1 + 2 + 1)
    with pytest.raises(ValueError, match="closed iterator"):
        next(batches)


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
    whole = take(Numbered(13), 6, **options)
    parts = [
        take(Numbered(13), 6, process_index=i, process_count=process_count, **options)
        for i in range(process_count)
    ]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


def test_the_cache_reads_each_example_once_and_changes_nothing():
    source = Numbered(6)
    cached = take(source, 9, cache="memory", workers=1)
    assert Counter(source.reads) == dict.fromkeys(range(6), 1)
    assert_same(cached, take(Numbered(6), 9))


def test_the_cache_reads_first_what_is_needed_first():
    source = Numbered(13)
    batches = train_batches(
        source, batch_size=4, canvas=8, seed=0, start_step=2, cache="memory", workers=0
    )
    for number, batch in zip(range(1, 4), batches, strict=False):
        assert set(batch["label"].tolist()) <= set(source.reads)
        assert len(source.reads) <= 4 * number


def test_an_example_that_could_not_be_read_is_tried_again():
    source = Failing(9)
    batches = eval_batches(source, batch_size=3, preprocess=PREPROCESS, cache="memory", workers=0)
    with pytest.raises(OddError):
        list(batches)
    source.broken = -1
    assert_same(list(batches), evaluate(9, batch_size=3))


def test_batches_can_be_written_to_without_changing_the_cache():
    batches = train_batches(Numbered(2), batch_size=2, canvas=8, seed=0, cache="memory")
    first = next(batches)
    kept = first["image"][np.argsort(first["label"])].copy()
    first["image"][:] = 0
    for batch in itertools.islice(batches, 6):
        np.testing.assert_array_equal(batch["image"][np.argsort(batch["label"])], kept)


def test_a_cache_larger_than_the_memory_is_refused():
    with pytest.raises(ValueError, match=r"would keep 100000000 images, .* use cache='none'"):
        train_batches(Numbered(10**8), batch_size=4, canvas=512, seed=0, cache="memory")


def test_a_container_s_limit_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_cache, "_CGROUP_LIMITS", (tmp_path / "none", tmp_path / "limit"))
    machine = memory_cache.host_memory()
    for text, expected in {"max\n": machine, "1000\n": 1000, f"{10 * machine}": machine}.items():
        (tmp_path / "limit").write_text(text)
        assert memory_cache.host_memory() == expected


PREPROCESS = Preprocess(size=(6, 7))


def evaluate(count, **options):
    return evaluate_source(Numbered(count), **options)


def evaluate_source(source, *, batch_size=4, **options):
    batches = eval_batches(source, batch_size=batch_size, preprocess=PREPROCESS, **options)
    result = list(batches)
    assert len(result) == len(batches)
    return result


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
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, evaluate(count, batch_size=8))


def test_evaluation_can_be_repeated_and_cached():
    source = Numbered(5)
    batches = eval_batches(source, batch_size=2, preprocess=PREPROCESS, cache="memory", workers=1)
    assert_same(list(batches), list(batches))
    assert Counter(source.reads) == dict.fromkeys(range(5), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6, "process_count": 4}, "positive multiple of their number"),
        ({"batch_size": 0}, "positive multiple"),
        ({"process_index": 2, "process_count": 2}, "expected 0 <= index < count"),
        ({"start_step": -1}, "expected 0 or more"),
        ({"workers": -1}, "got workers=-1 .* expected 0 or more"),
        ({"worker_type": "fibre"}, "expected .* 'thread' or 'process'"),
        ({"cache": "disk"}, "expected 'memory' or 'none'"),
        ({"order": Uniform(5, 0)}, "expected one of them"),
        ({"seed": None}, "expected one of them"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        take(Numbered(5), 1, **options)


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="split 'train' of numbered holds no example"):
        take(Numbered(0), 1)


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_an_image_that_breaks_while_loading_is_named(tmp_path, save_image, kind):
    for i in range(6):
        save_image(tmp_path / "in" / "a" / f"{i}.png", seed=i)
    source = open_folder(
        tmp_path / "in", "train", seed=0, validation_fraction=0.2, data_dir=tmp_path
    )
    source.paths[2].write_bytes(b"no image")
    with pytest.raises(decode.CorruptImageError, match=str(source.paths[2])):
        if kind == "train":
            take(source, 3)
        else:
            list(eval_batches(source, batch_size=2, preprocess=PREPROCESS))
