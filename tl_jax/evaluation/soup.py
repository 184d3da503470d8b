"""Soups of runs: the averaged weights of several runs, written as a new run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from tl_jax import arguments, files, process, trees
from tl_jax.data.source import Source
from tl_jax.evaluation.evaluate import check_held_out
from tl_jax.evaluation.single_label import load_single_label
from tl_jax.objectives import metrics
from tl_jax.run.data import load_options, open_split
from tl_jax.run.folder import Run, write_run
from tl_jax.training import sharding
from tl_jax.training.evaluator import Evaluator
from tl_jax.transfer.peft.base import Adapted
from tl_jax.transfer.peft.lora import LoRA
from tl_jax.transfer.soups import greedy_soup, uniform_soup

Kind = Literal["greedy", "uniform"]


@dataclasses.dataclass(frozen=True)
class SoupResult:
    """The result of `soup`.

    Attributes:
      kept: folders of the runs in the soup, in the order in which they were added.
      run_scores: score of each run, in the order given.
      score: score of the soup.
      metric: the metric that is the score: `train.best_metric` of the first run.
      split: the split that the score is measured on.
    """

    kept: tuple[Path, ...]
    run_scores: tuple[float, ...]
    score: float
    metric: str
    split: str


def soup(
    workdirs: Sequence[str | Path],
    to: str | Path,
    *,
    kind: Kind = "greedy",
    split: str | None = None,
) -> SoupResult:
    """Averages the best checkpoints of several runs (arXiv:2203.05482), and writes a new run.

    The runs must have the same network, started from the same pretrained weights, and the same
    classes. Report the soup's accuracy on a split that did not choose its runs:
    `evaluate(to, split="test")`.

    Args:
      workdirs: folders of the runs. Data and metric are those of the first.
      to: folder of the new run, for `evaluate`, `predict`, `probe` and `export_timm`; it must be
        empty or missing.
      kind: "greedy" adds runs from the best down as long as the score does not fall; "uniform"
        averages all.
      split: the split that the runs are scored on; the default is the evaluation split.

    Raises:
      ValueError: if there are fewer than two runs, they differ in network, preprocessing,
        classes or pretrained weights, their weights cannot be averaged, or `to` is not empty.
      FileNotFoundError: if a folder holds no run or no checkpoint.

    Examples:
      >>> import tl_jax
      >>> for seed in (0, 1):
      ...     config = tl_jax.Config(
      ...         model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...         data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...         train=tl_jax.TrainConfig(epochs=1, seed=seed))
      ...     report = tl_jax.fit(config, f"runs/{seed}")
      >>> result = soup(["runs/0", "runs/1"], "runs/soup")
      >>> result.score >= max(result.run_scores)
      True
    """
    if kind not in get_args(Kind):
        raise ValueError(f"got kind={kind!r}; expected one of {', '.join(get_args(Kind))}")
    if not isinstance(workdirs, Sequence) or isinstance(workdirs, str):
        raise TypeError(
            f"soup takes a list of folders of runs, but got {arguments.kind(workdirs)}: "
            "soup(['runs/a', 'runs/b'], 'runs/soup')"
        )
    if len(workdirs) < 2:
        raise ValueError(f"got {len(workdirs)} runs; a soup needs two or more")
    check_empty(to)
    process.prepare()
    runs = [load_single_label(workdir, "soup") for workdir in workdirs]
    _check_same_network(runs, workdirs)
    first = runs[0]
    split = split or first.config.data.eval_split
    for run in runs:  # They are all scored on the data of the first.
        check_held_out(run, split)
    score_fn = ScoreFn(first, open_split(first.config, split))
    ingredients = [run.variables for run in runs]
    if kind == "greedy":
        best = greedy_soup(ingredients, score_fn)
        variables, kept, score = best.variables, best.kept, best.score
        run_scores = score_fn.scores[: len(runs)]  # greedy_soup scores the runs first.
    else:
        run_scores = [score_fn(variables) for variables in ingredients]
        variables, kept = uniform_soup(ingredients), tuple(range(len(runs)))
        score = score_fn(variables)
    write_run(to, first.config, first.info, variables)
    return SoupResult(
        kept=tuple(files.user_path(workdirs[index]) for index in kept),
        run_scores=tuple(score_fn.sign * score for score in run_scores),
        score=score_fn.sign * score,
        metric=score_fn.metric,
        split=split,
    )


class ScoreFn:
    """Scores variables of a run's network on a split: higher is better.

    Attributes:
      metric: `train.best_metric` of the run.
      sign: -1 if a lower metric is better, otherwise 1; the score is the metric times the sign.
      scores: the scores of all calls so far.
    """

    def __init__(self, run: Run, source: Source) -> None:
        """Sets up the evaluation; the first call compiles.

        Raises:
          ValueError: if the split has other classes than the run.
        """
        if tuple(source.class_names) != run.info.class_names:
            raise ValueError(
                f"split {source.split!r} has the classes {list(source.class_names)}, but the run "
                f"was trained on {list(run.info.class_names)}; restore the run's own data"
            )
        self.metric = run.config.train.best_metric
        self.sign = -1.0 if self.metric in metrics.LOWER_IS_BETTER else 1.0
        self.scores: list[float] = []
        self._source = source
        self._evaluator = Evaluator(
            run.model,
            run.info.preprocess,
            mesh=sharding.data_mesh(),
            load_options=load_options(run.config.data),
        )

    def __call__(self, variables: trees.Tree) -> float:
        """Returns the score of variables."""
        values, _ = self._evaluator(variables, self._source)
        self.scores.append(self.sign * float(values[self.metric]))
        return self.scores[-1]


def check_empty(folder: str | Path) -> None:
    """Raises a ValueError unless a folder is empty or missing; to be called before scoring runs."""
    path = files.user_path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{folder} is not empty; choose another folder for the new run")


def check_no_lora(run: Run, workdir: str | Path) -> None:
    """Raises a ValueError if a run is adapted by LoRA, whose factors must not be averaged."""
    if isinstance(run.model, Adapted) and isinstance(run.model.adaptation, LoRA):
        raise ValueError(
            f"{workdir} is adapted by LoRA, but the product of averaged factors is not the average "
            "of their products; use runs without LoRA"
        )


def _check_same_network(runs: Sequence[Run], workdirs: Sequence[str | Path]) -> None:
    first = runs[0]
    check_no_lora(first, workdirs[0])
    for run, workdir in zip(runs[1:], workdirs[1:], strict=True):
        for what, one, other in (
            ("network", first.model, run.model),
            ("preprocessing", first.info.preprocess, run.info.preprocess),
            ("classes", first.info.class_names, run.info.class_names),
            ("pretrained weights", _weights_hash(first), _weights_hash(run)),
        ):
            if one != other:
                raise ValueError(
                    f"{workdirs[0]} and {workdir} differ in their {what}: {one} and {other}; only "
                    "runs of the same network can be averaged"
                )


def _weights_hash(run: Run) -> str:
    return run.info.weights.sha256 if run.info.weights else "random"
