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
      labels: class indices, [B]; or soft targets, float [B, C], each row of sum 1.
      mask: bool [B]; False leaves an example out of the mean. None counts all.
      label_smoothing: share of the target that is spread evenly over the C classes
        (Szegedy et al., "Rethinking the Inception Architecture", 2016), as torch defines it. Soft
        targets are smoothed too; for mixed ones it is the same to smooth before they are mixed.

    Raises:
      ValueError: if the shape of the labels is neither [B] nor that of the logits.
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
    logits = logits.astype(jnp.float32)
    targets = optax.smooth_labels(_targets(labels, logits.shape), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def _targets(labels: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns the share of each class in each example, float32 of the logits' shape."""
    if labels.shape == shape[:-1]:
        return jax.nn.one_hot(labels, shape[-1])
    if labels.shape != shape:
        raise ValueError(
            f"got labels of shape {labels.shape} for logits of shape {shape}; pass class indices "
            f"of shape {shape[:-1]}, or a target for each class, {shape}"
        )
    return labels.astype(jnp.float32)
