"""The scores of a ranking by name: of which labels each is defined, and how it is computed."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from tl_jax.config.tasks import TaskKind
from tl_jax.data.task import Task
from tl_jax.probes.feature_file import Features
from tl_jax.probes.probe import L2_GRID, Method, ProbeOptions, ProbeResult, fit_probe
from tl_jax.selection import scores

NAMES = ("knn", "linear_probe", "logme", "h_score", "leep", "nleep")
_NEIGHBOURS = 20
_SINGLE_L2 = 1e-2  # Where too few examples of each class allow no choice.
_ONE_CLASS = "it needs one class of each image"
_UNDEFINED: dict[TaskKind, dict[str, str]] = {
    "multi_label": dict.fromkeys(("knn", "h_score", "leep", "nleep"), _ONE_CLASS),
    "regression": dict.fromkeys(("knn", "h_score", "leep", "nleep"), _ONE_CLASS),
}


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one backbone makes of both splits.

    Attributes:
      train: features of the training split, [N, D].
      train_labels: its labels.
      held_out: features of the split that probes are tested on, [M, D].
      held_out_labels: its labels.
      probabilities: of the network's own classes on the training split, [N, Z]; None if it tells
        none.
      no_probabilities: why not.
    """

    train: np.ndarray
    train_labels: np.ndarray
    held_out: np.ndarray
    held_out_labels: np.ndarray
    probabilities: np.ndarray | None
    no_probabilities: str


@dataclasses.dataclass(frozen=True)
class Value:
    """A score.

    Attributes:
      value: the score; None where it is undefined.
      undefined: why it is.
      interval: Wilson's 95% interval, where the score is an accuracy.
      seconds: that it took.
    """

    value: float | None
    undefined: str | None = None
    interval: list[float] | None = None
    seconds: float = 0.0


def meaning(name: str, kind: TaskKind) -> str:
    """Returns what a score is, for labels of a kind.

    >>> meaning("linear_probe", "regression")
    'R2 of ridge regression on the held-out split'
    """
    probes = {
        "multi_label": "mean average precision of logistic regressions on the held-out split",
        "regression": "R2 of ridge regression on the held-out split",
    }
    return {
        "knn": f"accuracy of {_NEIGHBOURS} nearest neighbours on the held-out split",
        "linear_probe": probes.get(
            kind, "accuracy of logistic regression on the held-out split, its penalty chosen "
            "within the training split",
        ),
        "logme": "log evidence of a linear model for each training example, in nats",
        "h_score": "variance between the classes over all, summed over directions (regularised)",
        "leep": "mean log probability of the labels from the network's own classes, in nats",
        "nleep": "the same from clusters of the features",
    }[name]  # fmt: skip


def compute(name: str, seen: Seen, task: Task, seed: int) -> Value:
    """Computes a score, or says why it is undefined."""
    reason = _UNDEFINED.get(task.kind, {}).get(name)
    if name == "leep" and reason is None and seen.probabilities is None:
        reason = seen.no_probabilities
    if reason is not None:
        return Value(None, reason)
    start = time.perf_counter()
    try:
        found = _SCORES[name](seen, task, seed)
    except (ModuleNotFoundError, FloatingPointError) as error:
        return Value(None, str(error))
    seconds = time.perf_counter() - start
    if isinstance(found, Value):
        return dataclasses.replace(found, seconds=seconds)
    if not np.isfinite(found):
        return Value(None, "it is infinite: labels are an exact linear function of the features")
    return Value(float(found), seconds=seconds)


def _knn(seen: Seen, task: Task, seed: int) -> Value:
    found = _probe("knn", seen, task, seed)
    return Value(found.accuracy, interval=found.accuracy_interval)


def _linear_probe(seen: Seen, task: Task, seed: int) -> Value:
    found = _probe("ridge" if task.kind == "regression" else "logistic", seen, task, seed)
    if task.kind == "multi_label":
        value = found.metrics["mean_average_precision"]
    elif task.kind == "regression":
        value = found.metrics["r2"]
    else:
        return Value(found.accuracy, interval=found.accuracy_interval)
    return Value(value, None if value is not None else "the labels of the held-out split are alike")


def _probe(method: Method, seen: Seen, task: Task, seed: int) -> ProbeResult:
    labels = seen.train_labels
    is_class = task.kind in ("multi_class", "ordinal")
    largest = np.bincount(labels).max() if is_class else len(labels)
    options = ProbeOptions(
        method,
        l2=L2_GRID if largest >= 3 else _SINGLE_L2,
        k=min(_NEIGHBOURS, len(labels)),
        seed=seed,
    )
    train = Features(seen.train[None], labels, {}, from_cache=False)
    held_out = Features(seen.held_out[None], seen.held_out_labels, {}, from_cache=False)
    return fit_probe(train, held_out, task.class_names, options, kind=task.kind)


def _logme(seen: Seen, task: Task, seed: int) -> float:
    del seed
    targets = seen.train_labels
    if task.kind == "multi_label":
        targets = targets.astype(np.float64)
    elif task.kind == "regression":  # The model has no bias, and the unit must not matter.
        targets = targets.astype(np.float64) - targets.mean(dtype=np.float64)
        targets = targets / (targets.std() or 1.0)
    return scores.logme(seen.train, targets)


def _leep(seen: Seen, task: Task, seed: int) -> float:
    del task, seed
    assert seen.probabilities is not None
    return scores.leep(seen.probabilities, seen.train_labels)


_SCORES: dict[str, Callable[[Seen, Task, int], Value | float]] = {
    "knn": _knn,
    "linear_probe": _linear_probe,
    "logme": _logme,
    "h_score": lambda seen, task, seed: scores.h_score(seen.train, seen.train_labels),
    "leep": _leep,
    "nleep": lambda seen, task, seed: scores.nleep(seen.train, seen.train_labels, seed=seed),
}
