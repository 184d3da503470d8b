"""Batches on devices: those of the host, for every cache; none is lost, all are put ahead."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.support.loading import (
    Failing,
    Files,
    Numbered,
    OddError,
    Tasked,
    assert_same,
    device_eval,
    encoded,
    evaluate,
    on_host,
    placed,
    sharding,
)
from tl_jax.data.loading import device_batches, device_cache
from tl_jax.data.loading.order import Balanced


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (13, 4), (3, 8), (1, 2)])
def test_every_cache_gives_the_batches_of_the_host_from_any_step(cache, count, batch_size):
    options = {"batch_size": batch_size, "start_step": 5}
    batches = placed(Numbered(count), 12, cache=cache, **options)
    assert_same(batches, on_host(Numbered(count), 12, **options))
    assert all(array.sharding == sharding() for array in batches[0].values())


@pytest.mark.parametrize("cache", ["memory", "device"])
def test_the_labels_of_all_tasks_and_other_orders(cache):
    source = Tasked(6)
    order = Balanced(np.array([0, 0, 0, 0, 1, 1]), 3)
    batches = placed(source, 7, cache=cache, order=order)
    assert_same(batches, on_host(source, 7, order=order))
    assert batches[0]["label"].dtype == np.int8


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
def test_files_are_decoded_in_full_where_asked(cache):
    source = Files(encoded(Image.new("RGB", (40, 20))))
    placed(source, 1, batch_size=1, cache=cache, fast_jpeg=False)
    assert source.encoded_reads == 0
    placed(source, 1, batch_size=1, cache=cache)
    assert source.encoded_reads > 0


def test_what_fits_nowhere_is_refused(monkeypatch):
    monkeypatch.setattr(device_cache, "host_memory", lambda: 2**30)
    message = (
        r"cache='device' would keep 100000000 images, .* GiB, in devices of 1.0 GiB; "
        "use cache='memory' or 'none'"
    )
    with pytest.raises(ValueError, match=message):
        placed(Numbered(10**8), 1, cache="device")
    with pytest.raises(ValueError, match=message):
        device_eval(Numbered(10**8), sharding(), cache="device")


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
def test_errors_of_reading_arrive(cache):
    with pytest.raises(OddError, match="on fire"):
        placed(Failing(9), 9, cache=cache)


class Counted:
    """Batches that count how many were taken, and note whether they were closed."""

    def __init__(self, count):
        self.count, self.taken, self.closed = count, 0, False

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken == self.count:
            raise StopIteration
        self.taken += 1
        return {"label": np.full(2, self.taken)}

    def close(self):
        self.closed = True


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_batches_are_put_ahead_and_none_is_lost(depth):
    batches = Counted(7)
    ahead = device_batches.prefetch(batches, sharding(), depth=depth)
    assert batches.taken == 0
    for number in range(1, 8):
        assert next(ahead)["label"].tolist() == [number, number]
        assert batches.taken == min(number + depth, 7)
    assert list(ahead) == []
    assert batches.closed


def test_a_loop_that_stops_early_closes_the_batches():
    batches = Counted(7)
    for batch in device_batches.prefetch(batches, sharding(), depth=2):
        assert batch["label"].tolist() == [1, 1]
        break
    assert batches.closed


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
@pytest.mark.parametrize("count", [1, 8, 13])
def test_every_example_is_evaluated_once_in_every_pass(cache, count):
    source, expected = Numbered(count), evaluate(count)
    batches = device_eval(source, sharding(), cache=cache)
    for _ in batches:
        break  # The batches of an incomplete pass are not kept.
    assert len(batches) == len(expected)
    source.reads.clear()
    for _ in range(3):
        assert_same(list(batches), expected)
    reads = Counter(source.reads)
    if cache == "memory":  # Some were read by the pass that was stopped.
        assert max(reads.values(), default=0) <= 1
    else:
        assert reads == dict.fromkeys(range(count), 3 if cache == "none" else 1)
