"""AlexNet with one tower (arXiv:1404.5997), under the names of torchvision's `alexnet.py`."""

from typing import ClassVar

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network

_HIDDEN = 4096
_TOP_SIDE = 6
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
    with a rate of 0.5, and so does `drop_rate` here. There are no residual branches, so
    `drop_path_rate` must be 0.
    """

    classifier: ClassVar[str] = "classifier.6"

    def __post_init__(self):
        super().__post_init__()
        self.refuse_drop_path()

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        x, place = images, 0
        for width, side, stride, padding, pool in _CONVS:
            x = layers.Conv(
                width, side, stride, padding, use_bias=True, kernel_init=layers.torch_default,
                dtype=self.dtype, name=f"features.{place}",
            )(x)  # fmt: skip
            x = layers.Activation(layers.relu, name=f"features.{place + 1}")(x)
            if pool:
                x = layers.MaxPool(3, 2, name=f"features.{place + 2}")(x)
            place += 3 if pool else 2
        return x

    def pooled(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the output of the first hidden layer; of the second if no classifier follows.

        The dropout of every network, which comes next, is thus the one before the second.
        """
        x = layers.adaptive_average(x, (_TOP_SIDE, _TOP_SIDE))
        # torch flattens channels first.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        x = layers.Dropout(self.drop_rate, name="classifier.0")(x, train=train)
        x = self._hidden("classifier.1", x)
        if self.num_classes:
            return x
        x = layers.Dropout(self.drop_rate, name="classifier.3")(x, train=train)
        return layers.at_least_float32(self._hidden("classifier.4", x))

    def logits(self, x: jax.Array) -> jax.Array:
        """Passes the second hidden layer and classifies: [B, 4096] -> [B, num_classes]."""
        return super().logits(self._hidden("classifier.4", x))

    def _hidden(self, name: str, x: jax.Array) -> jax.Array:
        dense = nn.Dense(_HIDDEN, dtype=self.dtype, kernel_init=layers.torch_default, name=name)
        return layers.relu(dense(x))


ARCHITECTURES = {
    "torchvision/alexnet": Architecture(
        build=AlexNet,
        classifier=AlexNet.classifier,
        stem="features.0",
        stages=("features.1", "features.4", "features.11", "features.12"),
    )
}
