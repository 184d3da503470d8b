"""Convolutions as modules: torch's padding and initial values, and weight standardisation."""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tl_jax.models.layers.convolution import convolution
from tl_jax.models.layers.initializers import kaiming_fan_out
from tl_jax.models.layers.padding import Pads, Size, same_pads
from tl_jax.models.layers.types import Dtype, Initializer

Padding = int | Size | Literal["symmetric", "same"]


class Conv(nn.Module):
    """2-D convolution with torch's padding and initial values (torch's Conv2d).

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel in pixels; one number for a square.
      stride: step in both directions, in pixels.
      padding: `"symmetric"` is what torch's networks use: half the kernel on each side, whatever
        the stride (Flax's default, `SAME`, shifts the grid by a pixel where the stride is 2);
        `"same"` is TensorFlow's, for timm's `tf_*` networks; an integer pads that much on each
        side, a pair that many rows and columns.
      groups: number of channel groups; as many as input channels makes it depthwise.
      use_bias: add a bias.
      kernel_init: initializer of the kernel [height, width, inputs / groups, features].
      bias_init: initializer of the bias [features].
      dtype: type of the computation and of the result.
    """

    features: int
    kernel_size: int | Size
    stride: int = 1
    padding: Padding = "symmetric"
    groups: int = 1
    use_bias: bool = False
    kernel_init: Initializer = kaiming_fan_out
    bias_init: Initializer = nn.initializers.zeros
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise ValueError(
                f"{self.name}: got {x.shape[-1]} input and {self.features} output channels; both "
                f"must be multiples of groups={self.groups}"
            )
        shape = (*_pair(self.kernel_size), x.shape[-1] // self.groups, self.features)
        kernel = self.standardise(self.raw_kernel(shape))
        y = self.convolve(x.astype(self.dtype), kernel.astype(self.dtype))
        return self.add_bias(y) if self.use_bias else y

    # Methods, so that interceptors reach them.

    def raw_kernel(self, shape: tuple[int, ...]) -> jax.Array:
        """Returns the parameter, [height, width, inputs / groups, features]."""
        return self.param("kernel", self.kernel_init, shape, jnp.float32)

    @nn.nowrap
    def standardise(self, kernel: jax.Array) -> jax.Array:
        """Returns the kernel that the convolution uses."""
        return kernel

    def convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolves [B, H, W, I] with a kernel of the same type, as the function `convolve`."""
        return convolve(x, kernel, stride=self.stride, padding=self.padding)

    def add_bias(self, y: jax.Array) -> jax.Array:
        """Adds the parameter, [O], to a map."""
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        return y + bias.astype(self.dtype)


class StdConv(Conv):
    """Convolution whose kernel has mean 0 and variance 1 for each output (arXiv:1903.10520).

    Attributes:
      epsilon: added to the variance.
    """

    epsilon: float = 1e-6

    @nn.nowrap
    def standardise(self, kernel: jax.Array) -> jax.Array:
        """Returns the standardised kernel."""
        return _standardised(kernel, self.epsilon)


class ScaledStdConv(Conv):
    """Standardised convolution with a learned gain over the square root of the inputs (NFNets).

    arXiv:2101.08692; timm's `ScaledStdConv2d`.

    Attributes:
      gamma: constant factor that makes up for the variance that the activation removes.
      gain_init: initializer of the gain [features, 1, 1, 1].
      epsilon: added to the variance.
    """

    gamma: float = 1.0
    gain_init: Initializer = nn.initializers.ones
    epsilon: float = 1e-6

    @nn.nowrap
    def standardise(self, kernel: jax.Array) -> jax.Array:
        """Returns the standardised and scaled kernel."""
        gain = self.param("gain", self.gain_init, (self.features, 1, 1, 1), jnp.float32)
        scale = self.gamma / math.sqrt(math.prod(kernel.shape[:3]))
        return _standardised(kernel, self.epsilon) * (gain[:, 0, 0, 0] * scale)


def _standardised(kernel: jax.Array, epsilon: float) -> jax.Array:
    centred = kernel - jnp.mean(kernel, (0, 1, 2), keepdims=True)
    return centred * lax.rsqrt(jnp.mean(jnp.square(centred), (0, 1, 2), keepdims=True) + epsilon)


def _pair(size: int | Size) -> Size:
    return (size, size) if isinstance(size, int) else size


def _explicit_pads(padding: Padding, kernel: Size, stride: int, image: Sequence[int]) -> Pads:
    if padding == "same":
        return same_pads(image, kernel, stride)
    if padding == "symmetric":
        padding = (kernel[0] // 2, kernel[1] // 2)
    rows, columns = _pair(padding)
    return (rows, rows), (columns, columns)


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """Convolves [B, H, W, I] with [h, w, I / groups, O], in the form that suits the platform.

    Args:
      x: images or feature maps.
      kernel: of the same type.
      stride: step in both directions, in pixels.
      padding: as that of `Conv`.
    """
    height, width = kernel.shape[:2]
    pads = _explicit_pads(padding, (height, width), stride, x.shape[1:3])
    return convolution(x, kernel, stride=stride, pads=pads)
