"""MobileNetV4's own blocks (arXiv:2404.10518): universal inverted bottleneck, mobile attention.

Named as in timm's `_efficientnet_blocks.py` and `layers/attention2d.py`.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.families.efficientnet_blocks import Block, NormAct, Parts

_LAYER_SCALE = 1e-5


class LayerScale(nn.Module):
    """A learned factor `gamma` for each channel, which starts near zero (arXiv:2103.17239)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.constant(_LAYER_SCALE)
        gamma = self.param("gamma", init, (x.shape[-1],), jnp.float32)
        return x * gamma.astype(x.dtype)


class ConvNormAct(nn.Module):
    """Convolution, norm and activation.

    Attributes:
      features, kernel_size, stride: those of the convolution.
      act: activation; None for none.
      parts: what the network's layers are made with.
      depthwise: convolve each channel alone.
    """

    features: int
    kernel_size: int
    act: layers.Act | None
    parts: Parts
    stride: int = 1
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        groups = self.features if self.depthwise else 1
        y = self.parts.conv(
            self.features, self.kernel_size, self.stride, groups=groups, name="conv"
        )(x)
        return self.parts.norm(self.act, name="bn")(y, train=train)


class UniversalInvertedResidual(Block):
    """Inverted bottleneck with depthwise convolutions before its expansion and within (`uir`).

    Each may be missing: with both it is the paper's ExtraDW, with the first a ConvNeXt block, with
    the second an inverted residual, with none a feed-forward network. The second has the stride.

    Attributes:
      layer_scale: end the residual branch with a `LayerScale`.
    """

    layer_scale: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        plan, spec = self.plan, self.plan.spec
        layer = functools.partial(ConvNormAct, parts=self.parts)
        y = x
        if spec.start_kernel:
            start = layer(x.shape[-1], spec.start_kernel, None, depthwise=True, name="dw_start")
            y = start(y, train=train)
        y = layer(plan.hidden, 1, self.act, name="pw_exp")(y, train=train)
        if spec.kernel_size:
            middle = layer(
                plan.hidden, spec.kernel_size, self.act, stride=self.conv_stride, depthwise=True,
                name="dw_mid",
            )  # fmt: skip
            y = self.blurred(middle(y, train=train))
        y = layer(plan.width, 1, None, name="pw_proj")(y, train=train)
        if self.layer_scale:
            y = LayerScale(name="layer_scale")(y)
        return self.with_shortcut(x, y, train=train)


class MultiQueryAttention(nn.Module):
    """Attention over space whose heads share one set of keys and values (arXiv:1911.02150).

    timm's `MultiQueryAttention2d`.

    Attributes:
      heads: number of heads.
      size: channels of a head's queries, and of the keys and the values.
      kv_stride: step of the depthwise convolutions that subsample for keys and values; 1 for none.
      kernel_size: of these convolutions.
      norm: makes the norms that follow them.
      dtype: type of the computation.
    """

    heads: int
    size: int
    kv_stride: int
    kernel_size: int
    norm: NormAct
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Lets every place of [B, H, W, C] look at all others."""
        batch, height, width, channels = x.shape
        queries = self._conv(self.heads * self.size, "query.proj")(x)
        queries = queries.reshape(batch, height * width, self.heads, self.size)
        keys = self._shared(x, "key", train=train)
        values = self._shared(x, "value", train=train)
        scores = jnp.einsum("bnhd,bmd->bhnm", queries, keys) * self.size**-0.5
        weights = jax.nn.softmax(layers.at_least_float32(scores)).astype(self.dtype)
        found = jnp.einsum("bhnm,bmd->bnhd", weights, values)
        found = found.reshape(batch, height, width, self.heads * self.size)
        return self._conv(channels, "output.proj")(found)

    def _shared(self, x: jax.Array, name: str, *, train: bool) -> jax.Array:
        """Returns the keys or values of the places of the map, [B, places, size]."""
        if self.kv_stride > 1:
            channels = x.shape[-1]
            x = self._conv(
                channels, f"{name}.down_conv", self.kernel_size, self.kv_stride, groups=channels
            )(x)
            x = self.norm(name=f"{name}.norm")(x, train=train)
        return self._conv(self.size, f"{name}.proj")(x).reshape(x.shape[0], -1, self.size)

    def _conv(
        self, features: int, name: str, kernel_size: int = 1, stride: int = 1, *, groups: int = 1
    ) -> layers.Conv:
        return layers.Conv(
            features, kernel_size, stride, groups=groups, dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(), name=name,
        )  # fmt: skip


class MobileAttention(Block):
    """Norm, multi-query attention and layer scale in a residual branch (`mqa`)."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        spec, parts = self.plan.spec, self.parts
        attention = MultiQueryAttention(
            spec.heads, spec.key_size, spec.kv_stride, spec.kernel_size, parts.norm, parts.dtype,
            name="attn",
        )  # fmt: skip
        y = parts.norm(name="norm")(x, train=train)
        y = LayerScale(name="layer_scale")(attention(y, train=train))
        return self.with_shortcut(x, y, train=train)
