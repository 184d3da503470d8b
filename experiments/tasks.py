"""Compares tasks and inputs with their single-input counterparts, and ways of meeting imbalance.

    python -m experiments.tasks [--only multi_view ...] [--seeds N] [--jobs 1]
        [--fashion FOLDER_OR_DEB] [--stamps FOLDER_OR_DEB] [--results DIR] [--workdir DIR]
        [--report]

Each recipe of `configs/` on a composed set (`experiments.composed`) is trained beside a counterpart
that differs in one thing, such as one view in place of four. Each seed has a set of its own,
composed of other pictures, and an order and initial values of its own; the methods of a seed share
them, so their differences are paired. All train `tf_efficientnet_lite0` from the same weights.

A run writes one row to `runs/` in the folder of results; the same command continues where it was
stopped, counterparts and recipes first, and repeats failed runs. `tasks.json`, `.md` and `.png`
hold the result, and the tables go into `docs/tasks.md`. All takes about 40 minutes on one core.
"""

import argparse
import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from experiments import composed
from experiments import tasks_report as report
from experiments.strategies_run import Bench, Run
from experiments.tasks_methods import Comparison, comparisons
from experiments.tasks_run import Workers

DOCS = Path(__file__).parents[1] / "docs" / "tasks.md"
RESULTS, WORKDIR = Path("experiments/results/tasks"), Path("runs/tasks")


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the missing runs and writes the tables."""
    every = comparisons()
    arguments = _parse(argv, [comparison.name for comparison in every])
    if arguments.seeds:
        every = tuple(dataclasses.replace(each, seeds=arguments.seeds) for each in every)
    chosen = [each for each in every if each.name in arguments.only]
    with contextlib.closing(Workers()) as workers:
        bench = Bench(arguments.results / "runs", arguments.workdir, arguments.jobs, workers.launch)
        if not arguments.report:
            write_sets(chosen, arguments)
            bench.rows(wanted_runs(chosen))
    runs = wanted_runs(every)
    summary = report.summarize(every, bench.finished_rows(runs))
    summary["failures"] = bench.failures(runs)
    report.write(summary, arguments.results, DOCS if arguments.results == RESULTS else None)
    print((arguments.results / "tasks.md").read_text())


def _parse(argv: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=names, default=list(names), metavar="NAME")
    parser.add_argument("--seeds", type=int, help="runs of each method; the default is 3, or 5")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its core")
    composed.add_packages(parser)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--workdir", type=Path, default=WORKDIR)
    parser.add_argument("--report", action="store_true", help="only write the tables")
    arguments = parser.parse_args(argv)
    if min(arguments.seeds or 1, arguments.jobs) < 1:
        parser.error("--seeds and --jobs must be at least 1")
    return arguments


def write_sets(chosen: Sequence[Comparison], arguments: argparse.Namespace) -> None:
    """Writes the composed sets of some comparisons, where the recipes look for them."""
    for comparison in chosen:
        for seed in range(comparison.seeds if comparison.is_composed else 0):
            packages = composed.packages_of(arguments)
            composed.write(comparison.name, seed, composed.FOLDER, packages)


def wanted_runs(chosen: Sequence[Comparison]) -> list[Run]:
    """Returns the runs of some comparisons: all counterparts and recipes, then the other methods.

    Args:
      chosen: the comparisons, the most important first.
    """
    first, others = list[Run](), list[Run]()
    for each in chosen:
        for seed in range(each.seeds):
            for place, method in enumerate(each.methods):
                config = each.config(method, seed)
                run = Run(each.name, method.name, config.optim.learning_rate, seed, config)
                (first if place < 2 else others).append(run)
    return first + others


if __name__ == "__main__":
    main()
