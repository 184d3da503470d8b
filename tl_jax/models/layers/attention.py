"""Channel attention: layers that weight the channels of a map by statistics of the map."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models.layers.activations import hard_sigmoid, relu, sigmoid, silu
from tl_jax.models.layers.conv import Conv
from tl_jax.models.layers.initializers import torch_default
from tl_jax.models.layers.norm import LayerNorm
from tl_jax.models.layers.pool import global_average
from tl_jax.models.layers.types import (
    Act,
    Dtype,
    Initializer,
    at_least_float32,
    make_divisible,
)


class SqueezeExcite(nn.Module):
    """Channel attention of the EfficientNets (`SqueezeExcite` of `_efficientnet_blocks.py`).

    Attributes:
      reduced: channels of the squeezed layer.
      act: activation of the squeezed layer.
      conv: makes the two convolutions.
      gate: maps the result to the weights.
    """

    reduced: int
    act: Act = silu
    conv: Callable[..., Conv] = Conv
    gate: Act = sigmoid

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        s = global_average(x)[:, None, None]
        s = self.conv(self.reduced, 1, use_bias=True, name="conv_reduce")(s)
        s = self.conv(x.shape[-1], 1, use_bias=True, name="conv_expand")(self.act(s))
        return x * self.gate(s)


class SEModule(nn.Module):
    """Squeeze-and-excitation (arXiv:1709.01507; `SEModule` of timm's `squeeze_excite.py`).

    Attributes:
      reduced: channels of the squeezed layer; None for `ratio` of the input's.
      ratio: share of the input's channels, rounded to a multiple of `divisor`.
      divisor: see `ratio`.
      act: activation of the squeezed layer.
      gate: maps the result to the weights.
      kernel_init: initializer of both kernels.
      dtype: type of the computation.
    """

    reduced: int | None = None
    ratio: float = 1 / 16
    divisor: int = 8
    act: Act = relu
    gate: Act = sigmoid
    kernel_init: Initializer = torch_default
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        reduced = self.reduced or make_divisible(
            channels * self.ratio, self.divisor, round_limit=0.0
        )
        s = global_average(x)[:, None, None]
        s = self._conv(reduced, "fc1")(s)
        s = self._conv(channels, "fc2")(self.act(s))
        return x * self.gate(s)

    def _conv(self, features: int, name: str) -> Conv:
        return Conv(
            features, 1, use_bias=True, kernel_init=self.kernel_init, dtype=self.dtype, name=name
        )


class EffectiveSE(nn.Module):
    """Squeeze-and-excitation with one layer and no reduction (arXiv:1911.06667)."""

    gate: Act = hard_sigmoid
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fc = Conv(
            x.shape[-1], 1, use_bias=True, kernel_init=torch_default, dtype=self.dtype, name="fc"
        )
        return x * self.gate(fc(global_average(x)[:, None, None]))


class EfficientChannelAttention(nn.Module):
    """A short convolution along the channels (ECA, arXiv:1910.03151; timm's `EcaModule`).

    Attributes:
      kernel_size: length of the convolution's kernel; None for one that grows with the logarithm of
        the number of channels.
      gate: maps the result to the weights.
      dtype: type of the computation.
    """

    kernel_size: int | None = None
    gate: Act = sigmoid
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = self.kernel_size
        if size is None:
            size = int(abs(math.log2(x.shape[-1]) + 1) / 2)
            size = max(size if size % 2 else size + 1, 3)
        s = global_average(x).astype(self.dtype)[..., None]
        pad = (size - 1) // 2
        s = nn.Conv(
            1, (size,), padding=((pad, pad),), use_bias=False, kernel_init=torch_default,
            dtype=self.dtype, name="conv",
        )(s)  # fmt: skip
        return x * self.gate(s[:, None, None, :, 0])


class GlobalContext(nn.Module):
    """Channel weights from an attention-weighted mean over space (GCNet, arXiv:1904.11492).

    Attributes:
      ratio: share of the channels in the hidden layer.
      divisor: the width of the hidden layer is a multiple of it.
      act: activation of the hidden layer.
      gate: maps the result to the weights.
      conv: makes the convolutions.
    """

    ratio: float = 1 / 8
    divisor: int = 1
    act: Act = relu
    gate: Act = sigmoid
    conv: Callable[..., Conv] = Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        scores = self.conv(1, 1, use_bias=True, name="conv_attn")(x)
        weights = jax.nn.softmax(at_least_float32(scores).reshape(batch, height * width))
        flat = x.reshape(batch, height * width, channels)
        context = jnp.einsum("bn,bnc->bc", weights.astype(x.dtype), flat)[:, None, None]
        hidden = make_divisible(channels * self.ratio, self.divisor, round_limit=0.0)
        mlp = _ContextMlp(hidden, self.act, self.conv, name="mlp_scale")
        return x * self.gate(mlp(context))


class _ContextMlp(nn.Module):
    """Two 1x1 convolutions with a LayerNorm between them (timm's `ConvMlp`)."""

    hidden: int
    act: Act
    conv: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.hidden, 1, use_bias=True, name="fc1")(x)
        y = self.act(LayerNorm(dtype=x.dtype, name="norm")(y))
        return self.conv(x.shape[-1], 1, use_bias=True, name="fc2")(y)
