"""Tiny networks of the classic families beside the same ones of timm's and torchvision's."""

import functools
from typing import ClassVar

import torch

from tests.support.pairs import CLASSES, Pair, timm, timm_file, torchvision_file
from tl_jax.models.architecture import Architecture
from tl_jax.models.families import (
    densenet,
    googlenet,
    inception_resnet_v2,
    inception_v3,
    inception_v4,
    shufflenetv2,
    squeezenet,
    vgg,
    xception,
)

# VGG, DenseNet, Xception

VGG = Pair(
    "vgg",
    Architecture(
        vgg.VGG(depths=(1, 2), widths=(8, 16), batch_norm=True, num_classes=CLASSES),
        stem="features.0",
        stages=("features.2", "features.9", "features.10"),
    ),
    functools.partial(
        timm_file("vgg").VGG, [8, "M", 16, 16, "M"], CLASSES, norm_layer=torch.nn.BatchNorm2d
    ),
    size=(33, 29),
)
DENSENET = Pair(
    "densenet",
    Architecture(
        densenet.DenseNet(
            depths=(2, 1), growth=4, deep_stem=True, blur_stem=True, num_classes=CLASSES
        ),
        stem="features.conv0",
        stages=("features.norm2", "features.denseblock1", "features.norm5"),
    ),
    functools.partial(
        timm_file("densenet").DenseNet, 4, (2, 1), num_classes=CLASSES, stem_type="deep",
        aa_layer=timm.layers.BlurPool2d,
    ),
)  # fmt: skip


def _timm_xception() -> torch.nn.Module:
    file = timm_file("xception")
    network = file.Xception(CLASSES)
    network.block1 = file.Block(64, 32, 2, 2, start_with_relu=False)
    network.block2 = file.Block(32, 48, 2, 2)
    network.block3 = file.Block(48, 48, 3, 1)
    network.block4 = file.Block(48, 64, 2, 2, grow_first=False)
    for i in range(5, 13):
        setattr(network, f"block{i}", torch.nn.Identity())
    network.conv3 = file.SeparableConv2d(64, 1536, 3, 1, 1)
    return network


XCEPTION = Pair(
    "xception",
    Architecture(
        xception.Xception(
            blocks=(((32, 32), 2), ((48, 48), 2), ((48, 48, 48), 1), ((48, 64), 2)),
            num_classes=CLASSES,
        ),
        stem="conv1",
        stages=("act2", "block2.rep.0", "block3.rep.0", "block4.rep.0", "act4"),
    ),
    _timm_xception,
    size=(65, 60),
)

# Inceptions


class ShallowInceptionV3(inception_v3.InceptionV3):
    """One module of each kind."""

    modules: ClassVar = {
        name: module
        for name, module in inception_v3.InceptionV3.modules.items()
        if name not in ("Mixed_5d", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7c")
    }


def _timm_inception_v3() -> torch.nn.Module:
    network = timm_file("inception_v3").InceptionV3(CLASSES)
    for name in inception_v3.InceptionV3.modules.keys() - ShallowInceptionV3.modules.keys():
        setattr(network, name, torch.nn.Identity())
    return network


class ShallowInceptionV4(inception_v4.InceptionV4):
    """One module of each kind."""

    depths: ClassVar = (1, 1, 1)


def _timm_inception_v4() -> torch.nn.Module:
    network = timm_file("inception_v4").InceptionV4(CLASSES)
    places = (*range(7), 10, 11, 18, 19)
    network.features = torch.nn.Sequential(*(network.features[i] for i in places))
    return network


def _timm_inception_resnet_v2() -> torch.nn.Module:
    network = timm_file("inception_resnet_v2").InceptionResnetV2(CLASSES)
    for name in ("repeat", "repeat_1", "repeat_2"):
        setattr(network, name, getattr(network, name)[:1])
    return network


class ShallowGoogLeNet(googlenet.GoogLeNet):
    """The modules before and after poolings and auxiliary heads, and narrow."""

    inceptions: ClassVar = dict.fromkeys(
        ("3a", "3b", "4a", "4d", "4e", "5b"), (16, 8, 16, 8, 16, 16)
    )


def torchvision_googlenet(*, aux_logits: bool = False) -> torch.nn.Module:
    """Returns the peer of `ShallowGoogLeNet`."""
    file = torchvision_file("googlenet")
    network = file.GoogLeNet(
        CLASSES, aux_logits=aux_logits, init_weights=False, dropout=0.0, dropout_aux=0.0
    )
    for name in ("4b", "4c", "5a"):
        setattr(network, f"inception{name}", torch.nn.Identity())
    for name, widths in ShallowGoogLeNet.inceptions.items():
        inputs = 192 if name == "3a" else 64
        setattr(network, f"inception{name}", file.Inception(inputs, *widths))
    if aux_logits:
        for name in ("aux1", "aux2"):
            setattr(network, name, file.InceptionAux(64, CLASSES, dropout=0.0))
    network.fc = torch.nn.Linear(64, CLASSES)
    return network


INCEPTIONS = {
    "inception_v3": Pair(
        "inception_v3",
        Architecture(
            ShallowInceptionV3(num_classes=CLASSES),
            stem="Conv2d_1a_3x3.conv",
            stages=("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5c", "Mixed_6b", "Mixed_7b"),
        ),
        _timm_inception_v3,
        size=(107, 112),
    ),
    "inception_v4": Pair(
        "inception_v4",
        Architecture(
            ShallowInceptionV4(num_classes=CLASSES),
            stem="features.0.conv",
            stages=("features.2", "features.3", "features.6", "features.8", "features.10"),
        ),
        _timm_inception_v4,
        size=(107, 112),
    ),
    "inception_resnet_v2": Pair(
        "inception_resnet_v2",
        Architecture(
            inception_resnet_v2.InceptionResNetV2(depths=(1, 1, 1), num_classes=CLASSES),
            stem="conv2d_1a.conv",
            stages=("conv2d_2b", "conv2d_4a", "repeat", "repeat_1", "conv2d_7b"),
        ),
        _timm_inception_resnet_v2,
        size=(107, 112),
    ),
    "googlenet": Pair(
        "googlenet",
        Architecture(
            ShallowGoogLeNet(num_classes=CLASSES),
            stem="conv1.conv",
            stages=("conv1", "conv3", "inception3b", "inception4e", "inception5b"),
        ),
        torchvision_googlenet,
        size=(65, 60),
    ),
}

# torchvision's others


def _torchvision_squeezenet() -> torch.nn.Module:
    file = torchvision_file("squeezenet")
    network = file.SqueezeNet("1_1", CLASSES, dropout=0.0)
    pool = functools.partial(torch.nn.MaxPool2d, 3, 2, ceil_mode=True)
    network.features = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), pool(), file.Fire(8, 4, 8, 8), pool(),
        file.Fire(16, 4, 8, 8),
    )  # fmt: skip
    network.classifier[1] = torch.nn.Conv2d(16, CLASSES, 1)
    return network


TORCHVISION = {
    "squeezenet": Pair(
        "squeezenet",
        Architecture(
            squeezenet.SqueezeNet(
                stem=(8, 3), fires=("pool", (4, 8), "pool", (4, 8)), num_classes=CLASSES
            ),
            stem="features.0",
            stages=("features.1", "features.3", "features.5"),
        ),
        _torchvision_squeezenet,
    ),
    "shufflenetv2": Pair(
        "shufflenetv2",
        Architecture(
            shufflenetv2.ShuffleNetV2(
                depths=(2, 1, 1), widths=(16, 32, 48, 64), num_classes=CLASSES
            ),
            stem="conv1.0",
            stages=("conv1", "maxpool", "stage2", "stage3", "conv5"),
        ),
        lambda: torchvision_file("shufflenetv2").ShuffleNetV2(
            [2, 1, 1], [24, 16, 32, 48, 64], CLASSES
        ),
    ),
}
