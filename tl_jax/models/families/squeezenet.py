"""SqueezeNet (arXiv:1602.07360) 1.0 and 1.1, under the names of torchvision's `squeezenet.py`."""

import functools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network

# torch: `kaiming_uniform_`.
_KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")


class Fire(nn.Module):
    """A 1x1 convolution that squeezes, and 1x1 and 3x3 ones side by side that expand."""

    squeeze: int
    expand: int
    conv: Callable[..., layers.Conv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.relu(self.conv(self.squeeze, 1, name="squeeze")(x))
        expanded = (
            self.conv(self.expand, 1, name="expand1x1")(x),
            self.conv(self.expand, 3, name="expand3x3")(x),
        )
        return layers.relu(jnp.concatenate(expanded, axis=-1))


class SqueezeNet(Network):
    """SqueezeNet.

    The classifier is a 1x1 convolution on the last map; its activations are then averaged over
    space. With `num_classes=0` the features are the average of the last map. torchvision trains
    with `drop_rate=0.5`.

    Attributes:
      stem: width and kernel size of the first convolution.
      fires: the layers after it: widths (squeeze, expand) of a Fire module, or `"pool"`.
    """

    stem: tuple[int, int] = (64, 3)
    fires: tuple[tuple[int, int] | str, ...] = ()

    classifier: ClassVar[str] = "classifier.1"
    stochastic_depth: ClassVar[bool] = False

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        conv = functools.partial(
            layers.Conv, use_bias=True, kernel_init=_KERNEL_INIT, dtype=self.dtype
        )
        width, kernel_size = self.stem
        x = conv(width, kernel_size, 2, padding=0, name="features.0")(images)
        x = layers.Activation(layers.relu, name="features.1")(x)
        for i, fire in enumerate(self.fires, start=2):
            name = f"features.{i}"
            if isinstance(fire, str):
                x = layers.MaxPool(3, 2, ceil_mode=True, name=name)(x)
            else:
                squeeze, expand = fire
                x = Fire(squeeze, expand, conv, name=name)(x)
        return x

    def pooled(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the classifier's input, the map itself; its average if there is no classifier."""
        return x if self.num_classes else layers.global_average(x)

    def logits(self, x: jax.Array) -> jax.Array:
        """Classifies each cell of the map, and averages: [B, h, w, C] -> [B, num_classes].

        Fresh kernels are drawn as in torchvision, while other classifiers start at zero: the ReLU
        that follows has no gradient at zero, so a kernel of zeros could not learn.
        """
        conv = layers.Conv(
            self.num_classes, 1, use_bias=True, kernel_init=nn.initializers.normal(0.01),
            dtype=jnp.promote_types(self.dtype, jnp.float32), name=self.classifier,
        )  # fmt: skip
        return layers.global_average(layers.relu(conv(x)))


NETWORKS: dict[str, SqueezeNet] = {
    "torchvision/squeezenet1_0": SqueezeNet(stem=(96, 7), fires=(
        "pool", (16, 64), (16, 64), (32, 128),
        "pool", (32, 128), (48, 192), (48, 192), (64, 256),
        "pool", (64, 256),
    )),
    "torchvision/squeezenet1_1": SqueezeNet(stem=(64, 3), fires=(
        "pool", (16, 64), (16, 64),
        "pool", (32, 128), (32, 128),
        "pool", (48, 192), (48, 192), (64, 256), (64, 256),
    )),
}  # fmt: skip


def _stages(network: SqueezeNet) -> tuple[str, ...]:
    """Returns the names of the modules before the poolings, and of the last."""
    before_pools = [i - 1 for i, fire in enumerate(network.fires, start=2) if fire == "pool"]
    return tuple(f"features.{i}" for i in (*before_pools, len(network.fires) + 1))


ARCHITECTURES = {
    name: Architecture(network, stem="features.0", stages=_stages(network))
    for name, network in NETWORKS.items()
}
