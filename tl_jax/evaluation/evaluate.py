"""Evaluates a trained run on a split, of its own data or of another set."""

import dataclasses
from pathlib import Path
from typing import Any

from tl_jax.config import DataConfig
from tl_jax.data.sources.folder import OnCorrupt
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.run import data as experiment
from tl_jax.run.folder import load_run
from tl_jax.training import evaluator, sharding


def evaluate(
    workdir: str | Path,
    *,
    split: str | None = None,
    source: str | None = None,
    data_dir: str | None = None,
    on_corrupt: OnCorrupt | None = None,
    batch_size: int | None = None,
    views: Views = ONE_VIEW,
) -> dict[str, Any]:
    """Measures the best checkpoint of a run.

    Args:
      workdir: the run's folder.
      split: which split; the default is the run's test split, or else its evaluation split.
      source: other data with the same classes, as in the configuration's `data.source`.
      data_dir, on_corrupt: as in the configuration; by default the run's for its own data, and the
        configuration's defaults for others.
      batch_size: images at once; the default is the run's.
      views: of each image, over which the network's outputs are averaged; by default the one that
        training evaluates.

    Returns:
      The metrics of `tl_jax.objectives.metrics.summarize`, with "split", "step" and "class_names".

    Raises:
      ValueError: if the split is unknown, the data have other classes than the run, or the
        images have no such views.

    Example:
      >>> evaluate("runs/demo", split="test")["accuracy"]                    # doctest: +SKIP
    """
    run = load_run(workdir)
    data = _reading(run.config.data, source, data_dir, on_corrupt)
    split = split or data.test_split or data.eval_split
    config = dataclasses.replace(run.config, data=data)
    opened = experiment.open_split(config, split)
    if tuple(opened.class_names) != run.info.class_names:
        raise ValueError(
            f"{config.data.source} has the classes {list(opened.class_names)}, but the run was "
            f"trained on {list(run.info.class_names)}"
        )
    measured = evaluator.Measure(
        run.model,
        run.info.preprocess,
        mesh=sharding.data_mesh(),
        batch_size=batch_size or data.batch_size,
        workers=data.workers,
        worker_type=data.worker_type,
        views=views,
    )
    found, _ = measured(run.variables, opened)
    return {"split": split, "step": run.step, "class_names": list(run.info.class_names), **found}


def _reading(
    own: DataConfig, source: str | None, data_dir: str | None, on_corrupt: OnCorrupt | None
) -> DataConfig:
    """Returns how the data are read: what says so of the run's own says nothing of others."""
    if source is not None:
        own = dataclasses.replace(
            own, source=source, data_dir=None, labels=(), image_column=None, carve=None,
            shots=None, on_corrupt="raise",
        )  # fmt: skip
    return dataclasses.replace(
        own, data_dir=data_dir or own.data_dir, on_corrupt=on_corrupt or own.on_corrupt
    )
