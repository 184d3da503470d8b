"""WiSE-FT of a run: its accuracy along the line between initial and fine-tuned weights."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tl_jax import process
from tl_jax.evaluation.run_data import check_held_out, named_split
from tl_jax.evaluation.soup import ScoreFn, check_empty, check_no_lora
from tl_jax.run.experiment import Experiment
from tl_jax.run.folder import load_run, write_run
from tl_jax.transfer.soups import interpolate, wise_ft_curve

ALPHAS = tuple(np.linspace(0, 1, 11).round(2).tolist())


@dataclasses.dataclass(frozen=True)
class WiseFtResult:
    """The result of `wise_ft`.

    Attributes:
      curve: pairs (alpha, metric); alpha 0 is the initial network, 1 the fine-tuned one.
      best_alpha: the alpha with the best metric; the largest of equals.
      metric: name of the metric, `train.best_metric` of the run, of several tasks "TASK.METRIC".
      split: the split that the metric is measured on.
    """

    curve: tuple[tuple[float, float], ...]
    best_alpha: float
    metric: str
    split: str


def wise_ft(
    workdir: str | Path,
    *,
    alphas: Sequence[float] = ALPHAS,
    split: str | None = None,
    to: str | Path | None = None,
) -> WiseFtResult:
    """Scores weights between the initial and the fine-tuned ones of a run (arXiv:2109.01903).

    Weights in between are often more accurate on shifted data than the fine-tuned ones. The initial
    classifier must be a useful one: that of `transfer.classifier="load"` or "fuse", or of
    `transfer.head_init="class_means"`. Heads of several tasks start anew, so that of these runs the
    weights in between only tell how far the network has moved. Running statistics of BatchNorm are
    interpolated too.

    Args:
      workdir: the run's folder. Its data and pretrained weights are read again.
      alphas: weights of the fine-tuned variables, from 0 (initial) to 1 (fine-tuned).
      split: the split that they are scored on; the default is the evaluation split.
      to: folder of a new run with the best of these weights, for `evaluate`, `predict`, `probe`
        and `export_timm`; it must be empty or missing. None writes none.

    Raises:
      ValueError: if there is no alpha, one is outside [0, 1], the data have other tasks, classes
        or inputs than the run, the metric does not exist on the split, the run is adapted by LoRA,
        or `to` is not empty.
      FileNotFoundError: if the folder holds no run or no checkpoint.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> result = wise_ft("runs/digits", alphas=[0, 0.5, 1])
      >>> [alpha for alpha, accuracy in result.curve]
      [0.0, 0.5, 1.0]
    """
    if not isinstance(alphas, Sequence) or isinstance(alphas, str):
        raise TypeError(f"alphas is {alphas!r}; expected a list of numbers, such as [0, 0.5, 1]")
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
        raise ValueError(f"got alphas {list(alphas)}; expected at least one, all in [0, 1]")
    if to is not None:
        check_empty(to)
    process.prepare()
    run = load_run(workdir)
    check_no_lora(run, workdir)
    split = named_split(split or run.config.data.eval_split)
    check_held_out(run, split)
    score_fn = ScoreFn(run, split)
    initial = Experiment.from_config(run.config).initial.variables
    # Checkpoints leave empty collections out.
    initial = {name: collection for name, collection in initial.items() if collection}
    scores = wise_ft_curve(initial, run.variables, alphas, score_fn)
    best_alpha, _ = max(scores, key=lambda point: (point[1], point[0]))
    if to is not None:
        best = interpolate(initial, run.variables, best_alpha)
        chosen = score_fn.calibration(best)
        write_run(to, run.config, run.info, best, calibration=chosen)
    return WiseFtResult(
        curve=tuple((alpha, score_fn.sign * score) for alpha, score in scores),
        best_alpha=best_alpha,
        metric=score_fn.metric,
        split=split,
    )
