"""A tiny network of each family, with every kind of its blocks, beside the same one in torch."""

from tests.support.classic_pairs import DENSENET, INCEPTIONS, TORCHVISION, VGG, XCEPTION
from tests.support.mobile_pairs import EFFICIENTNET, MOBILENET
from tests.support.pairs import Pair
from tests.support.residual_pairs import CONVNEXT, NFNET, REGNET, RESNET, RESNETV2

PAIRS: dict[str, Pair] = {
    **RESNET,
    **RESNETV2,
    **REGNET,
    **EFFICIENTNET,
    **MOBILENET,
    **CONVNEXT,
    **NFNET,
    "vgg": VGG,
    "densenet": DENSENET,
    "xception": XCEPTION,
    **INCEPTIONS,
    **TORCHVISION,
}
