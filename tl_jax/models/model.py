"""The protocol of networks for training, evaluation and probes, and the base of wrappers."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from flax import linen as nn

from tl_jax import arguments


@runtime_checkable
class Model(Protocol):
    """A network with pure `init` and `apply`, like a Linen module's.

    Models are the networks of the registry, networks with a separate head, adapted networks,
    networks that predict matched classes only, and the part of a network after a boundary.
    """

    @property
    def num_classes(self) -> int:
        """Number of logits; 0 if the output is pooled features."""

    @property
    def in_channels(self) -> int:
        """Channels of an image."""

    @property
    def classifier(self) -> str:
        """Dotted name of the module whose output is the logits."""

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Returns fresh variables: `init(key, images)`, as `flax.linen.Module.init`."""

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the output: `apply(variables, images)`, as `flax.linen.Module.apply`."""


def check_model(model: Any, *, function: str) -> None:
    """Raises a TypeError unless a value is a network; `function` is what it was given to."""
    if not isinstance(model, Model | ModelWrapper | nn.Module):
        advice = ""
        if isinstance(model, str):
            advice = f"; create_model({model!r}) makes one of a name"
        elif isinstance(model, Mapping):
            advice = "; the network comes first, and then its variables"
        raise TypeError(
            f"{function} takes a network of create_model, but got {arguments.kind(model)}{advice}"
        )


@dataclasses.dataclass(frozen=True)
class ModelWrapper:
    """Base of models that wrap another one: they have its classes, channels and classifier.

    Attributes:
      model: the wrapped model.
    """

    model: Model

    def __post_init__(self) -> None:
        check_model(self.model, function=type(self).__name__)

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.model.num_classes

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.model.in_channels

    @property
    def classifier(self) -> str:
        """Dotted name of the module whose output is the model's logits."""
        return self.model.classifier
