"""What is the EfficientNets' own: definition strings, scaling, unusual convolutions."""

import functools

import jax
import numpy as np
import pytest
import torch

from experiments.torch_peer import import_timm
from tests.support.peers import check_bfloat16, in_torch
from tl_jax.models import layers
from tl_jax.models.families import efficientnet
from tl_jax.models.families import efficientnet_definitions as define
from tl_jax.models.families.efficientnet_blocks import CondConv, MixedConv
from tl_jax.models.families.efficientnet_builder import (
    decode,
    decode_block,
    feature_modules,
    plan,
    round_width,
)

timm = import_timm()
IMAGES = np.random.default_rng(0).normal(size=(2, 33, 47, 3)).astype(np.float32)
DEFINITION = (("ds_r1_k3_s1_c8_se0.25",), ("er_r1_k3_s2_e2_c8", "ir_r1_k3_s1_e2_c8_se0.25"))
SMALL = functools.partial(
    efficientnet.EfficientNet, definition=DEFINITION, stem=8, head=16, num_classes=0
)
KINDS = {
    "group": {"norm": "group"},
    "layer": {"norm": "layer"},
    "evonorm": {"norm": "evonorm_s0"},
    "no head": {"head": 0},
}


def close(ours: jax.Array, theirs: torch.Tensor) -> None:
    expected = theirs.detach().permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_string_is_read():
    block, repeats = decode_block("ir_r3_k3.5_a1.1_s2_e6_c40_se0.5_nsw_gs8_cc4_noskip")
    assert repeats == 3
    assert (block.kind, block.stride, block.width, block.expansion) == ("ir", 2, 40, 6.0)
    assert (block.kernel_size, block.start_kernel, block.end_kernel) == ((3, 5), (1, 1), 0)
    assert (block.squeeze, block.group_size, block.experts) == (0.5, 8, 4)
    assert block.act is layers.silu
    assert block.skip is False


@pytest.mark.parametrize("word", ["z3", "c", "nxx"])
def test_an_unknown_option_is_refused(word):
    with pytest.raises(ValueError, match=f"'{word[:1]}.*option|option.*'{word[:1]}"):
        decode_block(f"ir_r3_k3_s2_e6_c40_{word}")


@pytest.mark.parametrize("rounding, truncation", [("up", "ceil"), ("nearest", "round")])
@pytest.mark.parametrize("depth", [0.3, 0.695, 1.0, 1.1, 1.6, 3.1])
def test_depths_are_scaled_as_timms(depth, rounding, truncation):
    for definition in (define.MIXNET_M, define.FBNET_C, define.EFFICIENTNET):
        for fixed in (False, True):
            theirs = timm.models._efficientnet_builder.decode_arch_def(
                [list(stage) for stage in definition], depth, truncation, fix_first_last=fixed
            )
            ours = decode(definition, depth=depth, rounding=rounding, fix_first_last=fixed)
            assert [[spec.width for spec in stage] for stage in ours] == [
                [block["out_chs"] for block in stage] for stage in theirs
            ]


def test_space_to_depth_ends_at_the_first_stride():
    specs = decode(define.EFFICIENTNET_X, depth=2.0)
    plans = plan(specs, 32, scaled=round_width, drop_path_rate=0.0)
    first, second = plans[0]
    assert (first.space_to_depth, first.width, first.shortcut) == (True, 64, False)
    assert (second.space_to_depth, second.width, second.shortcut) == (False, 64, True)
    end = plans[1][0]
    # Its expansion counts from a quarter of the channels that it gets.
    assert (end.stride, end.hidden, end.width) == (1, 16 * 6, 24)
    assert plans[2][0].stride == 2
    assert feature_modules(define.EFFICIENTNET_X)[:2] == ("bn1", "blocks.1")


def test_pruning_makes_no_shortcut():
    """The fifth stage's first block would have one, if its width were the fourth's."""
    pruned = ((8, (8, 8)), (8, (8, 8)), (8, (8, (9, 3))))
    definition = tuple(
        (f"{kind}_r{n}_k3_s1_c{width}_se0.25_e1",)
        for kind, n, width in (("ds", 1, 8), ("ir", 2, 8), ("ir", 2, 16), ("ir", 2, 24))
    )
    model = SMALL(definition=definition, pruned=pruned)
    stages = model.plans()
    assert [[block.shortcut for block in stage] for stage in stages] == [
        [True], [True, True], [False, True], [False, True],
    ]  # fmt: skip
    assert (stages[3][1].width, stages[3][1].hidden, stages[3][1].squeezed) == (8, 9, 3)


@pytest.mark.parametrize("name", ["test_efficientnet", "mobilenetv1_100", "mixnet_s"])
def test_drop_path_rates_are_timms(name):
    """timm gives a drop path to blocks without a shortcut too, and does not call it."""
    theirs = timm.create_model(name, drop_path_rate=0.2).blocks
    model = efficientnet.NETWORKS[name].clone(drop_path_rate=0.2)
    blocks = [block for stage in theirs for block in stage]
    plans = [block for stage in model.plans() for block in stage]
    assert [block.shortcut for block in plans] == [block.has_skip for block in blocks]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert [block.drop_path for block in plans] == pytest.approx(rates)


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_mixed_convolution_is_timms(depthwise):
    """With channels that do not divide by the number of kernels."""
    conv = timm.layers.MixedConv2d(11, 11, [3, 5, 1], stride=2, padding="same", depthwise=depthwise)
    one = functools.partial(layers.Conv, stride=2, padding="same")
    x = IMAGES.repeat(4, axis=-1)[..., :11]
    kernels = {
        key.removesuffix(".weight"): {"kernel": value.permute(2, 3, 1, 0).numpy()}
        for key, value in conv.state_dict().items()
    }
    ours = MixedConv(11, (3, 5, 1), one, depthwise).apply({"params": kernels}, x)
    close(ours, conv(in_torch(x)))


@pytest.mark.parametrize(
    "size, groups, stride, padding", [(1, 1, 1, ""), (5, 6, 2, "same"), (3, 2, 2, "")]
)
def test_a_conditional_convolution_is_timms(size, groups, stride, padding):
    conv = timm.layers.CondConv2d(
        6, 12, size, stride=stride, groups=groups, padding=padding, num_experts=3
    )
    x = np.concatenate([IMAGES, -2 * IMAGES**2], axis=-1)
    routing = np.random.default_rng(1).uniform(size=(2, 3)).astype(np.float32)
    layer = CondConv(12, size, 3, stride, padding or "symmetric", groups)
    ours = layer.apply({"params": {"weight": conv.weight.detach().numpy()}}, x, routing)
    close(ours, conv(in_torch(x), torch.from_numpy(routing)))


def test_a_conditional_convolution_takes_the_form_that_is_asked_for():
    layer, routing = CondConv(12, 3, 3, groups=IMAGES.shape[-1]), np.ones((len(IMAGES), 3))
    variables = layer.init(jax.random.key(0), IMAGES, routing)

    def forms() -> str:
        # A new function each time, because jax caches traces by function.
        return str(jax.make_jaxpr(lambda x: layer.apply(variables, x, routing))(IMAGES))

    assert "form=fastest" in forms()
    with layers.convolution_form("general"):
        assert "form=general" in forms()


def test_fresh_experts_and_routing_are_drawn_as_timms():
    model = SMALL(definition=(("ir_r1_k5_s1_e20_c64_cc8",),), stem=32)
    block = jax.jit(model.init)(jax.random.key(0), IMAGES)["params"]["blocks.0"]["0"]
    depthwise, projection = block["conv_dw"]["weight"], block["conv_pwl"]["weight"]
    np.testing.assert_allclose(depthwise.std(), (2 / 25) ** 0.5, rtol=0.03)
    np.testing.assert_allclose(projection.std(), (2 / 64) ** 0.5, rtol=0.03)
    largest, bound = abs(block["routing_fn"]["kernel"]).max(), (32 + 8) ** -0.5
    assert 0.9 * bound < largest <= bound
    assert not block["routing_fn"]["bias"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_kept_between_the_layers(kind):
    check_bfloat16(SMALL(**KINDS[kind]).clone(num_classes=5), IMAGES)


def test_several_kernel_sizes_are_refused_where_one_is_needed():
    model = SMALL(definition=(("ds_r1_k3.5_s1_c8_d1",),))
    with pytest.raises(ValueError, match=r"kernels of sides \(3, 5\)"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)
