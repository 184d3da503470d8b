"""The protocol of networks for training, evaluation and probes, and the base of wrappers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
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
        """Dotted name of the module whose output is the logits; of several tasks, that above all.

        What else is new in a network is told by `new_parts`.
        """

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Returns fresh variables: `init(key, images)`, as `flax.linen.Module.init`."""

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the output: `apply(variables, images)`, as `flax.linen.Module.apply`."""


@runtime_checkable
class Composed(Protocol):
    """What a model of several new parts or inputs has besides; see `new_parts`."""

    @property
    def new_parts(self) -> tuple[str, ...]:
        """Dotted names of the modules that are new."""

    def abstract_inputs(self, image_shape: Sequence[int]) -> Any:
        """Returns the shapes and types of its inputs."""


def new_parts(model: Model) -> tuple[str, ...]:
    """Returns the dotted names of the modules that a pretrained network does not bring along.

    They are the head of freeze plans, start fresh, and are not adapted. It is the classifier alone
    but for networks with several tasks or inputs, whose neck is new too.

    Examples:
      >>> from tl_jax.models.registry import create_model
      >>> new_parts(create_model("resnet50"))
      ('fc',)
    """
    return model.new_parts if isinstance(model, Composed) else (model.classifier,)


def abstract_inputs(model: Model, image_shape: Sequence[int]) -> Any:
    """Returns the shapes and types of what a network takes: images, or a dict of several inputs.

    Args:
      model: a network.
      image_shape: shape of a batch of single images, [B, H, W, C].
    """
    if isinstance(model, Composed):
        return model.abstract_inputs(image_shape)
    return jax.ShapeDtypeStruct(tuple(image_shape), jnp.float32)


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

    @property
    def new_parts(self) -> tuple[str, ...]:
        """Dotted names of the modules that are new."""
        return new_parts(self.model)

    def abstract_inputs(self, image_shape: Sequence[int]) -> Any:
        """Returns the shapes and types of the model's inputs."""
        return abstract_inputs(self.model, image_shape)
