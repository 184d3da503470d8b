"""Tests that networks are traced for their shapes within a context, and only there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.tiny import TinyNet
from tl_jax.models import layers


def traced() -> str:
    """Returns the traced initialisation of a network, by a function that nothing else traces."""
    return str(
        jax.make_jaxpr(lambda x: TinyNet().init(jax.random.key(0), x))(jnp.ones((1, 8, 8, 3)))
    )


def test_for_shapes_no_kernel_is_drawn_and_nothing_is_normalised():
    with layers.as_shapes():
        shapes_only = traced()
    complete = traced()
    for operation in ("erf_inv", "rsqrt"):
        assert operation in complete
        assert operation not in shapes_only


def test_a_context_ends_with_an_error_too():
    with pytest.raises(RuntimeError), layers.as_shapes():
        raise RuntimeError
    variables = TinyNet().init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    assert np.std(variables["params"]["conv1"]["kernel"]) > 0.01
