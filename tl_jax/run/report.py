"""The report of a finished run: metrics of its best checkpoint, as JSON and pictures."""

from typing import Any

import jax
import numpy as np

from tl_jax import files
from tl_jax.objectives.metrics import Counts
from tl_jax.run import journal
from tl_jax.run.describe import count_parameters
from tl_jax.run.experiment import Experiment
from tl_jax.run.folder import RunFolder
from tl_jax.training import sharding
from tl_jax.training.checkpoint import CheckpointError, Checkpoints, abstract
from tl_jax.transfer import freeze

# The journal's split for the accuracy before training.
ZERO_SHOT = "zero_shot"


def write_report(
    experiment: Experiment, folder: RunFolder, checkpoints: Checkpoints, stopped: str | None
) -> dict[str, Any]:
    """Evaluates the best checkpoint on every held-out split, and writes report and pictures.

    Args:
      experiment: the run.
      folder: gets `curves.png`, `confusion.png` and `report.json`. Beyond 2,000 classes there is no
        confusion matrix: no picture, and null in its place in the report.
      checkpoints: of the run.
      stopped: why training stopped before the last epoch; None if it did not.

    Returns:
      The report.
    """
    config = experiment.config
    best_step, last_step = checkpoints.best_step(), checkpoints.latest_step()
    if best_step is None or last_step is None:
        raise CheckpointError(f"{folder.path} holds no checkpoint to report on; train it again")
    like = abstract(experiment.initial.variables, sharding.replicated(experiment.mesh))
    variables = checkpoints.restore_variables(best_step, like)
    results = {
        split: experiment.evaluator(variables, source)
        for split, source in experiment.held_out.items()
    }
    records = journal.read(folder.path)
    params = experiment.initial.variables["params"]
    report = {
        "model": config.model.name,
        "epochs": experiment.epoch_of(checkpoints, last_step),
        "stopped": stopped,
        "best_epoch": experiment.epoch_of(checkpoints, best_step),
        "best_metric": config.train.best_metric,
        "metrics": {split: metrics for split, (metrics, _) in results.items()},
        "confusion": {split: _as_list(counts) for split, (_, counts) in results.items()},
        "class_names": list(experiment.train.class_names),
        "trained_parameters": {
            phase.name: count_parameters(freeze.split(phase.plan, params)[0])
            for phase in experiment.phases
        },
        "zero_shot": next((r for r in records if r["split"] == ZERO_SHOT), None),
    }
    if jax.process_index() == 0:
        from tl_jax.run import plots  # Here, because matplotlib loads slowly.

        curves, confusion_png = folder.path / "curves.png", folder.path / "confusion.png"
        with files.naming(curves):
            plots.learning_curves(
                records,
                curves,
                title=f"{config.model.name} on {config.data.source}",
                phase_ends=[phase.end_epoch for phase in experiment.phases[:-1]],
            )
        split = config.data.test_split or config.data.eval_split
        split_metrics, confusion = results[split]
        if isinstance(confusion, np.ndarray):
            with files.naming(confusion_png):
                plots.confusion_matrix(
                    confusion,
                    experiment.train.class_names,
                    confusion_png,
                    title=f"{split}, accuracy {split_metrics['accuracy']:.3f}",
                )
        # The last file: a run that is killed before it measures and draws again.
        folder.write_report(report)
    return report


def _as_list(counts: Counts) -> list[list[int]] | None:
    """Returns a confusion matrix; None for counts by class, which are in the metrics."""
    return counts.tolist() if isinstance(counts, np.ndarray) else None
