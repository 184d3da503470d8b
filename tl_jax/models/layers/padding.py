"""Borders of convolutions and pooling: rows and columns that are added around a map."""

from collections.abc import Sequence

from jax import lax

Size = tuple[int, int]
# Rows before and after the map, columns before and after it.
Pads = tuple[tuple[int, int], tuple[int, int]]


def same_pads(size: Sequence[int], window: Size, stride: int) -> Pads:
    """Returns TensorFlow's `SAME` borders: outputs are inputs / stride, rounded up.

    If an odd number is added, the end gets one more, so with stride 2 the grid depends on the map's
    size.

    >>> same_pads((224, 225), (3, 3), 2)
    ((0, 1), (1, 1))
    """
    rows, columns = lax.padtype_to_pads(tuple(size), window, (stride, stride), "SAME")
    return rows, columns
