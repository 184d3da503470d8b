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
      labels: class indices, [B].
      mask: bool [B]; False leaves an example out of the mean. None counts all.
      label_smoothing: share of the target that is spread evenly over the C classes
        (Szegedy et al., "Rethinking the Inception Architecture", 2016), as torch defines it.
    """
    losses = example_cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if mask is None:
        return losses.mean()
    return jnp.where(mask, losses, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def example_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Returns the softmax cross-entropy of each example, [B], in nats, in float32."""
    logits = logits.astype(jnp.float32)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)
