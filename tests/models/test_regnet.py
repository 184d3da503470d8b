"""RegNet: the widths, torchvision's names, equality with timm on small networks, drop rates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from experiments.torch_peer import create_peer, import_timm, settle
from tl_jax import trees
from tl_jax.models import layers, regnet
from tl_jax.weights.state_dict import from_state_dict, to_state_dict

timm = import_timm()
THEIRS = timm.models.regnet
IMAGES = np.random.default_rng(0).normal(size=(2, 35, 47, 3)).astype(np.float32)
# Widths 16, 24, 40 and 56 with bottleneck ratio 1.
RULE = regnet.WidthRule(16, 10.7, 1.5, 8, 5)
TINY = {
    "y": regnet.RegNet(rule=RULE, se_ratio=0.25, num_classes=5),
    "z": regnet.RegNet(
        rule=RULE._replace(bottle_ratio=2.0), block=regnet.LinearBottleneck, act=layers.silu,
        se_ratio=0.25, head_width=48, num_classes=5,
    ),
    "v": regnet.RegNet(
        rule=RULE, block=regnet.AveragingPreBottleneck, act=layers.silu, num_classes=5
    ),
}  # fmt: skip


def config(kind: str) -> "THEIRS.RegNetCfg":
    """Returns timm's description of the same network."""
    rule = {"w0": RULE.w0, "wa": RULE.wa, "wm": RULE.wm, "group_size": RULE.group_size}
    make = functools.partial(THEIRS.RegNetCfg, depth=RULE.depth, **rule)
    if kind == "y":
        return make(se_ratio=0.25)
    if kind == "z":
        return make(
            bottle_ratio=2.0, downsample=None, linear_out=True, act_layer="silu", se_ratio=0.25,
            num_features=48,
        )  # fmt: skip
    return make(preact=True, downsample="avg", act_layer="silu")


def peer(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return THEIRS.RegNet(config(kind), num_classes=5, zero_init_last=kind != "z")


def as_torch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", regnet.ARCHITECTURES)
def test_stages_follow_the_rule_as_timms(name):
    theirs = THEIRS.model_cfgs[name]
    widths, _, groups = THEIRS.generate_regnet(
        theirs.wa, theirs.w0, theirs.wm, theirs.depth, theirs.group_size
    )
    depths = [widths.count(width) for width in sorted(set(widths))]
    ratios = [theirs.bottle_ratio] * len(depths)
    widths, group_sizes = THEIRS.adjust_widths_groups_comp(
        sorted(set(widths)), ratios, groups, theirs.group_min_ratio
    )
    inner = [round(width * theirs.bottle_ratio) for width in widths]
    groups = [wide // size for wide, size in zip(inner, group_sizes, strict=True)]
    expected = tuple(zip(depths, widths, inner, groups, strict=True))
    assert regnet.ARCHITECTURES[name].build().rule.stages() == expected


@pytest.mark.parametrize("kind", ["z", "v"])
def test_small_networks_are_timms(kind):
    """Odd maps, shortcuts that are missing or average, the convolution at the top."""
    theirs, model = peer(kind), TINY[kind]
    settle(theirs, model.classifier, as_torch(IMAGES))
    variables = from_state_dict(model, theirs.state_dict())
    found = jax.jit(model.apply)(variables, IMAGES)
    with torch.no_grad():
        expected = theirs(as_torch(IMAGES)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["y", "z"])
def test_fresh_weights_are_drawn_as_timms(kind):
    """Scales and biases are equal; kernels have the same spread; the classifier is zero."""
    model = TINY[kind]
    fresh = to_state_dict(jax.jit(model.init)(jax.random.key(0, impl="unsafe_rbg"), IMAGES))
    for key, value in peer(kind).state_dict().items():
        if key.startswith(model.classifier):
            np.testing.assert_array_equal(fresh[key], 0)
        elif value.ndim == 4:
            spread = 5 / np.sqrt(value.numel())
            np.testing.assert_allclose(fresh[key].std(), value.std(), rtol=spread, err_msg=key)
        elif not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(fresh[key], value, err_msg=key)


@pytest.mark.parametrize("kind", TINY)
def test_drop_path_rates_are_timms(kind):
    """Where Z has no shortcut nothing is dropped."""
    theirs = THEIRS.RegNet(config(kind), num_classes=5, drop_path_rate=0.2)
    expected = {
        f"{name}.drop_path": block.drop_path.drop_prob
        for name, block in theirs.named_modules()
        if isinstance(getattr(block, "drop_path", None), timm.layers.DropPath)
        and block.downsample is not None
    }
    assert drop_paths(TINY[kind].clone(drop_path_rate=0.2)) == pytest.approx(expected)


def drop_paths(model: regnet.RegNet) -> dict[str, float]:
    """Returns the rate of each drop path that acts, by its name."""
    found = {}

    def record(following, args, kwargs, context):
        if isinstance(context.module, layers.DropPath) and context.module.rate > 0:
            found[trees.dotted(context.module.path)] = context.module.rate
        return following(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    return found


@pytest.mark.parametrize("group_norm", [None, 8])
@pytest.mark.parametrize("kind", TINY)
def test_bfloat16_maps_and_float32_logits(kind, group_norm):
    model = TINY[kind].clone(group_norm=group_norm, in_channels=1, dtype=jnp.bfloat16)
    images = IMAGES[..., :1]
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert ("batch_stats" in variables) == (group_norm is None)
    bare = model.clone(num_classes=0, global_pool="")
    feature_map = jax.eval_shape(bare.apply, variables, images)
    assert (feature_map.shape[:3], feature_map.dtype) == ((2, 2, 2), jnp.bfloat16)


def test_torchvisions_names_become_timms():
    theirs = create_peer("torchvision/regnet_y_400mf", 5).state_dict()
    expected = {key: value.shape for key, value in theirs.items()}
    timms = create_peer("regnety_004", 5).state_dict()
    renamed = {regnet.rename(key): shape for key, shape in expected.items()}
    assert renamed == {key: value.shape for key, value in timms.items()}
    assert all(regnet.rename(key) == key for key in timms)
