"""Runs of the comparison of tasks: each in a process that goes on to the next, and their rows."""

import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import numpy as np

from experiments.strategies_run import Job
from experiments.tasks_methods import ALONE
from tl_jax.config import Config
from tl_jax.objectives.metric_names import METRICS


class Workers:
    """Processes that make one run after the other: one for each core, or one for all of them."""

    def __init__(self, measure: Callable[[Job], dict[str, Any]] | None = None) -> None:
        """Starts no process yet; `measure` is that of `perform`."""
        self._measure = measure
        self._pools = dict[int | None, ProcessPoolExecutor]()

    def launch(self, job: Job) -> int:
        """Makes a run in the process of its core; returns 0, or 1 if it failed."""
        if job.core not in self._pools:
            self._pools[job.core] = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            return self._pools[job.core].submit(perform, job, self._measure).result()
        except BrokenProcessPool:  # It was killed, as by a lack of memory.
            del self._pools[job.core]
            return 1

    def close(self) -> None:
        """Ends the processes."""
        for pool in self._pools.values():
            pool.shutdown()


def perform(job: Job, measure: Callable[[Job], dict[str, Any]] | None = None) -> int:
    """Makes a run in this process and writes its row.

    Args:
      job: the run and its files.
      measure: a module's function that makes it and returns the row; None for `measured`.

    Returns:
      0, or 1 if it failed; the log then says why.
    """
    if job.core is not None:  # Before JAX counts the cores.
        os.sched_setaffinity(0, {job.core})
    with job.log.open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            row = (measure or measured)(job)
        except Exception:  # The next run may do better; the log says what happened.
            traceback.print_exc()
            return 1
    job.row.write_text(json.dumps(row) + "\n")
    return 0


def measured(job: Job) -> dict[str, Any]:
    """Makes a run.

    Returns:
      Metrics of "validation" and "test" (`numbers`), "best_epoch", "trained_parameters", and
      "seconds" of all; of columns alone "test" and "seconds".
    """
    start, config = time.monotonic(), job.run.config
    if job.run.method == ALONE:
        return {"test": columns_alone(config), "seconds": time.monotonic() - start}
    import jax

    from tl_jax.run.fit import fit

    jax.config.update("jax_compilation_cache_dir", str(job.compiled.absolute()))
    report = fit(config, job.folder)
    jax.clear_caches()  # Programs of this run, which the next does not use.
    test = config.data.test_split
    calibrated = numbers(report["calibrated_metrics"].get(test, {}), config)
    return {
        "validation": numbers(report["metrics"][config.data.eval_split], config),
        "test": numbers(report["metrics"][test], config)
        | {f"calibrated.{name}": value for name, value in calibrated.items() if name != "count"},
        "best_epoch": report["best_epoch"],
        "trained_parameters": max(report["trained_parameters"].values()),
        "seconds": time.monotonic() - start,
    }


def numbers(metrics: Mapping[str, Any], config: Config) -> dict[str, float | None]:
    """Returns the metrics with one number by name, those of a task also as "TASK.METRIC".

    Args:
      metrics: of a report.
      config: of the run; of a single task its metrics are under both names.
    """
    found = {name: metrics[name] for name in (*METRICS, "count") if name in metrics}
    of_tasks = metrics.get("tasks", {})
    if not of_tasks and len(config.tasks) == 1:
        of_tasks = {config.tasks[0].name: metrics}
    for task, of_one in of_tasks.items():
        found |= {f"{task}.{name}": of_one[name] for name in METRICS if name in of_one}
    return found


def columns_alone(config: Config) -> dict[str, float]:
    """Returns what a classifier that sees no image reaches on the columns of a configuration.

    Gradient-boosted trees for numbers and categories, where cells may be empty, and logistic
    regression on words and pairs of words for a text; both of scikit-learn. Of several tasks the
    last is learned.

    Returns:
      "accuracy" and "count"; of several tasks "TASK.accuracy", and "TASK.mae" in classes.
    """
    from sklearn import ensemble, feature_extraction, linear_model, pipeline

    from tl_jax.run.data import open_splits

    splits = open_splits(config)
    train, test = splits[config.data.train_split], splits[config.data.test_split or ""]
    if config.inputs.text:
        features = [words_of(split.input_arrays()["tokens"]) for split in (train, test)]
        model: Any = pipeline.make_pipeline(
            feature_extraction.text.TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+"),
            linear_model.LogisticRegression(C=10.0),
        )
    else:
        features = [np.hstack([*split.input_arrays().values()]) for split in (train, test)]
        model = ensemble.HistGradientBoostingClassifier(random_state=config.train.seed)
    targets = [[*split.task_labels().values()][-1] for split in (train, test)]
    model.fit(features[0], targets[0])
    errors = np.abs(model.predict(features[1]) - targets[1])
    prefix = f"{config.tasks[-1].name}." if len(config.tasks) > 1 else ""
    found = {f"{prefix}accuracy": float(np.mean(errors == 0)), "count": len(test)}
    return found | ({f"{prefix}mae": float(np.mean(errors))} if prefix else {})


def words_of(tokens: np.ndarray) -> list[str]:
    """Returns token sequences [N, words] as texts of their numbers, without padding."""
    return [" ".join(f"w{token}" for token in row if token) for row in tokens.tolist()]
