"""The blocks of MobileNetV4 (arXiv:2404.10518): universal inverted bottleneck, mobile attention.

Named as in timm's `_efficientnet_blocks.py` and `layers/attention2d.py`.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.families.efficientnet_blocks import Block, KernelSize, LayerFactory, NormAct

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
      make: makes the network's layers.
      depthwise: convolve each channel alone.
    """

    features: int
    kernel_size: KernelSize
    act: layers.Act | None
    make: LayerFactory
    stride: int = 1
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        groups = self.features if self.depthwise else 1
        conv = self.make.conv(
            self.features, self.kernel_size, self.stride, groups=groups, name="conv"
        )
        return self.make.norm(self.act, name="bn")(conv(x), train=train)


class UniversalInvertedResidual(Block):
    """Inverted bottleneck with depthwise convolutions before and after its expansion (`uir`).

    Each may be missing: with both it is the paper's ExtraDW, with the first a ConvNeXt block, with
    the second an inverted residual, with none a feed-forward network. The second has the stride.

    Attributes:
      layer_scale: end the residual branch with a `LayerScale`.
    """

    layer_scale: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        plan, spec = self.plan, self.plan.spec
        layer = functools.partial(ConvNormAct, make=self.make)
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
            y = self.subsampled(middle(y, train=train))
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
        """Attends from each position of [B, H, W, C] to all positions."""
        batch, height, width, channels = x.shape
        conv = functools.partial(
            layers.Conv, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype
        )

        def keys_or_values(name: str) -> jax.Array:
            """Returns keys or values of the positions after subsampling, [B, m, size]."""
            y = x
            if self.kv_stride > 1:
                y = conv(
                    channels, self.kernel_size, self.kv_stride, groups=channels,
                    name=f"{name}.down_conv",
                )(y)  # fmt: skip
                y = self.norm(name=f"{name}.norm")(y, train=train)
            return conv(self.size, 1, name=f"{name}.proj")(y).reshape(batch, -1, self.size)

        queries = conv(self.heads * self.size, 1, name="query.proj")(x)
        queries = queries.reshape(batch, height * width, self.heads, self.size)
        keys, values = keys_or_values("key"), keys_or_values("value")
        scores = jnp.einsum("bnhd,bmd->bhnm", queries, keys) * self.size**-0.5
        weights = jax.nn.softmax(layers.at_least_float32(scores)).astype(self.dtype)
        y = jnp.einsum("bhnm,bmd->bnhd", weights, values)
        y = y.reshape(batch, height, width, self.heads * self.size)
        return conv(channels, 1, name="output.proj")(y)


class MobileAttention(Block):
    """Norm, multi-query attention and layer scale in a residual branch (`mqa`)."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        spec, make = self.plan.spec, self.make
        attention = MultiQueryAttention(
            spec.heads, spec.key_size, spec.kv_stride, spec.kernel_side, make.norm, make.dtype,
            name="attn",
        )  # fmt: skip
        y = make.norm(name="norm")(x, train=train)
        y = LayerScale(name="layer_scale")(attention(y, train=train))
        return self.with_shortcut(x, y, train=train)
