"""Tests of modules' outputs by name: values, shapes, and the order of calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.support.tiny import CLASSES, TinyNet, batch, randomised
from tl_jax.models import layers
from tl_jax.models.outputs import features, logits_and_features, output_shapes, recording
from tl_jax.models.variables import abstract_variables


class Twice(nn.Module):
    """One layer that is called twice, and one that returns two arrays."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        twice = nn.Dense(x.shape[-1], name="twice")
        return Two(name="two")(twice(twice(x)))[0]


class Two(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x, 2 * x


@pytest.fixture(scope="module")
def variables():
    return randomised(TinyNet())


def test_features_are_the_modules_outputs_in_the_order_asked_for(variables):
    images = batch()["image"]
    maps = features(TinyNet(), variables, images, at=["fc", "block.conv", "conv1"])
    assert list(maps) == ["fc", "block.conv", "conv1"]
    assert maps["conv1"].shape == maps["block.conv"].shape == (8, 4, 4, 4)
    kernel = variables["params"]["conv1"]["kernel"]
    expected = layers.convolve(images, kernel, stride=2, padding="symmetric")
    np.testing.assert_allclose(maps["conv1"], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(maps["fc"], TinyNet().apply(variables, images))


def test_features_may_be_jitted_and_come_with_the_logits(variables):
    images = batch()["image"]
    run = jax.jit(lambda v, x: logits_and_features(TinyNet(), v, x, ["block"]))
    logits, maps = run(variables, images)
    np.testing.assert_allclose(logits, TinyNet().apply(variables, images), rtol=1e-5)
    expected = features(TinyNet(), variables, images, ["block"])["block"]
    np.testing.assert_allclose(maps["block"], expected, rtol=1e-5, atol=1e-6)


def test_no_names_give_no_features(variables):
    assert features(TinyNet(), variables, batch()["image"], at=[]) == {}


@pytest.mark.parametrize(("name", "meant"), [("block.cnv", "block.conv"), ("bn", "bn1")])
def test_an_unknown_module_is_an_error_that_names_the_nearest(variables, name, meant):
    with pytest.raises(ValueError, match=rf"no module '{name}'; did you mean '{meant}'"):
        features(TinyNet(), variables, batch()["image"], at=["fc", name])


def test_shapes_are_those_of_every_module_and_call():
    variables = abstract_variables(TinyNet())
    shapes = output_shapes(TinyNet(), variables, (5, 16, 8, 3))
    assert list(shapes) == [
        (), ("conv1",), ("bn1",), ("block",), ("block", "conv"), ("block", "bn"),
        ("block", "drop_path"), ("drop",), ("fc",),
    ]  # fmt: skip
    assert shapes["block", "conv"] == [jax.ShapeDtypeStruct((5, 8, 4, 4), jnp.float32)]
    assert shapes[()] == shapes["fc",] == [jax.ShapeDtypeStruct((5, CLASSES), jnp.float32)]


def test_a_module_that_is_called_twice_has_two_outputs_and_gives_its_first_as_a_feature():
    images = jnp.arange(6.0).reshape(2, 3)
    variables = Twice().init(jax.random.key(0), images)
    shapes = output_shapes(Twice(), variables, (2, 3))
    assert len(shapes["twice",]) == 2
    assert [y.shape for y in shapes["two",][0]] == [(2, 3), (2, 3)]
    first = images @ variables["params"]["twice"]["kernel"]
    twice = features(Twice(), variables, images, ["twice"])["twice"]
    np.testing.assert_allclose(twice, first, rtol=1e-6)


def test_the_recording_tells_what_was_called_within_and_after_what():
    with recording() as calls:
        abstract_variables(TinyNet())
    call = {call.path: call for call in calls}
    assert calls == sorted(calls, key=lambda call: call.start)
    assert call["block",].start < call["block", "conv"].start
    assert call["block", "drop_path"].end < call["block",].end < call["fc",].start
    assert call[()].end == 2 * len(calls)


def test_nothing_is_recorded_outside(variables):
    with recording() as calls:
        pass
    TinyNet().apply(variables, batch()["image"])
    assert calls == []
