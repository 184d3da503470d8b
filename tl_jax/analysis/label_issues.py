"""Suspected label errors of a split: what is told of each, by kind of task."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tl_jax.analysis import confident, cross_validation
from tl_jax.data.source import Task

RUN = "probabilities of the run"
PROBE = "cross-validated linear probe"


def undefined(task: Task) -> str | None:
    """Returns why a task has no suspected label errors here; None if it may have some."""
    if task.kind == "regression":
        return (
            f"{task.name}: suspected label errors are those of classes, and its labels are numbers"
        )
    return None


def suspected(
    task: Task,
    labels: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    *,
    method: str,
    most: int | None = None,
) -> dict[str, Any]:
    """Returns the labels that are likely to be wrong, the least likely first.

    Of several classes each, every class is a yes or no by itself.

    Args:
      task: of classes or levels.
      labels: [N] or [N, C], some of which may be missing.
      probabilities: out of sample, [N, C].
      names: of the examples.
      method: where the probabilities come from.
      most: how many examples are listed; None for all.

    Returns:
      `method`, `checked` (labels that were looked at), `count` (suspected), `estimated` (the number
      of wrong labels that the joint says) and `examples`: `index`, `name`, `given`, `guessed`,
      `self_confidence`. Of several classes each `given` says "with CLASS" or "without CLASS".
    """
    if task.multi_label:
        found = [
            _of_classes(
                (f"without {name}", f"with {name}"),
                labels[:, index],
                np.stack([1 - probabilities[:, index], probabilities[:, index]], 1),
                names,
            )
            for index, name in enumerate(task.class_names)
        ]
    else:
        found = [_of_classes(task.class_names, labels, probabilities, names)]
    examples = [example for each in found for example in each["examples"]]
    examples.sort(key=lambda example: example["self_confidence"])
    return {
        "method": method,
        "checked": sum(each["checked"] for each in found),
        "count": len(examples),
        "estimated": sum(each["estimated"] for each in found),
        "examples": examples[:most],
    }


def _of_classes(
    class_names: Sequence[str], labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    known = np.flatnonzero(labels >= 0)
    issues = confident.find_issues(labels[known].astype(np.int64), probabilities[known])
    return {
        "checked": len(known),
        "estimated": issues.estimated,
        "examples": [
            {
                "index": int(known[place]),
                "name": names[known[place]],
                "given": class_names[labels[known[place]]],
                "guessed": class_names[issues.guessed[place]],
                "self_confidence": float(issues.self_confidence[place]),
            }
            for place in issues.indices.tolist()
        ],
    }


def of_features(
    task: Task,
    labels: np.ndarray,
    features: np.ndarray,
    names: Sequence[str],
    *,
    folds: int,
    most: int | None = None,
) -> dict[str, Any] | str:
    """Returns what `suspected` does, by a linear probe that is cross-validated on features.

    Args:
      task: of classes or levels; levels are taken as classes.
      labels: [N], some of which may be missing.
      features: of a network, [N, D].
      names: of the examples.
      folds: parts that are left out in turn.
      most: how many examples are listed.

    Returns:
      As `suspected`; or a sentence that says why there is nothing to return: several classes each,
      or fewer than two classes with two labels. Examples of a class with one label are not looked
      at.
    """
    if task.multi_label:
        return f"{task.name}: a probe of several classes each is not cross-validated"
    counts = np.bincount(labels[labels >= 0], minlength=len(task.class_names))
    kept = np.flatnonzero((labels >= 0) & (counts[np.maximum(labels, 0)] >= 2))
    if len(np.unique(labels[kept])) < 2:
        return f"{task.name}: a probe needs two classes of two labels or more"
    probabilities = np.zeros((len(labels), len(task.class_names)))
    probabilities[kept] = cross_validation.probabilities(
        features[kept], labels[kept], num_classes=len(task.class_names), folds=folds
    )
    checked = np.full_like(labels, -1)
    checked[kept] = labels[kept]
    return suspected(task, checked, probabilities, names, method=PROBE, most=most)
