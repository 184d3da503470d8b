"""The objective of a run: every option of a task reaches it, by the counts of its labels."""

import dataclasses

import numpy as np
import pytest

from tests.support.runs import change
from tl_jax.config import AugmentConfig, Config, ModelConfig, TaskConfig, TrainConfig
from tl_jax.data.source import Task
from tl_jax.objectives import class_weights
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.ordinal import Ordinal
from tl_jax.objectives.regression import Regression
from tl_jax.objectives.single_label import SingleLabel
from tl_jax.run.objective import (
    LabelStatistics,
    check_metric,
    check_mixing,
    label_statistics,
    make_objective,
    num_outputs,
)

CLASSES = Task("kind", ("a", "b", "c"))
LABELS = Task("tags", ("a", "b", "c"), multi_label=True)
LEVELS = Task("grade", ("low", "middle", "high"), ordered=True)
NUMBER = Task("weight", ())
COUNTED = {
    "kind": LabelStatistics(counts=(10, 1, 0)),
    "tags": LabelStatistics(counts=(10, 1, 5), negatives=(1, 10, 5)),
    "grade": LabelStatistics(counts=(3, 3, 5)),
    "weight": LabelStatistics(mean=5.0, std=2.0),
}


def made(*tasks: Task, config: Config | None = None, **fields):
    """Returns the objective of tasks, the first of which has these fields."""
    options = [TaskConfig(task.name) for task in tasks]
    options[0] = dataclasses.replace(options[0], **fields)
    config = dataclasses.replace(config or Config(), tasks=tuple(options))
    return make_objective(config, tasks, [COUNTED[task.name] for task in tasks])


def test_without_tasks_it_is_that_of_single_labels():
    config = change(Config(), "train", label_smoothing=0.1)
    assert make_objective(config, (CLASSES,), (COUNTED["kind"],)) == SingleLabel(
        3, label_smoothing=0.1
    )


@pytest.mark.parametrize(
    ("task", "fields", "expected"),
    [
        (CLASSES, {"loss": "focal", "focal_gamma": 1.0}, SingleLabel(3, "focal", focal_gamma=1.0)),
        (CLASSES, {"class_weights": (1, 2, 3)}, SingleLabel(3, class_weights=(1, 2, 3))),
        (
            CLASSES,
            {"balance": "inverse_frequency"},
            SingleLabel(3, class_weights=class_weights.inverse_frequency((10, 1, 0))),
        ),
        (
            CLASSES,
            {"balance": "effective_number", "effective_beta": 0.9},
            SingleLabel(3, class_weights=class_weights.effective_number((10, 1, 0), beta=0.9)),
        ),
        (
            CLASSES,
            {"balance": "logit_adjustment", "logit_tau": 0.5},
            SingleLabel(3, logit_adjustment=0.5, class_counts=(10, 1, 0)),
        ),
        (LABELS, {}, MultiLabel(3)),
        (
            LABELS,
            {"balance": "positive_weights", "thresholds": (0.3,)},
            MultiLabel(3, positive_weights=(0.1, 10.0, 1.0), thresholds=0.3),
        ),
        (
            LABELS,
            {"loss": "asymmetric", "gamma_negative": 2.0, "margin": 0.1, "gamma_positive": 1.0},
            MultiLabel(3, "asymmetric", gamma_negative=2.0, margin=0.1, gamma_positive=1.0),
        ),
        (LABELS, {"loss": "focal", "focal_alpha": 0.2}, MultiLabel(3, "focal", focal_alpha=0.2)),
        (LABELS, {"label_smoothing": 0.1}, MultiLabel(3, label_smoothing=0.1)),
        (LABELS, {"thresholds": (0.1, 0.2, 0.3)}, MultiLabel(3, thresholds=(0.1, 0.2, 0.3))),
        (LEVELS, {}, Ordinal(3, "coral")),
        (LEVELS, {"head": "mlp"}, Ordinal(3, "corn")),
        (LEVELS, {"class_weights": (1, 2)}, Ordinal(3, importance=(1, 2))),
        (NUMBER, {}, Regression("mse", mean=5.0, std=2.0)),
        (
            NUMBER,
            {"loss": "huber", "huber_delta": 0.5},
            Regression("huber", mean=5.0, std=2.0, delta=0.5),
        ),
    ],
)
def test_every_option_of_a_task_reaches_its_objective(task, fields, expected):
    assert made(task, **fields) == expected


def test_several_tasks_have_weights_and_keys_of_their_own():
    objective = made(CLASSES, LEVELS, NUMBER, weight=0.5)
    assert isinstance(objective, MultiTask)
    assert [task.label_key for task in objective.tasks.values()] == ["label", "grade", "weight"]
    assert objective.weights == {"kind": 0.5, "grade": 1.0, "weight": 1.0}
    assert not objective.learned_weights
    learned = Config(train=TrainConfig(task_weighting="learned"))
    assert made(CLASSES, NUMBER, config=learned).learned_weights


def test_the_head_of_levels_decides_their_loss():
    mlp = Config(model=ModelConfig(head="mlp"))
    assert made(LEVELS, config=mlp) == Ordinal(3, "corn")
    cosine = Config(model=ModelConfig(head="cosine"))  # Levels take a linear head then.
    assert made(LEVELS, config=cosine) == Ordinal(3, "coral")


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        (
            CLASSES,
            {"loss": "coral"},
            "'multi_class', must be one of auto, cross_.*'coral'",
        ),
        (NUMBER, {"balance": "inverse_frequency"}, "must be one of none; got 'inverse_frequency'"),
        (CLASSES, {"class_weights": (1.0,)}, "are 1 numbers; expected 3, in the order of 'a', 'b'"),
        (NUMBER, {"label_smoothing": 0.1}, "tasks.label_smoothing of 'weight' is for classes"),
        (LABELS, {"thresholds": (0.1, 0.2)}, "got 2 numbers as thresholds; expected 3"),
    ],
)
def test_options_of_another_kind_of_task_are_refused(task, fields, message):
    with pytest.raises(ValueError, match=message):
        made(task, **fields)


def test_options_that_would_have_no_effect_are_refused():
    smoothed = Config(train=TrainConfig(label_smoothing=0.1))
    with pytest.raises(ValueError, match="train.label_smoothing is for classes"):
        made(LEVELS, NUMBER, config=smoothed)
    assert made(CLASSES, NUMBER, config=smoothed).tasks["kind"].label_smoothing == 0.1
    with pytest.raises(ValueError, match="'learned' is for several tasks; the run learns 'kind'"):
        made(CLASSES, config=Config(train=TrainConfig(task_weighting="learned")))


def test_labels_are_counted_without_those_that_are_missing():
    labels = {
        "label": np.array([0, 2, 2, -1]),
        "tags": np.array([[1, 0, -1], [1, 1, 0], [-1, -1, -1], [0, 0, 0]], np.int8),
        "weight": np.array([1.0, np.nan, 3.0, 5.0], np.float32),
    }
    classes, tags, weight = label_statistics((CLASSES, LABELS, NUMBER), labels)
    assert (classes.missing, classes.counts) == (1, (1, 0, 2))
    assert (tags.missing, tags.counts, tags.negatives) == (1, (2, 1, 0), (1, 2, 2))
    assert (weight.missing, weight.mean) == (1, 3.0)
    assert weight.std == pytest.approx(np.std([1, 3, 5]))
    constant = LabelStatistics.of(NUMBER, np.full(3, 7.0, np.float32))
    assert (constant.mean, constant.std) == (7.0, 1.0)
    assert made(CLASSES).partly_labelled is False
    partly = make_objective(Config(), (CLASSES,), (classes,))
    assert partly.partly_labelled is True


def test_outputs_are_those_of_the_kind():
    assert [num_outputs(task) for task in (CLASSES, LABELS, LEVELS, NUMBER)] == [3, 3, 2, 1]


@pytest.mark.parametrize(
    ("tasks", "best", "message"),
    [
        (
            (NUMBER,),
            "accuracy",
            "train.best_metric: got the metric 'accuracy'; expected one of",
        ),
        ((CLASSES, NUMBER), "accuracy", "did you mean 'kind.accuracy'"),
        ((CLASSES, NUMBER), "wieght.mae", "did you mean 'weight.mae'"),
    ],
)
def test_a_metric_that_the_tasks_do_not_have_is_refused(tasks, best, message):
    config = Config(train=TrainConfig(best_metric=best))
    with pytest.raises(ValueError, match=message):
        check_metric(config, made(*tasks))


def test_a_target_of_a_share_is_no_percentage():
    objective = made(CLASSES, NUMBER)
    check_metric(Config(train=TrainConfig(best_metric="weight.mae", target=12.0)), objective)
    percent = Config(train=TrainConfig(best_metric="kind.accuracy", target=95.0))
    with pytest.raises(ValueError, match="write 0.95 for 95 percent"):
        check_metric(percent, objective)


@pytest.mark.parametrize(
    ("tasks", "mixup", "cutmix"),
    [((CLASSES, LABELS), True, True), ((CLASSES, NUMBER), True, False), ((LEVELS,), False, False)],
)
def test_mixing_is_refused_where_labels_have_no_mixture(tasks, mixup, cutmix):
    for options, allowed in (
        (AugmentConfig(mixup=0.2), mixup),
        (AugmentConfig(cutmix=1.0), cutmix),
    ):
        if allowed:
            check_mixing(options, made(*tasks))
        else:
            with pytest.raises(ValueError, match="the labels cannot be mixed so"):
                check_mixing(options, made(*tasks))
