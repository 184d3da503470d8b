"""Convolution, normalisation, pooling and regularisation layers with torch's arithmetic.

Images and feature maps are channels-last, [batch, height, width, channels]. Parameters and
running statistics are always float32; `dtype` is the type a layer computes in and returns.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

Dtype = Any
Initializer = Callable[..., jax.Array]
Padding = int | Literal["symmetric", "same"]
Pads = tuple[tuple[int, int], ...]

relu = jax.nn.relu
relu6 = jax.nn.relu6
silu = jax.nn.silu

# torch: `kaiming_normal_(mode="fan_out", nonlinearity="relu")`.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def goog_fan_out(groups: int = 1) -> Initializer:
    """Returns the TPU EfficientNets' initialiser for the kernel of a convolution.

    A normal distribution of variance 2 / fan_out, where fan_out counts one group's outputs
    (`_init_weight_goog` of timm's `_efficientnet_builder.py`).
    """
    return nn.initializers.variance_scaling(2.0 * groups, "fan_out", "normal")


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Conv(nn.Module):
    """2-D convolution.

    Attributes:
      features: output channels.
      kernel_size: side of the square kernel, in pixels.
      stride: step in both directions, in pixels.
      padding: `"symmetric"` is torch's habit, `kernel_size // 2` on each side whatever the stride
        (Flax's default, `SAME`, shifts the grid by a pixel where the stride is 2); `"same"` is
        TensorFlow's, as the `tf_*` networks of timm want it; an integer pads that much.
      groups: number of channel groups; as many as input channels makes it depthwise.
      use_bias: add a bias.
      kernel_init: initialiser of the kernel [kernel_size, kernel_size, inputs / groups, features].
      dtype: type of the computation and of the result.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: Padding = "symmetric"
    groups: int = 1
    use_bias: bool = False
    kernel_init: Initializer = kaiming_fan_out
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        side = self.kernel_size
        shape = (side, side, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = _convolve(x, kernel, self.stride, _explicit_padding(self.padding, self, x.shape))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)
        return y


def _explicit_padding(padding: Padding, conv: Conv, shape: Sequence[int]) -> Pads:
    """Returns how many rows and columns of zeros go before and after the image."""
    if padding == "same":
        window, strides = (conv.kernel_size,) * 2, (conv.stride,) * 2
        return tuple(lax.padtype_to_pads(shape[1:3], window, strides, "SAME"))
    each = conv.kernel_size // 2 if padding == "symmetric" else padding
    return ((each, each), (each, each))


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolves [B, H, W, I] with [k, k, I / groups, O]; how depends on the platform.

    XLA's own convolutions are slow on a CPU where the kernel is 1x1 or depthwise (one to two
    orders of magnitude there, gradients included), so these are a matrix product and a sum of
    shifted products on that platform. Only the order of the additions differs.
    """

    def general(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(stride, stride),
            padding=pads,
            feature_group_count=x.shape[-1] // kernel.shape[2],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    if kernel.shape[:3] == (1, 1, x.shape[-1]) and pads == ((0, 0), (0, 0)):
        on_cpu = functools.partial(_pointwise, stride=stride)
    elif kernel.shape[2:] == (1, x.shape[-1]):
        on_cpu = functools.partial(_depthwise, stride=stride, pads=pads)
    else:
        return general(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=general)


def _pointwise(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    return x[:, ::stride, ::stride] @ kernel[0, 0]


def _depthwise(x: jax.Array, kernel: jax.Array, *, stride: int, pads: Pads) -> jax.Array:
    side = kernel.shape[0]
    padded = jnp.pad(_at_least_float32(x), ((0, 0), *pads, (0, 0)))
    rows, columns = ((n - side) // stride * stride + 1 for n in padded.shape[1:3])
    y = sum(
        padded[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j, 0]
        for i in range(side)
        for j in range(side)
    )
    return y.astype(x.dtype)


class Dense(nn.Module):
    """Fully connected layer over the last axis; at least float32, and zero where it starts fresh.

    It is the classifier of every network. A head that starts at zero does not depend on the scale
    of some initialiser, and its first gradient is that of the features alone.
    """

    features: int
    kernel_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return _at_least_float32(x) @ kernel + bias


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, computed in float32 (torch's BatchNorm2d).

    It differs from Flax's in three ways, all torch's: `momentum` is the weight of the new batch
    (0.1, where Flax says 0.9), the running variance is the unbiased one, n / (n - 1), while the
    batch is normalised by the biased one, and the default epsilon is timm's.

    Under `jit` on a batch sharded over devices the statistics are those of the whole batch.

    Attributes:
      momentum: weight of the batch's statistics in the running ones.
      epsilon: added to the variance; 1e-3 in timm's `tf_*` networks.
      axis_name: mapped axis to average over, for `pmap` or `shard_map`.
      scale_init: initialiser of the scale [channels].
      dtype: type of the result.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: str | None = None
    scale_init: Initializer = nn.initializers.ones
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises by the batch's statistics if `train`, else by the running ones.

        Raises:
          ValueError: if `train` and there is only one value per channel.
        """
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        mean, var = running_mean.value, running_var.value
        x = _at_least_float32(x)
        if train and not self.is_initializing():
            mean, var, count = _moments(x, running_mean.value, self.axis_name)
            unbiased = var * (count / (count - 1))
            running_mean.value += self.momentum * (mean - running_mean.value)
            running_var.value += self.momentum * (unbiased - running_var.value)
        y = (x - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
        return y.astype(self.dtype)


def _moments(
    x: jax.Array, shift: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array, int]:
    """Returns mean, biased variance and number of values of each channel, in one pass over `x`.

    The deviations are taken from `shift`, any constant near the mean (the running mean), because
    the plain E[x^2] - E[x]^2 loses digits in float32 where the mean is large.
    """
    axes = tuple(range(x.ndim - 1))
    count = math.prod(x.shape[:-1])
    deviation = x - lax.stop_gradient(shift)
    first, second = jnp.mean(deviation, axes), jnp.mean(jnp.square(deviation), axes)
    if axis_name is not None:
        first, second = lax.pmean((first, second), axis_name)
        count = count * lax.psum(1, axis_name)
    if count < 2:
        raise ValueError(
            f"BatchNorm in training mode got an input of shape {x.shape}, one value per channel; "
            "use more images per batch or larger ones, or freeze the layer"
        )
    return first + shift, jnp.maximum(second - jnp.square(first), 0.0), count


class Activation(nn.Module):
    """An activation function as a module, for those whose outputs are named features in timm."""

    function: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)


class MaxPool(nn.Module):
    """Maximum over square windows; `padding` cells on each side never win (torch's MaxPool2d)."""

    window: int
    stride: int
    padding: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pad = (self.padding, self.padding)
        return nn.max_pool(
            x, (self.window, self.window), (self.stride, self.stride), padding=(pad, pad)
        )


def global_average(x: jax.Array) -> jax.Array:
    """Averages a feature map over space: [B, H, W, C] -> [B, C], at least float32."""
    return jnp.mean(_at_least_float32(x), axis=(1, 2))


def adaptive_average(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Averages a feature map to `size` (height, width), as torch's `adaptive_avg_pool2d`.

    Output cell i of n covers the input cells floor(i * m / n) to ceil((i + 1) * m / n) of m, so
    that a map smaller than `size` is enlarged.
    """
    y = _at_least_float32(x)
    rows = jnp.asarray(_bins(x.shape[1], size[0]), y.dtype)
    columns = jnp.asarray(_bins(x.shape[2], size[1]), y.dtype)
    y = jnp.einsum("ih,bhwc->biwc", rows, y, precision=lax.Precision.HIGHEST)
    y = jnp.einsum("jw,biwc->bijc", columns, y, precision=lax.Precision.HIGHEST)
    return y.astype(x.dtype)


def _bins(cells: int, bins: int) -> np.ndarray:
    """Returns the averaging matrix [bins, cells] of one direction."""
    weights = np.zeros((bins, cells))
    for i in range(bins):
        start, end = i * cells // bins, -((i + 1) * cells // -bins)
        weights[i, start:end] = 1 / (end - start)
    return weights


class SqueezeExcite(nn.Module):
    """Channel attention of the EfficientNets (`SqueezeExcite` of `_efficientnet_blocks.py`).

    Attributes:
      reduced: width of the squeezed layer, in channels.
      act: its activation; the gate is a sigmoid.
      conv: makes the two 1x1 convolutions.
    """

    reduced: int
    act: Callable[[jax.Array], jax.Array] = silu
    conv: Callable[..., Conv] = Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        s = global_average(x)[:, None, None]
        s = self.conv(self.reduced, 1, use_bias=True, name="conv_reduce")(s)
        s = self.conv(x.shape[-1], 1, use_bias=True, name="conv_expand")(self.act(s))
        return x * jax.nn.sigmoid(s)


class Dropout(nn.Module):
    """Zeroes values at random and scales the others by 1 / (1 - rate); stream `"dropout"`."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return x
        return x * _keep_mask(self.make_rng("dropout"), self.rate, x.shape, x.dtype)


class DropPath(nn.Module):
    """Zeroes whole examples of a residual branch at random (stochastic depth, arXiv:1603.09382).

    The examples that stay are scaled by 1 / (1 - rate). The random stream is `"dropout"`.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * _keep_mask(self.make_rng("dropout"), self.rate, shape, x.dtype)


def _keep_mask(key: jax.Array, rate: float, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
    """Returns 1 / (1 - rate) where a value is kept, and 0 elsewhere."""
    return jax.random.bernoulli(key, 1.0 - rate, shape).astype(dtype) / (1.0 - rate)
