"""Evaluates a trained run on a split of its own data, or of other data."""

import dataclasses
from pathlib import Path
from typing import Any

from tl_jax.data.sources.options import OnCorrupt
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.run.data import load_options, open_split
from tl_jax.run.folder import load_run
from tl_jax.training import sharding
from tl_jax.training.evaluator import Evaluator


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
    """Evaluates the best checkpoint of a run.

    Args:
      workdir: the run's folder.
      split: which split; the default is the run's test split, or else its evaluation split.
      source: other data with the same classes, as in the configuration's `data.source`.
      data_dir, on_corrupt: as in the configuration. The default is the run's value for the run's
        data, and the configuration's default for other data.
      batch_size: images at once; the default is the run's.
      views: views of each image; the network's outputs are averaged over them. The default is the
        single view that training evaluates.

    Returns:
      The metrics of `tl_jax.objectives.metrics.summarize`, with "split", "step" and "class_names".

    Raises:
      ValueError: if the split is unknown, the data have other classes than the run, or the
        images are too small for the views.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> evaluate("runs/digits", split="test")["count"]
      450
    """
    run = load_run(workdir)
    data = run.config.data
    if source is not None:
        # How the run's own data are read does not apply to other data.
        data = dataclasses.replace(
            data, source=source, data_dir=None, labels=(), image_column=None, carve=None,
            shots=None, on_corrupt="raise",
        )  # fmt: skip
    data = dataclasses.replace(
        data,
        data_dir=data_dir or data.data_dir,
        on_corrupt=on_corrupt or data.on_corrupt,
        batch_size=batch_size or data.batch_size,
        cache="none",
    )
    split = split or data.test_split or data.eval_split
    examples = open_split(dataclasses.replace(run.config, data=data), split)
    if tuple(examples.class_names) != run.info.class_names:
        raise ValueError(
            f"{data.source} has the classes {list(examples.class_names)}, but the run was "
            f"trained on {list(run.info.class_names)}; evaluate on data with the same classes"
        )
    evaluator = Evaluator(
        run.model,
        run.info.preprocess,
        mesh=sharding.data_mesh(),
        load_options=load_options(data),
        views=views,
    )
    metrics, _ = evaluator(run.variables, examples)
    return {"split": split, "step": run.step, "class_names": list(run.info.class_names), **metrics}
