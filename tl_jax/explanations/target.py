"""What is explained: one number of a network's outputs for each example, whatever its tasks."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tl_jax.data.preprocess import NetworkInput
from tl_jax.models.model import Model
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.objective import TaskObjective
from tl_jax.objectives.ordinal import Ordinal
from tl_jax.objectives.regression import Regression

# The smallest probability whose logarithm is taken; contradicting answers give a level none.
_LEAST = float(np.finfo(np.float32).eps)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Target:
    """The output that is explained, for each example of a batch.

    It is an argument of compiled functions: the index is an array, and the rest is fixed.

    Attributes:
      index: int [B], the place of the class, label or level; of no effect for a number.
      task: its key among the outputs, "" where these are one array.
      objective: what the outputs of the task mean; None for one class per example.

    Examples:
      >>> target = Target(jnp.array([1, 0]))
      >>> target.scores(jnp.array([[0.5, 2.0], [3.0, 4.0]])).tolist()
      [2.0, 3.0]
    """

    index: jax.Array
    task: str = dataclasses.field(default="", metadata={"static": True})
    objective: TaskObjective | None = dataclasses.field(default=None, metadata={"static": True})

    def scores(self, outputs: Any) -> jax.Array:
        """Returns the number that is explained, float32 [B].

        It is the logit of a class or a label; the logarithm of a level's probability, because
        levels have no logits of their own; and of a number the output itself.
        """
        of_task = self._of_task(outputs)
        if isinstance(self.objective, Regression):
            return of_task[:, 0].astype(jnp.float32)
        if isinstance(self.objective, Ordinal):
            return jnp.log(jnp.maximum(self.values(outputs), _LEAST))
        return self._at_index(of_task).astype(jnp.float32)

    def values(self, outputs: Any) -> jax.Array:
        """Returns what a person reads, float32 [B]: the probability, or the number in its unit."""
        of_task = self._of_task(outputs)
        if self.objective is None:
            return self._at_index(jax.nn.softmax(of_task.astype(jnp.float32)))
        said = self.objective.predictions(of_task)
        if isinstance(self.objective, Regression):
            return said["predicted"]
        return self._at_index(said["probabilities"])

    def _of_task(self, outputs: Any) -> jax.Array:
        if isinstance(outputs, Mapping):
            if self.task not in outputs:
                raise ValueError(
                    f"the network tells {', '.join(outputs)}, but the target's task is "
                    f"{self.task!r}; expected one of these"
                )
            return outputs[self.task]
        return outputs

    def _at_index(self, rows: jax.Array) -> jax.Array:
        return jnp.take_along_axis(rows, self.index[:, None], axis=-1)[:, 0]


def as_target(target: Target | ArrayLike) -> Target:
    """Returns a target; class indices, int [B], are one of a network of one class per image."""
    return target if isinstance(target, Target) else Target(jnp.asarray(target))


def predicted_index(outputs: Any, task: str, objective: TaskObjective) -> jax.Array:
    """Returns the class, label or level that the network predicts, int32 [B]; 0 for a number.

    Of several labels it is the most probable of those that are predicted, or of all if none is.

    Args:
      outputs: of the network.
      task: key of the task among the outputs, "" where these are one array.
      objective: what its outputs mean.
    """
    of_task = outputs[task] if task else outputs
    said = objective.predictions(of_task)
    if isinstance(objective, Regression):
        return jnp.zeros(len(of_task), jnp.int32)
    if not isinstance(objective, MultiLabel):
        return said["predicted"].astype(jnp.int32)
    chosen, probabilities = said["predicted"], said["probabilities"]
    is_other = ~chosen & jnp.any(chosen, axis=-1, keepdims=True)
    return jnp.argmax(jnp.where(is_other, -1.0, probabilities), -1).astype(jnp.int32)


def outputs_of(model: Model, variables: Mapping[str, Any], inputs: NetworkInput) -> Any:
    """Returns the outputs of a network in evaluation mode."""
    return model.apply(variables, inputs, train=False)


def images_of(inputs: NetworkInput) -> jax.Array:
    """Returns the images among a network's inputs, [B, H, W, C] or [B, V, H, W, C] of views."""
    return inputs["image"] if isinstance(inputs, Mapping) else inputs


def with_images(inputs: NetworkInput, images: jax.Array) -> NetworkInput:
    """Returns a network's inputs with other images."""
    return {**inputs, "image": images} if isinstance(inputs, Mapping) else images
