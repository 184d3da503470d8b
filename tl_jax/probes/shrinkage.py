"""How far the covariance of features is drawn towards the identity, so that it has an inverse."""

import numpy as np

_EPS = np.finfo(np.float64).eps


def ledoit_wolf(centred: np.ndarray, covariance: np.ndarray) -> float:
    """Returns the share of the mean variance in the shrunk covariance, from 0 to 1.

    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices"
    (2004). It is 0 where the covariance is a multiple of the identity already.

    Args:
      centred: rows with the mean 0, float64 [N, D].
      covariance: of these, [D, D].

    Examples:
      >>> rows = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
      >>> round(ledoit_wolf(rows, rows.T @ rows / 4), 3)
      0.944
    """
    count, width = centred.shape
    squares, mean = (covariance**2).sum(), np.trace(covariance) / width
    distance = squares - width * mean**2
    noise = (((centred**2).sum(1) ** 2).sum() / count - squares) / count
    return float(np.clip(noise / distance, 0, 1)) if distance > _EPS * squares else 0.0
