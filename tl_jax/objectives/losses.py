"""Losses: pure functions of logits, labels and mask."""

import jax
import jax.numpy as jnp
import optax


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
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Returns the softmax cross-entropy of each example, [B], in nats, in float32.

    Arguments and errors are those of `cross_entropy`.
    """
    shape = logits.shape
    if labels.shape == shape[:-1]:
        targets = jax.nn.one_hot(labels, shape[-1])
    elif labels.shape == shape:
        targets = labels.astype(jnp.float32)
    else:
        raise ValueError(
            f"got labels of shape {labels.shape} for logits of shape {shape}; pass class indices "
            f"of shape {shape[:-1]}, or a target for each class, {shape}"
        )
    targets = optax.smooth_labels(targets, label_smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)
