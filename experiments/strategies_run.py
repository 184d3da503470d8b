"""One run of the comparison of strategies in a process of its own, and the rows that runs leave.

python -m experiments.strategies_run CONFIG.json --row ROW.json --workdir DIR --cache DIR
"""

import argparse
import dataclasses
import json
import os
import queue
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_jax import config as configuration
from tl_jax.config import Config

if TYPE_CHECKING:
    from tl_jax.run.experiment import Parts
    from tl_jax.run.phases import Phase

_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: what the experiment repeats with other rates and seeds."""

    set: str
    method: str
    rate: float
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.set}-{self.method}-{self.rate:g}-{self.seed}"


class Bench:
    """Runs that each have a process of their own, and the rows that they leave."""

    def __init__(self, rows: Path, workdir: Path, jobs: int) -> None:
        """Makes the folders.

        Args:
          rows: folder of finished rows, one JSON file a run.
          workdir: folder of runs in progress, and of compiled programs.
          jobs: processes at a time; several have a core each.
        """
        self._rows, self._workdir, self._jobs = rows, workdir, jobs
        for folder in (rows, workdir):
            folder.mkdir(parents=True, exist_ok=True)

    def rows(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """Runs what has no row yet, and returns the rows; a run that failed has none."""
        unique = list({run.name: run for run in runs}.values())
        missing = [run for run in unique if self._row(run) is None]
        cores = _cores(self._jobs)
        with ThreadPoolExecutor(self._jobs) as pool:
            lines = pool.map(lambda run: self._perform(run, cores), missing)
            for number, line in enumerate(lines, start=1):
                print(f"[{number}/{len(missing)}] {line}", file=sys.stderr, flush=True)
        return self.kept(unique)

    def kept(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """Returns the rows that there are."""
        return [row for run in runs if (row := self._row(run)) is not None]

    def failures(self, runs: Sequence[Run]) -> dict[str, str]:
        """Returns the last line of what each failed run said."""
        logs = {run.name: self._log(run) for run in runs if self._row(run) is None}
        return {
            name: (log.read_text().strip().splitlines() or ["it said nothing"])[-1]
            for name, log in logs.items()
            if log.exists()
        }

    def _row(self, run: Run) -> dict[str, Any] | None:
        """Returns the row of a run, if there is one of the same configuration."""
        path = self._rows / f"{run.name}.json"
        if not path.exists():
            return None
        row = json.loads(path.read_text())
        same = configuration.from_json(json.dumps(row["config"])) == run.config
        return row if same else None

    def _log(self, run: Run) -> Path:
        return self._workdir / f"{run.name}.log"

    def _perform(self, run: Run, cores: "queue.Queue[int | None]") -> str:
        """Runs one in a process of its own; returns a line about it."""
        folder, core = self._workdir / run.name, cores.get()
        shutil.rmtree(folder, ignore_errors=True)
        task, measured = (self._workdir / f"{run.name}.{what}" for what in ("task", "row"))
        task.write_text(configuration.to_json(run.config))
        options = {"--row": measured, "--workdir": folder, "--cache": self._workdir / "compiled"}
        command = [sys.executable, "-m", "experiments.strategies_run", str(task)]
        command += [str(part) for option in options.items() for part in option]
        command += [] if core is None else ["--core", str(core)]
        command += ["--step-memory"] if run.seed == 0 else []
        begun = time.monotonic()
        try:
            with self._log(run).open("w") as log:
                done = subprocess.run(command, stdout=log, stderr=log, check=False)
        finally:
            cores.put(core)
        if done.returncode or not measured.exists():
            return f"{run.name}: FAILED (exit code {done.returncode}); see {self._log(run)}"
        row = dataclasses.asdict(run) | json.loads(measured.read_text())
        self._keep(run, row)
        for path in (task, measured, self._log(run)):
            path.unlink()
        shutil.rmtree(folder)  # Some 30 MB of checkpoints a run.
        accuracy = row["test"]["accuracy"]
        return f"{run.name}: test accuracy {accuracy:.3f}, {time.monotonic() - begun:.0f} s in all"

    def _keep(self, run: Run, row: dict[str, Any]) -> None:
        """Writes a row whole or not at all."""
        path = self._rows / f"{run.name}.json"
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(row, indent=2) + "\n")
        part.replace(path)


def _cores(jobs: int) -> "queue.Queue[int | None]":
    """Returns a core for each job; a job that runs alone may use all."""
    cores: queue.Queue[int | None] = queue.Queue()
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        found: Sequence[int | None] = [None] * jobs
    else:
        found = sorted(os.sched_getaffinity(0))[:jobs]
        if len(found) < jobs:
            raise ValueError(f"--jobs is {jobs}, but there are {len(found)} cores; take as many")
    for core in found:
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

    # Rates are constants of the step, so what runs of different rates share is evaluation.
    jax.config.update("jax_compilation_cache_dir", str(arguments.cache.absolute()))
    config = configuration.from_json(arguments.config.read_text())
    row = measured_run(config, arguments.workdir, step_memory=arguments.step_memory)
    arguments.row.write_text(json.dumps(row) + "\n")


def measured_run(config: Config, workdir: Path, *, step_memory: bool) -> dict[str, Any]:
    """Trains as configured in this process and returns what the comparison needs.

    Args:
      config: the experiment.
      workdir: the run's folder; it must not hold a run.
      step_memory: whether to ask XLA what the largest of the phases' steps needs; the step is
        compiled again for it, or read from the cache.

    Returns:
      Metrics of the "validation" and "test" splits, "trained_parameters" (of the phase that trains
      most), "seconds" of training without compiling (None if a phase has but one epoch),
      "seconds_in_all" of the call to `fit`, "peak_mib" of the process or of the accelerator,
      "step_mib" (None if it was not asked for), "zero_shot" (see `fit`), "platform".
    """
    import jax

    from tl_jax.run import journal
    from tl_jax.run.experiment import prepare
    from tl_jax.run.fit import fit

    begun = time.monotonic()
    report = fit(config, workdir)
    in_all = time.monotonic() - begun
    peak = peak_mib()  # Before anything else is compiled.
    parts = prepare(config)
    losses = [record for record in journal.read(workdir) if record["split"] == "train"]
    metrics, images = report["metrics"], parts.steps_per_epoch * config.data.batch_size
    return {
        "validation": _short(metrics[config.data.eval_split]),
        "test": _short(metrics[config.data.test_split]),
        "best_epoch": report["best_epoch"],
        "trained_parameters": max(report["trained_parameters"].values()),
        "seconds": training_seconds(losses, parts.phases, images),
        "seconds_in_all": in_all,
        "peak_mib": peak,
        "step_mib": max(step_mib(parts, phase) for phase in parts.phases) if step_memory else None,
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
    in their places the mean of the phase's other epochs counts.

    Args:
      losses: records of the training loss; the last of an epoch has the epoch's speed.
      phases: of the run.
      images: of an epoch.

    Returns:
      Seconds; None if a phase has no second epoch.
    """
    ends = {record["epoch"]: images / record["images_per_second"] for record in losses}
    seconds = 0.0
    for phase in phases:
        later = [ends[epoch] for epoch in range(phase.first_epoch + 2, phase.last_epoch + 1)]
        if not later:
            return None
        seconds += float(np.mean(later)) * phase.epochs
    return seconds


def peak_mib() -> float:
    """Returns the most memory held so far: of the accelerator, or of this process on a CPU."""
    import jax

    held = jax.local_devices()[0].memory_stats()
    if held is not None and "peak_bytes_in_use" in held:
        return held["peak_bytes_in_use"] / _MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else 1024)


def step_mib(parts: "Parts", phase: "Phase") -> float:
    """Returns the memory that XLA plans for a training step: state, batch and temporaries."""
    import jax

    from tl_jax.run.experiment import compile_step, train_batches
    from tl_jax.training import state

    step = compile_step(parts, phase, phase.tx)  # The program, with the run's key given already.
    begun = jax.eval_shape(lambda v: state.create(v, phase.tx, phase.plan), parts.start.variables)
    lowered = step.func.lower(*step.args, begun, next(train_batches(parts, 0)))
    plan = lowered.compile().memory_analysis()
    # The state that comes out lies where the one that went in lay.
    needed = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return (needed - plan.alias_size_in_bytes) / _MIB


if __name__ == "__main__":
    main()
