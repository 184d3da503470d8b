"""Ordinal losses: K ordered levels by K - 1 questions, whether the level is higher than 0, 1, ...

Both turn the K - 1 logits of an example into probabilities of being higher than each level. In
`coral` a logit is that of the question itself: P(y > k) = sigmoid(logit k). A network answers it
consistently, P(y > 0) >= P(y > 1) >= ..., if its questions share one weight vector and their biases
descend; so its head is one output with K - 1 biases. In `corn` a logit is that of the next step:
P(y > k | y > k - 1) = sigmoid(logit k), whose products descend whatever the network computes; so
its head is a plain dense layer of K - 1 outputs.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

Form = Literal["coral", "corn"]


def coral(
    logits: jax.Array, levels: jax.Array, *, importance: Sequence[float] | None = None
) -> jax.Array:
    """Returns the summed binary cross-entropy of an example's K - 1 questions, float32 [B].

    Cao, Mirjalili and Raschka, "Rank consistent ordinal regression for neural networks" (2020),
    equation 4.

    Args:
      logits: [B, K - 1], of the level being higher than 0, 1, ..., K - 2.
      levels: int [B], 0 to K - 1.
      importance: factor of each question, K - 1 numbers: the paper's lambda; None for 1.

    Raises:
      ValueError: if the levels are not one number per example.

    Examples:
      >>> [round(float(x), 4) for x in coral(jnp.array([[2.0, -2.0]] * 2), jnp.array([1, 0]))]
      [0.2539, 2.2539]
    """
    return -_log_answers(logits, levels, importance).sum(-1)


def corn(
    logits: jax.Array, levels: jax.Array, *, importance: Sequence[float] | None = None
) -> jax.Array:
    """Returns the cross-entropy of the level by conditional questions, in nats, float32 [B].

    A question is asked only of examples for which the one before it is answered by yes, so the
    sum over an example's questions is -log P(y = level). Shi, Cao and Raschka, "Deep Neural
    Networks for Rank-Consistent Ordinal Regression Based On Conditional Probabilities" (2021),
    equation 5, which divides by the number of questions asked in the batch; this is divided by the
    number of examples.

    Args:
      logits: [B, K - 1], of the level being higher than k, given that it is higher than k - 1.
      levels: int [B], 0 to K - 1.
      importance: factor of each question, K - 1 numbers; None for 1.

    Raises:
      ValueError: if the levels are not one number per example.

    Examples:
      >>> [round(float(x), 4) for x in corn(jnp.array([[2.0, -2.0]] * 2), jnp.array([1, 0]))]
      [0.2539, 2.1269]
    """
    answers = _log_answers(logits, levels, importance)
    is_asked = levels[:, None] >= jnp.arange(logits.shape[1])
    return -jnp.where(is_asked, answers, 0.0).sum(-1)


def _log_answers(
    logits: jax.Array, levels: jax.Array, importance: Sequence[float] | None
) -> jax.Array:
    """Returns the log-probability of the right answer to each question, float32 [B, K - 1]."""
    _check(logits, levels)
    logits = logits.astype(jnp.float32)
    is_higher = levels[:, None] > jnp.arange(logits.shape[1])
    answers = jax.nn.log_sigmoid(jnp.where(is_higher, logits, -logits))
    return answers if importance is None else answers * jnp.asarray(importance, jnp.float32)


def higher_probabilities(logits: jax.Array, form: Form) -> jax.Array:
    """Returns the probabilities that the level is higher than 0, 1, ..., K - 2, float32 [B, K - 1].

    They never rise from one level to the next: where a `coral` head contradicts itself, a
    probability is lowered to the one before it.

    Examples:
      >>> higher_probabilities(jnp.array([[0.0, 9.0]]), "coral").tolist()
      [[0.5, 0.5]]
      >>> higher_probabilities(jnp.array([[0.0, 0.0]]), "corn").tolist()
      [[0.5, 0.25]]
    """
    logits = logits.astype(jnp.float32)
    if form == "corn":
        return jnp.exp(jnp.cumsum(jax.nn.log_sigmoid(logits), axis=-1))
    return jax.lax.cummin(jax.nn.sigmoid(logits), axis=logits.ndim - 1)


def level_probabilities(logits: jax.Array, form: Form) -> jax.Array:
    """Returns the probabilities of the K levels, float32 [B, K], from `higher_probabilities`.

    Examples:
      >>> level_probabilities(jnp.array([[0.0, 0.0]]), "corn").tolist()
      [[0.5, 0.25, 0.25]]
    """
    higher = higher_probabilities(logits, form)
    ones = jnp.ones_like(higher[..., :1])
    return jnp.concatenate([ones, higher], -1) - jnp.concatenate([higher, 0 * ones], -1)


def predicted_levels(logits: jax.Array, form: Form) -> jax.Array:
    """Returns the median level, int32 [B]: the number of questions answered by more than half.

    Examples:
      >>> predicted_levels(jnp.array([[2.0, -2.0], [-1.0, -3.0]]), "coral").tolist()
      [1, 0]
    """
    return (higher_probabilities(logits, form) > 0.5).sum(-1).astype(jnp.int32)


def _check(logits: jax.Array, levels: jax.Array) -> None:
    if levels.shape != logits.shape[:1]:
        raise ValueError(
            f"got levels of shape {levels.shape} for {logits.shape[0]} examples; pass one level "
            "per example (ordered levels have no soft targets, so they cannot be mixed)"
        )
