"""What all networks share: their fields, and the top of pooling, dropout and classifier."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax.models import layers


class Network(nn.Module):
    """Base of the networks. `__call__` takes images [B, H, W, 3] and the keyword `train`.

    It returns logits [B, num_classes] in float32; with `num_classes=0` the features that the
    classifier would see, [B, C] in float32; with `global_pool=""` the last feature map,
    [B, h, w, C] in `dtype`.

    Attributes:
      num_classes: size of the classifier; 0 leaves it out, its parameters too.
      global_pool: `"avg"`, or `""` for the last feature map without any top layer.
      drop_rate: dropout before the classifier.
      drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
      axis_name: mapped axis over which BatchNorm averages; `model.clone(axis_name="batch")` is
        the network for `pmap`. Under `jit` none is needed.
      dtype: type of the computation; parameters, statistics and logits are float32 whatever it is.

    Raises:
      ValueError: on construction, if the fields contradict each other.
    """

    classifier: ClassVar[str]

    num_classes: int = 1000
    global_pool: str = "avg"
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    axis_name: str | None = None
    dtype: layers.Dtype = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        if self.global_pool not in ("avg", ""):
            raise ValueError(f"global_pool is {self.global_pool!r}; use 'avg', or '' for none")
        if self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes}; use 0 for no classifier")
        if self.num_classes and not self.global_pool:
            raise ValueError(
                f"global_pool='' returns a feature map and has no classifier, but num_classes is "
                f"{self.num_classes}; set num_classes=0, or global_pool='avg'"
            )
        for name, rate in (("drop_rate", self.drop_rate), ("drop_path_rate", self.drop_path_rate)):
            if not 0.0 <= rate < 1.0:
                raise ValueError(f"{name} is {rate}; it must lie in [0, 1)")

    def classify(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Pools the last feature map [B, H, W, C] and classifies it, as the fields say."""
        if not self.global_pool:
            return x
        x = layers.global_average(x)
        x = layers.Dropout(self.drop_rate, name="drop")(x, train=train)
        if self.num_classes == 0:
            return x
        return layers.Dense(self.num_classes, name=self.classifier)(x)
