"""Scores that tell images of other kinds (out of distribution) from those of a run's own kind.

Each is higher for images like those that were trained on. Maximum softmax: Hendrycks and Gimpel
(2017), arXiv:1610.02136. Energy: Liu et al. (2020), arXiv:2010.03759. Mahalanobis: Lee et al.
(2018), arXiv:1807.03888, of the last features. Nearest neighbours: Sun et al. (2022),
arXiv:2204.06507.
"""

from typing import Any

import numpy as np

from tl_jax.analysis import neighbours
from tl_jax.objectives import bootstrap, ranking
from tl_jax.probes.shrinkage import ledoit_wolf

NEIGHBOUR = 10
"""The neighbour whose distance is taken, or the last one of a smaller training split."""
_DRAWS = 500


def of_logits(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the scores of a softmax: its maximum, and the negative energy of the logits.

    Args:
      logits: [N, C].

    Examples:
      >>> found = of_logits(np.array([[0.0, 0.0], [9.0, 0.0]]))
      >>> {name: np.round(values, 2).tolist() for name, values in found.items()}
      {'maximum_softmax': [0.5, 1.0], 'energy': [0.69, 9.0]}
    """
    logits = np.asarray(logits, np.float64)
    largest = logits.max(1)
    sums = np.exp(logits - largest[:, None]).sum(1)
    return {"maximum_softmax": 1 / sums, "energy": largest + np.log(sums)}


def of_features(
    features: np.ndarray, train_features: np.ndarray, labels: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Returns the scores of features: closeness to the nearest class, and to the k-th neighbour.

    Args:
      features: [N, D].
      train_features: of the training split, [M, D].
      labels: its classes, int [M], -1 where missing; None for tasks without classes, of which
        "mahalanobis" has one mean.
    """
    return {
        "mahalanobis": -_mahalanobis(features, train_features, labels),
        "neighbours": -_neighbour_distance(features, train_features),
    }


def _neighbour_distance(features: np.ndarray, train_features: np.ndarray) -> np.ndarray:
    """Returns the distance of unit vectors to the k-th nearest one."""
    k = min(NEIGHBOUR, len(train_features))
    cosines = neighbours.nearest(features, train_features, k).similarities[:, -1]
    return np.sqrt(np.maximum(2 - 2 * cosines.astype(np.float64), 0))


def _mahalanobis(
    features: np.ndarray, train_features: np.ndarray, labels: np.ndarray | None
) -> np.ndarray:
    """Returns the squared distance to the nearest class mean, in the covariance within classes."""
    train = np.asarray(train_features, np.float64)
    if labels is None:
        labels = np.zeros(len(train), np.int64)
    train, labels = train[labels >= 0], labels[labels >= 0]
    present, dense = np.unique(labels, return_inverse=True)
    means = np.stack([train[dense == index].mean(0) for index in range(len(present))])
    covariance = shrunk_covariance(train - means[dense])
    factor = np.linalg.cholesky(np.linalg.inv(covariance))
    whitened, centres = np.asarray(features, np.float64) @ factor, means @ factor
    return np.stack([((whitened - centre) ** 2).sum(1) for centre in centres], 1).min(1)


def shrunk_covariance(centred: np.ndarray) -> np.ndarray:
    """Returns the covariance of centred rows, drawn towards a multiple of the identity.

    The share is that of `ledoit_wolf`: with fewer examples than features the plain covariance has
    no inverse.

    Args:
      centred: [N, D], with mean 0.
    """
    count, size = centred.shape
    covariance = centred.T @ centred / count
    variance = np.trace(covariance) / size
    # A tiny part keeps features that never vary from making it singular.
    share = max(ledoit_wolf(centred, covariance), 1e-6)
    return (1 - share) * covariance + max(share * variance, 1e-12) * np.eye(size)


def separation(inside: np.ndarray, outside: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """Returns how well a score tells two sets of images apart, with 95% intervals (bootstrap).

    Args:
      inside: scores of images of the run's kind, [N].
      outside: scores of other images, [M].
      seed: of the draws.

    Returns:
      `auroc`, the probability that one of the first scores higher than one of the second, and
      `fpr_at_95_tpr`, the share of the second that is accepted by the threshold that accepts 95%
      of the first; each with its `..._interval`.

    Examples:
      >>> found = separation(np.array([1.0, 2, 3, 4]), np.array([0.0, 1.5]))
      >>> found["auroc"], found["fpr_at_95_tpr"]
      (0.875, 0.5)
    """
    measured = {"auroc": _auroc(inside, outside), "fpr_at_95_tpr": _accepted(inside, outside)}
    draws, drawn = np.random.default_rng(seed), {name: list[float]() for name in measured}
    for _ in range(_DRAWS):
        first = inside[draws.integers(0, len(inside), len(inside))]
        second = outside[draws.integers(0, len(outside), len(outside))]
        drawn["auroc"].append(_auroc(first, second))
        drawn["fpr_at_95_tpr"].append(_accepted(first, second))
    bounds = {
        f"{name}_interval": bootstrap.percentiles(np.array(values), 0.95)
        for name, values in drawn.items()
    }
    return measured | bounds


def _auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    scores = np.concatenate([inside, outside])
    found = ranking.rank(scores, np.arange(len(scores)) < len(inside)).auc
    assert found is not None  # Neither set is empty.
    return found


def _accepted(inside: np.ndarray, outside: np.ndarray) -> float:
    """Returns the share of other images at or above the threshold that keeps 95% of the first."""
    ordered = np.sort(inside)
    threshold = ordered[int(np.floor(0.05 * len(ordered)))]
    return float((outside >= threshold).mean())
