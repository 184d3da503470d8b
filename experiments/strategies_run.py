"""Runs of the comparison of strategies, each in its own process, and the rows that they write.

python -m experiments.strategies_run CONFIG.json --row ROW.json --workdir DIR --cache DIR
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import queue
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_jax import config as configuration
from tl_jax import files
from tl_jax.config import Config

if TYPE_CHECKING:
    from tl_jax.run.experiment import Experiment
    from tl_jax.run.phases import Phase

_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of the comparison: a method on a data set, with a rate and a seed."""

    set: str
    method: str
    rate: float
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """The stem of its files."""
        return f"{self.set}-{self.method}-{self.rate:g}-{self.seed}"


@dataclasses.dataclass(frozen=True)
class Job:
    """The files of one run in progress, and the core that it may use.

    Attributes:
      run: the run.
      config: its configuration.
      row: its measurements.
      log: its output.
      folder: its checkpoints and records.
      compiled: compiled programs, shared by all runs.
      core: the only core that it may use; None for all.
    """

    run: Run
    config: Path
    row: Path
    log: Path
    folder: Path
    compiled: Path
    core: int | None = None


def launch(job: Job) -> int:
    """Runs a job in its own process; returns the exit code."""
    options: dict[str, Any] = {"row": job.row, "workdir": job.folder, "cache": job.compiled}
    if job.core is not None:
        options["core"] = job.core
    command = [sys.executable, "-m", "experiments.strategies_run", str(job.config)]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command += ["--step-memory"] if job.run.seed == 0 else []
    with job.log.open("w") as log:
        return subprocess.run(command, stdout=log, stderr=log, check=False).returncode


class Bench:
    """Makes runs, each in its own process, and keeps their rows."""

    def __init__(
        self, rows: Path, workdir: Path, jobs: int, launch: Callable[[Job], int] = launch
    ) -> None:
        """Creates the folders.

        Args:
          rows: folder of finished rows, one JSON file per run.
          workdir: folder of runs in progress, and of compiled programs.
          jobs: processes at a time; several have one core each.
          launch: runs a job, which writes its row; returns the exit code.
        """
        self._rows, self._workdir, self._jobs, self._launch = rows, workdir, jobs, launch
        for folder in (rows, workdir):
            folder.mkdir(parents=True, exist_ok=True)

    def rows(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """Makes the runs that have no row yet, and returns all rows; a failed run has none."""
        unique = list({run.name: run for run in runs}.values())
        missing = [run for run in unique if self._read_row(run) is None]
        cores = _cores(self._jobs)
        with ThreadPoolExecutor(self._jobs) as pool:
            lines = pool.map(lambda run: self._perform(run, cores), missing)
            for number, line in enumerate(lines, start=1):
                print(f"[{number}/{len(missing)}] {line}", file=sys.stderr, flush=True)
        return self.finished_rows(unique)

    def finished_rows(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """Returns the rows of the runs that have one."""
        return [row for run in runs if (row := self._read_row(run)) is not None]

    def failures(self, runs: Sequence[Run]) -> dict[str, str]:
        """Returns the last line that each failed run printed."""
        logs = {run.name: self._job(run).log for run in runs if self._read_row(run) is None}
        return {
            name: (log.read_text().strip().splitlines() or ["it printed nothing"])[-1]
            for name, log in logs.items()
            if log.exists()
        }

    def _read_row(self, run: Run) -> dict[str, Any] | None:
        """Returns the row of a run, if there is one of the same configuration."""
        path = self._rows / f"{run.name}.json"
        if not path.exists():
            return None
        row: dict[str, Any] = json.loads(path.read_text())
        same = configuration.from_json(json.dumps(row["config"])) == run.config
        return row if same else None

    def _job(self, run: Run) -> Job:
        # Not with_suffix: the rate in the name has a dot.
        config, row, log = (self._workdir / f"{run.name}.{kind}" for kind in ("task", "row", "log"))
        return Job(run, config, row, log, self._workdir / run.name, self._workdir / "compiled")

    def _perform(self, run: Run, cores: "queue.Queue[int | None]") -> str:
        """Runs one run on a free core; returns a line about it."""
        core = cores.get()
        job = dataclasses.replace(self._job(run), core=core)
        shutil.rmtree(job.folder, ignore_errors=True)
        job.config.write_text(configuration.to_json(run.config))
        start = time.monotonic()
        try:
            exit_code = self._launch(job)
        finally:
            cores.put(core)
        if exit_code or not job.row.exists():
            return f"{run.name}: FAILED (exit code {exit_code}); see {job.log}"
        row = dataclasses.asdict(run) | json.loads(job.row.read_text())
        files.write_text(self._rows / f"{run.name}.json", json.dumps(row, indent=2) + "\n")
        for path in (job.config, job.row, job.log):
            path.unlink(missing_ok=True)
        shutil.rmtree(job.folder, ignore_errors=True)  # Some 30 MB of checkpoints.
        metric, seconds = run.config.train.best_metric, time.monotonic() - start
        value = row["test"].get(metric, math.nan)
        return f"{run.name}: test {metric} {value:.3f}, {seconds:.0f} s in all"


def _cores(jobs: int) -> "queue.Queue[int | None]":
    """Returns a core for each job; a job that runs alone may use all."""
    cores: queue.Queue[int | None] = queue.Queue()
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        chosen: Sequence[int | None] = [None] * jobs
    else:
        chosen = sorted(os.sched_getaffinity(0))[:jobs]
        if len(chosen) < jobs:
            raise ValueError(f"--jobs is {jobs}, but there are {len(chosen)} cores; take as many")
    for core in chosen:
        cores.put(core)
    return cores


def main() -> None:
    """Trains once, measures, and writes the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--row", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--core", type=int)
    parser.add_argument("--step-memory", action="store_true")
    arguments = parser.parse_args()
    if arguments.core is not None:  # Before JAX counts the cores.
        os.sched_setaffinity(0, {arguments.core})
    import jax

    # Rates are constants of the step, so runs with different rates share the evaluation only.
    jax.config.update("jax_compilation_cache_dir", str(arguments.cache.absolute()))
    config = configuration.from_json(arguments.config.read_text())
    row = measured_run(config, arguments.workdir, step_memory=arguments.step_memory)
    arguments.row.write_text(json.dumps(row) + "\n")


def measured_run(config: Config, workdir: Path, *, step_memory: bool) -> dict[str, Any]:
    """Trains as configured in this process and returns the measurements of the comparison.

    Args:
      config: the experiment.
      workdir: the run's folder; it must not hold a run.
      step_memory: whether to ask XLA for the memory of the largest step of all phases; the steps
        are compiled again for it, or read from the cache.

    Returns:
      Metrics of the "validation" and "test" splits, "trained_parameters" (of the phase that trains
      most), "seconds" of training without compiling (None if a phase has only one epoch),
      "seconds_in_all" of the call to `fit`, "peak_mib" of the process or of the accelerator,
      "step_mib" (None without `step_memory`), "zero_shot" (see `fit`), "platform".
    """
    import jax

    from tl_jax.run import journal
    from tl_jax.run.experiment import Experiment
    from tl_jax.run.fit import fit

    start = time.monotonic()
    report = fit(config, workdir)
    seconds_in_all = time.monotonic() - start
    peak = peak_mib()  # Before anything else is compiled.
    experiment = Experiment.from_config(config)
    losses = [record for record in journal.read(workdir) if record["split"] == "train"]
    metrics, images = report["metrics"], experiment.steps_per_epoch * config.data.batch_size
    memory = [step_mib(experiment, phase) for phase in experiment.phases] if step_memory else None
    return {
        "validation": _short(metrics[config.data.eval_split]),
        "test": _short(metrics[config.data.test_split]),
        "best_epoch": report["best_epoch"],
        "trained_parameters": max(report["trained_parameters"].values()),
        "seconds": training_seconds(losses, experiment.phases, images),
        "seconds_in_all": seconds_in_all,
        "peak_mib": peak,
        "step_mib": max(memory) if memory else None,
        "zero_shot": report["zero_shot"],
        "platform": jax.default_backend(),
    }


def _short(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in ("accuracy", "balanced_accuracy", "loss", "count")}


def training_seconds(
    losses: Sequence[dict[str, Any]], phases: "Sequence[Phase]", images: int
) -> float | None:
    """Returns the seconds of all training epochs without compiling.

    The first epoch of a phase compiles its step, and the first of all fills the cache of images;
    each is counted as the mean of the phase's other epochs.

    Args:
      losses: records of the training loss; the last of an epoch has the epoch's speed.
      phases: of the run.
      images: of an epoch.

    Returns:
      Seconds; None if a phase has no second epoch.
    """
    # A first step that was compiled has no speed.
    timed = [record for record in losses if "images_per_second" in record]
    ends = {record["epoch"]: images / record["images_per_second"] for record in timed}
    seconds = 0.0
    for phase in phases:
        later = [ends[epoch] for epoch in range(phase.start_epoch + 2, phase.end_epoch + 1)]
        if not later:
            return None
        seconds += float(np.mean(later)) * phase.epochs
    return seconds


def peak_mib() -> float:
    """Returns the peak memory so far: of the accelerator, or of this process on a CPU."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    if stats is not None and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / _MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else 1024)


def step_mib(experiment: "Experiment", phase: "Phase") -> float:
    """Returns the memory that XLA plans for a training step: state, batch and temporaries."""
    import jax

    from tl_jax.training import state

    step = experiment.compile_step(phase)  # A partial, with the run's key bound.
    initial = jax.eval_shape(
        lambda v: state.create(v, phase.tx, phase.plan), experiment.initial.variables
    )
    with contextlib.closing(experiment.train_batches(0)) as batches:
        lowered = step.func.lower(*step.args, initial, next(batches))
    plan = lowered.compile().memory_analysis()
    # The new state takes the place of the old one, which is donated.
    needed = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return (needed - plan.alias_size_in_bytes) / _MIB


if __name__ == "__main__":
    main()
