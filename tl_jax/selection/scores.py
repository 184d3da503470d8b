"""Scores of how well features suit labels, from one pass of a frozen network: LogME to NLEEP.

All are computed in float64 by NumPy, are larger for features that suit the labels better, and can
be compared between networks on the same labels only. None is NaN: what each returns for degenerate
features is said in its docstring.
"""

import warnings

import numpy as np
from numpy.typing import ArrayLike

from tl_jax.probes.shrinkage import ledoit_wolf

_EPS = np.finfo(np.float64).eps
_GRID = 240
_REFINEMENTS = 50
_GOLDEN = (np.sqrt(5) - 1) / 2
# Squared residual over squared length from which on labels are exactly linear in the features.
_EXACT = 1e-20
_BELOW, _ABOVE = 1e-24, 1e9  # The range of the prior's precision, relative to the eigenvalues.


def logme(features: ArrayLike, targets: ArrayLike) -> float:
    """Returns the log of the maximum evidence of a linear model, in nats for each example.

    The model is y = f w + noise, with w ~ N(0, 1 / alpha) and noise ~ N(0, 1 / beta), without a
    bias; the evidence p(y | f, alpha, beta) is maximised over alpha and beta, divided by the number
    of examples, and averaged over the targets (You, Liu, Wang and Long 2021, arXiv:2102.11005,
    equation 2). They iterate to a fixed point; here beta is eliminated and the maximum over
    alpha / beta is searched for, so that it is found for any features.

    Args:
      features: [N, D].
      targets: class indices [N], of which each class that occurs is a target of 0 and 1; or numbers
        [N] of floating type; or several targets [N, T].

    Returns:
      The score. It is infinite where a target is an exact linear function of the features that do
      not span all examples: the evidence then has no maximum. Constant features explain the mean
      of a target alone, and those that are all zero nothing: the model is then noise alone.

    Raises:
      ValueError: if the shapes do not fit, a value is not finite, or there are fewer than two
        classes.

    Examples:
      >>> labels = np.array([0, 0, 1, 1])
      >>> useful, useless = [[1.0], [1.1], [-1.0], [-0.9]], [[1.0], [-1.0], [1.0], [-1.0]]
      >>> logme(useful, labels) > logme(useless, labels)
      True
    """
    x, y = _features(features), _targets(targets)
    _check_lengths(x, y)
    eigenvalues, within, outside = _projections(x, y)
    lengths = within.sum(0) + outside
    exact = (outside <= _EXACT * lengths) & (len(eigenvalues) < len(x))
    if exact.any():
        return float("inf")
    return float(np.mean(_maximum_evidence(eigenvalues, within, outside, len(x)) / len(x)))


def _projections(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits targets by the singular vectors of the features.

    Returns:
      The eigenvalues of x xT that are not zero, [r]; the squared lengths of the targets along their
      vectors, [r, T]; and outside of these, [T].
    """
    count, width = x.shape
    outside = np.zeros(y.shape[1])
    if count > 2 * width:  # The triangle of a QR decomposition has the same singular values.
        triangle = np.asarray(np.linalg.qr(np.hstack([x, y]), mode="r"))
        outside = (triangle[width:, width:] ** 2).sum(0)
        x, y = triangle[:width, :width], triangle[:width, width:]
    left, scales, _ = np.linalg.svd(x, full_matrices=False)
    kept = scales > (scales[0] if len(scales) else 0.0) * max(count, width) * _EPS
    along = left[:, kept].T @ y
    rest = y - left[:, kept] @ along
    return scales[kept] ** 2, along**2, outside + (rest**2).sum(0)


def _maximum_evidence(
    eigenvalues: np.ndarray, within: np.ndarray, outside: np.ndarray, count: int
) -> np.ndarray:
    """Returns the largest log evidence of each target, [T]; arguments as `_projections` has them.

    A target is normal with the covariance (1 + x xT / ratio) / beta, where the ratio is alpha /
    beta. The best beta for a ratio is known; the best ratio is searched for on a logarithmic grid,
    and then by golden sections.
    """
    if not len(eigenvalues):
        return -count / 2 * (np.log(2 * np.pi * outside / count) + 1)

    def evidence(left_over: np.ndarray, log_det: np.ndarray) -> np.ndarray:
        return -count / 2 * (np.log(2 * np.pi * left_over / count) + 1) - log_det / 2

    def at(log_ratio: np.ndarray) -> np.ndarray:
        shrunk = 1 / (1 + eigenvalues[:, None] / np.exp(log_ratio))
        left_over = (shrunk * within).sum(0) + outside
        return evidence(left_over, -np.log(shrunk).sum(0))

    first, last = np.log([_BELOW * eigenvalues.min(), _ABOVE * eigenvalues.max()])
    grid = np.linspace(first, last, _GRID)
    shrunk = 1 / (1 + eigenvalues / np.exp(grid)[:, None])
    values = evidence(shrunk @ within + outside, -np.log(shrunk).sum(1, keepdims=True))
    best = grid[values.argmax(0)]
    low, high = best - (grid[1] - grid[0]), best + (grid[1] - grid[0])
    for _ in range(_REFINEMENTS):
        step = _GOLDEN * (high - low)
        is_left = at(high - step) > at(low + step)
        low, high = np.where(is_left, low, high - step), np.where(is_left, low + step, high)
    return np.maximum(at((low + high) / 2), values.max(0))


def h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """Returns the share of variance between the classes, summed over directions: the H-score.

    It is tr(S^-1 B), with the covariance S of the features and B of the means of their classes (Bao
    et al. 2019). Regularised as by Ibrahim, Ponomareva and Mazumder (2021, arXiv:2110.06893): S is
    (1 - a) S + a m 1, with the shrinkage a of Ledoit and Wolf (2004) and the mean variance m, and B
    is multiplied by 1 - a.

    Args:
      features: [N, D].
      labels: class indices, [N].

    Returns:
      From 0 to the number of classes less one. 0 where the features are constant, or the classes
      have the same means. Directions without variance count nothing.

    Raises:
      ValueError: as `logme`.

    Examples:
      >>> round(h_score([[0.0, 5.0], [0.2, 5.0], [2.0, 5.0], [2.2, 5.0]], [0, 0, 1, 1]), 2)
      0.98
    """
    x, y = _features(features), _classes(labels)
    _check_lengths(x, y)
    x = x - x.mean(0)
    covariance = x.T @ x / len(x)
    if not np.trace(covariance) > 0:
        return 0.0
    shrinkage = ledoit_wolf(x, covariance)
    variances, directions = np.linalg.eigh(covariance)
    variances = (1 - shrinkage) * np.maximum(variances, 0) + shrinkage * variances.mean()
    names, indices, counts = np.unique(y, return_inverse=True, return_counts=True)
    means = np.zeros((len(names), x.shape[1]))
    np.add.at(means, indices, x)
    means /= counts[:, None]
    kept = variances > variances.max() * len(variances) * _EPS
    between = counts / len(x) @ (means @ directions[:, kept]) ** 2
    return float((1 - shrinkage) * (between / variances[kept]).sum())


def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Returns the mean log probability of the labels, told from the classes of another classifier.

    With the classifier's probabilities p(z | x) and the frequencies P(y | z) that they make with
    the labels, it is the mean of log sum_z P(y | z) p(z | x) (Nguyen et al. 2020,
    arXiv:2002.12462).

    Args:
      probabilities: of the classifier's own classes, [N, Z]; rows sum to 1.
      labels: class indices, [N].

    Returns:
      At most 0, in nats; always finite. Where the probabilities are the same for all examples it
      is minus the entropy of the labels, the least that it can be.

    Raises:
      ValueError: as `logme`, or if the rows are no probabilities.

    Examples:
      >>> round(leep([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]], [0, 0, 1]), 4)
      -0.1919
    """
    p, y = _features(probabilities), _classes(labels)
    _check_lengths(p, y)
    if (p < 0).any() or np.abs(p.sum(1) - 1).max() > 1e-3:
        raise ValueError("got rows that are no probabilities; expected 0 or more, with the sum 1")
    _, indices = np.unique(y, return_inverse=True)
    joint = np.zeros((indices.max() + 1, p.shape[1]))
    np.add.at(joint, indices, p)
    totals = joint.sum(0)
    conditional = joint / np.where(totals > 0, totals, 1.0)
    return float(np.log((conditional[indices] * p).sum(1)).mean())


def nleep(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    variance: float = 0.8,
    components_per_class: int = 5,
    seed: int = 0,
) -> float:
    """Returns `leep` of the clusters of the features in the place of a classifier's classes.

    The features are reduced to principal components with a share of the variance, and a mixture of
    normal distributions is fitted to them by scikit-learn, with a full covariance each (Li et al.
    2021, arXiv:2011.11200). The components are divided by the deviation along the first of them, so
    that scikit-learn's 1e-6 on the diagonals is relative to it.

    Args:
      features: [N, D].
      labels: class indices, [N].
      variance: the share that the principal components keep.
      components_per_class: distributions for each class; there are at most as many as examples.
      seed: of the start of the fit, on which the score depends.

    Returns:
      At most 0. Constant features are one cluster: minus the entropy of the labels. With few
      examples each distribution holds so few that it fits them closely, and the score flatters.

    Raises:
      ModuleNotFoundError: if scikit-learn is not installed.
      ValueError: as `logme`.
    """
    x, y = _features(features), _classes(labels)
    _check_lengths(x, y)
    reduced = _principal_components(x, variance)
    if not reduced.shape[1]:
        return leep(np.ones((len(x), 1)), y)
    try:
        from sklearn.mixture import GaussianMixture
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "NLEEP needs scikit-learn, which is not installed: `pip install scikit-learn`, or "
            "leave this score out"
        ) from error
    clusters = min(components_per_class * len(np.unique(y)), len(x))
    with warnings.catch_warnings():  # Of clusters that are fewer, or a fit that could go on.
        warnings.simplefilter("ignore")
        mixture = GaussianMixture(clusters, random_state=seed).fit(reduced)
        return leep(mixture.predict_proba(reduced), y)


def _principal_components(x: np.ndarray, variance: float) -> np.ndarray:
    """Returns the first components of each row that hold a share of the variance, [N, k].

    They are scaled so that the first has the deviation 1; there is none if nothing varies.
    """
    centred = x - x.mean(0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(x))
    variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1]
    scale = np.abs(x).max() ** 2
    if not variances[0] > len(variances) * _EPS**2 * scale:
        return np.zeros((len(x), 0))
    share = np.cumsum(variances) / variances.sum()
    kept = min(int(np.searchsorted(share, variance)) + 1, len(share))
    return np.asarray(centred @ directions[:, :kept] / np.sqrt(variances[0]))


def _features(features: ArrayLike) -> np.ndarray:
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or 0 in x.shape or not np.isfinite(x).all():
        raise ValueError(
            f"got features or probabilities {x.shape}; expected finite values [N, D], at least "
            "one of each"
        )
    return x


def _classes(labels: ArrayLike) -> np.ndarray:
    y = np.asarray(labels)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or (y < 0).any():
        raise ValueError(
            f"got labels {y.dtype}{list(y.shape)}; expected class indices of 0 or more, int [N]"
        )
    if len(np.unique(y)) < 2:
        raise ValueError("got labels of a single class; expected two classes or more")
    return y


def _targets(targets: ArrayLike) -> np.ndarray:
    """Returns targets [N, T] of numbers; each class that occurs is one of 0 and 1."""
    y = np.asarray(targets)
    if y.ndim == 1 and np.issubdtype(y.dtype, np.integer):
        return np.asarray(_classes(y)[:, None] == np.unique(y), np.float64)
    y = y.astype(np.float64)[:, None] if y.ndim == 1 else y.astype(np.float64)
    if y.ndim != 2 or not y.shape[1] or not np.isfinite(y).all():
        raise ValueError(f"got targets {y.shape}; expected finite numbers [N] or [N, T]")
    return y


def _check_lengths(x: np.ndarray, y: np.ndarray) -> None:
    if len(x) != len(y):
        raise ValueError(f"got {len(x)} rows of features for {len(y)} labels; expected as many")
