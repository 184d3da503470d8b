"""Puts a process's part of a batch on its devices."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding


def put(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Places this process's part of a global batch on its devices, without waiting for it."""
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
