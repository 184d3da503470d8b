"""Networks that join a backbone, named `backbone`, and separate parts, such as `head`."""

from typing import ClassVar

import jax
from flax import linen as nn

from tl_jax import arguments
from tl_jax.models import layers
from tl_jax.models.model import check_model
from tl_jax.models.network import Network


class WithBackbone(nn.Module):
    """Base of the networks with the module `backbone`, whose subtree is a registry network's.

    Attributes:
      backbone: the network below all other parts.
    """

    backbone: nn.Module

    def __post_init__(self) -> None:
        super().__post_init__()
        check_model(self.backbone, function=type(self).__name__)

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.backbone.in_channels


class BackboneWithHead(WithBackbone):
    """Base of the networks with the modules `backbone` and `head`.

    Attributes:
      classifier: dotted name of the head, which a freeze plan trains (a class attribute).
      backbone: the network below the head.
      head: module with the field `num_classes`.
    """

    classifier: ClassVar[str] = "head"

    head: nn.Module | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head is not None and not isinstance(self.head, nn.Module):
            raise TypeError(
                f"{type(self).__name__} takes a head of tl_jax.heads.head, such as Linear(10), "
                f"but got {arguments.kind(self.head)}"
            )

    @property
    def num_classes(self) -> int:
        """Number of logits; 0 without a head."""
        return self.head.num_classes if self.head is not None else 0


class Classifier(BackboneWithHead):
    """A head on the pooled features of a network without a classifier.

    Attributes:
      backbone: network without a classifier. A feature map [B, h, w, C] (`global_pool=""`) is
        averaged over space; features [B, C] (`num_classes=0`), the input of the family's own
        classifier, are used as they are.
      head: one of `tl_jax.heads.head`; with None the network returns the features [B, C] in
        float32.

    Examples:
      >>> from tl_jax.heads.head import Cosine
      >>> from tl_jax.models.registry import create_model
      >>> model = Classifier(create_model("simple_cnn", num_classes=0), Cosine(10))
      >>> images = jax.numpy.zeros((2, 16, 16, 3))
      >>> model.init_with_output(jax.random.key(0), images)[0].shape
      (2, 10)
    """

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        if isinstance(self.backbone, Network) and self.backbone.num_classes:
            raise ValueError(
                f"the backbone has a classifier of {self.backbone.num_classes} classes, and the "
                "head needs features; create the backbone with num_classes=0, or use Fused to keep "
                "its classifier together with the head"
            )
        features = pooled(self.backbone(images, train=train))
        return features if self.head is None else self.head(features, train=train)


def pooled(features: jax.Array) -> jax.Array:
    """Returns a feature map [B, h, w, C] averaged over space, or features [B, C] unchanged.

    The result is at least float32.
    """
    if features.ndim == 4:
        return layers.global_average(features)
    return layers.at_least_float32(features)
