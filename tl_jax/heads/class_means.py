"""Heads that start from the class means of the features, so that they classify untrained."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tl_jax import trees

_LISTED = 5


def start_from_class_means(
    params: trees.Tree,
    layer: str,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    class_names: Sequence[str] | None = None,
    confidence: float = 0.9,
) -> dict[str, Any]:
    """Returns parameters in which a head's layer assigns features to the nearest class mean.

    A layer with a bias gets `linear_from_means`; one without, a cosine head's, gets
    `cosine_from_means` of features of length 1 and keeps its scale.

    Args:
      params: the parameters of a network.
      layer: dotted name of a layer that sees the features: a network's own classifier (`"fc"`),
        `"head.fc"` of a `Classifier`, or `"head.on_features.fc"` of a `Fused`. Its logits must be
        linear in the features; those of SqueezeNet's own classifier, which a ReLU follows, are not.
      features: of the training examples, [N, C].
      labels: class indices, [N].
      class_names: names of the classes, for errors.
      confidence: see `linear_from_means`.

    Raises:
      ValueError: if there is no such layer, it takes other features, or a class has no example.
    """
    leaves = trees.layer_leaves(params, layer)
    *ones, width, num_classes = leaves["kernel"].shape
    cosine = "bias" not in leaves
    means = class_means(
        features, labels, num_classes=num_classes, class_names=class_names, normalize=cosine
    )
    if any(size != 1 for size in ones) or means.shape[1] != width:
        raise ValueError(
            f"layer {layer!r} has a kernel of shape {leaves['kernel'].shape}, but the features "
            f"are of width {means.shape[1]}; give the features that this layer sees"
        )
    kernel, *bias = [cosine_from_means(means)] if cosine else linear_from_means(means, confidence)
    kernel = jnp.asarray(kernel).reshape(leaves["kernel"].shape)
    started = dict(zip(("kernel", "bias"), (kernel, *map(jnp.asarray, bias)), strict=False))
    return trees.with_layer_leaves(params, layer, started)


def class_means(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    normalize: bool = False,
) -> NDArray[np.float64]:
    """Returns the mean of the features of each class, [num_classes, C].

    Args:
      features: [N, C].
      labels: class indices, [N].
      num_classes: how many classes there are.
      class_names: their names, for errors.
      normalize: bring each example's features to length 1 first.

    Raises:
      ValueError: if the shapes do not fit, a label is out of range, or a class has no example.
    """
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"expected features [N, C] and labels [N], got {features.shape} and {labels.shape}"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}"
        )
    counts = np.bincount(labels, minlength=num_classes)
    _check_none_is_missing(counts, class_names)
    if normalize:
        features = _unit_rows(features)
    return np.stack([features[labels == label].mean(0) for label in range(num_classes)])


def linear_from_means(
    means: ArrayLike, confidence: float = 0.9
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns kernel [C, K] and bias [K] of a layer that finds the nearest of K class means.

    Up to a number that all classes share, the logits are -t |x - mean|^2 / 2. The factor t sets
    their scale, whatever that of the features: were all means equally far apart, a class would
    have the probability `confidence` at its own mean.

    Args:
      means: [K, C], K >= 2.
      confidence: between 1 / K and 1.

    Raises:
      ValueError: if there are fewer than two means or all are the same, or the confidence is out
        of range.
    """
    means = np.asarray(means, np.float64)
    num_classes = len(means)
    if num_classes < 2:
        raise ValueError(f"got the means of {num_classes} classes, expected at least 2")
    if not 1 / num_classes < confidence < 1:
        raise ValueError(
            f"confidence is {confidence}; among {num_classes} classes it must lie between "
            f"{1 / num_classes:.3g} and 1"
        )
    # A centred kernel gives the same odds, and does not lose them in float32 where the means are
    # long and close together.
    centre = means.mean(0)
    offsets = means - centre
    # Half the squared distance between two means, on average over all pairs.
    gap = np.sum(offsets**2) / (num_classes - 1)
    if gap == 0:
        raise ValueError(f"the means of all {num_classes} classes are the same; check the features")
    factor = np.log((num_classes - 1) * confidence / (1 - confidence)) / gap
    bias = -offsets @ centre - np.sum(offsets**2, axis=1) / 2
    return (factor * offsets.T).astype(np.float32), (factor * bias).astype(np.float32)


def cosine_from_means(means: ArrayLike) -> NDArray[np.float32]:
    """Returns the kernel [C, K] of a cosine head: class means [K, C] brought to length 1.

    With means of features of length 1 this is "imprinting" (arXiv:1712.07136).

    Raises:
      ValueError: if a mean is zero.
    """
    return _unit_rows(np.asarray(means, np.float64)).T.astype(np.float32)


def _unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(
            f"row {int(np.argmin(lengths))} of {len(rows)} is zero and has no direction; "
            "a cosine head needs features that are not all zero"
        )
    return rows / lengths


def _check_none_is_missing(counts: NDArray[Any], class_names: Sequence[str] | None) -> None:
    missing = np.flatnonzero(counts == 0).tolist()
    if not missing:
        return
    names = [repr(class_names[label]) if class_names else str(label) for label in missing[:_LISTED]]
    more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
    raise ValueError(
        f"{len(missing)} of {len(counts)} classes have no example and so no mean: "
        f"{', '.join(names)}{more}; give examples of each, or start the head at zero"
    )
