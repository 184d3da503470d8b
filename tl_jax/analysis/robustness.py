"""Robustness of a run: errors on corrupted images, and whether foreign images are told apart."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax import arguments, files, messages, process
from tl_jax.analysis import gaps, outliers, pictures, projection
from tl_jax.analysis.corrupted import Corrupted, Prepared, as_prepared
from tl_jax.analysis.corruptions import NAMES, SEVERITIES
from tl_jax.analysis.measured import TaskRows, is_single_label, measure, measurer
from tl_jax.data.source import Source
from tl_jax.data.sources.open import open_source, split_names
from tl_jax.data.subset import Selection
from tl_jax.evaluation import run_data
from tl_jax.models.model import Model
from tl_jax.probes.extract import extract, headless
from tl_jax.run.data import load_options
from tl_jax.run.folder import Run, load_run

Say = Callable[[str], None]
Errors = dict[str, tuple[np.ndarray, dict[str, list[np.ndarray]]]]


def robustness(
    workdir: str | Path,
    *,
    split: str | None = None,
    source: str | None = None,
    data_dir: str | None = None,
    labels: Sequence[str] = (),
    batch_size: int | None = None,
    corruptions: Sequence[str] = NAMES,
    severities: Sequence[int] = SEVERITIES,
    most: int | None = None,
    baseline: str | Path | None = None,
    foreign: Sequence[str] = (),
    seed: int = 0,
    cache_dir: str | Path | None = None,
    to: str | Path | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Measures a run on corrupted images, and how well it tells foreign images from its own kind.

    Images are resized and cropped as the run takes them, then corrupted, then normalised. The
    network passes once over the split for each corruption and severity.

    Args:
      workdir: the run's folder.
      split, source, data_dir, labels, batch_size: which data, as `evaluate`.
      corruptions: names of `tl_jax.analysis.corruptions.NAMES`.
      severities: of each, 1 to 5.
      most: how many examples are measured, an even selection of the split; None for all.
      baseline: folder of another run of the same tasks, to which the mean corruption error is
        relative.
      foreign: other sets of images, such as "folder:PATH" or "digits:test" with a split behind the
        last colon; their labels are not used. The run's own kind is the split.
      seed: of the noise.
      cache_dir: folder in which features are kept, as in `probe`.
      to: folder that gets `robustness.json` and pictures; None writes none.
      say: is told of each corruption that is done.

    Returns:
      JSON values: "split", "step", "count", "notes"; "tasks", for each by its name `gaps.measure`
      with "kind", "meaning" of the error and, with a baseline, "relative" (`gaps.relative`);
      "foreign", for each set its "count" and for each score `outliers.separation`; and "files".

    Raises:
      ValueError: as `evaluate`, or if a name, a severity or the baseline's tasks do not fit.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> found = robustness("runs/digits", corruptions=["contrast"], severities=[1], most=20)
      >>> [each["severity"] for each in found["tasks"]["label"]["corruptions"]["contrast"]]
      [1]
    """
    _check(corruptions, severities, most)
    process.prepare()
    run = load_run(workdir)
    options = run_data.DataOptions(source, data_dir, labels=tuple(labels), batch_size=batch_size)
    examples, places = _open(run, options, split, most)
    wanted = (tuple(corruptions), tuple(severities))
    rows, found = _errors(run, options, examples, places, *wanted, seed, say)
    result: dict[str, Any] = {
        "split": examples.split,
        "step": run.step,
        "count": len(places),
        "notes": list(examples.notes),
        "tasks": {},
        "foreign": {},
        "files": [],
    }
    for name, (clean, corrupted) in found.items():
        kind = rows[name].task.kind
        measured = gaps.measure(clean, corrupted, wanted[1])
        result["tasks"][name] = {"kind": kind, "meaning": gaps.MEANING[kind], **measured}
    if baseline is not None:
        _compare(result, found, run, baseline, options, examples, places, wanted, seed, say)
    if foreign:
        _tell_foreign(result, run, rows, examples, places, foreign, most, cache_dir)
    if to is not None:
        _write(result, wanted[1], files.user_path(to))
    return result


def _check(corruptions: Sequence[str], severities: Sequence[int], most: int | None) -> None:
    if isinstance(corruptions, str) or isinstance(severities, int):
        raise TypeError("expected lists of corruptions and severities, such as ['fog'] and [1, 3]")
    for name in corruptions:
        if name not in NAMES:
            raise ValueError(
                f"got the corruption {name!r}; expected some of {', '.join(NAMES)}"
                f"{messages.hint(name, NAMES)}"
            )
    if not corruptions or not severities or not set(severities) <= set(SEVERITIES):
        raise ValueError(
            f"got {len(corruptions)} corruptions and the severities {list(severities)}; expected "
            "one or more of each, and severities from 1 to 5"
        )
    if most is not None:
        advice = "expected the number of examples to measure, at least 1"
        arguments.whole_number("most", most, least=1, advice=advice)


def _open(
    run: Run, options: run_data.DataOptions, split: str | None, most: int | None
) -> tuple[Source, np.ndarray]:
    """Opens the split that is measured; returns it and the places of the examples that are."""
    is_other = run_data.is_other(run, options)
    config = run_data.config_of(run, options)
    split = split or run_data.split_of(config, is_other=is_other)
    examples = run_data.open_examples(run, config, split, is_other=is_other)
    return examples, projection.selection(len(examples), most or len(examples))


def _errors(
    run: Run,
    options: run_data.DataOptions,
    examples: Source,
    places: np.ndarray,
    corruptions: Sequence[str],
    severities: Sequence[int],
    seed: int,
    say: Say | None,
) -> tuple[dict[str, TaskRows], Errors]:
    """Returns what the run says of clean images, and the error of each example by task."""
    config = run_data.config_of(run, options)
    evaluator = measurer(run, config, as_prepared(run.info.preprocess))
    prepared = Prepared(examples, places, run.info.preprocess)
    rows = measure(run, evaluator, prepared)
    found: Errors = {name: (each.errors, {}) for name, each in rows.items()}
    for corruption in corruptions:
        for severity in severities:
            changed = Corrupted(prepared, corruption, severity, seed=seed)
            for name, each in measure(run, evaluator, changed).items():
                found[name][1].setdefault(corruption, []).append(each.errors)
        if say is not None:
            errors = [np.nanmean(each) for each in next(iter(found.values()))[1][corruption]]
            say(f"{corruption}: error {' '.join(f'{error:.4f}' for error in errors)}")
    return rows, found


def _compare(
    result: dict[str, Any],
    found: Errors,
    run: Run,
    baseline: str | Path,
    options: run_data.DataOptions,
    examples: Source,
    places: np.ndarray,
    wanted: tuple[tuple[str, ...], tuple[int, ...]],
    seed: int,
    say: Say | None,
) -> None:
    """Adds the errors relative to those of a baseline to each task."""
    other = load_run(baseline)
    if other.info.example_facts.tasks != run.info.example_facts.tasks:
        raise ValueError(
            f"the baseline {baseline} has other tasks or classes than the run; give one that was "
            "trained for the same"
        )
    _, of_other = _errors(other, options, examples, places, *wanted, seed, say)
    for name, (clean, corrupted) in found.items():
        result["tasks"][name]["relative"] = gaps.relative(clean, corrupted, *of_other[name])


def _tell_foreign(
    result: dict[str, Any],
    run: Run,
    rows: Mapping[str, TaskRows],
    examples: Source,
    places: np.ndarray,
    foreign: Sequence[str],
    most: int | None,
    cache_dir: str | Path | None,
) -> None:
    """Adds how well each score tells foreign images from those of the split."""
    own = run_data.config_of(run, run_data.DataOptions())
    train = run_data.open_examples(run, own, own.data.train_split, is_other=False)
    main = next(iter(rows.values()))
    has_classes = main.task.kind in ("multi_class", "ordinal")
    train_labels = train.labels() if has_classes else None
    has_logits = len(rows) == 1 and is_single_label(main) and "logits" in main.rows
    if not has_logits:
        result["notes"].append(
            "maximum softmax and energy are of runs that tell one class of each example; scores of "
            "features alone tell foreign images apart here"
        )

    def outputs(model: Model, source: Source) -> np.ndarray:
        options = dataclasses.replace(load_options(own.data), cache="none")
        return extract(
            model, run.variables, source, preprocess=run.info.preprocess, load_options=options,
            cache_dir=cache_dir,
        ).features[0]  # fmt: skip

    def scores(source: Source, chosen: np.ndarray) -> dict[str, np.ndarray]:
        if len(chosen) < len(source):
            source = Selection(source, source.split, chosen.tolist())
        features = outputs(headless(run.model), source)
        found = outliers.of_features(features, of_train, train_labels)
        logits = outliers.of_logits(outputs(run.model, source)) if has_logits else {}
        return {**logits, **found}

    of_train = outputs(headless(run.model), train)
    inside = scores(examples, places)
    for spec in foreign:
        other = _open_foreign(spec)
        chosen = projection.selection(len(other), most or len(other))
        outside = scores(other, chosen)
        told = {name: outliers.separation(inside[name], outside[name]) for name in inside}
        result["foreign"][spec] = {"count": len(chosen), "scores": told}


def _open_foreign(spec: str) -> Source:
    """Opens a set by its specification, or "SPECIFICATION:SPLIT"."""
    base, _, split = spec.rpartition(":")
    try:
        if base and split in split_names(base):
            return open_source(base, split)
    except (ValueError, FileNotFoundError):
        pass  # The last part belongs to the address.
    names = split_names(spec)
    return open_source(spec, "test" if "test" in names else names[0])


def _write(result: dict[str, Any], severities: Sequence[int], folder: Path) -> None:
    """Writes the numbers and a picture for each task."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, task in result["tasks"].items():
        is_share = task["kind"] in ("multi_class", "ordinal")
        sign = (lambda error: 1 - error) if is_share else (lambda error: error)
        file = f"robustness{pictures.file_suffix(name, list(result['tasks']))}.png"
        curves = {
            corruption: [sign(each["error"]) for each in of_one]
            for corruption, of_one in task["corruptions"].items()
        }
        bounds = {
            corruption: [sorted(sign(bound) for bound in each["interval"]) for each in of_one]
            for corruption, of_one in task["corruptions"].items()
        }
        pictures.severity_curves(
            curves,
            sign(task["clean"]["error"]),
            folder / file,
            title=f"{name}: {result['split']}, {result['count']} examples",
            ylabel="accuracy" if is_share else task["meaning"],
            bounds=bounds,
            severities=severities,
        )
        result["files"].append(file)
    result["files"].append("robustness.json")
    files.write_text(folder / "robustness.json", files.json_text(result, indent=1) + "\n")
