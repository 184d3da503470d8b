"""Class means of features, and heads initialized from them that classify before training."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tl_jax import messages, trees


def init_from_class_means(
    params: trees.Tree,
    layer: str,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    class_names: Sequence[str] | None = None,
    confidence: float = 0.9,
) -> dict[str, Any]:
    """Returns parameters in which a head's layer predicts the class with the nearest mean.

    A layer with a bias gets `linear_from_means`. One without a bias, a cosine head's, gets
    `cosine_from_means` of features of length 1, and keeps its scale.

    Args:
      params: the parameters of a network.
      layer: dotted name of a layer whose input is the features: a network's own classifier
        (`"fc"`), `"head.fc"` of a `Classifier`, or `"head.on_features.fc"` of a `Fused`. Its logits
        must be linear in the features; those of SqueezeNet's own classifier are not, as a ReLU
        follows.
      features: of the training examples, [N, C].
      labels: class indices, [N].
      class_names: names of the classes, for error messages.
      confidence: see `linear_from_means`.

    Raises:
      ValueError: if there is no such layer, its input has another width, or a class has no example.

    Examples:
      >>> params = {"fc": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}
      >>> features, labels = np.array([[1, 0], [0, 1], [5, 5], [5, 4]]), np.array([0, 1, 2, 2])
      >>> fc = init_from_class_means(params, "fc", features, labels)["fc"]
      >>> (features @ fc["kernel"] + fc["bias"]).argmax(1).tolist()
      [0, 1, 2, 2]
    """
    leaves = trees.layer_leaves(params, layer)
    *window, width, num_classes = leaves["kernel"].shape
    cosine = "bias" not in leaves
    means = class_means(
        features, labels, num_classes=num_classes, class_names=class_names, normalize=cosine
    )
    if any(size != 1 for size in window) or means.shape[1] != width:
        raise ValueError(
            f"layer {layer!r} has a kernel of shape {leaves['kernel'].shape}, but the features "
            f"have width {means.shape[1]}; pass the features that are this layer's input"
        )
    if cosine:
        changed = {"kernel": cosine_from_means(means)}
    else:
        kernel, bias = linear_from_means(means, confidence)
        changed = {"kernel": kernel, "bias": bias}
    changed["kernel"] = changed["kernel"].reshape(leaves["kernel"].shape)
    return trees.with_layer_leaves(
        params, layer, {name: jnp.asarray(value) for name, value in changed.items()}
    )


def class_means(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    normalize: bool = False,
) -> np.ndarray:
    """Returns the mean of the features of each class, float64 [num_classes, C].

    Args:
      features: [N, C].
      labels: class indices, [N].
      num_classes: number of classes.
      class_names: their names, for error messages.
      normalize: scale each example's features to length 1 first.

    Raises:
      ValueError: if the shapes do not fit, a label is out of range, or a class has no example.
    """
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    check_labelled_features(
        features, labels, num_classes=num_classes, class_names=class_names, every_class=True
    )
    if normalize:
        features = _rows_of_length_1(features)
    return np.stack([features[labels == label].mean(0) for label in range(num_classes)])


def check_labelled_features(
    features: ArrayLike,
    labels: np.ndarray,
    *,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    every_class: bool = False,
    split: str = "",
) -> None:
    """Checks features [N, C] with class indices [N]: the input of everything that is fitted here.

    Args:
      features: the features.
      labels: the class indices.
      num_classes: number of classes.
      class_names: their names, for the error message.
      every_class: require an example of each class.
      split: name of the examples in the error message, such as "training".

    Raises:
      ValueError: if the shapes do not fit, there is no example, the labels are not class indices,
        or a class has no example.
    """
    split = f"{split} " if split else ""
    shape = np.shape(features)
    if len(shape) != 2 or labels.shape != shape[:1] or not len(labels):
        raise ValueError(
            f"got {split}features {shape} and labels {labels.shape}; expected [N, C] and [N], "
            "N at least 1"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"got {split}labels from {labels.min()} to {labels.max()} ({labels.dtype}); expected "
            f"class indices from 0 to {num_classes - 1}"
        )
    missing = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0).tolist()
    if every_class and missing:
        names = [str(class_names[label] if class_names else label) for label in missing]
        raise ValueError(
            f"{len(missing)} of {num_classes} classes have no example: {messages.some(names)}; add "
            "examples of each, or leave these classes out"
        )


def linear_from_means(means: ArrayLike, confidence: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel [C, K] and bias [K] of a layer that predicts the nearest of K class means.

    Up to a term that all classes share, the logits are -t |x - mean|^2 / 2. The factor t scales
    them to the features: if all means were equally far apart, a class would have the probability
    `confidence` at its own mean.

    Args:
      means: [K, C], K >= 2.
      confidence: between 1 / K and 1.

    Returns:
      Kernel and bias, float32.

    Raises:
      ValueError: if there are fewer than two means, all are equal, or the confidence is out of
        range.
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
    # A centred kernel gives the same probabilities, and keeps its precision in float32 where the
    # means are long and close together.
    centre = means.mean(0)
    offsets = means - centre
    # Half the squared distance between two means, on average over all pairs.
    gap = np.sum(offsets**2) / (num_classes - 1)
    if gap == 0:
        raise ValueError(f"the means of all {num_classes} classes are equal; check the features")
    factor = np.log((num_classes - 1) * confidence / (1 - confidence)) / gap
    bias = -offsets @ centre - np.sum(offsets**2, axis=1) / 2
    return (factor * offsets.T).astype(np.float32), (factor * bias).astype(np.float32)


def cosine_from_means(means: ArrayLike) -> np.ndarray:
    """Returns the kernel [C, K], float32, of a cosine head: class means [K, C] of length 1.

    With means of features of length 1 this is "imprinting" (arXiv:1712.07136).

    Raises:
      ValueError: if a mean is zero.
    """
    return _rows_of_length_1(np.asarray(means, np.float64)).T.astype(np.float32)


def _rows_of_length_1(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(
            f"row {int(np.argmin(lengths))} of {len(rows)} is zero and has no direction; "
            "a cosine head needs features that are not all zero"
        )
    return rows / lengths
