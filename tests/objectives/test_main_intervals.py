"""Intervals of the main metrics: of the same draws as the plain bootstrap, in less time."""

import time

import numpy as np
import pytest

from tl_jax.objectives import bootstrap
from tl_jax.objectives.main_intervals import main_differences, main_intervals
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.objective import example_rows
from tl_jax.objectives.ordinal import Ordinal
from tl_jax.objectives.regression import Regression
from tl_jax.objectives.single_label import SingleLabel

RNG = np.random.default_rng(0)
COUNT, CLASSES = 40, 4


def rows_of(count: int, classes: int) -> dict[str, np.ndarray]:
    """Returns the statistics of a split of one class each; half of the predictions are right."""
    labels = RNG.integers(0, classes, count)
    guesses = RNG.integers(0, classes, count)
    predicted = np.where(RNG.random(count) < 0.5, labels, guesses)
    return {
        "mask": np.ones(count, bool),
        "label": labels,
        "predicted": predicted,
        "loss": np.ones(count, np.float32),
        "logits": RNG.normal(size=(count, classes)).astype(np.float32),
    }


PLAIN = rows_of(COUNT, CLASSES)
NUMBERS = RNG.normal(5, 2, COUNT).astype(np.float32)
SETS = RNG.integers(-1, 2, (COUNT, CLASSES)).astype(np.int8)
SETS[:, 0] = np.abs(SETS[:, 0])
CASES = {
    "classes": (SingleLabel(CLASSES), PLAIN, ("accuracy", "balanced_accuracy", "macro_f1")),
    "levels": (
        Ordinal(CLASSES),
        PLAIN | {"log_loss": PLAIN["loss"]},
        ("accuracy", "mae", "quadratic_kappa"),
    ),
    "numbers": (
        Regression(),
        PLAIN | {"label": NUMBERS, "predicted": NUMBERS + RNG.normal(0, 1, COUNT)},
        ("mae", "rmse", "r2"),
    ),
    "sets": (
        MultiLabel(CLASSES, thresholds=(0.5, 0.4, 0.6, 0.5)),
        {key: PLAIN[key] for key in ("mask", "loss", "logits")} | {"label": SETS},
        ("macro_f1", "micro_f1", "exact_match"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_they_are_those_of_the_plain_bootstrap(name):
    objective, statistics, names = CASES[name]
    found = main_intervals(objective, statistics, draws=60, seed=3)
    assert tuple(found) == names
    rows = example_rows(statistics)
    expected = bootstrap.intervals(objective.metrics, rows, samples=60, seed=3)
    for metric in names:
        assert found[metric] == pytest.approx(expected[metric], abs=1e-6), metric
        low, high = found[metric]
        assert low <= objective.metrics(rows)[metric] <= high


@pytest.mark.parametrize("name", CASES)
def test_what_has_no_label_or_only_fills_a_batch_does_not_count(name):
    objective, statistics, _ = CASES[name]
    missing = {"label": np.full_like(statistics["label"][:5], np.nan if name == "numbers" else -1)}
    longer = {
        key: np.concatenate([values, missing.get(key, values[:5]), values[:3]])
        for key, values in statistics.items()
    }
    longer["mask"][-3:] = False
    found = main_intervals(objective, longer, draws=20)
    assert found == main_intervals(objective, statistics, draws=20)


def test_those_of_several_tasks_are_by_name():
    objective = MultiTask({"kind": SingleLabel(CLASSES), "age": Regression(label_key="age")})
    statistics = {"mask": PLAIN["mask"]}
    for task, name in (("kind", "classes"), ("age", "numbers")):
        statistics |= {f"{task}.{key}": v for key, v in CASES[name][1].items() if key != "mask"}
    found = main_intervals(objective, statistics, draws=20)
    alone = main_intervals(*CASES["numbers"][:2], draws=20)
    assert found["age.r2"] == alone["r2"]
    assert "kind.accuracy" in found and len(found) == 6


def test_what_does_not_exist_has_no_interval():
    one_value = CASES["numbers"][1] | {"label": np.full(COUNT, 3.0, np.float32)}
    assert main_intervals(Regression(), one_value, draws=20).keys() == {"mae", "rmse"}
    unlabelled = PLAIN | {"label": np.full(COUNT, -1)}
    assert main_intervals(SingleLabel(CLASSES), unlabelled) == {}
    with pytest.raises(ValueError, match="got level=1; expected a share"):
        main_intervals(SingleLabel(CLASSES), PLAIN, level=1)


def test_ten_thousand_examples_take_seconds_at_most():
    start = time.process_time()
    main_intervals(SingleLabel(100), rows_of(10_000, 100))
    labels = (RNG.random((10_000, 20)) < 0.1).astype(np.int8)
    logits = RNG.normal(size=labels.shape).astype(np.float32)
    statistics = {"mask": np.ones(10_000, bool), "label": labels, "logits": logits}
    main_intervals(MultiLabel(20), statistics)
    assert time.process_time() - start < 6


@pytest.mark.parametrize("name", CASES)
def test_differences_are_of_the_same_draws_for_both(name):
    objective, statistics, names = CASES[name]
    other = dict(statistics)
    for key in other.keys() & {"predicted", "logits"}:
        other[key] = np.concatenate([other[key][:20], np.roll(other[key][20:], 1, axis=0)])
    found = main_differences((objective, other), (objective, statistics), draws=60, seed=3)
    rows, others = example_rows(statistics), example_rows(other)
    draws = np.random.default_rng(3)
    values = {metric: [] for metric in names}
    for _ in range(60):
        chosen = draws.integers(0, COUNT, COUNT)
        one, two = (
            objective.metrics({key: row[chosen] for key, row in each.items()})
            for each in (others, rows)
        )
        for metric in names:
            values[metric].append(one[metric] - two[metric])
    for metric in names:
        expected = bootstrap.percentiles(np.array(values[metric]), 0.95)
        assert found[metric] == pytest.approx(expected, abs=1e-6), metric


def test_differences_of_other_examples_are_refused():
    objective, statistics, _ = CASES["classes"]
    shuffled = {key: row[::-1] for key, row in statistics.items()}
    with pytest.raises(ValueError, match="expected the same examples in the same order"):
        main_differences((objective, statistics), (objective, shuffled))


def test_differences_of_several_tasks_have_the_names_of_the_tasks():
    _, statistics, _ = CASES["classes"]
    both = MultiTask({"a": SingleLabel(CLASSES), "b": SingleLabel(CLASSES, label_key="b")})
    rows = {"mask": statistics["mask"]} | {
        f"{task}.{key}": row for task in "ab" for key, row in statistics.items() if key != "mask"
    }
    found = main_differences((both, rows), (both, rows))
    assert found["a.accuracy"] == found["b.accuracy"] == [0.0, 0.0]
