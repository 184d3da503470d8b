"""Losses of multi-label classification: any number of classes per example, each a yes or a no.

All take the targets of an example's classes: 1 where the example has the class, 0 where it does
not, a share between them for mixed images, and -1 (or any negative) where it is not known. The loss
of an example is the mean over the classes that are known; 0 if none is.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from tl_jax.objectives.losses import SMALLEST


def binary_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    positive_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Returns the binary cross-entropy of each example, in nats, float32 [B].

    The mean over a batch without unknown targets is that of torch's `BCEWithLogitsLoss`.

    Args:
      logits: [B, C].
      targets: [B, C]; see above.
      positive_weights: factor of the positive part of each class, C numbers, as torch's
        `pos_weight`: such as the number of negatives per positive
        (`class_weights.positive_weights`); None for 1.
      label_smoothing: s in targets of s / 2 and 1 - s / 2 in place of 0 and 1.

    Raises:
      ValueError: if the targets have another shape than the logits.

    Examples:
      >>> logits, targets = jnp.array([[0.0, 9.0]]), jnp.array([[1, -1]])
      >>> round(float(binary_cross_entropy(logits, targets)[0]), 4)
      0.6931
    """
    factors = 1.0 if positive_weights is None else jnp.asarray(positive_weights, jnp.float32)

    def terms(logits: jax.Array, targets: jax.Array) -> jax.Array:
        smooth = targets * (1 - label_smoothing) + label_smoothing / 2
        positive = factors * smooth * jax.nn.log_sigmoid(logits)
        return -positive - (1 - smooth) * jax.nn.log_sigmoid(-logits)

    return _mean_over_known(terms, logits, targets)


def focal(
    logits: jax.Array, targets: jax.Array, *, gamma: float = 2.0, alpha: float | None = None
) -> jax.Array:
    """Returns the focal loss of each example, float32 [B]: (1 - p_t)^gamma times the cross-entropy.

    p_t is the probability of the true answer. Lin et al., "Focal Loss for Dense Object Detection"
    (2017); with targets of 0 and 1 as `torchvision.ops.sigmoid_focal_loss`. With a share as target
    it is the sum of both answers' terms, in these shares.

    Args:
      logits: [B, C].
      targets: [B, C]; see above.
      gamma: 0 or more; 0 is the cross-entropy.
      alpha: weight of positives, in [0, 1]; negatives have 1 - alpha. None weighs neither.

    Raises:
      ValueError: if the targets have another shape than the logits.

    Examples:
      >>> round(float(focal(jnp.array([[0.0]]), jnp.array([[1]]))[0]), 4)
      0.1733
    """
    weights = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    def terms(logits: jax.Array, targets: jax.Array) -> jax.Array:
        negative_p = jnp.maximum(jax.nn.sigmoid(-logits), SMALLEST)
        positive_p = jnp.maximum(jax.nn.sigmoid(logits), SMALLEST)
        positive = negative_p**gamma * jax.nn.log_sigmoid(logits)
        negative = positive_p**gamma * jax.nn.log_sigmoid(-logits)
        return -weights[0] * targets * positive - weights[1] * (1 - targets) * negative

    return _mean_over_known(terms, logits, targets)


def asymmetric(
    logits: jax.Array,
    targets: jax.Array,
    *,
    gamma_positive: float = 0.0,
    gamma_negative: float = 4.0,
    margin: float = 0.05,
) -> jax.Array:
    """Returns the asymmetric loss of each example, float32 [B].

    Of the many classes that an image does not have, those that are rejected easily count little:
    with p_m = max(p - margin, 0) the loss is -(1 - p)^gamma_positive log p for a positive and
    -p_m^gamma_negative log(1 - p_m) for a negative. Ridnik et al., "Asymmetric Loss For Multi-Label
    Classification" (2021), equations 6 and 7, with their usual numbers as defaults; the gradient is
    that of the whole expression.

    Args:
      logits: [B, C].
      targets: [B, C]; see above.
      gamma_positive: focusing of positives, 0 or more.
      gamma_negative: focusing of negatives, 0 or more.
      margin: probability up to which a negative costs nothing, in [0, 1).

    Raises:
      ValueError: if the targets have another shape than the logits.

    Examples:
      >>> asymmetric(jnp.array([[-4.0]]), jnp.array([[0]])).tolist()  # p is 0.018
      [0.0]
    """

    def terms(logits: jax.Array, targets: jax.Array) -> jax.Array:
        others = jnp.maximum(jax.nn.sigmoid(-logits), SMALLEST)
        positive = others**gamma_positive * jax.nn.log_sigmoid(logits)
        shifted = jnp.maximum(jax.nn.sigmoid(logits) - margin, 0.0)
        # 1 - p loses its digits near p = 1, where only a margin keeps it away from 0.
        log_rest = jnp.log1p(-shifted) if margin else jax.nn.log_sigmoid(-logits)
        negative = jnp.maximum(shifted, SMALLEST) ** gamma_negative * log_rest
        return -targets * positive - (1 - targets) * negative

    return _mean_over_known(terms, logits, targets)


def _mean_over_known(
    terms: Callable[[jax.Array, jax.Array], jax.Array], logits: jax.Array, targets: jax.Array
) -> jax.Array:
    """Returns the mean of `terms(logits, targets)` [B, C] over each example's known targets."""
    if targets.shape != logits.shape:
        raise ValueError(
            f"got targets of shape {targets.shape} for logits of shape {logits.shape}; pass 1, 0 "
            "or -1 (not known) for each class of each example"
        )
    known = targets >= 0
    values = terms(
        jnp.where(known, logits.astype(jnp.float32), 0.0),
        jnp.where(known, targets.astype(jnp.float32), 0.0),
    )
    return jnp.where(known, values, 0.0).sum(-1) / jnp.maximum(known.sum(-1), 1)
