"""Batches on devices: the loader's, whatever is kept where; nothing lost, nothing held back."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.data.test_loader import PREPROCESS, Failing, Numbered, OddError, Tasked, assert_same
from tl_jax.data import device_cache, loader
from tl_jax.data.device_cache import DeviceCache, prefetch
from tl_jax.data.reader import TrainReader, Workers
from tl_jax.data.sampling import Balanced, Uniform

ROOT = Path(__file__).parents[2]
DEVICES = 4


def sharding(count=1):
    return NamedSharding(Mesh(np.asarray(jax.devices()[:count]), ("data",)), PartitionSpec("data"))


def placed(source, count, *, batch_size=4, order=None, **options):
    order = order or Uniform(len(source), 0)
    batches = device_cache.train_batches(
        source, batch_size=batch_size, canvas=8, order=order, sharding=sharding(), **options
    )
    return list(itertools.islice(batches, count))


def on_host(source, count, *, batch_size=4, **options):
    options = {"seed": 0} | options
    batches = loader.train_batches(source, batch_size=batch_size, canvas=8, workers=0, **options)
    return list(itertools.islice(batches, count))


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (13, 4), (3, 8), (1, 2)])
def test_every_cache_gives_the_loader_s_batches_from_any_step(cache, count, batch_size):
    options = {"batch_size": batch_size, "start_step": 5}
    found = placed(Numbered(count), 12, cache=cache, **options)
    assert_same(found, on_host(Numbered(count), 12, **options))
    assert all(array.sharding == sharding() for array in found[0].values())


@pytest.mark.parametrize("cache", ["memory", "device"])
def test_the_labels_of_all_tasks_and_other_orders(cache):
    source = Tasked(6)
    order = Balanced(np.array([0, 0, 0, 0, 1, 1]), 3)
    found = placed(source, 7, cache=cache, order=order)
    assert_same(found, on_host(source, 7, seed=None, order=order))
    assert found[0]["label"].dtype == np.int8


def test_the_images_on_the_devices_were_read_once():
    source = Numbered(7)
    placed(source, 20, cache="device")
    assert Counter(source.reads) == dict.fromkeys(range(7), 1)


def test_an_epoch_takes_nothing_from_the_host():
    kept = DeviceCache(TrainReader(Numbered(20), 8), sharding(), workers=Workers(0))
    batches = kept.train_batches(Uniform(20, 0), batch_size=4)
    next(batches)
    with jax.transfer_guard("disallow_explicit"):
        rest = [next(batches) for _ in range(4)]
        with pytest.raises(jax.errors.JaxRuntimeError, match="host-to-device"):
            next(batches)  # The next epoch's order.
    assert_same(rest, on_host(Numbered(20), 5)[1:])


def main(folder: Path) -> None:
    """What runs in the process of four devices: compares there, and leaves the places of rows."""
    four = sharding(DEVICES)
    rows = {}
    for split, source in itertools.product((False, True), (Numbered(13), Tasked(3))):
        kept = DeviceCache(TrainReader(source, 8), four, workers=Workers(0), split=split)
        order = Uniform(len(source), 0)
        batches = kept.train_batches(order, batch_size=8, start_step=2)
        found = list(itertools.islice(batches, 9))
        assert_same(found, on_host(source, 9, batch_size=8, start_step=2))
        assert all(array.sharding == four for array in found[0].values())
        image = kept._arrays["image"]
        rows[f"{split} {len(source)}"] = [len(part.data) for part in image.addressable_shards]
    (folder / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="batch_size=6 over 4 devices"):
        kept.train_batches(order, batch_size=6)
    evaluated = device_cache.eval_batches(
        Numbered(13), batch_size=8, preprocess=PREPROCESS, sharding=four, cache="device"
    )
    expected = list(loader.eval_batches(Numbered(13), batch_size=8, preprocess=PREPROCESS))
    for _ in range(2):
        assert_same(list(evaluated), expected)


def test_four_devices_give_the_batches_of_one_and_share_the_images(tmp_path):
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    program = (
        "import sys, pathlib; from tests.data.test_device_cache import main; "
        "main(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "rows.json").read_text()) == {
        "False 13": [13] * 4,
        "False 3": [3] * 4,
        "True 13": [4] * 4,
        "True 3": [1] * 4,
    }


class Fake:
    """A device of a given size."""

    def __init__(self, limit):
        self.limit = limit

    def memory_stats(self):
        return {"bytes_limit": self.limit}


class FakeMesh:
    def __init__(self, devices, limit):
        self.size, self.local_devices = devices, [Fake(limit)] * devices


@pytest.mark.parametrize(
    ("devices", "limit", "split"), [(4, 48_000, False), (4, 47_999, True), (1, 12_000, False)]
)
def test_images_are_split_where_copies_would_take_too_much(devices, limit, split):
    # 100 images of 8 * 5 * 3 bytes are 12,000.
    class FakeSharding:
        mesh = FakeMesh(devices, limit)

    assert device_cache._must_split(100, (8, 5, 3), FakeSharding) == split


def test_what_fits_nowhere_is_refused(monkeypatch):
    monkeypatch.setattr(device_cache, "host_memory", lambda: 2**30)
    message = (
        r"cache='device' would keep 100000000 images, .* GiB, in devices of 1.0 GiB; "
        "use cache='memory' or 'none'"
    )
    with pytest.raises(ValueError, match=message):
        placed(Numbered(10**8), 1, cache="device")
    with pytest.raises(ValueError, match=message):
        device_cache.eval_batches(
            Numbered(10**8),
            batch_size=4,
            preprocess=PREPROCESS,
            sharding=sharding(),
            cache="device",
        )


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
def test_errors_of_reading_arrive(cache):
    with pytest.raises(OddError, match="on fire"):
        placed(Failing(9), 9, cache=cache)


class Counted:
    """Batches that note how many were taken, and whether they were closed."""

    def __init__(self, count):
        self.left, self.taken, self.closed = count, 0, False

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken == self.left:
            raise StopIteration
        self.taken += 1
        return {"label": np.full(2, self.taken)}

    def close(self):
        self.closed = True


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_batches_are_on_their_way_ahead_and_none_is_lost(depth):
    batches = Counted(7)
    ahead = prefetch(batches, sharding(), depth=depth)
    assert batches.taken == 0
    for number in range(1, 8):
        assert next(ahead)["label"].tolist() == [number, number]
        assert batches.taken == min(number + depth, 7)
    assert list(ahead) == []
    assert batches.closed


def test_who_stops_early_closes_the_batches():
    batches = Counted(7)
    for batch in prefetch(batches, sharding()):
        assert batch["label"].tolist() == [1, 1]
        break
    assert batches.closed
    with pytest.raises(ValueError, match="got depth=-1"):
        prefetch(batches, sharding(), depth=-1)


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
@pytest.mark.parametrize("count", [1, 3, 8, 13])
def test_every_example_is_evaluated_once_in_every_pass(cache, count):
    source = Numbered(count)
    batches = device_cache.eval_batches(
        source, batch_size=4, preprocess=PREPROCESS, sharding=sharding(), cache=cache
    )
    for _ in batches:
        break  # A pass that ends early is none.
    expected = list(loader.eval_batches(Numbered(count), batch_size=4, preprocess=PREPROCESS))
    assert len(batches) == len(expected)
    source.reads.clear()
    for _ in range(3):
        assert_same(list(batches), expected)
    reads = Counter(source.reads)
    if cache == "memory":  # What was read before the first pass ended is kept.
        assert max(reads.values(), default=0) <= 1
    else:
        assert reads == dict.fromkeys(range(count), 3 if cache == "none" else 1)
