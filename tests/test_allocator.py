"""Memory that is kept for the next step: where, and by whose choice."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tl_jax import allocator

ROOT = Path(__file__).parents[1]
HAS_GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
on_glibc = pytest.mark.skipif(not HAS_GLIBC, reason="of glibc's allocator")

# Pages that the second of two blocks of 200 MB takes anew from the system.
CODE = """
import resource
from tl_jax import allocator

kept = allocator.keep_memory()
bytearray(200 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(200 * 2**20)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(tmp_path: Path, **variables: str) -> tuple[bool, int]:
    """Returns whether memory is kept in a process with these variables, and its page faults."""
    chosen = ("MALLOC_", "GLIBC_", "LD_PRELOAD", "TL_JAX_", "JAX_", "PYTHONPATH")
    rest = {name: value for name, value in os.environ.items() if not name.startswith(chosen)}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(
        command, cwd=ROOT, env=rest | variables, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@on_glibc
def test_a_block_is_taken_from_the_system_once(tmp_path):
    kept, faults = run(tmp_path, JAX_PLATFORMS="cpu")
    assert kept and faults < 100
    kept, faults = run(tmp_path, JAX_PLATFORMS="cpu", TL_JAX_KEEP_MEMORY="0")
    assert not kept and faults > 100


@on_glibc
@pytest.mark.parametrize(
    "variables",
    [{"JAX_PLATFORMS": "cuda,cpu"}, {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "2"}],
)
def test_accelerators_and_the_users_allocator_are_left_alone(variables, tmp_path):
    assert not run(tmp_path, **variables)[0]
    assert run(tmp_path, **variables, TL_JAX_KEEP_MEMORY="1")[0]


@on_glibc
def test_a_plugin_of_jax_is_an_accelerator(tmp_path):
    (tmp_path / "jax_plugins").mkdir()
    assert not run(tmp_path, PYTHONPATH=str(tmp_path))[0]


def test_a_switch_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("TL_JAX_KEEP_MEMORY", "yes")
    with pytest.raises(ValueError, match="TL_JAX_KEEP_MEMORY=yes; expected 1"):
        allocator.keep_memory()
