"""The base of all networks: their fields, and the top of pooling, dropout and classifier."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers


class Network(nn.Module):
    """Base of the networks. `__call__` takes images [B, H, W, in_channels] and keyword `train`.

    It returns logits [B, num_classes] in float32; with `num_classes=0` the features that would be
    the classifier's input, [B, C] in float32; with `global_pool=""` the last feature map,
    [B, h, w, C] in `dtype`.

    A family defines `body`, and overrides `pooled` or `logits` where its top is not the usual one.

    Attributes:
      classifier: dotted name of the last layer (a class attribute).
      auxiliary: dotted names of modules that published weights may hold and the network may lack:
        heads that only training uses (a class attribute).
      stochastic_depth: False if there is no residual branch that may be dropped; `drop_path_rate`
        must then be 0 (a class attribute).
      num_classes: size of the classifier; 0 leaves it out, its parameters too.
      in_channels: channels of the images.
      global_pool: `"avg"`, or `""` for the last feature map without any top layer.
      drop_rate: dropout before the classifier.
      drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
      axis_name: mapped axis over which BatchNorm averages; `model.clone(axis_name="batch")` is
        the network for `pmap`. Under `jit` none is needed.
      dtype: type of the computation; parameters, statistics and logits are always float32.

    Raises:
      ValueError: on construction, if the fields contradict each other.
    """

    classifier: ClassVar[str]
    auxiliary: ClassVar[tuple[str, ...]] = ()
    stochastic_depth: ClassVar[bool] = True

    num_classes: int = 1000
    in_channels: int = 3
    global_pool: str = "avg"
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    axis_name: str | None = None
    dtype: layers.Dtype = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.global_pool not in ("avg", ""):
            raise ValueError(f"global_pool is {self.global_pool!r}; use 'avg', or '' for none")
        if self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes}; use 0 for no classifier")
        if self.in_channels < 1:
            raise ValueError(f"in_channels is {self.in_channels}; it must be at least 1")
        if self.num_classes and not self.global_pool:
            raise ValueError(
                f"global_pool='' returns a feature map and has no classifier, but num_classes is "
                f"{self.num_classes}; set num_classes=0, or global_pool='avg'"
            )
        for name, rate in (("drop_rate", self.drop_rate), ("drop_path_rate", self.drop_path_rate)):
            if not 0.0 <= rate < 1.0:
                raise ValueError(f"{name} is {rate}; it must lie in [0, 1)")
        if self.drop_path_rate and not self.stochastic_depth:
            raise ValueError(
                f"drop_path_rate is {self.drop_path_rate}, but {type(self).__name__} has no "
                "residual branch that may be dropped; leave it at 0 and use drop_rate"
            )

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        if images.ndim != 4 or images.shape[-1] != self.in_channels:
            raise ValueError(
                f"the network takes images [batch, height, width, {self.in_channels}], but got "
                f"shape {images.shape}; create it with in_channels= for other numbers"
            )
        x = self.body(images, train=train)
        if not self.global_pool:
            return x
        x = self.pooled(x, train=train)
        x = layers.Dropout(self.drop_rate, name="drop")(x, train=train)
        return self.logits(x) if self.num_classes else x

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, C]."""
        raise NotImplementedError(f"{type(self).__name__} must define body()")

    def pooled(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the input of the classifier, [B, C], at least float32."""
        return layers.global_average(x)

    def logits(self, x: jax.Array) -> jax.Array:
        """Classifies the pooled features: [B, C] -> [B, num_classes]."""
        return layers.Dense(self.num_classes, name=self.classifier)(x)


def drop_path_rates(rate: float, depths: tuple[int, ...]) -> list[tuple[float, ...]]:
    """Returns the drop-path rates of each stage's blocks.

    They grow linearly from 0 at the first block of the network to `rate` at the last.

    >>> drop_path_rates(0.2, (2, 1))
    [(0.0, 0.1), (0.2,)]
    """
    step = rate / max(sum(depths) - 1, 1)
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [
        tuple(step * (start + i) for i in range(depth))
        for start, depth in zip(starts, depths, strict=True)
    ]
