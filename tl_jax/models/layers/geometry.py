"""What a convolution is apart from its operands: sizes, steps, borders, shapes of results."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax

from tl_jax.models.layers.padding import Pads, Size

# The convolution and its two gradients. Their operands: (map, kernel), (gradient of the output,
# kernel), (map, gradient of the output).
Kind = Literal["forward", "input_gradient", "kernel_gradient"]
# Computes one of them from its two operands.
Function = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes, steps and borders of a convolution, the same for it and for both of its gradients.

    Attributes:
      image: height and width of the map that is convolved.
      kernel: height and width of the kernel.
      stride: step in both directions.
      pads: rows of zeros before and after the map, then columns.
      groups: number of channel groups.
    """

    image: Size
    kernel: Size
    stride: int
    pads: Pads
    groups: int

    @property
    def output(self) -> Size:
        """Height and width of the output; 0 where the padded map is smaller than the kernel."""
        height, width = (
            jax.core.max_dim((size + sum(pads) - side) // self.stride + 1, 0)
            for size, pads, side in zip(self.image, self.pads, self.kernel, strict=True)
        )
        return height, width

    def has_sizes(self, kind: Kind, a: Sequence[int], b: Sequence[int]) -> bool:
        """Returns whether the map's sizes are numbers and nothing is empty.

        An exported program may leave sizes open.
        """
        is_known = all(isinstance(size, int) for size in self.image)
        return is_known and 0 not in (*a, *b, *self.result_shape(kind, a, b))

    def is_depthwise(self, kind: Kind, a: Sequence[int], b: Sequence[int]) -> bool:
        """Returns whether each output channel is computed from one channel of its own."""
        inputs = a[3] if kind == "kernel_gradient" else b[2] * self.groups
        return self.groups > 1 and inputs == b[3] == self.groups

    def result_shape(self, kind: Kind, a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of the result of operands of these shapes.

        >>> Geometry((8, 8), (3, 3), 2, ((1, 1), (1, 1)), 1).result_shape(
        ...     "forward", (16, 8, 8, 3), (3, 3, 3, 32)
        ... )
        (16, 4, 4, 32)
        """
        if kind == "forward":
            return a[0], *self.output, b[3]
        if kind == "input_gradient":
            return a[0], *self.image, b[2] * self.groups
        return *self.kernel, a[3] // self.groups, b[3]
