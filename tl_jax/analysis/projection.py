"""Features in a plane: principal components, or t-SNE where scikit-learn is installed."""

from typing import Literal

import numpy as np

Method = Literal["pca", "tsne"]

METHODS = ("pca", "tsne")
MOST = 5000
"""The examples that are projected at most; of more an even selection is."""


def project(features: np.ndarray, method: Method = "pca", *, seed: int = 0) -> np.ndarray:
    """Returns a point in the plane for each example, float64 [N, 2].

    Args:
      features: [N, D].
      method: "pca", the two directions of the largest variance; or "tsne" (van der Maaten and
        Hinton, 2008), of the first 50 principal components, which shows groups but no distances.
      seed: of t-SNE.

    Raises:
      ModuleNotFoundError: if t-SNE is asked for and scikit-learn is not installed.
      ValueError: if the method is unknown.

    Examples:
      >>> points = project(np.array([[0.0, 0, 1], [3, 0, 1], [0, 1, 1], [3, 1, 1]]))
      >>> np.round(np.abs(points), 3).tolist()
      [[1.5, 0.5], [1.5, 0.5], [1.5, 0.5], [1.5, 0.5]]
    """
    if method not in METHODS:
        raise ValueError(f"got the method {method!r}; expected one of {', '.join(METHODS)}")
    if method == "pca" or len(features) < 3:
        return _components(features, 2)
    try:
        from sklearn.manifold import TSNE
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "t-SNE needs scikit-learn, which is not installed: `pip install scikit-learn`, or take "
            "principal components (method 'pca')"
        ) from error
    start = _components(features, min(50, *features.shape))
    perplexity = min(30.0, (len(features) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(start)
    return np.asarray(points, np.float64)


def _components(features: np.ndarray, count: int) -> np.ndarray:
    """Returns the first principal components of each example, [N, count]; 0 where there is none."""
    centred = np.asarray(features, np.float64)
    centred = centred - centred.mean(0)
    left, scales, _ = np.linalg.svd(centred, full_matrices=False)
    points = (left * scales)[:, :count]
    # A direction has no sign of its own: the largest coordinate is made positive.
    largest = np.abs(points).argmax(0)
    points = points * np.where(points[largest, np.arange(points.shape[1])] < 0, -1.0, 1.0)
    return np.pad(points, ((0, 0), (0, count - points.shape[1])))


def selection(count: int, most: int = MOST) -> np.ndarray:
    """Returns the places of an even selection of examples, or of all if they are few.

    >>> selection(10, 4).tolist()
    [0, 3, 6, 9]
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
