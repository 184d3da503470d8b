"""Images that stay on the devices: read once, shared out, gathered without the host."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import pytest

from tests.data.loading.test_device_batches import on_host, placed, sharding
from tests.data.loading.test_host_batches import PREPROCESS, Numbered, Tasked, assert_same
from tl_jax.data.loading import device_batches, device_cache, host_batches
from tl_jax.data.loading.device_cache import DeviceCache
from tl_jax.data.loading.order import Uniform
from tl_jax.data.loading.readers import TrainReader
from tl_jax.data.loading.workers import Workers

ROOT = Path(__file__).parents[2]
DEVICES = 4


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
    evaluated = device_batches.eval_batches(
        Numbered(13), batch_size=8, preprocess=PREPROCESS, sharding=four, cache="device"
    )
    expected = list(host_batches.eval_batches(Numbered(13), batch_size=8, preprocess=PREPROCESS))
    for _ in range(2):
        assert_same(list(evaluated), expected)


def test_four_devices_give_the_batches_of_one_and_share_the_images(tmp_path):
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    program = (
        "import sys, pathlib; from tests.data.loading.test_device_cache import main; "
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
