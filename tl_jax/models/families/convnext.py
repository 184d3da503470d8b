"""ConvNeXt (arXiv:2201.03545) and V2 (arXiv:2301.00808), named as in timm's `convnext.py`."""

import functools
import re
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture, Fields
from tl_jax.models.network import Network, drop_path_rates

_EXPANSION = 4
_KERNEL_INIT = layers.trunc_normal(0.02)


class SimpleNorm(nn.Module):
    """Division by the standard deviation of the channels, without a shift (timm's `SimpleNorm`).

    The mean is subtracted to compute the deviation, not from the result; the variance is unbiased.
    """

    epsilon: float = 1e-6
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = layers.at_least_float32(x)
        var = jnp.var(x, axis=-1, ddof=1, keepdims=True)
        return (x * lax.rsqrt(var + self.epsilon) * scale).astype(self.dtype)


class GlobalResponseNorm(nn.Module):
    """Lets the channels of a map compete by their norms over space (GRN, arXiv:2301.00808)."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.zeros, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        y = layers.at_least_float32(x)
        square = jnp.sum(jnp.square(y), (1, 2), keepdims=True)
        # Where a channel is 0 everywhere, the gradient of its norm is 0, as in torch.
        norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        response = norm / (jnp.mean(norm, -1, keepdims=True) + self.epsilon)
        return (y + (bias + scale * (y * response))).astype(x.dtype)


class BlockOptions(NamedTuple):
    """Options that all blocks of one network share.

    Attributes:
      conv: makes the convolutions.
      norm: makes the norms.
      pointwise: makes the two layers of an MLP: a dense layer, or a 1x1 convolution, which differ
        in the shapes that timm stores.
      act: activation of the MLP.
      global_response: GRN in the MLP (V2).
      layer_scale: first value of the scale of a residual branch; None for no scale.
    """

    conv: Callable[..., layers.Conv]
    norm: Callable[..., nn.Module]
    pointwise: Callable[..., nn.Module]
    act: layers.Act
    global_response: bool
    layer_scale: float | None


class Mlp(nn.Module):
    """Two layers applied at each position; the hidden one is four times as wide."""

    options: BlockOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.options.act(self.options.pointwise(_EXPANSION * x.shape[-1], name="fc1")(x))
        if self.options.global_response:
            y = GlobalResponseNorm(name="grn")(y)
        return self.options.pointwise(x.shape[-1], name="fc2")(y)


class Block(nn.Module):
    """Depthwise convolution, norm and MLP, with a shortcut around them."""

    kernel_size: int
    drop_path: float
    options: BlockOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width = x.shape[-1]
        y = self.options.conv(width, self.kernel_size, groups=width, name="conv_dw")(x)
        y = self.options.norm(name="norm")(y)
        y = Mlp(self.options, name="mlp")(y)
        if self.options.layer_scale is not None:
            init = nn.initializers.constant(self.options.layer_scale)
            y = y * self.param("gamma", init, (width,), jnp.float32).astype(y.dtype)
        return layers.DropPath(self.drop_path, name="drop_path")(y, train=train) + x


class Stage(nn.Module):
    """Blocks of one width; a norm and a strided convolution go before those of the later stages."""

    width: int
    kernel_size: int
    downsample: bool
    drop_paths: tuple[float, ...]
    options: BlockOptions

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.downsample:
            x = self.options.norm(name="downsample.0")(x)
            x = self.options.conv(self.width, 2, 2, padding=0, name="downsample.1")(x)
        for i, drop_path in enumerate(self.drop_paths):
            block = Block(self.kernel_size, drop_path, self.options, name=f"blocks.{i}")
            x = block(x, train=train)
        return x


class ConvNeXt(Network):
    """ConvNeXt, of both versions.

    Attributes:
      depths: blocks in each stage.
      widths: channels of each stage.
      kernel_sizes: of each stage's depthwise convolutions.
      stem: `"patch"` for one 4x4 convolution of stride 4; `"overlap"` for two 3x3 ones of stride 2,
        the first of which has half the width if `"tiered"`, and an activation if `"act"`.
      conv_mlp: the MLPs are stored as 1x1 convolutions, not as dense layers.
      global_response: GRN in the MLPs (V2).
      layer_scale: first value of the scale of each residual branch; None for no scale.
      norm: class of the norms.
      epsilon: of the norms.
      act: activation of the MLPs.
      norm_before_pool: the last norm comes before the pooling, not after it.
      hidden: width of a hidden layer before the classifier; 0 for none.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    kernel_sizes: tuple[int, ...] = (7, 7, 7, 7)
    stem: Literal["patch", "overlap", "tiered", "act"] = "patch"
    conv_mlp: bool = False
    global_response: bool = False
    layer_scale: float | None = 1e-6
    norm: type[nn.Module] = layers.LayerNorm
    epsilon: float = 1e-6
    act: layers.Act = layers.gelu
    norm_before_pool: bool = False
    hidden: int = 0

    classifier: ClassVar[str] = "head.fc"

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        options = self._block_options()
        x = self._stem(images, options)
        rates = drop_path_rates(self.drop_path_rate, self.depths)
        specs = zip(self.widths, self.kernel_sizes, rates, strict=True)
        for i, (width, kernel_size, drop_paths) in enumerate(specs):
            stage = Stage(width, kernel_size, i > 0, drop_paths, options, name=f"stages.{i}")
            x = stage(x, train=train)
        return options.norm(name="norm_pre")(x) if self.norm_before_pool else x

    def pooled(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the normalised average over space, or the hidden layer's output."""
        x = layers.global_average(x)
        if not self.norm_before_pool:
            x = self.norm(epsilon=self.epsilon, dtype=x.dtype, name="head.norm")(x)
        if self.hidden:
            dense = nn.Dense(
                self.hidden, dtype=x.dtype, kernel_init=_KERNEL_INIT, name="head.pre_logits.fc"
            )
            x = layers.gelu(dense(x))
        return x

    def _stem(self, images: jax.Array, options: BlockOptions) -> jax.Array:
        width = self.widths[0]
        if self.stem == "patch":
            x = options.conv(width, 4, 4, padding=0, name="stem.0")(images)
            return options.norm(name="stem.1")(x)
        first = layers.make_divisible(width // 2) if self.stem == "tiered" else width
        x = options.conv(first, 3, 2, name="stem.0")(images)
        index = 1
        if self.stem == "act":
            x = self.act(x)
            index = 2
        x = options.conv(width, 3, 2, name=f"stem.{index}")(x)
        return options.norm(name=f"stem.{index + 1}")(x)

    def _block_options(self) -> BlockOptions:
        conv = functools.partial(
            layers.Conv, use_bias=True, kernel_init=_KERNEL_INIT, dtype=self.dtype
        )
        dense = functools.partial(nn.Dense, kernel_init=_KERNEL_INIT, dtype=self.dtype)
        return BlockOptions(
            conv=conv,
            norm=functools.partial(self.norm, epsilon=self.epsilon, dtype=self.dtype),
            pointwise=functools.partial(conv, kernel_size=1) if self.conv_mlp else dense,
            act=self.act,
            global_response=self.global_response,
            layer_scale=self.layer_scale,
        )

    def timm_key(self, key: str) -> str:
        """Returns timm's key for one of the original repositories' or torchvision's."""
        return rename(key)


# Patterns of the original repositories' keys (facebookresearch/ConvNeXt and ConvNeXt-V2).
_ORIGINAL_NAMES = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
    (r"\.grn\.gamma$", ".mlp.grn.weight"),
    (r"\.grn\.beta$", ".mlp.grn.bias"),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    # torchvision's.
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
)


# torchvision's block: depthwise convolution, (permutation), norm, layer, (activation), layer.
_TORCHVISION_BLOCK = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}


def rename(key: str) -> str:
    """Returns timm's key for one of the original repositories' or torchvision's.

    Any other key stays as it is. Some shapes differ too, by axes of size 1; `from_state_dict`
    allows for these.

    Examples:
      >>> rename("stages.2.4.dwconv.bias"), rename("features.5.4.block.0.bias")
      ('stages.2.blocks.4.conv_dw.bias', 'stages.2.blocks.4.conv_dw.bias')
    """
    match = re.fullmatch(r"features\.(\d)\.(\d+)\.(?:block\.([0235])\.(.+)|layer_scale)", key)
    if match and int(match[1]) % 2:
        block = f"stages.{int(match[1]) // 2}.blocks.{match[2]}"
        return (
            f"{block}.{_TORCHVISION_BLOCK[match[3]]}.{match[4]}" if match[3] else f"{block}.gamma"
        )
    match = re.fullmatch(r"features\.([0246])\.([01])\.(weight|bias)", key)
    if match:
        place = int(match[1]) // 2
        return f"{f'stages.{place}.downsample' if place else 'stem'}.{match[2]}.{match[3]}"
    for pattern, name in _ORIGINAL_NAMES:
        key = re.sub(pattern, name, key)
    return key


# The small networks keep their MLPs as convolutions.
_ZEPTO: Fields = {"depths": (2, 2, 4, 2), "widths": (32, 64, 128, 256), "conv_mlp": True}
_ATTO: Fields = {"depths": (2, 2, 6, 2), "widths": (40, 80, 160, 320), "conv_mlp": True}
_FEMTO: Fields = {"depths": (2, 2, 6, 2), "widths": (48, 96, 192, 384), "conv_mlp": True}
_PICO: Fields = {"depths": (2, 2, 6, 2), "widths": (64, 128, 256, 512), "conv_mlp": True}
_NANO: Fields = {"depths": (2, 2, 8, 2), "widths": (80, 160, 320, 640), "conv_mlp": True}
_TINY: Fields = {"depths": (3, 3, 9, 3), "widths": (96, 192, 384, 768)}
_SMALL: Fields = {"depths": (3, 3, 27, 3), "widths": (96, 192, 384, 768)}
_BASE: Fields = {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)}
_LARGE: Fields = {"depths": (3, 3, 27, 3), "widths": (192, 384, 768, 1536)}
_XLARGE: Fields = {"depths": (3, 3, 27, 3), "widths": (256, 512, 1024, 2048)}
_HUGE: Fields = {"depths": (3, 3, 27, 3), "widths": (352, 704, 1408, 2816)}
_XXLARGE: Fields = {"depths": (3, 4, 30, 3), "widths": (384, 768, 1536, 3072)}
_V2: Fields = {"global_response": True, "layer_scale": None}
_TEST: Fields = {"depths": (1, 1, 1, 1), "widths": (32, 64, 96, 128), "epsilon": 1e-5}

NETWORKS: dict[str, ConvNeXt] = {
    "convnext_atto": ConvNeXt(**_ATTO),
    "convnext_femto": ConvNeXt(**_FEMTO),
    "convnext_pico": ConvNeXt(**_PICO),
    "convnext_nano": ConvNeXt(**_NANO),
    "convnext_tiny": ConvNeXt(**_TINY),
    "convnext_small": ConvNeXt(**_SMALL),
    "convnext_base": ConvNeXt(**_BASE),
    "convnext_large": ConvNeXt(**_LARGE),
    "convnext_xlarge": ConvNeXt(**_XLARGE),
    "convnextv2_atto": ConvNeXt(**_ATTO, **_V2),
    "convnextv2_femto": ConvNeXt(**_FEMTO, **_V2),
    "convnextv2_pico": ConvNeXt(**_PICO, **_V2),
    "convnextv2_nano": ConvNeXt(**_NANO, **_V2),
    "convnextv2_tiny": ConvNeXt(**_TINY, **_V2),
    "convnextv2_small": ConvNeXt(**_SMALL, **_V2),
    "convnextv2_base": ConvNeXt(**_BASE, **_V2),
    "convnextv2_large": ConvNeXt(**_LARGE, **_V2),
    "convnextv2_huge": ConvNeXt(**_HUGE, **_V2),
    "convnext_zepto_rms": ConvNeXt(norm=SimpleNorm, **_ZEPTO),
    "convnext_zepto_rms_ols": ConvNeXt(norm=SimpleNorm, stem="act", **_ZEPTO),
    "convnext_atto_ols": ConvNeXt(stem="tiered", **_ATTO),
    "convnext_atto_rms": ConvNeXt(norm=layers.RmsNorm, **_ATTO),
    "convnext_femto_ols": ConvNeXt(stem="tiered", **_FEMTO),
    "convnext_pico_ols": ConvNeXt(stem="tiered", **_PICO),
    "convnext_nano_ols": ConvNeXt(stem="overlap", **_NANO),
    "convnext_tiny_hnf": ConvNeXt(conv_mlp=True, norm_before_pool=True, **_TINY),
    "convnext_large_mlp": ConvNeXt(hidden=1536, **_LARGE),
    "convnext_xxlarge": ConvNeXt(epsilon=1e-5, **_XXLARGE),
    "test_convnext": ConvNeXt(
        depths=(1, 2, 4, 2), widths=(24, 32, 48, 64), epsilon=1e-5, act=layers.gelu_tanh
    ),
    "test_convnext2": ConvNeXt(act=layers.gelu_tanh, **_TEST),
    "test_convnext3": ConvNeXt(kernel_sizes=(7, 5, 5, 3), act=layers.silu, **_TEST),
}

ARCHITECTURES = {
    name: Architecture(
        network,
        stem="stem.0",
        stages=tuple(f"stages.{i}" for i in range(4)),
    )
    for name, network in NETWORKS.items()
}
