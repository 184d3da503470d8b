"""A classifier on a backbone's last feature map: pooling, dense layers, logits."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers


class Classifier(nn.Module):
    """Global average pooling and a small multi-layer perceptron on a network without its top.

    Attributes:
      backbone: network that returns a feature map [B, H, W, C] (`global_pool=""`).
      num_classes: width of the last layer; 0 returns the pooled features [B, C] in float32.
      hidden: widths of the dense layers before it, each followed by a ReLU.
      dropout: rate before each dense layer.
      dtype: type of the computation; logits are float32.
    """

    classifier: ClassVar[str] = "head"

    backbone: nn.Module
    num_classes: int
    hidden: tuple[int, ...] = (1024,)
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.backbone.in_channels

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = layers.global_average(self.backbone(x, train=train))
        if self.num_classes == 0:
            return x
        head = MLP(self.num_classes, self.hidden, self.dropout, dtype=self.dtype, name="head")
        return head(x, train=train)


class MLP(nn.Module):
    """Dense layers with ReLU, dropout before each, and a last layer that starts at zero.

    The attributes are those of `Classifier`.
    """

    num_classes: int
    hidden: tuple[int, ...]
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        for i, width in enumerate(self.hidden, start=1):
            x = layers.Dropout(self.dropout)(x, train=train)
            x = nn.Dense(
                width, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name=f"fc{i}"
            )(x)
            x = nn.relu(x)
        x = layers.Dropout(self.dropout)(x, train=train)
        return layers.Dense(self.num_classes, name="fc")(x)
