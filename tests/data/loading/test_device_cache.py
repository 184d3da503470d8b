"""Images that stay on the devices: read once, split or copied, gathered without the host."""

import json
from collections import Counter
from types import SimpleNamespace

import jax
import pytest

from tests.support import devices
from tests.support.loading import Numbered, assert_same, on_host, placed, sharding
from tl_jax.data.loading import device_cache
from tl_jax.data.loading.device_cache import DeviceCache
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.order import Uniform
from tl_jax.data.loading.readers import TrainReader


def test_the_images_on_the_devices_were_read_once():
    source = Numbered(7)
    placed(source, 20, cache="device")
    assert Counter(source.reads) == dict.fromkeys(range(7), 1)


def test_an_epoch_takes_nothing_from_the_host():
    cache = DeviceCache(TrainReader(Numbered(20), 8), sharding(), LoadOptions(4, workers=0))
    batches = cache.batches(Uniform(20, 0))
    next(batches)
    with jax.transfer_guard("disallow_explicit"):
        rest = [next(batches) for _ in range(4)]
        with pytest.raises(jax.errors.JaxRuntimeError, match="host-to-device"):
            next(batches)  # The next epoch's order.
    assert_same(rest, on_host(Numbered(20), 5)[1:])


@pytest.mark.slow
def test_four_devices_give_the_batches_of_one_and_share_the_images(tmp_path):
    devices.run_on_devices(devices.read_from_device_caches, tmp_path)
    assert json.loads((tmp_path / "rows.json").read_text()) == {
        "False 13": [13] * 4,
        "False 3": [3] * 4,
        "False 5": [5] * 4,
        "True 13": [4] * 4,
        "True 3": [1] * 4,
        "True 5": [2] * 4,
    }


@pytest.mark.parametrize(
    ("devices", "limit", "is_split"), [(4, 48_000, False), (4, 47_999, True), (1, 12_000, False)]
)
def test_images_are_split_where_copies_would_take_too_much(devices, limit, is_split):
    assert device_cache.must_split(12_000, limit, devices=devices) == is_split


def test_the_memory_is_that_of_the_smallest_device():
    fakes = [SimpleNamespace(memory_stats=lambda n=n: {"bytes_limit": n}) for n in (300, 200)]
    fake_sharding = SimpleNamespace(mesh=SimpleNamespace(local_devices=fakes))
    assert device_cache.device_memory(fake_sharding) == 200
    assert device_cache.device_memory(sharding()) == device_cache.host_memory()


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="got start_step=-1"):
        placed(Numbered(7), 1, cache="device", start_step=-1)
