"""ResNet (arXiv:1512.03385), under the names of timm's `resnet.py`.

The stride of a bottleneck sits in its 3x3 convolution ("v1.5"), as in torchvision and timm.
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network


class Downsample(nn.Module):
    """The projection of a shortcut to the shape of its block's output."""

    features: int
    stride: int
    conv: Callable[..., layers.Conv]
    norm: Callable[..., layers.BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(self.features, 1, self.stride, name="0")(x)
        return self.norm(name="1")(x, train=train)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut.

    The last BatchNorm of a block starts at scale zero, so that a fresh network starts as the
    identity along its shortcuts.
    """

    width: int
    stride: int
    project: bool
    drop_path: float
    conv: Callable[..., layers.Conv]
    norm: Callable[..., layers.BatchNorm]

    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = layers.relu(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.width, 3, name="conv2")(y)
        y = self.norm(scale_init=nn.initializers.zeros, name="bn2")(y, train=train)
        y = layers.DropPath(self.drop_path, name="drop_path")(y, train=train)
        if self.project:
            down = Downsample(self.width, self.stride, self.conv, self.norm, name="downsample")
            x = down(x, train=train)
        return layers.relu(y + x)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the last is four times as wide."""

    width: int
    stride: int
    project: bool
    drop_path: float
    conv: Callable[..., layers.Conv]
    norm: Callable[..., layers.BatchNorm]

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        out = self.width * self.expansion
        y = self.conv(self.width, 1, name="conv1")(x)
        y = layers.relu(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.width, 3, self.stride, name="conv2")(y)
        y = layers.relu(self.norm(name="bn2")(y, train=train))
        y = self.conv(out, 1, name="conv3")(y)
        y = self.norm(scale_init=nn.initializers.zeros, name="bn3")(y, train=train)
        y = layers.DropPath(self.drop_path, name="drop_path")(y, train=train)
        if self.project:
            down = Downsample(out, self.stride, self.conv, self.norm, name="downsample")
            x = down(x, train=train)
        return layers.relu(y + x)


Block = type[BasicBlock] | type[Bottleneck]


class Stage(nn.Module):
    """Blocks of one width; the first one takes the stride and projects where shapes differ."""

    block: Block
    width: int
    stride: int
    drop_paths: tuple[float, ...]
    conv: Callable[..., layers.Conv]
    norm: Callable[..., layers.BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        out = self.width * self.block.expansion
        for i, drop_path in enumerate(self.drop_paths):
            stride = self.stride if i == 0 else 1
            project = stride != 1 or x.shape[-1] != out
            block = self.block(
                self.width, stride, project, drop_path, self.conv, self.norm, name=str(i)
            )
            x = block(x, train=train)
        return x


class ResNet(Network):
    """ResNet with timm's plain 7x7 stem.

    Attributes:
      block: `BasicBlock` or `Bottleneck`.
      depths: blocks in each stage.
      widths: width of each stage's blocks, before their expansion.
    """

    block: Block = BasicBlock
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)

    classifier: ClassVar[str] = "fc"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        conv = functools.partial(layers.Conv, dtype=self.dtype)
        norm = functools.partial(layers.BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        x = conv(64, 7, 2, name="conv1")(images)
        x = norm(name="bn1")(x, train=train)
        x = layers.Activation(layers.relu, name="act1")(x)
        x = layers.MaxPool(3, 2, padding=1, name="maxpool")(x)
        rates = self._drop_paths()
        for i, (width, drop_paths) in enumerate(zip(self.widths, rates, strict=True)):
            stride = 1 if i == 0 else 2
            name = f"layer{i + 1}"
            stage = Stage(self.block, width, stride, drop_paths, conv, norm, name=name)
            x = stage(x, train=train)
        return self.classify(x, train=train)

    def _drop_paths(self) -> list[tuple[float, ...]]:
        """Returns each stage's drop-path rates, which grow linearly from the first block to the
        last."""
        step = self.drop_path_rate / max(sum(self.depths) - 1, 1)
        starts = [sum(self.depths[:i]) for i in range(len(self.depths))]
        return [
            tuple(step * (start + i) for i in range(depth))
            for start, depth in zip(starts, self.depths, strict=True)
        ]


_VARIANTS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}

ARCHITECTURES = {
    name: Architecture(
        build=functools.partial(ResNet, block=block, depths=depths),
        classifier=ResNet.classifier,
        stem="conv1",
        stages=("act1", "layer1", "layer2", "layer3", "layer4"),
    )
    for name, (block, depths) in _VARIANTS.items()
}
