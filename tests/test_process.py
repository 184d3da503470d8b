"""What a process sets before it computes, and what it leaves when it has."""

import sys

import jax
import pytest

from tests.support.slim import run_python
from tl_jax import allocator, process


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's allocator")
def test_kept_memory_and_dispatch_are_set_together():
    code = """
    import os

    os.environ.update(JAX_PLATFORMS="cpu", TL_JAX_KEEP_MEMORY="1")
    import jax
    from tl_jax import allocator, process

    before = jax.config.jax_num_cpu_devices
    process.prepare()
    is_async = jax.config.values["jax_cpu_enable_async_dispatch"]
    print(is_async, jax.config.jax_num_cpu_devices == before)
    """
    done = run_python(code)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_nothing_is_set_after_the_first_computation(monkeypatch):
    jax.devices()
    calls = []
    monkeypatch.setattr(allocator, "keep_memory", lambda: calls.append(True))
    process.prepare()
    assert calls == []
    assert jax.config.values["jax_cpu_enable_async_dispatch"]
