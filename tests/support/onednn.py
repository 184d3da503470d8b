"""oneDNN's convolutions in tests: whether they can be used here, plain peers, other processes."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tl_jax import onednn
from tl_jax.models.layers.convolution import convolution
from tl_jax.onednn.library import Library, load

Pads = tuple[tuple[int, int], tuple[int, int]]
# Shape of maps, of the kernel, stride, pads.
Case = tuple[Sequence[int], Sequence[int], int, Pads]


def loaded() -> Library:
    """Returns the library; skips a test, with the reason, where it cannot be used."""
    library = load()
    if not isinstance(library, Library):
        pytest.skip(str(library))
    return library


def is_used(function, *args) -> bool:
    """Returns whether the compiled function calls oneDNN."""
    return "tl_jax_onednn_" in jax.jit(function).lower(*args).as_text()


def plain(x: jax.Array, kernel: jax.Array, *, stride: int, pads: Pads) -> jax.Array:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        feature_group_count=x.shape[3] // kernel.shape[2],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def operands(case: Case, seed: int = 0, dtype=jnp.float32) -> tuple[jax.Array, jax.Array]:
    """Returns random maps and a random kernel."""
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in case[:2])  # type: ignore[return-value]


def on_four_devices(folder: Path) -> None:
    """Runs convolutions in a process of four devices: divided by XLA, and within `shard_map`."""
    del folder
    mesh = Mesh(np.asarray(jax.devices()), ("batch",))
    case: Case = ((8, 9, 9, 16), (3, 3, 16, 16), 1, ((1, 1), (1, 1)))
    x, kernel = operands(case)
    expected = plain(x, kernel, stride=1, pads=case[3])

    def ours(x, kernel):
        return convolution(x, kernel, stride=1, pads=case[3])

    images = PartitionSpec("batch")
    mapped = jax.shard_map(ours, mesh=mesh, in_specs=(images, PartitionSpec()), out_specs=images)
    with onednn.switched("on"):
        spread = jax.device_put(x, NamedSharding(mesh, images))
        whole = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
        assert not is_used(ours, spread, whole)
        assert is_used(mapped, spread, whole)
        for function in (ours, mapped):
            y = jax.jit(function)(spread, whole)
            np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
