"""Normalisation layers, computed in float32.

Each takes the keyword `train`, so that any of them can replace BatchNorm; only those with running
statistics use it.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tl_jax.models.layers import batch_statistics
from tl_jax.models.layers.types import Act, Dtype, Initializer, at_least_float32

# Layers with running statistics sow each batch's mean, biased variance and count into this
# collection where it is mutable; `tl_jax.training.recalibrate` makes it so.
BATCH_MOMENTS = "batch_moments"
_SPACE = (1, 2)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (torch's BatchNorm2d).

    It differs from Flax's as torch's does: `momentum` is the weight of the new batch (0.1, where
    Flax says 0.9), and the running variance is the unbiased one, n / (n - 1), while the batch is
    normalised by the biased one.

    Under `jit` on a batch sharded over devices the statistics are those of the whole batch.

    Attributes:
      momentum: weight of the batch's statistics in the running ones.
      epsilon: added to the variance; 1e-3 in timm's `tf_*` networks.
      axis_name: mapped axis to average over, for `pmap` or `shard_map`.
      scale_init: initializer of the scale [channels].
      dtype: type of the result.
      act: activation of the result, for networks in which timm has BatchNormAct2d; None for none.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: str | None = None
    scale_init: Initializer = nn.initializers.ones
    dtype: Dtype = jnp.float32
    act: Act | None = None

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
        if train and not self.is_initializing():
            y, moments, (running_mean.value, running_var.value) = batch_statistics.batch_norm(
                x,
                scale,
                bias,
                (mean, var),
                momentum=self.momentum,
                epsilon=self.epsilon,
                axis_name=self.axis_name,
            )
            self.sow(BATCH_MOMENTS, "moments", moments)
            return self.finish(y)
        return self.normalize(x, mean, var, scale, bias)

    # A method, so that the interceptors of `layers.tracing` and `layers.folding` reach it.
    def normalize(
        self, x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array
    ) -> jax.Array:
        """Returns the result by the running statistics."""
        return self.finish(batch_statistics.normalized(x, mean, var, scale, bias, self.epsilon))

    @nn.nowrap
    def finish(self, y: jax.Array) -> jax.Array:
        """Returns a normalised map as the layer does: in `dtype`, and activated."""
        y = y.astype(self.dtype)
        return y if self.act is None else self.act(y)


class _Affine(nn.Module):
    """Base of the norms other than BatchNorm: scale, bias and the type of the result."""

    scale_init: Initializer = nn.initializers.ones
    dtype: Dtype = jnp.float32

    def affine(self, x: jax.Array, *, use_bias: bool = True) -> jax.Array:
        """Scales and shifts each channel."""
        shape = (x.shape[-1],)
        y = x * self.param("scale", self.scale_init, shape, jnp.float32)
        if use_bias:
            y = y + self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        return y.astype(self.dtype)


class GroupNorm(_Affine):
    """Normalisation of each image's groups of channels over space (arXiv:1803.08494).

    Attributes:
      groups: number of groups, unless `group_size` is given.
      group_size: channels of a group.
      epsilon: added to the variance.
      act: activation of the result, as that of `BatchNorm`.
    """

    groups: int | None = 32
    group_size: int | None = None
    epsilon: float = 1e-5
    act: Act | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Normalises [B, H, W, C]; `train` makes no difference."""
        grouped = _grouped(at_least_float32(x), self.groups, self.group_size)
        axes = (1, 2, 4)
        centred = grouped - jnp.mean(grouped, axes, keepdims=True)
        var = jnp.mean(jnp.square(centred), axes, keepdims=True)
        y = self.affine((centred * lax.rsqrt(var + self.epsilon)).reshape(x.shape))
        return y if self.act is None else self.act(y)


def _grouped(x: jax.Array, groups: int | None, group_size: int | None) -> jax.Array:
    """Returns [B, H, W, C] as [B, H, W, groups, C / groups]."""
    channels = x.shape[-1]
    groups = channels // group_size if group_size else groups
    if not groups or channels % groups:
        raise ValueError(f"{channels} channels do not divide into {groups} groups")
    return x.reshape(*x.shape[:-1], groups, channels // groups)


class LayerNorm(_Affine):
    """Normalisation over the last axis (torch's LayerNorm; timm's LayerNorm2d on maps).

    Attributes:
      epsilon: added to the variance.
      act: activation of the result, as that of `BatchNorm`.
    """

    epsilon: float = 1e-6
    act: Act | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Normalises each vector of channels; `train` makes no difference."""
        x = at_least_float32(x)
        centred = x - jnp.mean(x, -1, keepdims=True)
        var = jnp.mean(jnp.square(centred), -1, keepdims=True)
        y = self.affine(centred * lax.rsqrt(var + self.epsilon))
        return y if self.act is None else self.act(y)


class RmsNorm(_Affine):
    """Division by the root mean square of the last axis (arXiv:1910.07467); no bias."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Normalises each vector of channels; `train` makes no difference."""
        x = at_least_float32(x)
        mean_square = jnp.mean(jnp.square(x), -1, keepdims=True)
        return self.affine(x * lax.rsqrt(mean_square + self.epsilon), use_bias=False)


class EvoNormB0(_Affine):
    """Normalisation and activation in one, with a running variance (B0 of arXiv:2004.02967).

    Attributes:
      activate: False leaves only the scale and shift, as in timm where no activation follows.
      momentum, epsilon, axis_name: as those of `BatchNorm`.
    """

    activate: bool = True
    momentum: float = 0.1
    epsilon: float = 1e-3
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises by the batch's variance if `train`, else by the running one."""
        shape = (x.shape[-1],)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        x = at_least_float32(x)
        if not self.activate:
            return self.affine(x)
        v = self.param("v", nn.initializers.ones, shape, jnp.float32)
        var = running_var.value
        if train and not self.is_initializing():
            count = batch_statistics.count(x, self.axis_name)
            shift = lax.stop_gradient(jnp.mean(x, (0, 1, 2)))
            mean, var = batch_statistics.moments(x, shift, self.axis_name)
            self.sow(BATCH_MOMENTS, "moments", (mean, var, count))
            unbiased = lax.stop_gradient(var) * (count / (count - 1))
            running_var.value += self.momentum * (unbiased - running_var.value)
        batch_std = jnp.sqrt(var + self.epsilon)
        instance_std = jnp.sqrt(jnp.var(x, _SPACE, keepdims=True) + self.epsilon)
        return self.affine(x / jnp.maximum(batch_std, x * v + instance_std))


class EvoNormS0(_Affine):
    """Normalisation and activation in one, of each image alone (S0 of arXiv:2004.02967).

    Attributes:
      activate: False leaves the sigmoid out.
      always_normalise: divide by the deviation even then (timm's `S0a`).
      groups, group_size: as those of `GroupNorm`.
      epsilon: added to the variance.
    """

    activate: bool = True
    always_normalise: bool = False
    groups: int | None = 32
    group_size: int | None = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Normalises [B, H, W, C]; `train` makes no difference."""
        x = at_least_float32(x)
        grouped = _grouped(x, self.groups, self.group_size)
        deviation = jnp.sqrt(jnp.var(grouped, (1, 2, 4), keepdims=True) + self.epsilon)
        if self.activate:
            v = self.param("v", nn.initializers.ones, (x.shape[-1],), jnp.float32)
            grouped = grouped * jax.nn.sigmoid(x * v).reshape(grouped.shape)
        if self.activate or self.always_normalise:
            grouped = grouped / deviation
        return self.affine(grouped.reshape(x.shape))


class FilterResponseNorm(_Affine):
    """Division by each channel's root mean square over space (arXiv:1911.09737).

    Attributes:
      threshold: end with the maximum of the result and a learned value `tau` (the paper's TLU).
      act: activation in the place of the threshold; None for none.
      epsilon: added to the mean square.
    """

    threshold: bool = True
    act: Act | None = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Normalises [B, H, W, C]; `train` makes no difference."""
        x = at_least_float32(x)
        y = x * lax.rsqrt(jnp.mean(jnp.square(x), _SPACE, keepdims=True) + self.epsilon)
        y = self.affine(y)
        if self.threshold:
            tau = self.param("tau", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
            return jnp.maximum(y, tau.astype(y.dtype))
        return y if self.act is None else self.act(y)
