"""A network of a backbone and a head of its own, under the names `backbone` and `head`."""

from typing import ClassVar

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.network import Network


class OnBackbone(nn.Module):
    """Base of the networks whose head stands beside the backbone, and not in it.

    Attributes:
      classifier: dotted name of what is fresh: the head that a freeze plan is told (of the class).
      backbone: the network below the head.
      head: module with the field `num_classes`.
    """

    classifier: ClassVar[str] = "head"

    backbone: nn.Module
    head: nn.Module | None

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.backbone.in_channels

    @property
    def num_classes(self) -> int:
        """Number of logits; 0 without a head."""
        return self.head.num_classes if self.head is not None else 0


class Classifier(OnBackbone):
    """A head on the pooled features of a network without a classifier.

    Attributes:
      backbone: network without a classifier. A feature map [B, h, w, C] (`global_pool=""`) is
        averaged over space; features [B, C] (`num_classes=0`), which are what the family's own
        classifier would see, are taken as they are.
      head: one of `tl_jax.heads.head`; None returns the features [B, C] in float32.

    Example:
      >>> backbone = create_model("resnet50", num_classes=0)
      >>> model = Classifier(backbone, Cosine(10))
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    """

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        if isinstance(self.backbone, Network) and self.backbone.num_classes:
            raise ValueError(
                f"the backbone has a classifier of {self.backbone.num_classes} classes, and the "
                "head would stand on its logits; make the backbone with num_classes=0, or keep "
                "the classifier beside the head with Fused"
            )
        features = pooled(self.backbone(images, train=train))
        return features if self.head is None else self.head(features, train=train)


def pooled(features: jax.Array) -> jax.Array:
    """Returns a feature map [B, h, w, C] averaged over space, or features [B, C] as they are.

    Either in float32 at least.
    """
    if features.ndim == 4:
        return layers.global_average(features)
    return layers.at_least_float32(features)
