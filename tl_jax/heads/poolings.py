"""Poolings by name: what makes one vector of several, over space, scales and views."""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import jax

from tl_jax import arguments, messages
from tl_jax.heads.attention_pooling import AttentionPooling
from tl_jax.heads.pooling import GeM, average, average_max, concatenate, maximum
from tl_jax.heads.recurrent import GRUPooling
from tl_jax.models import layers

PoolingName = Literal["average", "max", "average_max", "gem", "attention", "gru", "concatenate"]
PoolFn = Callable[[jax.Array, jax.Array | None], jax.Array]

_WITHOUT_PARAMETERS: dict[str, PoolFn] = {
    "average": average,
    "max": maximum,
    "average_max": average_max,
    "concatenate": concatenate,
}


@dataclasses.dataclass(frozen=True)
class Pooling:
    """A pooling by name, which takes vectors [B, N, C] and a mask [B, N], and returns [B, C'].

    "average", "max", "average_max" (half the sum of both) and "gem" (the generalised mean) return
    C channels and do not depend on the order of the vectors, nor does "attention" (an average by
    learned queries). "gru" is the last state of a recurrent network with gates over the vectors in
    their order; over a map the order is row by row. "concatenate" puts the vectors side by side,
    N * C channels; it is not for maps, whose size varies.

    Attributes:
      name: of the pooling.
      heads: queries of "attention".
      width: of the state of "gru", 0 for C; of the keys of "attention", 0 for 64.

    Raises:
      ValueError: on construction, if there is no such pooling.
    """

    name: PoolingName = "average"
    heads: int = 4
    width: int = 0

    def __post_init__(self) -> None:
        names = get_args(PoolingName)
        if self.name not in names:
            raise ValueError(
                f"unknown pooling {self.name!r}{messages.hint(str(self.name), names)}; expected "
                f"one of {', '.join(names)}"
            )
        arguments.whole_number("heads", self.heads, least=1)
        arguments.whole_number("width", self.width, least=0)

    @property
    def is_learned(self) -> bool:
        """Whether it has parameters."""
        return self.name not in _WITHOUT_PARAMETERS

    def module(self, name: str) -> PoolFn:
        """Returns the pooling, `pool(x, mask)`; `name` is that of its module, if it is one."""
        if self.name == "gem":
            return GeM(name=name)
        if self.name == "attention":
            return AttentionPooling(self.heads, self.width, name=name)
        if self.name == "gru":
            return GRUPooling(self.width, name=name)
        return _WITHOUT_PARAMETERS[self.name]


def pool_map(pool: PoolFn, features: jax.Array) -> jax.Array:
    """Pools a map [B, h, w, C] over space, row by row; features [B, C] must be averaged already.

    Args:
      pool: of `Pooling.module`.
      features: a network's last map, or its pooled features.

    Returns:
      [B, C'], at least float32. The average is that of `layers.global_average`, bit for bit.

    Raises:
      ValueError: if features without space are to be pooled otherwise.
    """
    if features.ndim == 4:
        if pool is average:
            return layers.global_average(features)
        return pool(features.reshape(len(features), -1, features.shape[-1]), None)
    if features.ndim != 2 or pool is not average:
        raise ValueError(
            f"got features of shape {features.shape} to pool over space, expected a map "
            "[batch, height, width, channels]; create the backbone with num_classes=0 and "
            "global_pool='', or leave the pooling at 'average' for features that it has averaged"
        )
    return layers.at_least_float32(features)
