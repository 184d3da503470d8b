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
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network, drop_path_rates

_EXPANSION = 4
_KERNEL_INIT = layers.trunc_normal(0.02)
_gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)


class SimpleNorm(nn.Module):
    """Division by the standard deviation of the channels, without a shift (timm's `SimpleNorm`).

    The mean leaves the deviation only, not the result; the variance is the unbiased one.
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
        norm = _length(y, axis=(1, 2))
        response = norm / (jnp.mean(norm, -1, keepdims=True) + self.epsilon)
        return (y + (bias + scale * (y * response))).astype(x.dtype)


def _length(x: jax.Array, axis: tuple[int, ...]) -> jax.Array:
    """Returns the Euclidean norm along the axes, with gradient 0 where it is 0, as torch's."""
    square = jnp.sum(jnp.square(x), axis, keepdims=True)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


class Parts(NamedTuple):
    """What all blocks of one network are made of.

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
    """Two layers on each position alone; the hidden one is four times as wide."""

    parts: Parts

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.parts.act(self.parts.pointwise(_EXPANSION * x.shape[-1], name="fc1")(x))
        if self.parts.global_response:
            y = GlobalResponseNorm(name="grn")(y)
        return self.parts.pointwise(x.shape[-1], name="fc2")(y)


class Block(nn.Module):
    """Depthwise convolution, norm and MLP, with a shortcut around them."""

    kernel_size: int
    drop_path: float
    parts: Parts

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width = x.shape[-1]
        y = self.parts.conv(width, self.kernel_size, groups=width, name="conv_dw")(x)
        y = self.parts.norm(name="norm")(y)
        y = Mlp(self.parts, name="mlp")(y)
        if self.parts.layer_scale is not None:
            init = nn.initializers.constant(self.parts.layer_scale)
            y = y * self.param("gamma", init, (width,), jnp.float32).astype(y.dtype)
        return layers.DropPath(self.drop_path, name="drop_path")(y, train=train) + x


class Stage(nn.Module):
    """Blocks of one width; a norm and a strided convolution go before those of the later stages."""

    width: int
    kernel_size: int
    downsample: bool
    drop_paths: tuple[float, ...]
    parts: Parts

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.downsample:
            x = self.parts.norm(name="downsample.0")(x)
            x = self.parts.conv(self.width, 2, 2, padding=0, name="downsample.1")(x)
        for i, drop_path in enumerate(self.drop_paths):
            block = Block(self.kernel_size, drop_path, self.parts, name=f"blocks.{i}")
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
        parts = self._parts()
        x = self._stem(images, parts)
        rates = drop_path_rates(self.drop_path_rate, self.depths)
        specs = zip(self.widths, self.kernel_sizes, rates, strict=True)
        for i, (width, kernel_size, drop_paths) in enumerate(specs):
            stage = Stage(width, kernel_size, i > 0, drop_paths, parts, name=f"stages.{i}")
            x = stage(x, train=train)
        return parts.norm(name="norm_pre")(x) if self.norm_before_pool else x

    def pooled(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the normalised average over space, or the hidden layer that sees it."""
        x = layers.global_average(x)
        if not self.norm_before_pool:
            x = self.norm(epsilon=self.epsilon, dtype=x.dtype, name="head.norm")(x)
        if self.hidden:
            dense = nn.Dense(
                self.hidden, dtype=x.dtype, kernel_init=_KERNEL_INIT, name="head.pre_logits.fc"
            )
            x = layers.gelu(dense(x))
        return x

    def _stem(self, images: jax.Array, parts: Parts) -> jax.Array:
        width = self.widths[0]
        if self.stem == "patch":
            x = parts.conv(width, 4, 4, padding=0, name="stem.0")(images)
            return parts.norm(name="stem.1")(x)
        first = layers.make_divisible(width // 2) if self.stem == "tiered" else width
        x = parts.conv(first, 3, 2, name="stem.0")(images)
        index = 1
        if self.stem == "act":
            x = self.act(x)
            index = 2
        x = parts.conv(width, 3, 2, name=f"stem.{index}")(x)
        return parts.norm(name=f"stem.{index + 1}")(x)

    def _parts(self) -> Parts:
        conv = functools.partial(
            layers.Conv, use_bias=True, kernel_init=_KERNEL_INIT, dtype=self.dtype
        )
        dense = functools.partial(nn.Dense, kernel_init=_KERNEL_INIT, dtype=self.dtype)
        return Parts(
            conv=conv,
            norm=functools.partial(self.norm, epsilon=self.epsilon, dtype=self.dtype),
            pointwise=functools.partial(conv, kernel_size=1) if self.conv_mlp else dense,
            act=self.act,
            global_response=self.global_response,
            layer_scale=self.layer_scale,
        )


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
)


def rename(key: str) -> str:
    """Returns timm's key for one of the original repositories', and any other key as it is.

    The names alone are enough for V1. The original V2 files have other shapes too (of the GRN,
    [1, 1, 1, C]) and do not load; timm publishes them reshaped.
    """
    for pattern, name in _ORIGINAL_NAMES:
        key = re.sub(pattern, name, key)
    return key


_WIDTHS = {"zepto": 32, "atto": 40, "femto": 48, "pico": 64, "nano": 80, "tiny": 96, "small": 96,
           "base": 128, "large": 192, "xlarge": 256, "huge": 352, "xxlarge": 384}  # fmt: skip
_DEPTHS = {"zepto": (2, 2, 4, 2), "atto": (2, 2, 6, 2), "femto": (2, 2, 6, 2),
           "pico": (2, 2, 6, 2), "nano": (2, 2, 8, 2), "tiny": (3, 3, 9, 3),
           "xxlarge": (3, 4, 30, 3)}  # fmt: skip
_CONV_MLP = ("zepto", "atto", "femto", "pico", "nano")


def _build(size: str) -> Callable[..., ConvNeXt]:
    """Returns what makes the network of a size; the small ones keep their MLPs as convolutions."""
    width = _WIDTHS[size]
    return functools.partial(
        ConvNeXt,
        depths=_DEPTHS.get(size, (3, 3, 27, 3)),
        widths=(width, 2 * width, 4 * width, 8 * width),
        conv_mlp=size in _CONV_MLP,
    )


def _version_2(size: str) -> Callable[..., ConvNeXt]:
    return functools.partial(_build(size), global_response=True, layer_scale=None)


_V1 = ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge")
_V2 = ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "huge")
_partial = functools.partial
_test = _partial(ConvNeXt, depths=(1, 1, 1, 1), widths=(32, 64, 96, 128), epsilon=1e-5)
_VARIANTS = {
    **{f"convnext_{size}": _build(size) for size in _V1},
    **{f"convnextv2_{size}": _version_2(size) for size in _V2},
    "convnext_zepto_rms": _partial(_build("zepto"), norm=SimpleNorm),
    "convnext_zepto_rms_ols": _partial(_build("zepto"), norm=SimpleNorm, stem="act"),
    "convnext_atto_ols": _partial(_build("atto"), stem="tiered"),
    "convnext_atto_rms": _partial(_build("atto"), norm=layers.RmsNorm),
    "convnext_femto_ols": _partial(_build("femto"), stem="tiered"),
    "convnext_pico_ols": _partial(_build("pico"), stem="tiered"),
    "convnext_nano_ols": _partial(_build("nano"), stem="overlap"),
    "convnext_tiny_hnf": _partial(_build("tiny"), conv_mlp=True, norm_before_pool=True),
    "convnext_large_mlp": _partial(_build("large"), hidden=1536),
    "convnext_xxlarge": _partial(_build("xxlarge"), epsilon=1e-5),
    "test_convnext": _partial(
        _test, depths=(1, 2, 4, 2), widths=(24, 32, 48, 64), act=_gelu_tanh
    ),
    "test_convnext2": _partial(_test, act=_gelu_tanh),
    "test_convnext3": _partial(_test, kernel_sizes=(7, 5, 5, 3), act=layers.silu),
}  # fmt: skip

ARCHITECTURES = {
    name: Architecture(
        build=build,
        classifier=ConvNeXt.classifier,
        stem="stem.0",
        stages=tuple(f"stages.{i}" for i in range(4)),
        rename=rename,
    )
    for name, build in _VARIANTS.items()
}
