"""What networks refuse: fields and images that they cannot mean, and images that are too small."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tl_jax.models.registry import create_model
from tl_jax.models.variables import abstract_variables

# For one of each kind of reduction, the side of the smallest square image.
SMALLEST = {
    "simple_cnn": 16,
    "test_convnext": 32,
    "vgg11": 32,
    "torchvision/alexnet": 63,
    "torchvision/squeezenet1_1": 17,
}
MORE = {
    "convnext_nano_ols": 29,
    "densenet121": 29,
    "inception_v3": 75,
    "inception_v4": 75,
    "inception_resnet_v2": 75,
    "legacy_xception": 7,
    "torchvision/googlenet": 15,
    "torchvision/squeezenet1_0": 21,
    "mobilenetv4_conv_aa_medium": 31,
}
# Their maps are rounded up, so that something is left of a single pixel.
ANY_SIZE = ("test_resnet", "resnetv2_18", "regnetx_002", "test_efficientnet", "test_nfnet",
            "lcnet_035", "hardcorenas_a", "torchvision/shufflenet_v2_x0_5")  # fmt: skip
FULL = pytest.mark.full


def output(name: str, *size: int, train: bool = False) -> tuple[int, ...]:
    """Returns the shape of the logits for images of a size, without computing them."""
    model = create_model(name, num_classes=3)
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)

    def apply(variables, images):
        mutable = ["batch_stats"] if train else False
        return model.apply(variables, images, train=train, mutable=mutable)

    result = jax.eval_shape(apply, abstract_variables(model), images)
    return (result[0] if train else result).shape


@functools.cache
def zeros(in_channels: int = 3):
    """Returns a small network and variables of zeros."""
    model = create_model("simple_cnn", num_classes=3, in_channels=in_channels)
    return model, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_variables(model))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"num_classes": "10"}, TypeError, "num_classes is '10', a str; expected a whole number"),
        ({"num_classes": 10.0}, TypeError, "num_classes is 10.0, a float"),
        ({"num_classes": True}, TypeError, "num_classes is True, a bool"),
        ({"num_classes": -1}, ValueError, "num_classes is -1; use 0 for no classifier"),
        ({"in_channels": 0}, ValueError, "in_channels is 0; it must be at least 1"),
        ({"in_channels": None}, TypeError, "in_channels is None"),
        ({"drop_rate": "0.1"}, TypeError, r"drop_rate is '0.1', a str; expected a number in"),
        ({"drop_rate": 2}, ValueError, r"drop_rate is 2; it must lie in \[0, 1\)"),
        ({"drop_rate": float("nan")}, ValueError, "drop_rate is nan"),
        ({"drop_path_rate": None}, TypeError, "drop_path_rate is None"),
        ({"dtype": "int8"}, ValueError, "dtype is int8.*float32, bfloat16, float16, float64"),
        ({"dtype": jnp.uint8}, ValueError, "dtype is uint8"),
        ({"dtype": None}, ValueError, "dtype is None"),
        ({"dtype": jnp.complex64}, ValueError, "dtype is complex64"),
        ({"dtype": "float65"}, ValueError, "dtype is 'float65'"),
        ({"dtype": jnp.float64}, ValueError, "jax_enable_x64"),
        ({"global_pool": "max"}, ValueError, "global_pool is 'max'; use 'avg'"),
    ],
)
def test_fields_that_cannot_be_meant_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        create_model("resnet18", **{"num_classes": 3, **fields})


@pytest.mark.parametrize("name", ["densenet121", "torchvision/googlenet", "resnet18"])
def test_the_rates_of_a_family_are_checked_too(name):
    field = {"densenet121": "proj_drop_rate", "resnet18": "drop_block_rate"}.get(
        name, "aux_drop_rate"
    )
    with pytest.raises(ValueError, match=f"{field} is 1.5"):
        create_model(name, num_classes=3).clone(**{field: 1.5})


def test_numbers_of_numpy_and_all_floats_are_taken():
    assert create_model("simple_cnn", num_classes=np.int64(3)).num_classes == 3
    for dtype in ("float16", jnp.bfloat16, np.float32):
        create_model("simple_cnn", num_classes=3, dtype=dtype)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((2, 16, 16, 3), np.uint8), TypeError, "normalised.*got uint8; tl_jax.preprocess"),
        (np.zeros((2, 16, 16, 3), np.int32), TypeError, "got int32"),
        (np.zeros((2, 16, 16, 3), bool), TypeError, "got bool"),
        (np.zeros((2, 16, 16, 3), np.complex64), TypeError, "got complex64"),
        (np.zeros((2, 3, 16, 16), np.float32), ValueError, r"moveaxis\(images, 1, -1\)"),
        (np.zeros((3, 16, 16), np.float32), ValueError, r"moveaxis\(images, 0, -1\)\[None\]"),
        (np.zeros((16, 16, 3), np.float32), ValueError, r"without a batch: use images\[None\]"),
        (np.zeros((16, 16), np.float32), ValueError, "one gray image"),
        (np.zeros((2, 16, 16, 1), np.float32), ValueError, r"jnp.repeat\(images, 3, axis=-1\)"),
        (np.zeros((2, 16, 16, 4), np.float32), ValueError, r"images\[..., :3\]"),
        (np.zeros((2, 16, 16, 7), np.float32), ValueError, "in_channels=7"),
        (np.zeros((1, 2, 16, 16, 3), np.float32), ValueError, "got shape"),
        (np.zeros((0, 16, 16, 3), np.float32), ValueError, "holds no image"),
        (torch.zeros(2, 3, 16, 16), TypeError, r"torch.Tensor; .*permute\(0, 2, 3, 1\)"),
        ([np.zeros((16, 16, 3))], TypeError, "got a list; tl_jax.preprocess"),
        ("cat.png", TypeError, "got a str"),
        (None, TypeError, "got None"),
    ],
)  # fmt: skip
def test_images_that_cannot_be_meant_are_refused(images, error, message):
    model, variables = zeros()
    with pytest.raises(error, match=message):
        model.apply(variables, images)


def test_a_gray_batch_without_channels_is_told_apart():
    model, variables = zeros(in_channels=1)
    with pytest.raises(ValueError, match=r"the axis of the channel is missing"):
        model.apply(variables, np.zeros((2, 16, 16), np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_images_of_any_float_are_taken(dtype):
    model, variables = zeros()
    images = np.zeros((2, 16, 16, 3), dtype)
    assert jax.eval_shape(model.apply, variables, images).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "side"),
    [*SMALLEST.items(), *(pytest.param(*item, marks=FULL) for item in MORE.items())],
)
def test_the_smallest_image_is_taken_and_named_for_a_smaller_one(name, side):
    assert output(name, side, side) == (2, 3)
    for smaller in ((side - 1, side - 1), (side - 1, 200)):
        with pytest.raises(ValueError, match=f"are too small .* at least {side}x{side}"):
            output(name, *smaller)


def test_a_batch_of_too_small_images_is_refused_in_training_too():
    with pytest.raises(ValueError, match="at least 32x32"):
        output("vgg11_bn", 31, 31, train=True)


@pytest.mark.full
def test_inception_refuses_what_gave_nan():
    with pytest.raises(ValueError, match="images of 64x64 pixels are too small .* at least 75x75"):
        output("inception_v3", 64, 64)


@pytest.mark.parametrize(
    "name", [ANY_SIZE[0], *(pytest.param(n, marks=FULL) for n in ANY_SIZE[1:])]
)
def test_most_networks_take_any_size(name):
    assert output(name, 1, 1) == (2, 3)


def test_a_network_whose_maps_must_be_even_names_a_size_that_fits():
    with pytest.raises(ValueError, match="at least 32x32"):
        output("resnetaa34d", 2, 2)
