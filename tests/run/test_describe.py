"""What a run says of itself in its first lines."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.support.runs import change, make_config, tiny_networks
from tl_jax import processor
from tl_jax.run.describe import class_counts, describe_devices
from tl_jax.run.experiment import Experiment


@pytest.fixture(scope="module")
def tiny_experiment(shared_photos, shared_weights):
    """What `tiny_config` makes, once for all cases."""
    with tiny_networks():
        yield Experiment.from_config(make_config(shared_photos, shared_weights))


def mesh(platform: str, *, count: int = 1, **fields) -> SimpleNamespace:
    device = SimpleNamespace(platform=platform, device_kind=f"a {platform}", **fields)
    return SimpleNamespace(devices=np.asarray([device] * count, object), size=count)


@pytest.mark.parametrize(
    ("devices", "dtype", "text"),
    [
        (mesh("cpu"), "float32", "a cpu x1, float32"),
        (mesh("cpu"), "bfloat16", "a cpu x1, bfloat16"),
        (mesh("gpu", compute_capability="9.0"), "float32", "float32 with products in TF32"),
        (mesh("gpu", compute_capability="7.5"), "float32", "a gpu x1, float32"),
        (mesh("tpu", count=8), "float32", "a tpu x8, float32 with products in bfloat16"),
    ],
)
def test_devices_and_precision_are_named(devices, dtype, text):
    said = describe_devices(devices, dtype)
    assert said.endswith(text)
    with jax.default_matmul_precision("highest"):
        assert "with" not in describe_devices(devices, dtype)


def test_a_gpu_that_repeats_its_bits_says_so(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    assert describe_devices(mesh("gpu"), "bfloat16") == "a gpu x1, bfloat16, deterministic"
    assert describe_devices(mesh("cpu"), "bfloat16") == "a cpu x1, bfloat16"


def test_the_first_ten_classes_are_counted():
    names = [f"class{i}" for i in range(12)] + ["x" * 300]
    said = class_counts(names, [0, 0, 3])
    assert said.startswith("class0 2, class1 0, class2 0, class3 1, ")
    assert said.endswith("class9 0 and 3 more")
    assert len(class_counts(["x" * 300, "y"], [0])) < 50


def test_the_first_lines_say_what_was_read_and_decided(tiny_config):
    experiment = Experiment.from_config(change(tiny_config, "data", batch_size=50, shots=3))
    lines = [line.split(maxsplit=1) for line in experiment.description.splitlines()]
    said = dict(lines)
    source = tiny_config.data.source
    assert said["data"] == f"{source}: 6 train, 10 val, 14 test; 2 classes"
    assert said["classes"] == "grüne 3, red ones 3"
    assert said["device"] == f"{jax.devices()[0].device_kind} x{jax.device_count()}, float32"
    assert said["conv"] == "XLA (TL_JAX_ONEDNN is off)"
    notes = [text for name, text in lines if name == "note"]
    assert notes == [
        *experiment.train.notes,
        "a batch of 50 is more than the 6 training images: an epoch is one step, which sees each "
        "image 8.33 times; set data.batch_size to 6 or fewer to see each once",
    ]
    assert [text for name, text in lines if name == "default"] == list(experiment.defaults)
    assert len(lines) < 20
    info = dataclasses.replace(experiment.info, warnings=("nearly black",))
    warned = dataclasses.replace(experiment, info=info).description
    assert "warning  nearly black" in warned.splitlines()


@pytest.mark.parametrize(
    ("flags", "dtype", "is_warned"),
    [
        ("fpu avx512f avx512_vnni", "bfloat16", True),
        ("fpu avx512f avx512_vnni", "float32", False),
        ("fpu avx512f avx512_bf16", "bfloat16", False),
        ("fpu amx_bf16 amx_tile", "bfloat16", False),
        ("", "bfloat16", False),  # As on systems that do not list them.
    ],
)
def test_bfloat16_is_warned_of_where_the_processor_lacks_it(
    tiny_experiment, monkeypatch, tmp_path, flags, dtype, is_warned
):
    table = tmp_path / "cpuinfo"
    table.write_text(f"vendor_id\t: A\nflags\t\t: {flags}\n\n" if flags else "")
    monkeypatch.setattr(processor, "_TABLE", table)
    config = change(tiny_experiment.config, "model", dtype=dtype)
    said = dataclasses.replace(tiny_experiment, config=config).description
    assert ("no instructions for bfloat16" in said) == is_warned
