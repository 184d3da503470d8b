"""LoRA: kernels plus trained products of two low-rank factors (arXiv:2106.09685)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tl_jax import arguments, trees
from tl_jax.models.model import Model
from tl_jax.transfer.peft.base import (
    Adaptation,
    Variables,
    check_targets,
    draw_kernels,
    leaves_by_module,
    match_targets,
    without_added,
)

_A, _B = "lora_a", "lora_b"


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

    The factors are multiplied in every step, which costs little, and the gradient of a kernel is
    computed on the way to theirs. What LoRA saves is optimizer state and checkpoint size.

    Attributes:
      rank: inner width r.
      alpha: the change is scaled by `alpha / rank`.
      targets: patterns on dotted names of modules, as in `trees.matches`.
      classifier: adapt the classifier too; it is usually new, and trained directly.

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
        excluded = None if self.classifier else model.classifier
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
                # These are weights, not activations: a GPU's TF32 would cut their precision.
                product = jnp.matmul(leaves[_A], leaves[_B], precision=lax.Precision.HIGHEST)
                effective[*path, "kernel"] = leaves["kernel"] + self.alpha / self.rank * product
        return trees.unflatten(effective)
