"""Out-of-sample probabilities of a training split: a linear probe that is fitted without a fold."""

import jax
import numpy as np

from tl_jax.probes.solvers import logistic_regression

L2_GRID = (1e-3, 1e-2, 1e-1, 1.0)


def probabilities(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    folds: int = 5,
    l2: float | tuple[float, ...] = L2_GRID,
    seed: int = 0,
) -> np.ndarray:
    """Returns what a linear probe says of each example when it was fitted without it.

    Every fold holds the classes in equal shares. Of several penalties the one with the lowest
    log-loss of all folds is taken; labels that are wrong ask for a strong one.

    Args:
      features: [N, D].
      labels: classes, int [N]; each that occurs needs two examples.
      num_classes: C.
      folds: number of parts that are left out in turn.
      l2: penalty of `logistic_regression` on standardised features, or several to choose from.
      seed: of the division.

    Returns:
      float64 [N, C]; classes without an example have the probability 0.

    Raises:
      ValueError: if a class has a single example, or there are fewer than two classes or folds.

    Examples:
      >>> x = np.array([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]])
      >>> probabilities(x, np.array([0, 0, 0, 2, 2, 2]), num_classes=3, folds=3).argmax(1).tolist()
      [0, 0, 0, 2, 2, 2]
    """
    features, labels = np.asarray(features, np.float32), np.asarray(labels)
    present, dense, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(present) < 2 or counts.min() < 2 or folds < 2:
        raise ValueError(
            f"got {len(present)} classes, the smallest of {min(counts, default=0)} examples, and "
            f"{folds} folds; expected two classes or more, of two examples or more, and two folds"
        )
    fold_of = _folds(dense, folds, seed)
    best, lowest = np.zeros((0, 0)), np.inf
    for penalty in (l2,) if isinstance(l2, int | float) else l2:
        found = _without_each(features, dense, fold_of, len(present), penalty)
        loss = -np.log(np.maximum(found[np.arange(len(dense)), dense], 1e-12)).mean()
        if loss < lowest:
            best, lowest = found, loss
    result = np.zeros((len(labels), num_classes))
    result[:, present] = best
    return result


def _folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Returns the fold of each example: classes in equal shares, sizes that differ by one."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    fold_of = np.empty(len(labels), np.int64)
    fold_of[by_class] = np.arange(len(labels)) % min(folds, len(labels))
    return fold_of


def _without_each(
    features: np.ndarray, labels: np.ndarray, fold_of: np.ndarray, num_classes: int, l2: float
) -> np.ndarray:
    """Returns the probabilities of each fold by the probe of the others, [N, C]."""
    found = np.zeros((len(labels), num_classes))
    for fold in np.unique(fold_of):
        is_out = fold_of == fold
        head, _ = logistic_regression(
            features[~is_out], labels[~is_out], num_classes=num_classes, l2=l2, standardize=True
        )
        found[is_out] = jax.nn.softmax(head(features[is_out]))
    return found
