"""Tests of the names and layouts that state dicts have in torch."""

import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.weights.state_dict import (
    StateDictError,
    slots_of_variables,
    to_flax,
    to_state_dict,
    torch_key,
)


def variables() -> dict:
    """A convolution, a norm with statistics, a dense layer and a bare parameter."""
    return {
        "params": {
            "layer1": {"0": {"conv1": {"kernel": jnp.arange(24.0).reshape(3, 2, 2, 2)}}},
            "bn1": {"scale": jnp.ones(2), "bias": jnp.zeros(2)},
            "fc": {"kernel": jnp.arange(10.0).reshape(2, 5), "bias": jnp.arange(5.0)},
            "block": {"gamma": jnp.full(2, 1e-6)},
        },
        "batch_stats": {"bn1": {"mean": jnp.arange(2.0), "var": jnp.ones(2)}},
    }


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (("params", "layer4", "0", "conv1", "kernel"), "layer4.0.conv1.weight"),
        (("params", "features.0", "bias"), "features.0.bias"),
        (("params", "bn1", "scale"), "bn1.weight"),
        (("batch_stats", "bn1", "mean"), "bn1.running_mean"),
        (("batch_stats", "bn1", "var"), "bn1.running_var"),
        (("params", "block", "gamma"), "block.gamma"),
    ],
)
def test_torch_keys(path, key):
    assert torch_key(path) == key


def test_kernels_have_torchs_layout_and_all_else_its_own():
    state_dict, given = to_state_dict(variables()), variables()["params"]
    kernel = given["layer1"]["0"]["conv1"]["kernel"]
    np.testing.assert_array_equal(
        state_dict["layer1.0.conv1.weight"], np.transpose(kernel, (3, 2, 0, 1))
    )
    np.testing.assert_array_equal(state_dict["fc.weight"], given["fc"]["kernel"].T)
    np.testing.assert_array_equal(state_dict["block.gamma"], given["block"]["gamma"])
    assert {slot.key: slot.torch_shape for slot in slots_of_variables(variables())} == {
        key: array.shape for key, array in state_dict.items()
    }


def test_what_comes_back_is_what_was_converted():
    state_dict = to_state_dict(variables())
    flat = to_flax(slots_of_variables(variables()), state_dict)
    again = {torch_key(path): array for path, array in flat.items()}
    assert again.keys() == state_dict.keys()
    np.testing.assert_array_equal(
        flat["params", "layer1", "0", "conv1", "kernel"],
        variables()["params"]["layer1"]["0"]["conv1"]["kernel"],
    )


def test_a_state_dict_must_hold_what_the_slots_take_and_no_more():
    slots = slots_of_variables(variables())
    state_dict = to_state_dict(variables())
    with pytest.raises(StateDictError, match="1 unused: bn1.running_mean"):
        to_flax([slot for slot in slots if slot.key != "bn1.running_mean"], state_dict)
    del state_dict["fc.bias"]
    with pytest.raises(StateDictError, match="1 missing: fc.bias"):
        to_flax(slots, state_dict)
