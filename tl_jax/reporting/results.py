"""The tables of what was measured: metrics by split, by class, and what runs differ by."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax.analysis.classes import pairs_of_matrix
from tl_jax.analysis.measured import MAIN
from tl_jax.objectives.metric_names import METRICS, in_words
from tl_jax.objectives.metrics import wilson_interval
from tl_jax.reporting.read import RunFiles
from tl_jax.reporting.summary import how_chosen
from tl_jax.reporting.tables import NOTHING, Cell, Row, Table, figure, number, table

_BY_CLASS = ("recall", "precision", "f1", "auc", "average_precision")


def splits(runs: Sequence[RunFiles]) -> list[str]:
    """Returns the splits that the runs report on, those that are looked at more closely first."""
    reported = [split for run in runs for split in (run.report or {}).get("metrics", {})]
    return list(dict.fromkeys([*(run.shown for run in runs if run.report), *reported]))


def task_names(runs: Iterable[RunFiles]) -> list[str]:
    """Returns the names of the tasks of all runs, in their order."""
    return list(dict.fromkeys(task.name for run in runs for task in run.tasks))


def kind_of(runs: Iterable[RunFiles], task: str) -> str:
    """Returns the kind of a task in the first run that has it."""
    return next(each.kind for run in runs for each in run.tasks if each.name == task)


def metrics_tables(runs: Sequence[RunFiles], task: str) -> list[Table]:
    """Returns the tables of a task's metrics.

    Of one run it is one, with a column for each split, and one for the metrics with what was chosen
    after training. Of several it is one for each split, with a column for each run, and one for
    each run whose metrics that changes.
    """
    kind, tables = kind_of(runs, task), list[Table]()
    if len(runs) == 1:
        only = _of_one(runs[0], task, kind)
        return [] if only is None else [only]
    calibrated = list[Table]()
    for split in splits(runs):
        names = _ordered(kind, [run.metrics(split, task) for run in runs])
        rows: list[Row] = [
            [in_words(name), *(_cell(run, split, task, name) for run in runs)] for name in names
        ]
        caption = _caption(runs, split, task)
        heads = ["metric", *(run.name for run in runs)]
        tables += [table(caption, heads, rows, is_numeric=True)] if rows else []
        calibrated += [each for run in runs if (each := _calibrated(run, split, task, names))]
    return tables + calibrated


def _of_one(run: RunFiles, task: str, kind: str) -> Table | None:
    """Returns the table of one run; None if it has no report."""
    heads, columns, of_splits = ["metric"], list[list[Cell]](), splits([run])
    names = _ordered(kind, [run.metrics(split, task) for split in of_splits])
    for split in of_splits:
        count = run.metrics(split, task).get("count")
        heads.append(f"{split} ({count:,})" if count else split)
        columns.append([_cell(run, split, task, name) for name in names])
        changed = _changed(run, split, task, names)
        if changed and run.report is not None:
            heads.append(f"{split}, {how_chosen(run.report['calibration'][task])}")
            after = run.calibrated(split, task)
            columns.append([number(after[n]) if n in changed else NOTHING for n in names])
    rows: list[Row] = [
        [in_words(name), *cells] for name, *cells in zip(names, *columns, strict=True)
    ]
    caption = f"Metrics of {task}, number of examples in brackets"
    return table(caption, heads, rows, is_numeric=True) if rows else None


def _caption(runs: Sequence[RunFiles], split: str, task: str) -> str:
    counts = {run.metrics(split, task).get("count") for run in runs} - {None}
    size = f", {counts.pop():,} examples" if len(counts) == 1 else ""
    return f"{task} on {split}{size}"


def _changed(run: RunFiles, split: str, task: str, names: Sequence[str]) -> list[str]:
    """Returns the metrics that the temperature or the thresholds of a run change."""
    before, after = run.metrics(split, task), run.calibrated(split, task)
    return [
        name
        for name in names
        if after.get(name) is not None and after[name] != before.get(name) and name != "loss"
    ]


def _ordered(kind: str, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the metrics with one number that any has, the main ones of a kind first."""
    names = [*MAIN[kind], *METRICS]
    return [name for name in dict.fromkeys(names) if any(name in each for each in found)]


def _cell(run: RunFiles, split: str, task: str, metric: str) -> Cell:
    metrics = run.metrics(split, task)
    if metric not in metrics:
        return NOTHING
    return number(metrics[metric], run.interval(split, task, metric))


def _calibrated(run: RunFiles, split: str, task: str, names: Sequence[str]) -> Table | None:
    """Returns the metrics that the temperature or thresholds of a run change; None if none."""
    before, after = run.metrics(split, task), run.calibrated(split, task)
    changed = _changed(run, split, task, names)
    if not changed or run.report is None:
        return None
    how = how_chosen(run.report["calibration"][task])
    return table(
        f"{run.name}: {task} on {split} with the {how} chosen on {run.config.data.eval_split}",
        ["metric", "as trained", "as chosen"],
        [[in_words(name), number(before[name]), number(after[name])] for name in changed],
        is_numeric=True,
    )


def meanings(runs: Sequence[RunFiles]) -> list[tuple[str, str]]:
    """Returns each metric of the page with its meaning."""
    found = [
        run.metrics(split, task)
        for run in runs
        for split in splits(runs)
        for task in task_names([run])
    ]
    return [
        (in_words(name), metric.meaning)
        for name, metric in METRICS.items()
        if any(name in each for each in found)
    ]


def headline(run: RunFiles, task: str) -> str | None:
    """Returns the metric of a task that a person looks at first; None if the run lacks all."""
    metrics = run.metrics(run.shown, task)
    kinds = [each.kind for each in run.tasks if each.name == task]
    return next(
        (name for kind in kinds for name in MAIN[kind] if metrics.get(name) is not None), None
    )


def cards(run: RunFiles) -> list[tuple[str, Cell]]:
    """Returns what is said of a run in large figures: a name, and the first metric of a task."""
    found = [(task, headline(run, task)) for task in task_names([run])]
    several = len(found) > 1
    return [
        (
            f"{task}: {in_words(metric)}" if several else in_words(metric),
            _cell(run, run.shown, task, metric),
        )
        for task, metric in found
        if metric is not None
    ]


def class_table(run: RunFiles, task: str) -> Table | None:
    """Returns the metrics of each class of a run on its main split; None of numbers."""
    of_task = next(each for each in run.tasks if each.name == task)
    metrics = run.metrics(run.shown, task)
    names = [name for name in _BY_CLASS if isinstance(metrics.get(name), list)]
    if not names or not of_task.class_names:
        return None
    confusion = matrix(run, task)
    counts = metrics.get("positives") if confusion is None else confusion.sum(1).tolist()
    heads = ["class", *(["examples"] if counts else []), *map(in_words, names)]
    rows = list[Row]()
    for index, class_name in enumerate(of_task.class_names):
        count = [Cell(f"{counts[index]:,}")] if counts else []
        cells = [
            number(metrics[name][index], _class_interval(name, confusion, index)) for name in names
        ]
        rows.append([class_name, *count, *cells])
    return table(f"Classes of {task} on {run.shown}", heads, rows, is_numeric=True)


def _class_interval(name: str, confusion: np.ndarray | None, index: int) -> list[float] | None:
    """Returns Wilson's interval of the recall or precision of a class, where it has examples."""
    if confusion is None or name not in ("recall", "precision"):
        return None
    total = int(confusion.sum(1 if name == "recall" else 0)[index])
    return wilson_interval(int(confusion[index, index]), total) if total else None


def matrix(run: RunFiles, task: str) -> np.ndarray | None:
    """Returns the confusion matrix of a task on a run's main split; None if it has none."""
    found = (run.report or {}).get("confusion", {}).get(run.shown)
    if not isinstance(found, dict):  # Of one task.
        found = {run.tasks[0].name: found}
    found = found.get(task)
    return None if found is None else np.asarray(found, np.int64)


def pairs_table(run: RunFiles, task: str) -> Table | None:
    """Returns the most confused pairs of classes; None if there is no confusion."""
    confusion = matrix(run, task)
    if confusion is None:
        return None
    names = next(each for each in run.tasks if each.name == task).class_names
    pairs = pairs_of_matrix(confusion, names)
    if not pairs or len(names) < 3:  # Of two classes the matrix says as much.
        return None
    rows: list[Row] = [
        [
            f"{pair['true']} as {pair['predicted']}",
            Cell(f"{pair['count']:,}"),
            Cell(f"{pair['share']:.1%}", f"{pair['interval'][0]:.1%} to {pair['interval'][1]:.1%}"),
        ]
        for pair in pairs
    ]
    heads = ["true class as predicted class", "examples", "share of the true class"]
    return table(f"Most confused classes of {task}", heads, rows, is_numeric=True)


def differences_table(differences: Sequence[Mapping[str, Any]], baseline: str) -> Table | None:
    """Returns the differences of runs from the first, with their intervals; None without any."""
    rows = list[Row]()
    for each in differences:
        for name, found in each["metrics"].items():
            low, high = found["interval"]
            says = "no difference is told" if low <= 0 <= high else "differs"
            task, _, metric = name.rpartition(".")
            words = f"{task}: {in_words(metric)}" if task else in_words(metric)
            rows.append(
                [
                    f"{each['run']}, {words}",
                    Cell(figure(found["difference"], sign=True)),
                    Cell(f"{figure(low, sign=True)} to {figure(high, sign=True)}"),
                    Cell(says),
                ]
            )
    if not rows:
        return None
    heads = ["run, metric", f"minus {baseline}", "95% interval", "reading"]
    return table(f"Differences from {baseline}", heads, rows, is_numeric=True)
