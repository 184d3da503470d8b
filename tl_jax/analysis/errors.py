"""Error analysis of a run on a split: where it is wrong, and what the data have to do with it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tl_jax import arguments, files, process
from tl_jax.analysis import (
    classes,
    error_pictures,
    label_issues,
    neighbours,
    projection,
    slices,
)
from tl_jax.analysis.measured import MAIN, TaskRows, label_text, measure, measurer
from tl_jax.config import Config
from tl_jax.data.relabel import UnknownClasses
from tl_jax.data.source import Source
from tl_jax.evaluation import run_data
from tl_jax.objectives.main_intervals import main_intervals
from tl_jax.objectives.objective import one_of
from tl_jax.probes.extract import extract, headless
from tl_jax.run.data import load_options
from tl_jax.run.experiment import Experiment
from tl_jax.run.folder import Run, load_run

ProbeOn = Literal["run", "start"]

_CANDIDATES = 3  # Neighbours in feature space whose pixels are compared with an image's.
_GALLERY = 8  # Examples whose neighbours are drawn.


@dataclasses.dataclass(frozen=True)
class Analysed:
    """A split, or two, of which errors are told.

    Attributes:
      examples: the split.
      tasks: what the run says of it, by task.
      features: of the run's network, [N, D].
      train: the run's training split; None if it is the same, or cannot be opened.
      train_features: of its examples, [M, D].
      found: neighbours in the training split of each example.
    """

    examples: Source
    tasks: Mapping[str, TaskRows]
    features: np.ndarray
    train: Source | None
    train_features: np.ndarray | None
    found: neighbours.Neighbours | None


def errors(
    workdir: str | Path,
    *,
    split: str | None = None,
    source: str | None = None,
    data_dir: str | None = None,
    labels: Sequence[str] = (),
    unknown_classes: UnknownClasses = "raise",
    batch_size: int | None = None,
    slices_by: Sequence[str] | Mapping[str, Sequence[Any]] = (),
    top: int = 24,
    neighbours_shown: int = 5,
    show: Sequence[int] = (),
    probe_on: ProbeOn = "run",
    folds: int = 5,
    same: float = neighbours.SAME,
    map_by: projection.Method = "pca",
    cache_dir: str | Path | None = None,
    to: str | Path | None = None,
) -> dict[str, Any]:
    """Tells where a run is wrong on a split, and which examples, labels and slices stand out.

    The numbers are those of the run's best checkpoint, with the temperature and thresholds that it
    chose. The network passes twice over the split and over the training split (once for features,
    which `cache_dir` keeps).

    Args:
      workdir: the run's folder.
      split, source, data_dir, labels, unknown_classes, batch_size: which data, as `evaluate`.
      slices_by: columns that divide the split (tasks of the run, inputs beside the image, other
        columns of labels); or a dict of a name and one value for each example.
      top: how many of the largest losses are told and drawn.
      neighbours_shown: training neighbours of each drawn example.
      show: places of further examples of the split whose training neighbours are told.
      probe_on: whose features the probe of the training labels takes: "run", or "start", the
        weights that the run started from, which have not seen these labels.
      folds: parts of the training split that the probe leaves out in turn.
      same: correlation of details from which on two images are near-duplicates.
      map_by: "pca", or "tsne" where scikit-learn is installed.
      cache_dir: folder in which features are kept, as in `probe`.
      to: folder that gets `errors.json` and pictures; None writes none.

    Returns:
      JSON values: "split", "step", "count", "notes"; "tasks", for each by its name "kind",
      "metrics" and "intervals" (the main ones), "calibration" (as in the report), "top_losses",
      "confused_pairs", "classes", "slices" by column, "label_issues" (of the split, by the run's
      probabilities) and "train_label_issues" (by the probe); "duplicates" (of the split and the
      training split), "neighbours", "map" (a point for each of up to 5,000 examples), and "files".
      What is not defined for a kind of task is None, with a sentence in "notes".

    Raises:
      ValueError: as `evaluate`, or if a column of slices is unknown or an argument out of range.
      ModuleNotFoundError: if t-SNE is asked for without scikit-learn.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> found = errors("runs/digits", split="validation", top=3)
      >>> len(found["tasks"]["label"]["top_losses"]), len(found["tasks"]["label"]["classes"])
      (3, 10)
    """
    _check(top, neighbours_shown, folds, probe_on, map_by)
    process.prepare()
    run = load_run(workdir)
    options = run_data.DataOptions(source, data_dir, labels=tuple(labels), batch_size=batch_size)
    is_other = run_data.is_other(run, options)
    config = run_data.config_of(run, options)
    split = split or run_data.split_of(config, is_other=is_other)
    examples = run_data.open_examples(
        run, config, split, is_other=is_other, unknown=unknown_classes
    )
    groups = _groups(run, config, examples, slices_by)
    train, notes = _training_split(run, split, is_other=is_other)
    tasks = measure(run, measurer(run, config), examples)
    analysed = _with_features(run, config, examples, tasks, train, neighbours_shown, cache_dir)
    shown = _shown(analysed, top, show)
    points, places = _points(analysed.features, map_by)
    probed = examples if train is None and not is_other else train
    result = {
        "split": split,
        "step": run.step,
        "count": len(examples),
        "notes": [*examples.notes, *notes],
        "tasks": {name: _task(rows, examples, groups, top) for name, rows in tasks.items()},
        "duplicates": _duplicates(analysed, same),
        "neighbours": _neighbours(analysed, shown, neighbours_shown),
        "map": {"method": map_by, "indices": places.tolist(), "points": points.round(4).tolist()},
        "files": [],
    }
    if probed is not None:
        of_probed = analysed.features if train is None else analysed.train_features
        if probe_on == "start":
            of_probed = _features(run, config, probed, cache_dir, probe_on)
        _probe_labels(result, probed, of_probed, probe_on, folds)
    _tell_undefined(result, tasks)
    if to is not None:
        _write(result, analysed, files.user_path(to))
    return result


def _write(result: dict[str, Any], analysed: Analysed, folder: Path) -> None:
    """Writes the pictures, and the numbers with the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = error_pictures.draw(result, analysed.examples, analysed.train, analysed.tasks, folder)
    result["files"] = [*drawn, "errors.json"]
    files.write_text(folder / "errors.json", files.json_text(result, indent=1) + "\n")


def _check(top: int, shown: int, folds: int, probe_on: str, map_by: str) -> None:
    advice = "expected a whole number, at least"
    arguments.whole_number("top", top, least=1, advice=f"{advice} 1")
    arguments.whole_number("neighbours_shown", shown, least=1, advice=f"{advice} 1")
    arguments.whole_number("folds", folds, least=2, advice=f"{advice} 2")
    one_of("probe_on", probe_on, ("run", "start"))
    one_of("map_by", map_by, projection.METHODS)


def _groups(
    run: Run, config: Config, examples: Source, chosen: Sequence[str] | Mapping[str, Sequence[Any]]
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the slices by column, and in each which examples they hold."""
    if not isinstance(chosen, Mapping):
        return {column: slices.of_column(run, config, examples, column) for column in chosen}
    for name, values in chosen.items():
        if len(values) != len(examples):
            raise ValueError(
                f"got {len(values)} values of the slices {name!r}; expected one for each of the "
                f"{len(examples)} examples of split {examples.split!r}"
            )
    return {name: slices.of_values(values) for name, values in chosen.items()}


def _training_split(run: Run, split: str, *, is_other: bool) -> tuple[Source | None, list[str]]:
    """Returns the run's training split, unless it is the one that is analysed or is gone."""
    name = run.config.data.train_split
    if not is_other and split == name:
        note = "the split is the one that was trained on: its losses and probabilities flatter"
        return None, [note]
    own = run_data.config_of(run, run_data.DataOptions())
    try:
        return run_data.open_examples(run, own, name, is_other=False), []
    except FileNotFoundError as error:
        return None, [f"the training split cannot be opened, so nothing is told of it: {error}"]


def _features(
    run: Run, config: Config, source: Source, cache_dir: str | Path | None, on: ProbeOn = "run"
) -> np.ndarray:
    """Returns the pooled features of a split, [N, D], of the run or of what it started from."""
    model, variables = run.model, run.variables
    if on == "start":
        experiment = Experiment.from_config(run.config)
        model, variables = experiment.model, experiment.initial.variables
    found = extract(
        headless(model),
        variables,
        source,
        preprocess=run.info.preprocess,
        load_options=dataclasses.replace(load_options(config.data), cache="none"),
        cache_dir=cache_dir,
    )
    return found.features[0]


def _with_features(
    run: Run,
    config: Config,
    examples: Source,
    tasks: Mapping[str, TaskRows],
    train: Source | None,
    shown: int,
    cache_dir: str | Path | None,
) -> Analysed:
    features = _features(run, config, examples, cache_dir)
    if train is None:
        return Analysed(examples, tasks, features, None, None, None)
    own = run_data.config_of(run, run_data.DataOptions())
    of_train = _features(run, own, train, cache_dir)
    found = neighbours.nearest(features, of_train, min(max(shown, _CANDIDATES), len(train)))
    return Analysed(examples, tasks, features, train, of_train, found)


def _task(
    rows: TaskRows, examples: Source, groups: Mapping[str, Mapping[str, np.ndarray]], top: int
) -> dict[str, Any]:
    """Returns what is told of one task."""
    metrics, names = rows.metrics(), examples.identities()
    calibration = None
    if "reliability" in metrics:
        calibration = {key: metrics[key] for key in ("calibration_error", "reliability")}
    probabilities, issues = rows.probabilities, None
    if probabilities is not None and label_issues.undefined(rows.task) is None:
        issues = label_issues.suspected(
            rows.task, rows.rows["label"], probabilities, names, method=label_issues.RUN
        )
    return {
        "kind": rows.task.kind,
        "class_names": list(rows.task.class_names),
        "count": int(rows.is_labelled.sum()),
        "metrics": {name: metrics.get(name) for name in MAIN[rows.task.kind]},
        "intervals": main_intervals(rows.objective, rows.rows),
        "calibration": calibration,
        "top_losses": [described(rows, names, index) for index in top_losses(rows, top)],
        "confused_pairs": classes.confused_pairs(rows),
        "classes": classes.by_class(rows),
        "slices": {name: slices.measure_slices(rows, each) for name, each in groups.items()},
        "label_issues": issues,
        "train_label_issues": None,
    }


def top_losses(rows: TaskRows, most: int) -> list[int]:
    """Returns the examples with the largest losses of a task, the largest first."""
    losses = np.where(rows.is_labelled, rows.rows["loss"], -np.inf)
    order = np.argsort(-losses, kind="stable")[: min(most, int(rows.is_labelled.sum()))]
    return [int(index) for index in order]


def described(rows: TaskRows, names: Sequence[str], index: int) -> dict[str, Any]:
    """Returns one example as JSON: what it is labelled with, and what the run says."""
    said: dict[str, Any] = {
        "index": index,
        "name": names[index],
        "loss": float(rows.rows["loss"][index]),
        "label": label_text(rows.task, rows.rows["label"][index]),
        "predicted": label_text(rows.task, rows.predicted[index]),
    }
    probabilities = rows.probabilities
    if probabilities is not None and not rows.task.multi_label:
        row = probabilities[index]
        said["probability"] = float(row[rows.predicted[index]])
        said["probability_of_label"] = float(row[rows.rows["label"][index]])
    return said


def _shown(analysed: Analysed, top: int, more: Sequence[int]) -> list[int]:
    """Returns the examples whose neighbours are told: the largest losses, and those asked for."""
    for index in more:
        if not 0 <= index < len(analysed.examples):
            raise ValueError(
                f"got the example {index} to show; split {analysed.examples.split!r} has the "
                f"places 0 to {len(analysed.examples) - 1}"
            )
    main = next(iter(analysed.tasks.values()))
    return list(dict.fromkeys([*more, *top_losses(main, min(top, _GALLERY))]))


def _points(features: np.ndarray, method: projection.Method) -> tuple[np.ndarray, np.ndarray]:
    """Returns points in the plane [M, 2] and the examples that they are of [M]."""
    places = projection.selection(len(features))
    return projection.project(features[places], method), places


def _duplicates(analysed: Analysed, same: float) -> list[dict[str, Any]] | None:
    """Returns the images that the split shares with the training split."""
    if analysed.train is None or analysed.found is None:
        return None
    few = dataclasses.replace(
        analysed.found,
        indices=analysed.found.indices[:, :_CANDIDATES],
        similarities=analysed.found.similarities[:, :_CANDIDATES],
    )
    names, others = analysed.examples.identities(), analysed.train.identities()
    return [
        {**dataclasses.asdict(pair), "name": names[pair.index], "other_name": others[pair.other]}
        for pair in neighbours.duplicates(analysed.examples, analysed.train, few, same=same)
    ]


def _neighbours(analysed: Analysed, shown: Sequence[int], k: int) -> list[dict[str, Any]] | None:
    """Returns the nearest training examples of some examples, with the main task's labels."""
    if analysed.train is None or analysed.found is None:
        return None
    rows = next(iter(analysed.tasks.values()))
    labels, names = analysed.train.labels(), analysed.train.identities()
    return [
        {
            **described(rows, analysed.examples.identities(), index),
            "neighbours": [
                {
                    "index": other,
                    "name": names[other],
                    "label": label_text(rows.task, labels[other]),
                    "similarity": float(similarity),
                }
                for other, similarity in zip(
                    analysed.found.indices[index, :k].tolist(),
                    analysed.found.similarities[index, :k],
                    strict=True,
                )
            ],
        }
        for index in shown
    ]


def _probe_labels(
    result: dict[str, Any], train: Source, features: np.ndarray | None, on: ProbeOn, folds: int
) -> None:
    """Adds the suspected label errors of the training split to each task that may have some.

    Columns of labels that the run does not learn are left out.
    """
    labels = train.task_labels().values() if len(train.tasks) > 1 else [train.labels()]
    wanted = [
        (task, values)
        for task, values in zip(train.tasks, labels, strict=True)
        if task.name in result["tasks"] and label_issues.undefined(task) is None
    ]
    if features is None:
        return
    for task, values in wanted:
        found = label_issues.of_features(task, values, features, train.identities(), folds=folds)
        if isinstance(found, str):
            result["notes"].append(found)
        else:
            method = f"{found['method']} on features of the {on}"
            result["tasks"][task.name]["train_label_issues"] = {**found, "method": method}


def _tell_undefined(result: dict[str, Any], tasks: Mapping[str, TaskRows]) -> None:
    """Adds a note on what is not defined for the kind of each task."""
    for name, rows in tasks.items():
        if result["tasks"][name]["confused_pairs"] is None:
            why = "have several classes each" if rows.task.multi_label else "are numbers"
            result["notes"].append(f"{name}: no pairs are confused, as its labels {why}")
        if result["tasks"][name]["calibration"] is None:
            result["notes"].append(
                f"{name}: calibration is told of one class of each example by a softmax alone"
            )
        undefined = label_issues.undefined(rows.task)
        if undefined is not None:
            result["notes"].append(undefined)
        elif rows.probabilities is None:
            result["notes"].append(
                f"{name}: beyond 2,000 classes there are no probabilities to find wrong labels by"
            )
