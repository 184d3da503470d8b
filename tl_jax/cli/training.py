"""The commands that take a configuration: `train`, `lr-find`, `augment-grid` and `profile`."""

from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from tl_jax import interrupt
from tl_jax.cli.processes import ALONE, Processes
from tl_jax.config import Config
from tl_jax.run import augment_grid as grid
from tl_jax.run import fit
from tl_jax.run import lr_find as finder
from tl_jax.run import metrics as run_metrics
from tl_jax.run import profile as profiling

# Fields are options without a prefix: --data.source, not --config.data.source.
_Config = Annotated[Config, tyro.conf.arg(name="")]


def train(
    file: Positional[Path],
    config: _Config,
    *,
    workdir: Path | None = None,
    stop_after_epoch: int | None = None,
    processes: Processes = ALONE,
) -> None:
    """Fine-tunes a pretrained network as a configuration says.

    The first argument is the configuration file; every field of it can be changed here. Called
    again on the same --workdir it goes on from the newest checkpoint. SIGTERM or SIGUSR1 saves at
    the end of the step and ends with the status 75: start the same command again.

    Args:
      file: The configuration file.
      config: Its content, changed by the options.
      workdir: Folder of the run: checkpoints, metrics, pictures, report; the default is
        runs/CONFIG.
      stop_after_epoch: Stop after this many epochs in all; the same command goes on later.
      processes: The other processes of the job.
    """
    processes.join()
    workdir = workdir or Path("runs") / file.stem
    with interrupt.stops() as should_stop:
        report = fit.fit(
            config, workdir, stop_after_epoch=stop_after_epoch, should_stop=should_stop
        )
    if report is not None:
        print(report_table(report))
        drawn = ("curves.png", *sorted(path.name for path in workdir.glob("confusion*.png")))
        pictures = [name for name in drawn if (workdir / name).exists()]
        print(f"{', '.join(pictures)}, report.json and tensorboard/ are in {workdir}")


def lr_find(
    file: Positional[Path],
    config: _Config,
    *,
    png: Path = Path("learning_rate.png"),
    phase: int = 1,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    processes: Processes = ALONE,
) -> None:
    """Trains at rising learning rates for some steps, and plots the loss against the rate.

    The first argument is the configuration file; every field of it can be changed here.

    Args:
      file: The configuration file.
      config: Its content, changed by the options.
      png: Picture to write.
      phase: Phase of the run, counted from 1.
      low: First learning rate.
      high: Last learning rate, if the loss does not diverge before.
      steps: Steps from `low` to `high`.
      processes: The other processes of the job.
    """
    processes.join()
    curve, group = finder.lr_find(config, png, phase=phase, low=low, high=high, steps=steps)
    for name, rate in (("minimum / 10", curve.minimum_over_ten), ("steepest", curve.steepest)):
        text = "none: the loss never falls" if rate is None else f"{rate:.1e}"
        print(f"{name:<13} {text}  (rate of {group})")
    print(f"{png} shows the curve")


def augment_grid(
    file: Positional[Path],
    config: _Config,
    *,
    png: Path = Path("augmented.png"),
    images: int = 6,
    versions: int = 8,
) -> None:
    """Draws training images, each beside augmented versions of it.

    The first argument is the configuration file; every field of it can be changed here.

    Args:
      file: The configuration file.
      config: Its content, changed by the options.
      png: Picture to write.
      images: Rows: images of the training split, in the order of training.
      versions: Columns: draws of the augmentation.
    """
    grid.show_augmented(config, png, images=images, versions=versions)
    print(f"{png} shows {images} images, each with {versions} draws")


def profile(
    file: Positional[Path],
    config: _Config,
    *,
    to: Path = Path("profile"),
    program: profiling.Program = "train",
    phase: int = 1,
    steps: int = 5,
) -> None:
    """Measures a training step: its operations, and how far it is from what the machine can do.

    The first argument is the configuration file; every field of it can be changed here.

    Args:
      file: The configuration file.
      config: Its content, changed by the options.
      to: New folder for profile.json, profile.txt and the trace for TensorBoard and Perfetto.
      program: The training step, or that of evaluation.
      phase: Phase of the run that is trained, counted from 1.
      steps: Steps that are timed, and as many that are traced.
    """
    result = profiling.profile(config, to, program=program, phase=phase, steps=steps)
    print(profiling.table(result))
    print(f"profile.json, profile.txt and the trace are in {to}")


def report_table(report: dict[str, Any]) -> str:
    """Returns the metrics of a run's report as a table with a line for each split.

    Of other tasks than one of classes, or of several, each metric has its name instead of a column.
    """
    best = f"best epoch {report['best_epoch']} of {report['epochs']} by {report['best_metric']}"
    if report["best_metric"] is None:
        best = f"last epoch of {report['epochs']}"
    splits = report["metrics"].items()
    if not all("accuracy_interval" in metrics for _, metrics in splits):
        said = [f"{split:<12} {run_metrics.sentence(metrics)}" for split, metrics in splits]
        return "\n".join([best, *said])
    lines = [
        best,
        f"{'split':<12} {'count':>6} {'loss':>8} {'accuracy':>9} {'95% interval':>15} "
        f"{'balanced':>9} {'macro F1':>9}",
    ]
    for split, metrics in splits:
        low, high = metrics["accuracy_interval"]
        interval = f"{low:.3f} to {high:.3f}"
        lines.append(
            f"{split:<12} {metrics['count']:>6} {metrics['loss']:>8.4f} "
            f"{metrics['accuracy']:>9.4f} {interval:>15} "
            f"{metrics['balanced_accuracy']:>9.4f} {metrics['macro_f1']:>9.4f}"
        )
    return "\n".join(lines)
