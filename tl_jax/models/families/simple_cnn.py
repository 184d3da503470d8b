"""The textbook network for training from scratch, the baseline that transfer is measured against.

Four 3x3 convolutions with ReLU, each followed by 2x2 max pooling, a hidden dense layer and the
classifier. Tutorials on small sets of photos flatten the last map of a fixed 150x150 input, which
ties the dense layer to that size and gives it 3.2 million weights for the 7x7 map. Here the map is
averaged over space first, so that one network takes every image size, as all others do.
"""

from typing import ClassVar

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network

_HIDDEN = 512


class SimpleCNN(Network):
    """Plain convolutions and max pooling, then two dense layers.

    Images must be at least 2 ** len(widths) pixels high and wide, so that each pooling has input.

    Attributes:
      widths: channels of each convolution.
    """

    widths: tuple[int, ...] = (32, 64, 128, 128)

    classifier: ClassVar[str] = "fc"
    stochastic_depth: ClassVar[bool] = False

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        x = images
        for i, width in enumerate(self.widths, 1):
            x = layers.Conv(
                width, 3, use_bias=True, kernel_init=layers.kaiming_fan_in, dtype=self.dtype,
                name=f"conv{i}",
            )(x)  # fmt: skip
            x = layers.Activation(layers.relu, name=f"act{i}")(x)
            x = layers.MaxPool(2, 2, name=f"pool{i}")(x)
        return x

    def pooled(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the hidden layer's output, [B, 512], at least float32."""
        hidden = nn.Dense(_HIDDEN, dtype=self.dtype, kernel_init=layers.kaiming_fan_in, name="fc1")
        return layers.at_least_float32(layers.relu(hidden(layers.global_average(x))))


NETWORKS: dict[str, SimpleCNN] = {"simple_cnn": SimpleCNN()}

ARCHITECTURES = {
    name: Architecture(network, stem="conv1", stages=("act1", "act2", "act3", "act4"))
    for name, network in NETWORKS.items()
}
