"""Soups of runs: the averaged weights of several runs, written as a new run."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from tl_jax import arguments, files, messages, process, trees
from tl_jax.data.source import Source, Task
from tl_jax.evaluation.run_data import check_held_out, named_split
from tl_jax.objectives import metric_names
from tl_jax.run import calibrate
from tl_jax.run.data import learned_tasks, load_options, open_split
from tl_jax.run.folder import Run, load_run, write_run
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
      metric: the metric that is the score: `train.best_metric` of the first run, of several tasks
        "TASK.METRIC".
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
    tasks, classes and inputs. Temperatures and thresholds are chosen for the soup on the
    evaluation split, as for a run. Report the soup's accuracy on a split that did not choose its
    runs: `evaluate(to, split="test")`.

    Args:
      workdirs: folders of the runs. Data and metric are those of the first.
      to: folder of the new run, for `evaluate`, `predict`, `probe` and `export_timm`; it must be
        empty or missing.
      kind: "greedy" adds runs from the best down as long as the score does not fall; "uniform"
        averages all.
      split: the split that the runs are scored on; the default is the evaluation split.

    Raises:
      ValueError: if there are fewer than two runs, they differ in tasks, classes, inputs, network,
        preprocessing or pretrained weights, their weights cannot be averaged, the metric does not
        exist on the split, or `to` is not empty.
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
    runs = [load_run(workdir) for workdir in workdirs]
    _check_same_network(runs, workdirs)
    first = runs[0]
    split = named_split(split or first.config.data.eval_split)
    for run in runs:  # They are all scored on the data of the first.
        check_held_out(run, split)
    score_fn = ScoreFn(first, split)
    ingredients = [run.variables for run in runs]
    if kind == "greedy":
        best = greedy_soup(ingredients, score_fn)
        variables, kept, score = best.variables, best.kept, best.score
        run_scores = score_fn.scores[: len(runs)]  # greedy_soup scores the runs first.
    else:
        run_scores = [score_fn(variables) for variables in ingredients]
        variables, kept = uniform_soup(ingredients), tuple(range(len(runs)))
        score = score_fn(variables)
    chosen = score_fn.calibration(variables)
    write_run(to, first.config, first.info, variables, calibration=chosen)
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

    def __init__(self, run: Run, split: str) -> None:
        """Sets up the evaluation; the first call compiles.

        Raises:
          ValueError: if the split has other tasks, classes or inputs than the run.
        """
        self.metric = run.config.train.best_metric
        self.sign = -1.0 if metric_names.metric(self.metric).lower_is_better else 1.0
        self.scores: list[float] = []
        self._run, self._source = run, _open(run, split)
        self._evaluator = Evaluator(
            run.model,
            run.info.preprocess,
            mesh=sharding.data_mesh(),
            load_options=load_options(run.config.data),
            objective=run.objective,
        )

    def __call__(self, variables: trees.Tree) -> float:
        """Returns the score of variables.

        Raises:
          ValueError: if the metric does not exist on the split.
        """
        found = self._evaluator.evaluate(variables, self._source)
        value = metric_names.value(found.metrics, self.metric)
        if math.isnan(value):
            raise ValueError(
                f"{self.metric} does not exist on split {self._source.split!r}, whose labels are "
                "all missing or all the same; score on another split (--split)"
            )
        self.scores.append(self.sign * value)
        return self.scores[-1]

    def calibration(self, variables: trees.Tree) -> calibrate.Chosen:
        """Returns the temperatures and thresholds for variables, chosen on the evaluation split.

        They are none of a run without an evaluation split.
        """
        split, source = self._run.config.data.eval_split, self._source
        if split is None:
            return {}
        if source.split != split:
            source = _open(self._run, split)
        found = self._evaluator.evaluate(variables, source)
        tasks = self._run.info.example_facts.tasks
        return calibrate.choose(self._run.objective, found.statistics, tasks)


def _open(run: Run, split: str) -> Source:
    """Opens a split of a run's own data, which must have its tasks, classes and inputs."""
    source, info = open_split(run.config, split, inputs=run.info.inputs), run.info
    if tuple(source.class_names) != info.class_names:
        raise ValueError(
            f"split {source.split!r} has the classes {list(source.class_names)}, but the run "
            f"was trained on {list(info.class_names)}; restore the run's own data"
        )
    tasks = learned_tasks(run.config, source)
    if (info.tasks and tasks != info.tasks) or source.inputs != info.inputs:
        raise ValueError(
            f"split {source.split!r} has other tasks or inputs than the run was trained on: "
            f"{_in_words(tasks)}, of {_in_words(info.tasks)} then; restore the run's own data"
        )
    return source


def _in_words(tasks: Sequence[Task]) -> str:
    """Returns the tasks' names and kinds."""
    return messages.some([f"{task.name} ({task.kind})" for task in tasks], quoted=False)


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
    """Raises a ValueError unless the outputs of all runs mean the same, and their weights too."""
    check_no_lora(runs[0], workdirs[0])
    first = _facts(runs[0])
    for run, workdir in zip(runs[1:], workdirs[1:], strict=True):
        for what, other in _facts(run).items():
            if first[what] != other:
                raise ValueError(
                    f"{workdirs[0]} and {workdir} differ in their {what}: {_shown(first[what])} "
                    f"and {_shown(other)}; only runs of the same network can be averaged"
                )


def _facts(run: Run) -> dict[str, Any]:
    """Returns what the runs of a soup have in common, the plainest first."""
    info, tasks = run.info, run.info.example_facts.tasks
    scales = [
        (counted.mean, counted.std)
        for task, counted in zip(info.tasks, info.label_statistics, strict=False)
        if task.kind == "regression"
    ]
    return {
        "classes": info.class_names,
        "tasks": [(task.name, task.kind, *task.class_names) for task in tasks],
        "inputs": info.inputs,
        "means of numbers": (info.numeric_mean, info.numeric_std),
        "mean and standard deviation of labels": scales,
        "network": run.model,
        "preprocessing": info.preprocess,
        "pretrained weights": _weights_hash(run),
    }


def _shown(value: Any) -> str:
    """Returns the start of a value, which may be a vocabulary or a network."""
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _weights_hash(run: Run) -> str:
    return run.info.weights.sha256 if run.info.weights else "random"
