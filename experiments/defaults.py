"""Compares tl_jax's defaults with a usual timm script: three sets, their subsets, two networks.

    python -m experiments.defaults [--jobs 2] [--seeds 3] [--stamps PATH] [--fashion PATH]
        [--results DIR] [--workdir DIR] [--report]

A cell is a subset of a set (20, 100 or 1,000 pictures of each class, see
`experiments.defaults_data`), a network (`tf_efficientnet_lite0` or `lite1`, from the installed
packages) and a batch size (16, 32, 128). In each cell, with three seeds:

- **tl_jax** is `Config` with the cell's network, data, image size, batch size and epochs;
  everything else is what a user gets without options.
- **timm** is `experiments.defaults_torch` with the recipe of timm's training script: the same file
  of weights, `reset_classifier`, `RandomResizedCrop` of 8 to 100% of the area, flip, colour jitter
  0.4, AdamW with weight decay 0.05 over timm's parameter groups, all layers at one rate, a linear
  warm-up of one epoch (half of one in runs of four epochs or fewer) and a cosine schedule,
  BatchNorm in training mode, cross-entropy with label smoothing 0.1, channels_last. Its rate is the
  best of three by the validation accuracy of seed 0, searched for each subset with Lite0 and
  batches of 32; with batches of B it is multiplied by sqrt(B / 32). tl_jax's rate is not searched.

Both read the same decoded pictures in the same order, at the same image size, for the same number
of steps, and are tested once, at the best epoch by validation accuracy (the first of several).
Each run is a process of its own and writes a row to `runs/` of the folder of
results; the same command continues where it was stopped, the most important cells first.
`--report` only writes the tables of the rows that there are, and says what is missing. How the
defaults were found: `experiments.defaults_search`.
"""

import argparse
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments import defaults_data as pictures
from experiments import defaults_report as report
from experiments import strategies_stamps as stamps
from experiments.defaults_data import EPOCHS, Cell
from experiments.strategies_run import Bench, Job, Run
from tl_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TransferConfig,
)
from tl_jax.data.sources import fashion_mnist

OURS, TIMM = "tl_jax", "timm"
NETWORKS = {"lite0": "tf_efficientnet_lite0", "lite1": "tf_efficientnet_lite1"}
BATCH_SIZES = (32, 128, 16)  # The most important first.
TIMM_RATES = (3e-4, 1e-3, 3e-3)
DOCS = Path(__file__).parents[1] / "docs" / "strategies.md"
RESULTS, WORKDIR = Path("experiments/results/defaults"), Path("runs/defaults")


def cells() -> list[Cell]:
    """Returns all cells, the most important first."""
    return [
        Cell(name, size, network, batch_size)
        for network in NETWORKS
        for batch_size in BATCH_SIZES
        for name, size in EPOCHS
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the missing runs and writes the tables."""
    arguments = _parse(argv)
    bench = Bench(arguments.results / "runs", arguments.workdir, arguments.jobs, launch)
    search = [
        timm_run(Cell(*subset), rate, 0, arguments.workdir)
        for subset in EPOCHS
        for rate in TIMM_RATES
    ]
    if not arguments.report:
        _write_pictures(arguments)
        bench.rows(search)
    rates = best_rates(bench.finished_rows(search))
    runs = wanted_runs(rates, arguments.seeds, arguments.workdir)
    if not arguments.report:
        bench.rows(runs)
    rows = bench.finished_rows(runs)
    text = report.tables(rows, cells(), EPOCHS, rates, seeds=arguments.seeds)
    report.write(text, arguments.results, DOCS)
    print(text)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its core")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stamps", type=Path, default=stamps.INSTALLED, help="folder or .deb")
    parser.add_argument("--fashion", type=Path, default=fashion_mnist.INSTALLED, help="the same")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--workdir", type=Path, default=WORKDIR)
    parser.add_argument("--report", action="store_true", help="only write the tables")
    arguments = parser.parse_args(argv)
    if min(arguments.seeds, arguments.jobs) < 1:
        parser.error("--seeds and --jobs must be at least 1")
    return arguments


def _write_pictures(arguments: argparse.Namespace) -> None:
    packages = {"stamps": arguments.stamps, "fashion": arguments.fashion}
    for name, size in EPOCHS:
        pictures.write(name, size, arguments.workdir / "data", packages)


def wanted_runs(
    rates: dict[tuple[str, int], float], seeds: int, workdir: Path = WORKDIR
) -> list[Run]:
    """Returns the runs of all cells, the most important first.

    Args:
      rates: timm's rate for each subset, at batches of 32; there are no runs of other subsets.
      seeds: how many of each.
      workdir: where the pictures are.
    """
    return [
        run
        for cell in cells()
        if cell.subset in rates
        for seed in range(seeds)
        for run in (
            our_run(cell, seed, workdir),
            timm_run(cell, rates[cell.subset], seed, workdir),
        )
    ]


def our_run(cell: Cell, seed: int, workdir: Path = WORKDIR) -> Run:
    """Returns tl_jax's run of a cell: defaults in all but what the cell prescribes."""
    epochs = EPOCHS[cell.subset]
    head_epochs = TrainConfig().head_epochs
    config = Config(
        model=ModelConfig(NETWORKS[cell.network], weights="package"),
        data=data_of(cell, workdir),
        train=TrainConfig(epochs=epochs - head_epochs, seed=seed),
    )
    return Run(cell.name, OURS, config.optim.learning_rate, seed, config)


def timm_run(cell: Cell, rate: float, seed: int, workdir: Path = WORKDIR) -> Run:
    """Returns timm's run of a cell; `rate` is that of batches of 32."""
    epochs = EPOCHS[cell.subset]
    config = Config(
        model=ModelConfig(NETWORKS[cell.network], weights="package", head_dropout=0.0),
        data=data_of(cell, workdir),
        augment=AugmentConfig(scale=(0.08, 1.0), brightness=0.4, contrast=0.4, saturation=0.4),
        optim=OptimConfig(
            name="adamw",
            learning_rate=rate * math.sqrt(cell.batch_size / 32),
            head_learning_rate=None,
            weight_decay=0.05,
            warmup_epochs=1.0 if epochs > 4 else 0.5,
        ),
        transfer=TransferConfig(batch_norm="update"),
        train=TrainConfig(head_epochs=0, epochs=epochs, label_smoothing=0.1, seed=seed),
    )
    return Run(cell.name, TIMM, rate, seed, config)


def data_of(cell: Cell, workdir: Path) -> DataConfig:
    """Returns the data of a cell."""
    return DataConfig(
        source=f"npz:{workdir}/data/{cell.set}-{cell.size}.npz",
        test_split="test",
        batch_size=cell.batch_size,
        image_size=pictures.SETS[cell.set].image_size,
    )


def best_rates(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, int], float]:
    """Returns timm's rate of each subset: the best validation accuracy, ties by the loss."""
    best: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        name, size, *_ = row["set"].split("-")
        subset = name, int(size)
        if subset not in best or _merit(row) > _merit(best[subset]):
            best[subset] = row
    return {subset: row["rate"] for subset, row in best.items()}


def _merit(row: dict[str, Any]) -> tuple[float, float]:
    return row["validation"]["accuracy"], -row["validation"]["loss"]


def launch(job: Job) -> int:
    """Runs a job in its own process; returns the exit code."""
    options: dict[str, Any] = {"row": job.row}
    module = "experiments.defaults_torch"
    if job.run.method == OURS:
        module = "experiments.strategies_run"
        options |= {"workdir": job.folder, "cache": job.compiled}
    if job.core is not None:
        options["core"] = job.core
    command = [sys.executable, "-m", module, str(job.config)]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with job.log.open("w") as log:
        return subprocess.run(command, stdout=log, stderr=log, check=False).returncode


if __name__ == "__main__":
    main()
