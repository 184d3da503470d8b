"""LoRA: kernels plus trained products of two low-rank factors (arXiv:2106.09685)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import dtypes

from tl_jax import arguments, trees
from tl_jax.models import layers
from tl_jax.models.model import Model, new_parts
from tl_jax.transfer.peft.base import (
    Adaptation,
    Variables,
    check_targets,
    draw_kernels,
    leaves_by_module,
    match_targets,
    without_added,
)
from tl_jax.transfer.peft.low_rank import low_rank_layer, pays, sum_of_kernels

_A, _B = "lora_a", "lora_b"

Summands = tuple[jax.Array, jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA(Adaptation):
    """Low-rank changes of the kernels of convolutions and dense layers.

    A kernel [..., I, O] becomes `kernel + alpha / rank * lora_a @ lora_b` with `lora_a` [..., I, r]
    and `lora_b` [r, O], in the same module. For a convolution this equals adding a convolution of
    the same size to r channels followed by a 1x1 convolution. `lora_a` is drawn from
    U(-1, 1) / sqrt(fan_in), `lora_b` is zero.

    The factors of a grouped convolution, whose kernel has I = inputs / groups, are those of the
    kernel too: all groups share the r filters of `lora_a`, and each output has its own mixture of
    them. A depthwise 3x3 kernel is thus a 9 x C matrix. Kernels that the layer standardises
    (`StdConv`, `ScaledStdConv`) are changed before they are standardised.

    r is `rank`, or the full rank of a kernel if that is less.

    The factors are multiplied in every step, which costs little. Where it is faster their gradient
    does not pass through that of the kernel (`low_rank`).

    Attributes:
      rank: inner width r.
      alpha: the change is scaled by `alpha / rank`.
      targets: patterns on dotted names of modules, as in `trees.matches`.
      classifier: adapt the classifier too, and all else that is new; it is trained directly.

    Raises:
      ValueError: on construction if the rank is below 1 or `alpha` is not positive.
    """

    rank: int = 8
    alpha: float = 8.0
    targets: tuple[str, ...] = ("*",)
    classifier: bool = False

    def __post_init__(self) -> None:
        arguments.whole_number("rank", self.rank, least=1)
        arguments.number("alpha", self.alpha)
        check_targets(self.targets)
        if not self.alpha > 0:
            raise ValueError(f"alpha is {self.alpha}; it must be positive")

    def init(
        self, key: jax.Array, model: Model, variables: Variables, image_shape: Sequence[int]
    ) -> dict[str, Any]:
        """Returns `lora_a` and `lora_b` for each of the targets' kernels."""
        del image_shape
        modules = leaves_by_module(variables["params"])
        kernels = [path for path, leaves in modules.items() if "kernel" in leaves]
        excluded = () if self.classifier else new_parts(model)
        shapes, zeros = {}, {}
        for path in match_targets(kernels, self.targets, excluded=excluded, kind="kernels"):
            shape = modules[path]["kernel"].shape
            rank = min(self.rank, math.prod(shape[:-1]), shape[-1])
            shapes[*path, _A] = (*shape[:-1], rank)
            zeros[*path, _B] = jnp.zeros((rank, shape[-1]), jnp.float32)
        return trees.unflatten(draw_kernels(key, shapes, 1.0) | zeros)

    def effective_params(self, params: trees.Tree) -> dict[str, Any]:
        """Returns the network's parameters with the products added to the kernels."""
        effective = trees.flatten(without_added(params))
        for path, leaves in leaves_by_module(params).items():
            if _A in leaves:
                effective[*path, "kernel"] = sum_of_kernels(*self._summands(leaves))
        return trees.unflatten(effective)

    def interceptor(self, params: trees.Tree) -> layers.Interceptor:
        """Returns the Linen interceptor that computes the gradients of the factors by `low_rank`.

        The outputs are those of `effective_params`, whose kernels are formed once more for it; the
        compiler drops the ones that are not used.
        """
        adapted = {
            path: leaves
            for path, leaves in leaves_by_module(params).items()
            if _A in leaves and pays(leaves["kernel"].shape, leaves[_A].shape[-1])
        }

        def compute(
            module: nn.Module, name: str, args: tuple[Any, ...], proceed: Callable[..., Any]
        ) -> Any:
            leaves = adapted.get(module.path)
            if leaves is None:
                return proceed()
            if name == "convolve" and _is_plain_convolution(module):
                folded = layers.folded_norm(module)
                factor = 1.0 if folded is None else folded[0]
                return _convolve(module, self._summands(leaves, factor), *args)
            if name == "__call__" and isinstance(module, nn.Dense | layers.Dense):
                return _multiply(module, self._summands(leaves), leaves.get("bias"), *args)
            return proceed()

        return layers.around_methods(compute)

    def _summands(
        self, leaves: Mapping[str, jax.Array], outputs: jax.Array | float = 1.0
    ) -> Summands:
        """Returns the kernel, and the factors of what is added to it.

        Args:
          leaves: of a module.
          outputs: factors of the outputs, [O].
        """
        kernel, b = leaves["kernel"], self.alpha / self.rank * leaves[_B]
        return kernel * outputs, leaves[_A], b * outputs


def _is_plain_convolution(module: nn.Module) -> TypeGuard[layers.Conv]:
    """Returns whether a module convolves all channels with its parameter itself as the kernel."""
    if not isinstance(module, layers.Conv):
        return False
    return module.groups == 1 and type(module).standardise is layers.Conv.standardise


def _convolve(
    module: layers.Conv, summands: Summands, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    del kernel  # The sum of the summands.
    convolve = functools.partial(layers.convolve, stride=module.stride, padding=module.padding)
    return low_rank_layer(convolve, x, *summands)


def _multiply(
    module: nn.Dense | layers.Dense, summands: Summands, bias: jax.Array | None, x: jax.Array
) -> jax.Array:
    """Computes a dense layer as its own `__call__` does."""
    if isinstance(module, nn.Dense):
        x, _ = dtypes.promote_dtype(x, summands[0], dtype=module.dtype)
    else:
        x = layers.at_least_float32(x)
    y = low_rank_layer(jnp.matmul, x, *summands)
    return y if bias is None else y + bias.astype(y.dtype)
