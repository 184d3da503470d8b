"""What all networks promise: the peer's numbers, names, fresh weights and drop rates, and types."""

import contextlib
import functools
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.support.families import PAIRS
from tests.support.peers import (
    abstract_images,
    abstract_output,
    calls_in_training,
    check_bfloat16,
    check_drop_paths,
    check_fresh,
    errors_in_float32,
    errors_in_float64,
    random_variables,
)
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.families import efficientnet, resnet
from tl_jax.models.registry import FAMILIES
from tl_jax.models.variables import abstract_variables
from tl_jax.weights.state_dict import to_state_dict

# torch keeps some constants, such as those of hard swish, in float32.
TOLERANCE_FLOAT64 = 1e-7
# In float32 rounding pushes a few pre-activations across zero, which moves the gradient.
TOLERANCE_FLOAT32, TOLERANCE_FLOAT32_GRADIENT = 1e-5, 1e-2
# So wide that XLA's float64 convolutions, which are plain loops, take long.
WIDE = ("inception_v3", "inception_v4", "inception_resnet_v2", "xception")
# What they add to the others is an average pooling, and a combination of blocks.
RARE = ("resnet, averages", "nf_ecaresnet")
CLASSIC = ("googlenet", "inception_v3", "inception_v4", "inception_resnet_v2", "squeezenet",
           "shufflenetv2", "xception")  # fmt: skip
WITHOUT_PAIR = {
    "simple_cnn": "compared with torch's layers",
    "alexnet": "compared as a whole",
    "hardcorenas": "MobileNetV3 of other definitions",
}
# Grouped and depthwise convolutions in the form for CPUs, which takes longer to compile.
ON_CPU = ("regnet y",)
# Together they draw by every initializer that is not torch's default.
FRESH = ("resnet", "bit", "regnet y", "regnet z", "efficientnet, tf", "mobilenetv4, hybrid",
         "convnextv2", "dm_nfnet", "nf_ecaresnet", "densenet")  # fmt: skip
# test_classic_networks.py draws the whole of the others.
DRAWN = [name for name, pair in PAIRS.items() if pair.family not in CLASSIC]
# An optimisation level at which XLA compiles quickly.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

every_pair = pytest.mark.parametrize("name", PAIRS)


def names(*, full: Collection[str], of: Collection[str]) -> list:
    """Returns names of pairs as parameters; those in `full` run with `make test-full` only."""
    return [pytest.param(name, marks=pytest.mark.full) if name in full else name for name in of]


def test_every_family_has_a_tiny_network():
    assert {pair.family for pair in PAIRS.values()} == FAMILIES.keys() - WITHOUT_PAIR.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", names(full=[*RARE, *WIDE], of=PAIRS))
def test_numbers_and_export_equal_the_peers(name):
    """Logits, stages, the stem's gradient, training logits and statistics, in float64."""
    with contextlib.nullcontext() if name in ON_CPU else layers.convolution_form("general"):
        errors = errors_in_float64(PAIRS[name])
    assert {key: e for key, e in errors.items() if not e <= TOLERANCE_FLOAT64} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_numbers_and_export_of_wide_networks_equal_the_peers(name):
    """The same in float32."""
    with layers.convolution_form("general"):
        errors = errors_in_float32(PAIRS[name])
    assert errors.pop("gradient") <= TOLERANCE_FLOAT32_GRADIENT
    assert {key: e for key, e in errors.items() if not e <= TOLERANCE_FLOAT32} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", names(full=[n for n in DRAWN if n not in FRESH], of=DRAWN))
def test_fresh_weights_are_drawn_as_the_peers(name):
    pair = PAIRS[name]
    torch.manual_seed(0)
    theirs = pair.peer().state_dict()
    if name == "resnet":
        # timm leaves the biases of the attention at torch's random default; here they start at 0.
        theirs = {k: v for k, v in theirs.items() if not (".se." in k and k.endswith("bias"))}
    key = jax.random.key(0, impl="unsafe_rbg")  # It compiles in less time than the default.
    images = jnp.zeros((1, *pair.size, 3))
    ours = to_state_dict(jit(pair.network.init)(key, images))
    check_fresh(ours, theirs, classifier=pair.network.classifier)


@every_pair
def test_bfloat16_maps_and_float32_variables_and_logits_of_any_channels(name):
    model = PAIRS[name].network.clone(in_channels=1)
    variables, _ = check_bfloat16(model, abstract_images(model, *PAIRS[name].size))
    flat = {trees.dotted(path): leaf for path, leaf in trees.flatten(variables["params"]).items()}
    assert flat[f"{PAIRS[name].architecture.stem}.kernel"].shape[2] == 1


@every_pair
def test_training_layers_are_told_the_mode_and_drop_as_the_peers(name):
    """The freezing of layers rests on the keyword."""
    pair = PAIRS[name]
    rates = {"drop_path_rate": 0.2} if pair.network.stochastic_depth else {}
    model = pair.network.clone(drop_rate=0.5, **rates)
    calls = calls_in_training(model, abstract_images(model, *pair.size))
    assert all(call.keywords == {"train": True} for call in calls)
    assert any(isinstance(call.layer, layers.Dropout) for call in calls)
    check_drop_paths(calls, pair.peer(**rates), drops=pair.drops)
    if not rates:
        with pytest.raises(ValueError, match=r"drop_path_rate is 0\.2.*no residual branch"):
            pair.network.clone(drop_path_rate=0.2)


@every_pair
def test_the_top_is_left_out(name):
    network = PAIRS[name].network
    headless = network.clone(num_classes=0)
    bare = headless.clone(global_pool="")
    every, features, body = (
        set(trees.names(abstract_variables(model)["params"])) for model in (network, headless, bare)
    )
    assert every - features == {f"{network.classifier}.kernel", f"{network.classifier}.bias"}
    assert body <= features


TINY = {
    "resnet": resnet.ResNet(
        block=resnet.Bottleneck, depths=(1, 1), widths=(8, 16), num_classes=5,
        drop_rate=0.5, drop_path_rate=0.5,
    ),
    "efficientnet": efficientnet.EfficientNet(
        definition=(("ds_r1_k3_s1_c8_se0.25",), ("ir_r2_k3_s2_e2_c8_se0.25",)), stem=8, head=16,
        padding="same", num_classes=5, drop_rate=0.5, drop_path_rate=0.5,
    ),
}  # fmt: skip
IMAGES = np.random.default_rng(0).normal(size=(2, 33, 47, 3)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY)
def test_bfloat16_rounds_and_training_is_random(family):
    """One program for evaluation in both types, and for training by two keys."""
    model = TINY[family]
    headless = model.clone(num_classes=0, global_pool="")

    @jit
    def run(variables: dict) -> tuple[jax.Array, ...]:
        half = headless.clone(dtype=jnp.bfloat16).apply(variables, IMAGES)
        exact = headless.apply(variables, IMAGES)
        trained = [
            model.apply(
                variables, IMAGES, train=True, mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(seed)},
            )[0]
            for seed in (1, 2)
        ]  # fmt: skip
        return (
            half,
            exact,
            layers.global_average(exact),
            model.clone(num_classes=0).apply(variables, IMAGES),
            *trained,
        )

    half, exact, average, pooled, first, second = run(random_variables(model))
    assert half.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(half, np.float32) - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.05
    np.testing.assert_allclose(average, pooled, rtol=1e-5, atol=1e-6)
    assert not np.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"global_pool": "max"}, "use 'avg'"),
        ({"global_pool": ""}, "set num_classes=0"),
        ({"num_classes": -1}, "use 0 for no classifier"),
        ({"in_channels": 0}, "at least 1"),
        ({"drop_rate": 1.0}, "drop_rate is 1.0"),
        ({"drop_path_rate": -0.1}, "drop_path_rate is -0.1"),
    ],
)
def test_contradictory_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TINY["resnet"].clone(**fields)


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"takes images \[batch, height, width, 3\]"):
        abstract_output(TINY["resnet"], jax.ShapeDtypeStruct((2, 33, 47, 4), jnp.float32))
