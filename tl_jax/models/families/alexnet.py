"""AlexNet with one tower (arXiv:1404.5997), under the names of torchvision's `alexnet.py`."""

from typing import ClassVar

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network

_HIDDEN = 4096
_POOLED_SIDE = 6
# Width, kernel size, stride and padding of each convolution, and whether a pooling follows.
_CONVS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


class AlexNet(Network):
    """AlexNet: five convolutions and three dense layers; images of at least 63x63.

    torchvision drops before each of the two hidden dense layers and not before the classifier,
    with a rate of 0.5, and so does `drop_rate` here.
    """

    classifier: ClassVar[str] = "classifier.6"
    stochastic_depth: ClassVar[bool] = False

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        x, index = images, 0
        for width, kernel_size, stride, padding, has_pool in _CONVS:
            x = layers.Conv(
                width, kernel_size, stride, padding, use_bias=True,
                kernel_init=layers.torch_default, dtype=self.dtype, name=f"features.{index}",
            )(x)  # fmt: skip
            x = layers.Activation(layers.relu, name=f"features.{index + 1}")(x)
            index += 2
            if has_pool:
                x = layers.MaxPool(3, 2, name=f"features.{index}")(x)
                index += 1
        return x

    def pooled(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the output of the first hidden layer; of the second if no classifier follows.

        The dropout of every network, which comes next, is thus the one before the second.
        """
        x = layers.adaptive_average(x, (_POOLED_SIDE, _POOLED_SIDE))
        # torch flattens channels first.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        x = layers.Dropout(self.drop_rate, name="classifier.0")(x, train=train)
        x = self._hidden(x, "classifier.1")
        if self.num_classes:
            return x
        x = layers.Dropout(self.drop_rate, name="classifier.3")(x, train=train)
        return layers.at_least_float32(self._hidden(x, "classifier.4"))

    def logits(self, x: jax.Array) -> jax.Array:
        """Passes the second hidden layer and classifies: [B, 4096] -> [B, num_classes]."""
        return super().logits(self._hidden(x, "classifier.4"))

    def _hidden(self, x: jax.Array, name: str) -> jax.Array:
        dense = nn.Dense(_HIDDEN, dtype=self.dtype, kernel_init=layers.torch_default, name=name)
        return layers.relu(dense(x))


NETWORKS: dict[str, AlexNet] = {"torchvision/alexnet": AlexNet()}

ARCHITECTURES = {
    name: Architecture(
        network,
        stem="features.0",
        stages=("features.1", "features.4", "features.11", "features.12"),
    )
    for name, network in NETWORKS.items()
}
