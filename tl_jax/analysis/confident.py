"""Confident learning: which labels are likely to be wrong, from out-of-sample probabilities.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels" (2021),
arXiv:1911.00068. An example counts for a class if its probability is at least the mean that this
class has among the examples labelled so; how many wrong labels there are is read off these counts.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class LabelIssues:
    """Labels that are likely to be wrong.

    Attributes:
      indices: the suspected examples, the least likely label first, int [K].
      self_confidence: the probability of the given label, of all examples, float [N].
      guessed: the likeliest class of all examples, int [N].
      joint: estimated number of examples by given (row) and true class (column), float [C, C].
    """

    indices: np.ndarray
    self_confidence: np.ndarray
    guessed: np.ndarray
    joint: np.ndarray

    @property
    def estimated(self) -> float:
        """Estimated number of wrong labels: what lies off the diagonal of the joint."""
        return float(self.joint.sum() - np.trace(self.joint))


def confident_joint(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Counts examples by given and by confidently predicted class.

    An example is counted at class j if p_j is at least the mean p_j of the examples labelled j, at
    the likeliest of several such classes, and nowhere if there is none.

    Args:
      labels: given classes, int [N].
      probabilities: out-of-sample probabilities, [N, C].

    Returns:
      Counts [C, C], given by predicted class.

    Examples:
      >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.1, 0.9]])
      >>> confident_joint(np.array([0, 0, 0, 1, 1]), p).tolist()
      [[2, 1], [0, 1]]
    """
    num_classes = probabilities.shape[1]
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    # A class that nobody is labelled with has no threshold, and is never predicted confidently.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    # Means of equal numbers may differ from these in the last bits.
    is_above = probabilities >= thresholds - 1e-6
    predicted = np.where(is_above, probabilities, -1).argmax(1)
    counted = is_above.any(1)
    joint = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(joint, (labels[counted], predicted[counted]), 1)
    return joint


def calibrated_joint(joint: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Scales the rows of a confident joint to the numbers of labels, float [C, C].

    Args:
      joint: of `confident_joint`.
      counts: examples with each label, int [C]. A class of which nothing was counted is taken to
        be labelled rightly.
    """
    sums = joint.sum(1)
    shares = np.where(sums[:, None] > 0, joint / np.maximum(sums, 1)[:, None], np.eye(len(joint)))
    return shares * counts[:, None]


def _rounded(joint: np.ndarray) -> np.ndarray:
    """Rounds a joint to whole numbers such that each row keeps its sum (largest remainders)."""
    whole = np.floor(joint + 1e-9).astype(np.int64)
    missing = np.rint(joint.sum(1)).astype(np.int64) - whole.sum(1)
    order = np.argsort(-(joint - whole), axis=1, kind="stable")
    for row, count in enumerate(missing):
        whole[row, order[row, :count]] += 1
    return whole


def find_issues(labels: np.ndarray, probabilities: np.ndarray) -> LabelIssues:
    """Finds the labels that are likely to be wrong ("prune by noise rate" of the paper).

    Of each pair of a given class i and another class j as many examples are taken as the joint
    says, those with the largest p_j - p_i, and only where i is not the likeliest class.

    Args:
      labels: given classes, int [N]; none may be missing.
      probabilities: of a model that was not trained on these examples, [N, C].

    Raises:
      ValueError: if the shapes or the labels are invalid.

    Examples:
      >>> labels = np.array([0] * 10 + [1] * 10)
      >>> p = np.where(labels[:, None] == np.arange(2), 0.9, 0.1)
      >>> p[[3, 14]] = p[[3, 14]][:, ::-1]
      >>> find_issues(labels, p).indices.tolist()
      [3, 14]
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    _check(labels, probabilities)
    num_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    joint = calibrated_joint(confident_joint(labels, probabilities), counts)
    own = probabilities[np.arange(len(labels)), labels]
    is_suspected = np.zeros(len(labels), bool)
    pairs = _rounded(joint) * (1 - np.eye(num_classes, dtype=np.int64))
    for given, true in zip(*np.nonzero(pairs), strict=True):
        members = np.flatnonzero(labels == given)
        margins = probabilities[members, true] - own[members]
        is_suspected[members[np.argsort(-margins, kind="stable")[: pairs[given, true]]]] = True
    guessed = probabilities.argmax(1)
    found = np.flatnonzero(is_suspected & (guessed != labels))
    order = np.argsort(own[found], kind="stable")
    return LabelIssues(found[order], own, guessed, joint)


def _check(labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Raises a ValueError unless there is a class and a row of probabilities for each example."""
    shape = probabilities.shape
    if labels.ndim != 1 or probabilities.ndim != 2 or len(labels) != len(probabilities):
        raise ValueError(
            f"got labels {labels.shape} and probabilities {shape}; expected [N] and [N, C]"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < shape[1]):
        raise ValueError(
            f"got labels from {labels.min()} to {labels.max()}; expected classes of 0 to "
            f"{shape[1] - 1}: leave out examples whose label is missing"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("got probabilities that are not finite; expected numbers from 0 to 1")
