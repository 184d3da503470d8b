"""The mean of a network's outputs over several views of each image, as each kind of task has it."""

from typing import Any

import jax
import jax.numpy as jnp

from tl_jax.data import views
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.multi_task import LOG_VARIANCES, MultiTask
from tl_jax.objectives.objective import Objective
from tl_jax.objectives.ordinal import Ordinal
from tl_jax.objectives.regression import Regression


def average_outputs(
    outputs: Any,
    objective: Objective | None,
    of: views.Average = "probabilities",
) -> Any:
    """Returns outputs whose predictions are the mean of those for the views.

    Args:
      outputs: of a network for each view, [views, B, K]; of several tasks a dict of these.
      objective: what they mean; None for one class per example.
      of: what is averaged: "probabilities" of classes, of each class of a multi-label task, or of
        a level being higher than each other; or "logits". Numbers are averaged as they are.

    Returns:
      Outputs of the same form without the axis of the views.

    Examples:
      >>> outputs = jnp.array([[[1.0]], [[2.0]]])  # Two views of one example.
      >>> average_outputs(outputs, Regression()).tolist()
      [[1.5]]
    """
    if isinstance(objective, MultiTask):
        found = {
            name: average_outputs(outputs[name], task, of) for name, task in objective.tasks.items()
        }
        if LOG_VARIANCES in outputs:  # Parameters, the same for all views.
            found[LOG_VARIANCES] = outputs[LOG_VARIANCES][0]
        return found
    if isinstance(objective, Regression):
        return outputs.mean(axis=0)
    if isinstance(objective, Ordinal) and objective.loss_name == "corn" and of == "probabilities":
        return _conditional(outputs)
    each_alone = isinstance(objective, MultiLabel | Ordinal)
    return views.average(outputs, of=of, multi_label=each_alone)


def _conditional(logits: jax.Array) -> jax.Array:
    """Returns the conditional logits of `ordinal_losses.corn` of the mean probabilities of levels.

    A logit is log P(y > k) - log P(y = k), both of which are means over the views here: no
    difference of nearly equal probabilities is taken.
    """
    log_higher = jnp.cumsum(jax.nn.log_sigmoid(logits), axis=-1)
    log_reached = jnp.pad(log_higher[..., :-1], [(0, 0)] * (logits.ndim - 1) + [(1, 0)])
    log_level = log_reached + jax.nn.log_sigmoid(-logits)
    return jax.nn.logsumexp(log_higher, axis=0) - jax.nn.logsumexp(log_level, axis=0)
