"""The blocks that the EfficientNets and their relatives are built of.

Names are those of timm's `_efficientnet_blocks.py`. A block takes a `BlockPlan` with its sizes, and
the `LayerFactory` of its network.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers

# The side of a square kernel, or several sides: the channels are split among these (MixConv).
KernelSize = int | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One block as a definition such as `"ir_r2_k3_s2_e6_c24_se0.25"` describes it, unscaled.

    Attributes:
      kind: the code that the definition begins with.
      width: channels that it returns.
      stride: its step, if it is the first block of a stage.
      kernel_size: of the spatial convolution.
      start_kernel, end_kernel: of the convolutions before and after it; 0 if not stated.
      expansion: hidden channels over those of the input.
      expansion_base: replaces the input's channels there, if not 0.
      squeeze: channels of the squeezed layer of the attention over the input's; 0 for no attention.
      act: activation; None for the network's.
      skip: whether a shortcut is required (True) or forbidden (False); None if not stated.
      group_size: channels of a group of the spatial convolution; 0: one group, None: not stated.
      experts: kernels that a CondConv mixes; 0 for a plain convolution.
      space_to_depth: halve the resolution and quadruple the channels, here and in the next blocks
        up to a stride.
      heads, key_size, kv_stride: of an attention over space.
    """

    kind: str
    width: int
    stride: int
    kernel_size: KernelSize
    start_kernel: KernelSize = 0
    end_kernel: KernelSize = 0
    expansion: float = 1.0
    expansion_base: int = 0
    squeeze: float = 0.0
    act: layers.Act | None = None
    skip: bool | None = None
    group_size: int | None = None
    experts: int = 0
    space_to_depth: bool = False
    heads: int = 0
    key_size: int = 0
    kv_stride: int = 1

    @property
    def kernel_side(self) -> int:
        """The side of the kernel, for blocks that cannot mix several.

        Raises:
          ValueError: if there are several.
        """
        if isinstance(self.kernel_size, tuple):
            raise ValueError(
                f"a block {self.kind!r} has kernels of sides {self.kernel_size}, but takes one "
                "here; write one number after k"
            )
        return self.kernel_size


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """One block of one network.

    Attributes:
      spec: the block as the definition describes it.
      width: channels that it returns.
      hidden: channels of the expansion, or those of the input where the block has none.
      squeezed: channels of the squeezed layer of the attention; 0 for no attention.
      stride: its step.
      shortcut: whether the input is added to the result.
      drop_path: rate of the stochastic depth.
      space_to_depth: whether the block begins with a convolution from space to depth.
    """

    spec: BlockSpec
    width: int
    hidden: int
    squeezed: int
    stride: int
    shortcut: bool
    drop_path: float
    space_to_depth: bool

    def groups(self, channels: int, default: int) -> int:
        """Returns the number of groups of a convolution.

        Args:
          channels: of the convolution.
          default: channels of a group if the definition gives none: 1 for a depthwise convolution,
            0 for one group.
        """
        size = default if self.spec.group_size is None else self.spec.group_size
        return channels // size if size else 1


class MixedConv(nn.Module):
    """Convolutions with one kernel size for each share of the channels (MixConv, arXiv:1907.09595).

    The shares are equal, except that the first one also takes the remainder.

    Attributes:
      features: output channels of all together.
      kernel_sizes: one for each share.
      conv: makes a convolution of `features`, `kernel_size` and the keywords `groups` and `name`.
      depthwise: whether each is depthwise.
    """

    features: int
    kernel_sizes: tuple[int, ...]
    conv: Callable[..., nn.Module]
    depthwise: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        count = len(self.kernel_sizes)
        inputs, outputs = _shares(x.shape[-1], count), _shares(self.features, count)
        chunks = jnp.split(x, [sum(inputs[: i + 1]) for i in range(count - 1)], axis=-1)
        convolved = []
        for i, (chunk, kernel_size) in enumerate(zip(chunks, self.kernel_sizes, strict=True)):
            groups = inputs[i] if self.depthwise else 1
            convolved.append(self.conv(outputs[i], kernel_size, groups=groups, name=str(i))(chunk))
        return jnp.concatenate(convolved, axis=-1)


def _shares(channels: int, count: int) -> list[int]:
    """Splits channels equally; the first share takes the remainder too."""
    share = channels // count
    return [channels - share * (count - 1)] + [share] * (count - 1)


class CondConv(nn.Module):
    """Convolution with a kernel for each image, mixed from those of experts (arXiv:1904.04971).

    The parameter `weight` is [experts, outputs * inputs * height * width], in torch's order.

    Attributes:
      features, kernel_size, stride, padding, groups, dtype: as those of `layers.Conv`.
      experts: number of kernels.
    """

    features: int
    kernel_size: int
    experts: int
    stride: int = 1
    padding: layers.Padding = "symmetric"
    groups: int = 1
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, routing: jax.Array) -> jax.Array:
        """Convolves [B, H, W, C] with the kernels that the weights [B, experts] mix."""
        size, inputs = self.kernel_size, x.shape[-1] // self.groups
        init = nn.initializers.normal((2 * self.groups / (size * size * self.features)) ** 0.5)
        shape = (self.experts, self.features * inputs * size * size)
        mixed = routing @ self.param("weight", init, shape, jnp.float32)
        kernels = mixed.reshape(-1, self.features, inputs, size, size)
        kernels = kernels.transpose(0, 3, 4, 2, 1).astype(self.dtype)
        x = x.astype(self.dtype)
        if size == 1 and self.groups == 1 and self.stride == 1:
            return jnp.einsum("bhwi,bio->bhwo", x, kernels[:, 0, 0])

        def convolve_one(image: jax.Array, kernel: jax.Array) -> jax.Array:
            return layers.convolve(image[None], kernel, stride=self.stride, padding=self.padding)[0]

        return jax.vmap(convolve_one)(x, kernels)


class NormAct(Protocol):
    """Makes a normalisation, with an activation after it if one is given."""

    def __call__(self, act: layers.Act | None = None, *, name: str) -> nn.Module:
        """Returns the layer, which takes a map and the keyword `train`."""


def batch_norm(
    act: layers.Act | None = None, *, epsilon: float = 1e-5, axis_name: str | None = None,
    dtype: layers.Dtype = jnp.float32, name: str,
) -> layers.BatchNorm:  # fmt: skip
    """Makes a BatchNorm; a `NormAct` once its keywords are bound."""
    return layers.BatchNorm(epsilon=epsilon, axis_name=axis_name, dtype=dtype, act=act, name=name)


@dataclasses.dataclass(frozen=True)
class LayerFactory:
    """Makes the layers of all blocks of one network.

    Attributes:
      norm: makes the normalisations.
      act: activation of the blocks that name none.
      gate, squeezed_act: of the squeeze-excite layers; None for the block's own activation.
      attention: the kind of channel attention.
      padding, dtype: as `layers.Conv` takes them.
      subsample: how blocks subsample: by strides, or by a blur or an average after a stride of 1.
    """

    norm: NormAct
    act: layers.Act
    gate: layers.Act = layers.sigmoid
    squeezed_act: layers.Act | None = None
    attention: Literal["se", "gc"] = "se"
    padding: layers.Padding = "symmetric"
    dtype: layers.Dtype = jnp.float32
    subsample: Literal["stride", "blur", "average"] = "stride"

    def conv(
        self, features: int, kernel_size: KernelSize, stride: int = 1, *, groups: int = 1,
        use_bias: bool = False, padding: layers.Padding | None = None, name: str,
    ) -> nn.Module:  # fmt: skip
        """Makes a convolution with the initializer of the TPU networks; `MixedConv` for sizes."""
        if isinstance(kernel_size, tuple):
            conv = functools.partial(self.conv, stride=stride, use_bias=use_bias, padding=padding)
            return MixedConv(features, kernel_size, conv, groups > 1, name=name)
        return layers.Conv(
            features, kernel_size, stride, self.padding if padding is None else padding, groups,
            use_bias, kernel_init=layers.goog_fan_out(groups), dtype=self.dtype, name=name,
        )  # fmt: skip

    def attend(self, x: jax.Array, squeezed: int, act: layers.Act) -> jax.Array:
        """Weights the channels of a map by the layer `se`, in a block's compact method."""
        if not squeezed:
            return x
        conv = functools.partial(
            layers.Conv, padding=self.padding, kernel_init=layers.goog_fan_out(), dtype=self.dtype
        )
        if self.attention == "gc":
            ratio = squeezed / x.shape[-1]
            return layers.GlobalContext(ratio, act=act, conv=conv, name="se")(x)
        act = self.squeezed_act or act
        return layers.SqueezeExcite(squeezed, act=act, gate=self.gate, conv=conv, name="se")(x)


class Block(nn.Module):
    """Base of the blocks, also of those in other files, which define `__call__(x, *, train)`."""

    plan: BlockPlan
    make: LayerFactory

    @property
    def act(self) -> layers.Act:
        """The activation of the block."""
        return self.plan.spec.act or self.make.act

    @property
    def conv_stride(self) -> int:
        """The stride of the convolution that takes it: 1 if a blur or an average subsamples."""
        in_conv = self.make.subsample == "stride" or self.plan.space_to_depth
        return self.plan.stride if in_conv else 1

    def subsampled(self, x: jax.Array) -> jax.Array:
        """Blurs or averages by the layer `aa`, if the convolution did not take the stride."""
        if self.conv_stride == self.plan.stride:
            return x
        if self.make.subsample == "average":
            return layers.AvgPool(2, 2, name="aa")(x)
        return layers.BlurPool(self.plan.stride, border="constant", name="aa")(x)

    def with_shortcut(self, x: jax.Array, y: jax.Array, *, train: bool) -> jax.Array:
        """Adds the input `x` to the result `y` under stochastic depth, if the block has it."""
        if not self.plan.shortcut:
            return y
        return x + layers.DropPath(self.plan.drop_path, name="drop_path")(y, train=train)

    def space_to_depth(
        self, x: jax.Array, *, train: bool
    ) -> tuple[jax.Array, KernelSize, layers.Padding]:
        """Moves space to depth, if the plan says that the block begins with it.

        Returns:
          The map, and kernel size and padding of the spatial convolution. The size is halved if the
          map was changed.
        """
        make = self.make
        if not self.plan.space_to_depth:
            return x, self.plan.spec.kernel_size, make.padding
        x = make.conv(4 * x.shape[-1], 2, 2, padding="same", name="conv_s2d")(x)
        x = make.norm(self.act, name="bn_s2d")(x, train=train)
        size = (self.plan.spec.kernel_side + 1) // 2
        return x, size, "same" if size == 2 else make.padding


class ConvBnAct(Block):
    """Convolution, norm and activation (`cn`)."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        plan, make = self.plan, self.make
        y = make.conv(
            plan.width, plan.spec.kernel_size, self.conv_stride,
            groups=plan.groups(x.shape[-1], default=0), name="conv",
        )(x)  # fmt: skip
        y = self.subsampled(make.norm(self.act, name="bn1")(y, train=train))
        return self.with_shortcut(x, y, train=train)


class DepthwiseSeparableConv(Block):
    """Depthwise convolution, attention and 1x1 convolution: an inverted residual without expansion.

    Its code is `ds`; `dsa` activates the result, as in MobileNet-V1.
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        plan, make = self.plan, self.make
        y, kernel_size, padding = self.space_to_depth(x, train=train)
        hidden, last_act = y.shape[-1], self.act if plan.spec.kind == "dsa" else None
        y = make.conv(
            hidden, kernel_size, self.conv_stride, groups=plan.groups(hidden, default=1),
            padding=padding, name="conv_dw",
        )(y)  # fmt: skip
        y = self.subsampled(make.norm(self.act, name="bn1")(y, train=train))
        y = make.attend(y, plan.squeezed, self.act)
        y = make.conv(plan.width, plan.spec.end_kernel or 1, name="conv_pw")(y)
        y = make.norm(last_act, name="bn2")(y, train=train)
        return self.with_shortcut(x, y, train=train)


class InvertedResidual(Block):
    """1x1 expansion, depthwise convolution, attention and 1x1 projection (`ir`, or MBConv).

    arXiv:1801.04381. With experts it is timm's `CondConvResidual`.
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        plan, make, spec = self.plan, self.make, self.plan.spec
        conv = self._routed(x) if spec.experts else make.conv
        y, kernel_size, padding = self.space_to_depth(x, train=train)
        y = conv(plan.hidden, spec.start_kernel or 1, name="conv_pw")(y)
        y = make.norm(self.act, name="bn1")(y, train=train)
        y = conv(
            plan.hidden, kernel_size, self.conv_stride,
            groups=plan.groups(plan.hidden, default=1), padding=padding, name="conv_dw",
        )(y)  # fmt: skip
        y = self.subsampled(make.norm(self.act, name="bn2")(y, train=train))
        y = make.attend(y, plan.squeezed, self.act)
        y = conv(plan.width, spec.end_kernel or 1, name="conv_pwl")(y)
        y = make.norm(name="bn3")(y, train=train)
        return self.with_shortcut(x, y, train=train)

    def _routed(self, x: jax.Array) -> Callable[..., Callable[[jax.Array], jax.Array]]:
        """Returns a factory of convolutions with kernels that the block's input mixes."""
        experts, make = self.plan.spec.experts, self.make
        dense = nn.Dense(experts, kernel_init=_routing_init, name="routing_fn")
        routing = layers.sigmoid(dense(layers.global_average(x)))

        def conv(
            features: int, kernel_size: int, stride: int = 1, *, groups: int = 1,
            padding: layers.Padding = make.padding, name: str,
        ) -> Callable[[jax.Array], jax.Array]:  # fmt: skip
            layer = CondConv(
                features, kernel_size, experts, stride, padding, groups, make.dtype, name=name
            )
            return lambda y: layer(y, routing)

        return conv


def _routing_init(key: jax.Array, shape: tuple[int, int], dtype: layers.Dtype) -> jax.Array:
    bound = sum(shape) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class EdgeResidual(Block):
    """Expansion by a spatial convolution, attention and 1x1 projection (`er`, or FusedMBConv)."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        plan, make = self.plan, self.make
        y = make.conv(
            plan.hidden, plan.spec.kernel_size, self.conv_stride,
            groups=plan.groups(plan.hidden, default=0), name="conv_exp",
        )(x)  # fmt: skip
        y = self.subsampled(make.norm(self.act, name="bn1")(y, train=train))
        y = make.attend(y, plan.squeezed, self.act)
        y = make.conv(plan.width, plan.spec.end_kernel or 1, name="conv_pwl")(y)
        y = make.norm(name="bn2")(y, train=train)
        return self.with_shortcut(x, y, train=train)


BLOCKS: Mapping[str, Callable[..., Block]] = {
    "cn": ConvBnAct,
    "ds": DepthwiseSeparableConv,
    "dsa": DepthwiseSeparableConv,
    "er": EdgeResidual,
    "ir": InvertedResidual,
}
