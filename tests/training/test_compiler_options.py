"""Options of the compiler: for which machine and version, and that its programs take them."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tl_jax.training import compiler_options, sharding

WIDE = {"xla_cpu_prefer_vector_width": 512}


@pytest.fixture
def processor(monkeypatch):
    """A function that sets the features of this machine's processor."""
    compiler_options._has_wide_vectors.cache_clear()
    monkeypatch.setattr(Path, "exists", lambda path: True)

    def has(flags: str) -> None:
        monkeypatch.setattr(Path, "read_text", lambda path, **_: f"model : x\nflags : {flags}\n")

    yield has
    compiler_options._has_wide_vectors.cache_clear()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2 avx512f avx512_bf16", WIDE), ("fpu avx2 avx512f", None), ("fpu", None)],
)
def test_wide_vectors_are_for_processors_that_are_not_slowed_by_them(flags, expected, processor):
    processor(flags)
    assert compiler_options.for_mesh(sharding.data_mesh()) == expected


def test_other_devices_and_unknown_versions_get_none(processor, monkeypatch):
    processor("avx512_bf16")
    gpu = SimpleNamespace(devices=np.asarray([SimpleNamespace(platform="gpu")], object))
    assert compiler_options.for_mesh(gpu) is None
    monkeypatch.setattr(jax, "__version_info__", (0, 99, 0))
    assert compiler_options.for_mesh(sharding.data_mesh()) is None


def test_this_jax_accepts_the_option():
    x = np.ones(3, np.float32)
    assert jax.jit(lambda x: x + 1, compiler_options=WIDE)(x).tolist() == [2, 2, 2]
