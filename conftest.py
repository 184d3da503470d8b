"""Set-up of tests and docstring examples: the CPU, a compilation cache, temporary folders."""

import gc
import os
from pathlib import Path

# Before JAX is first imported: an accelerator would change the numbers that are compared.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most programs run once or twice, so what makes them fast costs more time than it saves: LLVM's
# optimisations, code for fusions by way of MLIR (most of the time of compiling), and parts of a
# program for several threads. `make test-full` compiles fusions as users do. Flags from the
# environment come last and take precedence.
os.environ.setdefault(
    "TL_JAX_TEST_XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
)
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ["TL_JAX_TEST_XLA_FLAGS"], os.environ.get("XLA_FLAGS", "")]
).strip()
# Parallel workers would start more threads of torch and BLAS than there are cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compilation takes most of the time: compiled programs are kept on disk for other tests and runs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
# Tests run side by side, so each gives its memory back.
os.environ.setdefault("TL_JAX_KEEP_MEMORY", "0")
# Whether oneDNN is installed changes no test but those that switch it on.
os.environ.setdefault("TL_JAX_ONEDNN", "off")

import pytest


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from what the libraries hold, and from each traced equation."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@pytest.fixture(autouse=True)
def examples_in_a_temporary_folder(request: pytest.FixtureRequest) -> None:
    """Runs each docstring example in its own temporary folder, where it may leave files."""
    if isinstance(request.node, pytest.DoctestItem):
        folder = request.getfixturevalue("tmp_path")
        request.getfixturevalue("monkeypatch").chdir(folder)
