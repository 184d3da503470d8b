"""Tiny residual networks of each kind beside the same ones of timm's."""

import functools
from collections.abc import Callable

import torch

from tests.support.pairs import CLASSES, Pair, numbered, timm, timm_file
from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.families import convnext, nfnet, regnet, resnet, resnetv2

# ResNet

_SE_MODULE = functools.partial(layers.SEModule, kernel_init=layers.kaiming_fan_out)
_ONE_EACH = (1, 1, 1, 1)


def _resnet(network: resnet.ResNet, peer: Callable[..., torch.nn.Module], **fields) -> Pair:
    stem = "conv1" if len(network.stem) == 1 else "conv1.0"
    stages = ("act1", *numbered("layer{}", 4, start=1))
    return Pair("resnet", Architecture(network, stem, stages), peer, **fields)


def _timm_resnet(block: str, widths: tuple[int, ...], **fields) -> Callable[..., torch.nn.Module]:
    file = timm_file("resnet")
    blocks = {"basic": file.BasicBlock, "bottleneck": file.Bottleneck}
    return functools.partial(
        file.ResNet, blocks[block], _ONE_EACH, num_classes=CLASSES, channels=widths, **fields
    )


_tiny_resnet = functools.partial(resnet.ResNet, depths=_ONE_EACH, num_classes=CLASSES)
RESNET = {
    "resnet": _resnet(
        _tiny_resnet(
            block=resnet.BasicBlock, widths=(16, 16, 24, 32), stem=(8, 8, 16), avg_down=True,
            attention=_SE_MODULE,
        ),
        _timm_resnet(
            "basic", (16, 16, 24, 32), stem_width=8, stem_type="deep", avg_down=True,
            block_args={"attn_layer": "se"},
        ),
    ),
    "resnet, groups, eca and conv pool": _resnet(
        _tiny_resnet(
            block=resnet.Bottleneck, widths=(8, 8, 12, 16), cardinality=2, base_width=32,
            down_kernel=3, reduce_first=2, conv_pool=True,
            attention=layers.EfficientChannelAttention,
        ),
        _timm_resnet(
            "bottleneck", (8, 8, 12, 16), cardinality=2, base_width=32, down_kernel_size=3,
            block_reduce_first=2, replace_stem_pool=True, block_args={"attn_layer": "eca"},
        ),
    ),
    "resnet, blur": _resnet(
        _tiny_resnet(block=resnet.BasicBlock, widths=(8, 8, 12, 16), anti_alias="blur"),
        _timm_resnet("basic", (8, 8, 12, 16), aa_layer=timm.layers.BlurPool2d),
    ),
    "resnet, averages": _resnet(
        _tiny_resnet(block=resnet.BasicBlock, widths=(8, 8, 8, 8), anti_alias="average"),
        _timm_resnet("basic", (8, 8, 8, 8), aa_layer=torch.nn.AvgPool2d),
        size=(64, 32),
    ),
}  # fmt: skip

# ResNetV2

_timm_resnetv2 = functools.partial(timm_file("resnetv2").ResNetV2, num_classes=CLASSES)
RESNETV2 = {
    "resnetv2": Pair(
        "resnetv2",
        Architecture(
            resnetv2.ResNetV2(
                block=resnetv2.PreActBasic, depths=(1, 2), widths=(32, 64),
                deep_stem=(32, 32), average_shortcut=True, num_classes=CLASSES,
            ),
            stem="stem.conv1",
            stages=("stem.conv3", "stages.0", "stages.1"),
        ),
        functools.partial(
            _timm_resnetv2, (1, 2), (32, 64), stem_type="deep", basic=True, bottle_ratio=1.0,
            avg_down=True, conv_layer=timm.layers.create_conv2d,
            norm_layer=timm.layers.BatchNormAct2d,
        ),
    ),
    "bit": Pair(
        "resnetv2",
        Architecture(
            resnetv2.ResNetV2(
                depths=(1, 1), widths=(128, 256), stem_width=32, zero_pool_border=True,
                conv=functools.partial(layers.StdConv, epsilon=1e-8), norm=layers.GroupNorm,
                num_classes=CLASSES,
            ),
            stem="stem.conv",
            stages=("stem.conv", "stages.0", "stages.1"),
        ),
        functools.partial(
            _timm_resnetv2, (1, 1), (128, 256), stem_chs=32, stem_type="fixed",
            conv_layer=functools.partial(timm.layers.StdConv2d, eps=1e-8),
        ),
    ),
}  # fmt: skip

# RegNet

# Widths 16, 24, 40 and 56 with bottleneck ratio 1.
_RULE = regnet.WidthRule(16, 10.7, 1.5, 8, 5)


def _regnet(network: regnet.RegNet, **config) -> Pair:
    file, rule = timm_file("regnet"), network.rule
    config = file.RegNetCfg(
        depth=rule.depth, w0=rule.w0, wa=rule.wa, wm=rule.wm, group_size=rule.group_size,
        bottle_ratio=rule.bottle_ratio, **config,
    )  # fmt: skip
    zero_init_last = not issubclass(network.block, regnet.LinearBottleneck)
    stem = "stem" if issubclass(network.block, regnet.PreBottleneck) else "stem.conv"
    return Pair(
        "regnet",
        Architecture(network, stem, ("stem", "s1", "s2", "s3", "s4")),
        functools.partial(file.RegNet, config, num_classes=CLASSES, zero_init_last=zero_init_last),
        drops=lambda block: block.downsample is not None,
    )


_tiny_regnet = functools.partial(regnet.RegNet, rule=_RULE, num_classes=CLASSES)
REGNET = {
    "regnet y": _regnet(_tiny_regnet(se_ratio=0.25), se_ratio=0.25),
    "regnet z": _regnet(
        _tiny_regnet(
            rule=_RULE._replace(bottle_ratio=2.0), block=regnet.LinearBottleneck,
            act=layers.silu, se_ratio=0.25, head_width=48,
        ),
        downsample=None, linear_out=True, act_layer="silu", se_ratio=0.25, num_features=48,
    ),
    "regnet v": _regnet(
        _tiny_regnet(block=regnet.AveragingPreBottleneck, act=layers.silu),
        preact=True, downsample="avg", act_layer="silu",
    ),
}  # fmt: skip

# ConvNeXt


def _convnext(network: convnext.ConvNeXt, **fields) -> Pair:
    peer = functools.partial(
        timm_file("convnext").ConvNeXt, num_classes=CLASSES, depths=network.depths,
        dims=network.widths, kernel_sizes=network.kernel_sizes, **fields,
    )  # fmt: skip
    architecture = Architecture(network, "stem.0", numbered("stages.{}", len(network.depths)))
    return Pair("convnext", architecture, peer)


_tiny_convnext = functools.partial(
    convnext.ConvNeXt, depths=(1, 1, 1, 1), widths=(8, 12, 16, 24), num_classes=CLASSES
)
CONVNEXT = {
    "convnext": _convnext(
        _tiny_convnext(kernel_sizes=(7, 3, 3, 3), layer_scale=0.5, hidden=7, epsilon=1e-5),
        ls_init_value=0.5, head_hidden_size=7, norm_eps=1e-5,
    ),
    "convnextv2": _convnext(
        _tiny_convnext(
            kernel_sizes=(3, 3, 3, 3), global_response=True, layer_scale=None, conv_mlp=True,
            stem="act", norm=convnext.SimpleNorm, norm_before_pool=True,
        ),
        ls_init_value=None, use_grn=True, conv_mlp=True, stem_type="overlap_act",
        norm_layer="simplenorm2d", head_norm_first=True,
    ),
}  # fmt: skip

# NFNet

_NF_DEPTHS, _NF_WIDTHS = (1, 2), (16, 24)


def nfnet_pair(name: str) -> Pair:
    """Returns a network of an architecture's kind with few and narrow blocks, and timm's."""
    architecture = nfnet.ARCHITECTURES[name]
    file = timm_file("nfnet")
    known = architecture.network
    network = known.clone(
        num_classes=CLASSES,
        stem_width=16,
        depths=_NF_DEPTHS,
        widths=_NF_WIDTHS,
        final_width=48 if known.final_width else 0,
        group_size=8 if known.group_size else 0,
    )
    config = file.model_cfgs[name]
    peer = functools.partial(
        file.NormFreeNet, config, num_classes=CLASSES, depths=_NF_DEPTHS, channels=_NF_WIDTHS,
        stem_chs=16, width_factor=1.0, num_features=48 if config.num_features else 0,
        group_size=8 if config.group_size else None,
    )  # fmt: skip
    first, *_, last = architecture.stages
    stages = (first, "stages.0", "final_conv" if last == "final_conv" else "stages.1")
    return Pair("nfnet", Architecture(network, architecture.stem, stages), peer)


NFNET = {
    "dm_nfnet": nfnet_pair("dm_nfnet_f0"),
    "nf_regnet": nfnet_pair("nf_regnet_b0"),
    "nf_ecaresnet": nfnet_pair("nf_ecaresnet26"),
}
