"""Losses of classification with one class per example: pure functions of logits and labels."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import optax

# Smaller distances of a probability from 1 are taken as this, so that powers of them, and the
# gradients of the powers, are finite. It is the distance of 1 to the next float32 below, about.
SMALLEST = 1e-7


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    mask: jax.Array | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Returns the mean softmax cross-entropy of a batch, in nats, in float32.

    Args:
      logits: [B, C].
      labels: class indices, [B]; or soft targets, float [B, C], whose rows sum to 1.
      mask: bool [B]; False leaves an example out of the mean. None for all examples.
      label_smoothing: share of the target that is spread evenly over the C classes
        (Szegedy et al., "Rethinking the Inception Architecture", 2016), as torch defines it. Soft
        targets are smoothed too; smoothing before mixing would give the same.

    Raises:
      ValueError: if the shape of the labels is neither [B] nor that of the logits.

    Examples:
      >>> logits = jnp.array([[0.0, 0.0], [5.0, -5.0]])
      >>> round(float(cross_entropy(logits, jnp.array([0, 1]), mask=jnp.array([True, False]))), 4)
      0.6931
    """
    losses = example_cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if mask is None:
        return losses.mean()
    return jnp.where(mask, losses, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def example_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> jax.Array:
    """Returns the softmax cross-entropy of each example, [B], in nats, in float32.

    Args:
      logits: [B, C].
      labels: as in `cross_entropy`.
      label_smoothing: as in `cross_entropy`.
      class_weights: factor of each class's term, C numbers, as torch's `weight`; None for 1.

    Raises:
      ValueError: as `cross_entropy`.
    """
    targets = optax.smooth_labels(class_targets(logits, labels), label_smoothing)
    if class_weights is not None:
        targets = targets * jnp.asarray(class_weights, jnp.float32)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> jax.Array:
    """Returns the focal loss of each example, float32 [B]: -(1 - p)^gamma log p of its class.

    Examples that are classified well count less than in the cross-entropy, which it is for a gamma
    of 0. With soft targets it is the sum of the classes' terms, weighted by their targets. Lin et
    al., "Focal Loss for Dense Object Detection" (2017), for a softmax.

    Args:
      logits: [B, C].
      labels: as in `cross_entropy`.
      gamma: 0 or more.
      label_smoothing: as in `cross_entropy`.
      class_weights: factor of each class's term, C numbers: the paper's alpha; None for 1.

    Raises:
      ValueError: as `cross_entropy`.

    Examples:
      >>> logits = jnp.array([[0.0, 0.0], [2.0, 0.0]])
      >>> [round(float(x), 4) for x in focal(logits, jnp.array([0, 0]))]
      [0.1733, 0.0018]
    """
    targets = optax.smooth_labels(class_targets(logits, labels), label_smoothing)
    if class_weights is not None:
        targets = targets * jnp.asarray(class_weights, jnp.float32)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    others = jnp.maximum(-jnp.expm1(log_p), SMALLEST)
    return -(targets * others**gamma * log_p).sum(-1)


def squared_error(
    logits: jax.Array,
    labels: jax.Array,
    *,
    over: Literal["softmax", "logits"] = "softmax",
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> jax.Array:
    """Returns the mean squared error of each example's one-hot target, float32 [B].

    Textbook networks end in a softmax and take the mean squared error of its C probabilities, as
    Keras does with `loss="mean_squared_error"`. Its gradient is small, even where the network is
    sure of a wrong class, and it wants a higher learning rate than the cross-entropy. Hui and
    Belkin, "Evaluation of Neural Architectures Trained with Square Loss" (2021), take the error of
    the logits themselves, which has no such flat places.

    Args:
      logits: [B, C].
      labels: as in `cross_entropy`.
      over: what is compared with the target: the "softmax" of the logits, or the "logits".
      label_smoothing: as in `cross_entropy`.
      class_weights: factor of an example by its class, C numbers; None for 1.

    Raises:
      ValueError: as `cross_entropy`.

    Examples:
      >>> squared_error(jnp.zeros((1, 2)), jnp.array([1])).tolist()
      [0.25]
      >>> squared_error(jnp.zeros((1, 2)), jnp.array([1]), over="logits").tolist()
      [0.5]
    """
    targets = class_targets(logits, labels)
    outputs = logits.astype(jnp.float32)
    if over == "softmax":
        outputs = jax.nn.softmax(outputs)
    errors = (outputs - optax.smooth_labels(targets, label_smoothing)) ** 2
    losses = errors.mean(-1)
    if class_weights is not None:
        losses = losses * (targets * jnp.asarray(class_weights, jnp.float32)).sum(-1)
    return losses


def adjusted_logits(
    logits: jax.Array, log_priors: Sequence[float], *, tau: float = 1.0
) -> jax.Array:
    """Returns logits for the loss in training, shifted by tau times the logs of the priors.

    The network learns what remains: which class, were all equally frequent. So the logits are
    not shifted when it is used or evaluated. Menon et al., "Long-tail learning via logit
    adjustment" (2021), section 5.2.

    Args:
      logits: [B, C].
      log_priors: log of the share of each class in training, [C]: `class_weights.log_priors`.
      tau: 1 for a balanced error; 0 adjusts nothing.

    Examples:
      >>> adjusted_logits(jnp.zeros((1, 2)), [-1.0, -0.5], tau=2.0).tolist()
      [[-2.0, -1.0]]
    """
    return logits.astype(jnp.float32) + tau * jnp.asarray(log_priors, jnp.float32)


def class_targets(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the target of each class, float32 [B, C]: one-hot labels, or soft targets as given.

    Raises:
      ValueError: if the shape of the labels is neither [B] nor that of the logits.
    """
    shape = logits.shape
    if labels.shape == shape[:-1]:
        return jax.nn.one_hot(labels, shape[-1])
    if labels.shape == shape:
        return labels.astype(jnp.float32)
    raise ValueError(
        f"got labels of shape {labels.shape} for logits of shape {shape}; pass class indices "
        f"of shape {shape[:-1]}, or a target for each class, {shape}"
    )
