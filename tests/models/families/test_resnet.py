"""What the ResNets have beside timm's numbers: random layers, and what they refuse."""

import functools

import jax
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.support.peers import (
    abstract_images,
    abstract_output,
    calls_in_training,
    check_bfloat16,
    check_drop_paths,
    random_variables,
)
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.families import resnet

timm = import_timm()
tiny = functools.partial(
    resnet.ResNet, block=resnet.Bottleneck, depths=(1, 1), widths=(8, 16), num_classes=5
)
X = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)


def test_architectures_are_timms():
    assert set(resnet.NETWORKS) == set(timm.list_models(module="resnet"))


@pytest.mark.parametrize("name", ["test_resnet"])
def test_rates_of_random_layers_are_timms(name):
    theirs = timm.create_model(name, drop_block_rate=0.1, drop_path_rate=0.2)
    blocks = {n: m for n, m in theirs.named_modules() if hasattr(m, "drop_block")}
    squares = {
        f"{n}.drop_block": (
            m.drop_block.drop_prob,
            m.drop_block.block_size,
            m.drop_block.gamma_scale,
        )
        for n, m in blocks.items()
        if hasattr(m.drop_block, "drop_prob")
    }
    model = resnet.NETWORKS[name].clone(drop_path_rate=0.2, drop_block_rate=0.1)
    calls = calls_in_training(model, X)
    assert all(keywords == {"train": True} for _, _, keywords in calls)
    ours = {
        trees.dotted(layer.path): (layer.rate, layer.block_size, layer.gamma_scale)
        for layer, _, _ in calls
        if isinstance(layer, layers.DropBlock)
    }
    assert ours == squares
    check_drop_paths(calls, theirs)


def test_squares_are_dropped_in_training_only():
    plain = tiny(block=resnet.BasicBlock, depths=(1, 1, 1), widths=(4, 4, 4), num_classes=0)
    dropping, variables = plain.clone(drop_block_rate=0.5), random_variables(plain)
    evaluations = [jax.make_jaxpr(model.apply)(variables, X) for model in (plain, dropping)]
    assert str(evaluations[0]) == str(evaluations[1])
    train = jax.jit(functools.partial(dropping.apply, train=True, mutable=["batch_stats"]))
    first, second = (train(variables, X, rngs={"dropout": jax.random.key(i)})[0] for i in (1, 2))
    assert not np.allclose(first, second, rtol=1e-3)


@pytest.mark.parametrize(
    "fields",
    [{"widths": (32, 32), "group_norm": True}, {"pruned": ((6, ((3, 4),)), (10, ((5, 7),)))}],
)
def test_group_norm_and_pruned_widths_keep_the_types(fields):
    check_bfloat16(tiny(**fields), X)


def averaging(side: int) -> tuple[int, ...]:
    """Returns the shape of the last map of a network that subsamples by averages."""
    model = tiny(depths=(1,) * 4, widths=(8,) * 4, anti_alias="average")
    bare = model.clone(num_classes=0, global_pool="")
    return abstract_output(bare, abstract_images(bare, side))[0].shape


def timms_averaging(side: int) -> tuple[int, ...]:
    """Returns the same of timm's network."""
    with torch.device("meta"):
        network = timm.models.resnet.ResNet(
            timm.models.resnet.Bottleneck, (1,) * 4, channels=(8,) * 4, aa_layer=torch.nn.AvgPool2d
        )
        batch, channels, height, width = network.forward_features(
            torch.ones(2, 3, side, side)
        ).shape
    return batch, height, width, channels


@pytest.mark.parametrize("side", [64, 65])
def test_averages_take_images_of_even_maps(side):
    assert averaging(side) == timms_averaging(side)


@pytest.mark.parametrize("side", [48, 75])
def test_averages_refuse_odd_maps(side):
    """They round a map of 3 cells down to 1, and the shortcut up to 2, which would broadcast."""
    with pytest.raises(RuntimeError):
        timms_averaging(side)
    with pytest.raises(ValueError, match="use images of a multiple of 32 pixels"):
        averaging(side)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"drop_block_rate": 1.0}, "drop_block_rate is 1.0"),
        ({"stem": (8, 8)}, "one convolution or three"),
        ({"anti_alias": "max"}, "use 'average', 'blur'"),
    ],
)
def test_contradictory_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny(**fields)
