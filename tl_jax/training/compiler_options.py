"""Options of XLA's compiler for the programs of a mesh; each program gets its own."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh

from tl_jax import processor

# XLA refuses a program with an option that it does not know. These know the one below.
_FIRST_JAX, _AFTER_LAST_JAX = (0, 10), (0, 12)
# Of processors with AVX-512 those that do not lower their clock for it have this too.
_WIDE_VECTORS = "avx512_bf16"


def for_mesh(mesh: Mesh) -> dict[str, Any] | None:
    """Returns the options for `jax.jit(..., compiler_options=)`; None for XLA's own choice.

    LLVM takes half of the vectors' width by default. The whole width makes a training step of
    depthwise convolutions faster on a CPU, and one of a ResNet as fast as before.

    Examples:
      >>> import numpy as np
      >>> for_mesh(Mesh(np.asarray(jax.devices("cpu")[:1]), ("data",))) in (
      ...     None, {"xla_cpu_prefer_vector_width": 512})
      True
    """
    is_known = _FIRST_JAX <= jax.__version_info__[:2] < _AFTER_LAST_JAX
    is_cpu = mesh.devices.flat[0].platform == "cpu"
    if not (is_known and is_cpu and _has_wide_vectors()):
        return None
    return {"xla_cpu_prefer_vector_width": 512}


@functools.cache
def _has_wide_vectors() -> bool:
    return _WIDE_VECTORS in processor.description().split()
