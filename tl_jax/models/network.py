"""The base of all networks: their fields, and the top of pooling, dropout and classifier."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax import arguments
from tl_jax.models import checks, layers
from tl_jax.weights.state_dict import StateDictError, check_variables


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
        arguments.whole_number(
            "num_classes", self.num_classes, least=0, advice="use 0 for no classifier"
        )
        arguments.whole_number("in_channels", self.in_channels, least=1)
        checks.check_dtype(self.dtype)
        if self.num_classes and not self.global_pool:
            raise ValueError(
                f"global_pool='' returns a feature map and has no classifier, but num_classes is "
                f"{self.num_classes}; set num_classes=0, or global_pool='avg'"
            )
        for field in dataclasses.fields(self):
            if field.name.endswith("_rate"):
                arguments.rate(field.name, getattr(self, field.name))
        if self.drop_path_rate and not self.stochastic_depth:
            raise ValueError(
                f"drop_path_rate is {self.drop_path_rate}, but {type(self).__name__} has no "
                "residual branch that may be dropped; leave it at 0 and use drop_rate"
            )

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        checks.check_images(images, self.in_channels)
        x = self.body(images, train=train)
        checks.check_map(self, images.shape, x.shape)
        if not self.global_pool:
            return x
        x = self.pooled(x, train=train)
        x = layers.Dropout(self.drop_rate, name="drop")(x, train=train)
        return self.logits(x) if self.num_classes else x

    @nn.nowrap
    def apply(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Applies the network to its variables, and then the images, as all modules of Linen."""
        if hasattr(variables, "ndim"):
            raise TypeError(
                f"apply takes variables and then images, but got {arguments.kind(variables)} "
                "first: model.apply(variables, images)"
            )
        if not isinstance(variables, Mapping) or "params" not in variables:
            check_variables(variables, function="apply")
        return super().apply(variables, *args, **kwargs)

    def timm_key(self, key: str) -> str:
        """Returns timm's key for one of a checkpoint that others published under their names.

        Every other key, timm's own too, is returned as it is.
        """
        return key

    def published_fields(self, keys: Collection[str]) -> dict[str, Any]:
        """Returns the fields that the publisher of a checkpoint computes with.

        Only those in which publishers differ, such as the epsilon of BatchNorm; {} for timm's own.

        Args:
          keys: of the checkpoint, as they were published.
        """
        return {}

    def check_fields(self, published: Mapping[str, Any]) -> None:
        """Raises if this network computes otherwise than the one that weights were trained in.

        Args:
          published: what `published_fields` returned for the weights.

        Raises:
          StateDictError: naming the fields, and the network that has these values.
        """
        own = {name: getattr(self, name) for name in published}
        differing = {name: value for name, value in published.items() if own[name] != value}
        if differing:
            theirs = ", ".join(f"{name}={value!r}" for name, value in differing.items())
            ours = ", ".join(f"{name}={own[name]!r}" for name in differing)
            raise StateDictError(
                f"the weights were trained in a network with {theirs}, and would give other logits "
                f"in this one with {ours}; load_pretrained and model.clone({theirs}) make that "
                "network, and timm publishes weights for this one (weights='auto')"
            )

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
