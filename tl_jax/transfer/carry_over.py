"""Carries rows of a pretrained classifier over to new classes, and scores it before training."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tl_jax import trees
from tl_jax.models.model import ModelWrapper
from tl_jax.objectives.metrics import ClassCounts, by_class
from tl_jax.transfer.class_names import ClassMapping

# The logit of a class that must not be predicted; finite, to keep the loss of its examples finite.
_NEVER = -1e9


def carry_rows(
    kernel: ArrayLike, bias: ArrayLike, mapping: ClassMapping
) -> tuple[jax.Array, jax.Array]:
    """Returns a classifier of the new classes: each row is the mean of its source classes' rows.

    The row of a class with one source class is copied bit for bit, so its logits differ only by the
    rounding of a matrix product of another width. The row of an unmatched class is zero.

    Args:
      kernel: the pretrained classifier's, [C, S], or [1, 1, C, S] of a convolution.
      bias: [S].
      mapping: K new classes from S source classes.

    Returns:
      Kernel [..., C, K] and bias [K].

    Raises:
      ValueError: if the classifier has another number of classes than the mapping's source.
    """
    kernel, bias = np.asarray(kernel), np.asarray(bias)
    count = len(mapping.source_names)
    if kernel.shape[-1] != count or bias.shape != (count,):
        raise ValueError(
            f"the mapping is from {count} source classes, but the classifier has a kernel of shape "
            f"{kernel.shape} and a bias of shape {bias.shape}; match the classes with the names of "
            "this classifier"
        )
    return _mean_of_sources(kernel, mapping), _mean_of_sources(bias, mapping)


def carry_classifier(
    source_params: trees.Tree, classifier: str, mapping: ClassMapping, *, like: trees.Tree
) -> dict[str, Any]:
    """Returns a new network's parameters with rows of the pretrained classifier carried over.

    The logits of pretrained networks may be far from zero, where those of unmatched classes start
    (far below after training with binary cross-entropy); training soon moves the bias.

    Args:
      source_params: parameters of the pretrained network.
      classifier: dotted name of the classifier, the same in both networks.
      mapping: the new classes from the pretrained ones.
      like: parameters of the new network. The result equals them except for kernel and bias of the
        matched classes; unmatched classes start as the network initializes them.

    Raises:
      ValueError: if a network has no such classifier, or its size is not that of the mapping.
    """
    source = trees.layer_leaves(source_params, classifier)
    initial = trees.layer_leaves(like, classifier)
    kernel, bias = carry_rows(source["kernel"], source["bias"], mapping)
    carried = {"kernel": kernel, "bias": bias}
    for name, rows in carried.items():
        if rows.shape != initial[name].shape:
            raise ValueError(
                f"{classifier}.{name} of the new network has shape {initial[name].shape}, expected "
                f"{rows.shape}: the features of the pretrained one, and a column for each of the "
                f"{len(mapping.new_names)} new classes"
            )
        carried[name] = jnp.where(mapping.is_matched, rows, initial[name])
    return trees.with_layer_leaves(like, classifier, carried)


def init_mix(
    params: trees.Tree, mapping: ClassMapping, *, layer: str = "head.mix"
) -> dict[str, Any]:
    """Returns a fused network's parameters with its mix of logits initialized from a mapping.

    Each new class starts with the mean of the scaled logits of its source classes, an unmatched one
    with zero.

    Args:
      params: parameters of a `tl_jax.heads.fused.Fused`.
      mapping: the new classes from those of the classifier that it keeps.
      layer: dotted name of the mix.

    Raises:
      ValueError: if there is no such layer, or its size is not that of the mapping.
    """
    kernel = trees.layer_leaves(params, layer)["kernel"]
    mix = _mean_of_sources(np.eye(len(mapping.source_names), dtype=np.float32), mapping)
    if mix.shape != kernel.shape:
        raise ValueError(
            f"{layer}.kernel has shape {kernel.shape}, but the mapping is from {mix.shape[0]} "
            f"source classes to {mix.shape[1]} new ones; match the new classes with the names of "
            "the pretrained classifier"
        )
    return trees.with_layer_leaves(params, layer, {"kernel": mix})


def _mean_of_sources(rows: np.ndarray, mapping: ClassMapping) -> jax.Array:
    """Returns the mean over each class's sources along the last axis; zero if it has none."""
    carried = np.zeros((*rows.shape[:-1], len(mapping.sources)), rows.dtype)
    for i, indices in enumerate(mapping.sources):
        if indices:
            carried[..., i] = rows[..., list(indices)].mean(-1)
    return jnp.asarray(carried)


@dataclasses.dataclass(frozen=True)
class MatchedOnly(ModelWrapper):
    """A network that predicts matched classes only, to be evaluated in place of the network.

    It is a `tl_jax.models.model.Model`.

    Attributes:
      model: the network with the classifier of `carry_classifier`.
      mapping: the mapping that the classifier was made with.
    """

    mapping: ClassMapping

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Returns fresh variables of the network."""
        return self.model.init(*args, **kwargs)

    def apply(self, *args: Any, **kwargs: Any) -> jax.Array:
        """Returns the logits of `model.apply`, [B, K], with unmatched classes at -1e9."""
        return matched_logits(self.model.apply(*args, **kwargs), self.mapping)


def matched_logits(logits: jax.Array, mapping: ClassMapping) -> jax.Array:
    """Returns logits [..., K] in which those of unmatched classes are -1e9.

    Raises:
      ValueError: if no class is matched.
    """
    if not mapping.matched:
        raise ValueError(
            "none of the new classes has a source class, so nothing can be predicted before "
            "training; give a mapping, or start with a fresh classifier"
        )
    return jnp.where(mapping.is_matched, logits, _NEVER)


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """What a carried-over classifier predicts correctly before training.

    Attributes:
      examples: number of examples.
      of_matched_classes: number of examples whose class has a source class.
      correct: number of correct predictions.
    """

    examples: int
    of_matched_classes: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Share of all examples; those of unmatched classes count as wrong."""
        return self.correct / self.examples

    @property
    def matched_accuracy(self) -> float:
        """Share of the examples of matched classes; NaN if there are none."""
        return self.correct / self.of_matched_classes if self.of_matched_classes else float("nan")


def zero_shot(confusion: ArrayLike | ClassCounts, mapping: ClassMapping) -> ZeroShot:
    """Counts the zero-shot predictions of a carried-over classifier.

    Args:
      confusion: counts [K, K] by label and prediction, of a `MatchedOnly` network; or by class.
      mapping: the mapping of its classifier.

    Raises:
      ValueError: if the matrix is empty or of another size, or an unmatched class was predicted,
        which a `MatchedOnly` network never does.

    Examples:
      >>> mapping = ClassMapping(("cat", "dust"), ("tabby", "tench"), ((0,), ()))
      >>> zero_shot([[3, 0], [2, 0]], mapping).accuracy
      0.6
    """
    if not isinstance(confusion, ClassCounts):
        confusion = np.asarray(confusion)
    matched, shape = mapping.is_matched, confusion.shape
    if set(shape) != {len(matched)} or not confusion.sum():
        raise ValueError(
            f"expected counts of at least one example of {len(matched)} classes, got shape "
            f"{shape} and a sum of {confusion.sum()}"
        )
    counts = by_class(confusion)
    if counts.predicted[~matched].any():
        raise ValueError(
            "an unmatched class was predicted; take the confusion matrix of MatchedOnly(model, "
            "mapping)"
        )
    return ZeroShot(
        examples=counts.sum(),
        of_matched_classes=int(counts.actual[matched].sum()),
        correct=int(counts.hits.sum()),
    )
