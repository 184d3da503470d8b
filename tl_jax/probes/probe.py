"""Probes: a simple classifier or regression on features of a frozen network, and its metrics."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax import trees
from tl_jax.config.tasks import TaskKind
from tl_jax.objectives import metrics
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.regression import Regression
from tl_jax.probes import solvers
from tl_jax.probes.feature_file import Features
from tl_jax.probes.solvers import Convergence, LinearHead, Metric

Method = Literal["logistic", "ridge", "knn", "class_means"]

METHODS: tuple[Method, ...] = get_args(Method)
L2_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_PENALISED = ("logistic", "ridge")
# Of labels that are not one class each; levels are fitted as classes.
_METHODS_OF: dict[TaskKind, tuple[Method, ...]] = {
    "multi_label": ("logistic", "ridge"),
    "regression": ("ridge",),
}


@dataclasses.dataclass(frozen=True)
class ProbeOptions:
    """How a probe is fitted.

    Attributes:
      method: "logistic" (`logistic_regression`), "ridge" (of one-hot classes), "knn" or
        "class_means"; see `tl_jax.probes.solvers`. Of several classes each "logistic" (a yes or no
        for each) or "ridge" (of -1 and 1), of numbers "ridge".
      l2: penalty of "logistic" and "ridge", or several, of which the best on a held-out part of
        the training features is chosen before the fit on all of them.
      held_out: the share of each class, or of all examples, that is held out.
      standardize: for "logistic", penalise as if every feature had a standard deviation of 1.
      k: neighbours of "knn".
      temperature: of their votes; None for one vote each.
      metric: of "class_means", "euclidean" or "cosine".
      seed: of the choice of the held-out part.

    Raises:
      ValueError: on construction, if an option is invalid.
    """

    method: Method = "logistic"
    l2: float | Sequence[float] = L2_GRID
    held_out: float = 0.2
    standardize: bool = True
    k: int = 20
    temperature: float | None = 0.07
    metric: Metric = "euclidean"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"got method={self.method!r}; expected one of {', '.join(METHODS)}")
        if not isinstance(self.l2, int | float) and not len(self.l2):
            raise ValueError(f"got l2={self.l2!r}; expected at least one number")
        if not 0 < self.held_out < 1:
            raise ValueError(
                f"got held_out={self.held_out}; expected a share of each class, in (0, 1)"
            )


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """The result of a probe.

    Attributes:
      method: how the features were classified.
      accuracy: accuracy on the test examples; NaN if the labels are not one class or level each.
      accuracy_interval: Wilson's 95% interval; [] in that case.
      count: number of test examples.
      confusion: int [C, C], true by predicted class; [0, 0] in that case.
      class_names: in the order of the labels; none of numbers.
      l2: the penalty that was used; None if the method has none.
      accuracy_by_l2: accuracy on the held-out part for each penalty that was tried; `{}` if one
        was given. Of several classes each it is the mean average precision, of numbers R2.
      convergence: how the solver of "logistic" ended; None for the others.
      head: the classifier of unscaled features; None for "knn".
      feature_seconds: time to compute both splits' features, or to read them.
      solve_seconds: time to choose the penalty, fit and classify.
      kind: of the labels.
      metrics: of several classes each and of numbers, those of `MultiLabel.metrics` and
        `Regression.metrics`; `{}` of one class each.
    """

    method: Method
    accuracy: float
    accuracy_interval: list[float]
    count: int
    confusion: np.ndarray
    class_names: tuple[str, ...]
    l2: float | None
    accuracy_by_l2: dict[float, float]
    convergence: Convergence | None
    head: LinearHead | None
    feature_seconds: float
    solve_seconds: float
    kind: TaskKind = "multi_class"
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)

    def start(self, params: Mapping[str, Any], layer: str) -> dict[str, Any]:
        """Returns parameters in which a layer classifies like the probe, to fine-tune from.

        Args:
          params: of a network with a classifier of these classes on the same features, such as
            `create_model(name, num_classes=C)`.
          layer: dotted name of its dense layer: `model.classifier`.

        Raises:
          ValueError: if there is no such layer or it has another shape, or the method has no head.
        """
        if self.head is None:
            raise ValueError(f"method {self.method!r} has no head; use another method")
        leaves = trees.layer_leaves(params, layer)
        shape = leaves["kernel"].shape
        if shape != self.head.kernel.shape or "bias" not in leaves:
            raise ValueError(
                f"layer {layer!r} has a kernel of {shape} and the leaves {sorted(leaves)}; "
                f"expected a dense layer with a bias and a kernel of {self.head.kernel.shape}"
            )
        return trees.with_layer_leaves(
            params, layer, {"kernel": self.head.kernel, "bias": self.head.bias}
        )


def check_method(method: Method, kind: TaskKind) -> None:
    """Raises a ValueError unless a method is for labels of a kind; the message says which are."""
    methods = _METHODS_OF.get(kind, METHODS)
    if method not in methods:
        what = "numbers" if kind == "regression" else "any number of classes each"
        raise ValueError(
            f"got method={method!r} for labels that are {what}; expected "
            f"{' or '.join(map(repr, methods))} (--method)"
        )


def fit_probe(
    train: Features,
    test: Features,
    class_names: Sequence[str],
    options: ProbeOptions | None = None,
    *,
    kind: TaskKind = "multi_class",
) -> ProbeResult:
    """Fits a classifier on features [views, N, C], and tests it on the first view of others.

    Args:
      train: features to fit on; each view of an example counts as an example.
      test: features to test on.
      class_names: names of the classes, in the order of the labels; none of numbers.
      options: how to fit; None for `ProbeOptions()`.
      kind: of the labels, all of which must be known. Levels are classes here.

    Returns:
      The result; its `feature_seconds` are 0.

    Raises:
      ValueError: if the method is not for labels of this kind.

    Examples:
      >>> x, y = np.array([[[0.0], [1.0], [3.0], [4.0]]], np.float32), np.array([0, 0, 1, 1])
      >>> features = Features(x, y, facts={}, from_cache=False)
      >>> result = fit_probe(features, features, ("low", "high"), ProbeOptions("ridge", l2=0.1))
      >>> result.accuracy, result.confusion.tolist()
      (1.0, [[2, 0], [0, 2]])
    """
    options, num_classes = options or ProbeOptions(), len(class_names)
    check_method(options.method, kind)
    start = time.perf_counter()
    l2, accuracy_by_l2 = None, dict[float, float]()
    if options.method in _PENALISED:
        l2, accuracy_by_l2 = _choose_l2(train, num_classes, options, kind)
    classifier = _fit(train.features, train.labels, num_classes, l2 or 0.0, options, kind)
    outputs = classifier.logits_fn(test.features[0])
    count, accuracy, interval, found = len(test.labels), math.nan, list[float](), dict[str, Any]()
    confusion = np.zeros((0, 0), np.int32)
    if kind in _METHODS_OF:
        found = _metrics(outputs, test.labels, kind)
    else:
        mask = jnp.ones(count, bool)
        confusion = np.asarray(metrics.confusion_matrix(outputs, jnp.asarray(test.labels), mask))
        hits, count = int(confusion.trace()), int(confusion.sum())
        accuracy, interval = hits / count, metrics.wilson_interval(hits, count)
    return ProbeResult(
        method=options.method,
        accuracy=accuracy,
        accuracy_interval=interval,
        count=count,
        confusion=confusion,
        class_names=tuple(class_names),
        l2=l2,
        accuracy_by_l2=accuracy_by_l2,
        convergence=classifier.convergence,
        head=classifier.head,
        feature_seconds=0.0,
        solve_seconds=time.perf_counter() - start,
        kind=kind,
        metrics=found,
    )


def _metrics(outputs: jax.Array, labels: np.ndarray, kind: TaskKind) -> dict[str, Any]:
    """Returns the metrics of outputs [N, C] of several classes each, or [N, 1] of numbers.

    They are without the loss, since not every method has outputs that are logits.
    """
    objective = Regression() if kind == "regression" else MultiLabel(labels.shape[1])
    rows = jax.device_get(objective.statistics(outputs, {"label": jnp.asarray(labels)}))
    found = objective.metrics(rows)
    return {name: value for name, value in found.items() if name != "loss"}


@dataclasses.dataclass(frozen=True)
class _Classifier:
    """A fitted classifier: logits of features, and the parts of a result that depend on it."""

    logits_fn: Callable[[np.ndarray], jax.Array]
    head: LinearHead | None = None
    convergence: Convergence | None = None


def _fit(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    l2: float,
    options: ProbeOptions,
    kind: TaskKind,
) -> _Classifier:
    """Fits a classifier on all views of features, [views, N, C]."""
    x, y = features.reshape(-1, features.shape[-1]), np.concatenate([labels] * len(features))
    if kind in _METHODS_OF and options.method == "ridge":
        targets = y[:, None] if kind == "regression" else 2.0 * y - 1
        head = solvers.ridge(x, targets, l2)
        return _Classifier(head, head)
    if kind == "multi_label":
        head, convergence = solvers.logistic_regression_each(
            x, y, l2=l2, standardize=options.standardize
        )
        return _Classifier(head, head, convergence)
    if options.method == "knn":
        knn = functools.partial(
            solvers.knn, x, y, k=options.k, num_classes=num_classes, temperature=options.temperature
        )
        return _Classifier(knn)
    if options.method == "ridge":
        head = solvers.ridge(x, jax.nn.one_hot(y, num_classes), l2)
        return _Classifier(head, head)
    if options.method == "class_means":
        head = solvers.class_means(x, y, num_classes=num_classes, metric=options.metric)
        return _Classifier(head, head)
    head, convergence = solvers.logistic_regression(
        x, y, num_classes=num_classes, l2=l2, standardize=options.standardize
    )
    return _Classifier(head, head, convergence)


def _choose_l2(
    train: Features, num_classes: int, options: ProbeOptions, kind: TaskKind
) -> tuple[float, dict[float, float]]:
    """Returns the penalty with the best score on the held-out part; of equals the largest."""
    several = [options.l2] if isinstance(options.l2, int | float) else options.l2
    candidates = sorted(set(map(float, several)))
    if len(candidates) == 1:
        return candidates[0], {}
    strata = np.zeros(len(train.labels), int) if kind in _METHODS_OF else train.labels
    fit, held = held_out_split(strata, options.held_out, options.seed)
    scores = {}
    for l2 in candidates:
        classifier = _fit(train.features[:, fit], train.labels[fit], num_classes, l2, options, kind)
        outputs = classifier.logits_fn(train.features[0, held])
        scores[l2] = _score(outputs, train.labels[held], kind)
    return max(candidates, key=lambda l2: (scores[l2], l2)), scores


def _score(outputs: jax.Array, labels: np.ndarray, kind: TaskKind) -> float:
    """Returns the score that a penalty is chosen by; 0 where it does not exist."""
    if kind in _METHODS_OF:
        name = "r2" if kind == "regression" else "mean_average_precision"
        return _metrics(outputs, labels, kind)[name] or 0.0
    return float(np.mean(np.asarray(outputs).argmax(-1) == labels))


def held_out_split(labels: np.ndarray, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples into those to fit on and those held out, class by class.

    Args:
      labels: class indices, [N].
      held_out: the share of each class that is held out; at least one example of each class stays
        in the first part.
      seed: seed of the choice.

    Returns:
      The sorted indices of both parts.

    Raises:
      ValueError: if no example is held out.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    held = []
    for label in np.unique(labels):
        indices = order[labels[order] == label]
        held.append(indices[: min(round(held_out * len(indices)), len(indices) - 1)])
    held_indices = np.sort(np.concatenate(held))
    if not len(held_indices):
        raise ValueError(
            f"held_out={held_out} holds out none of {len(labels)} examples; raise it, or pass a "
            "single l2"
        )
    return np.setdiff1d(np.arange(len(labels)), held_indices), held_indices
