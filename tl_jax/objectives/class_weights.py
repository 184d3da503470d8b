"""Weights and priors of classes from how often training has them, against imbalance."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def inverse_frequency(counts: ArrayLike) -> tuple[float, ...]:
    """Returns N / (C n) for each class of n among N examples, as scikit-learn's "balanced".

    Averaged over the training examples they are 1. A class without examples gets 0 and does not
    count in C.

    Args:
      counts: training examples of each class, [C].

    Raises:
      ValueError: if the counts are negative, or all 0.

    Examples:
      >>> inverse_frequency([30, 10])
      (0.6666666666666666, 2.0)
    """
    n = _checked(counts)
    present = n > 0
    weights = n.sum() / (present.sum() * np.where(present, n, 1))
    return tuple(np.where(present, weights, 0.0).tolist())


def effective_number(counts: ArrayLike, *, beta: float = 0.999) -> tuple[float, ...]:
    """Returns class-balanced weights: the inverse of each class's effective number of examples.

    The n examples of a class overlap, and are worth (1 - beta^n) / (1 - beta). beta = 0 weighs all
    classes the same, beta -> 1 by the inverse of n. The weights sum to the number of classes. Cui
    et al., "Class-Balanced Loss Based on Effective Number of Samples" (2019).

    Args:
      counts: training examples of each class, [C]; one without examples gets the weight 0 and does
        not count in the sum.
      beta: in [0, 1); the paper tries 0.9, 0.99, 0.999 and 0.9999.

    Raises:
      ValueError: if beta is outside [0, 1), or the counts are negative or all 0.

    Examples:
      >>> [round(weight, 3) for weight in effective_number([1000, 10], beta=0.99)]
      [0.175, 1.825]
    """
    if not 0 <= beta < 1:
        raise ValueError(f"got beta={beta}; expected a number in [0, 1)")
    n = _checked(counts)
    present = n > 0
    # expm1 and log1p keep the digits for beta near 1.
    number = -np.expm1(n * np.log(beta)) / (1 - beta) if beta else np.ones_like(n)
    weights = np.where(present, 1 / np.where(present, number, 1.0), 0.0)
    return tuple((weights * present.sum() / weights.sum()).tolist())


def log_priors(counts: ArrayLike) -> tuple[float, ...]:
    """Returns the log of each class's share of the training examples, in nats.

    A class without examples is taken to have one, so that its log is finite.

    Raises:
      ValueError: if the counts are negative, or all 0.

    Examples:
      >>> [round(value, 3) for value in log_priors([30, 10])]
      [-0.288, -1.386]
    """
    n = np.maximum(_checked(counts), 1)
    return tuple(np.log(n / n.sum()).tolist())


def positive_weights(
    positives: ArrayLike, negatives: ArrayLike, *, largest: float = 100.0
) -> tuple[float, ...]:
    """Returns the negatives per positive of each class, for the binary cross-entropy's positives.

    Args:
      positives: training examples that have each class, [C].
      negatives: those that are known not to have it, [C].
      largest: weights are kept between 1 / largest and this, which a class without positives gets.

    Raises:
      ValueError: if the counts are negative, or all 0.

    Examples:
      >>> positive_weights([10, 50, 0], [90, 50, 100])
      (9.0, 1.0, 100.0)
    """
    positive, negative = _checked(positives), np.asarray(negatives, np.float64)
    weights = np.where(positive > 0, negative / np.maximum(positive, 1), largest)
    return tuple(np.clip(weights, 1 / largest, largest).tolist())


def _checked(counts: ArrayLike | Sequence[int]) -> np.ndarray:
    n = np.asarray(counts, np.float64)
    if n.ndim != 1 or not n.sum() > 0 or (n < 0).any():
        raise ValueError(
            f"got the counts {np.array2string(n, threshold=10)}; expected the number of training "
            "examples of each class, some of them above 0"
        )
    return n
