"""The commands that look into a run: where it is wrong, and how far it holds on other images."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from tl_jax.analysis import errors as analysis
from tl_jax.analysis import robustness as robust
from tl_jax.analysis.corruptions import NAMES, SEVERITIES
from tl_jax.analysis.neighbours import SAME
from tl_jax.analysis.projection import Method
from tl_jax.cli import streams
from tl_jax.data.relabel import UnknownClasses

_SHOWN = 5  # Examples, pairs and labels that are printed of each kind.


def errors(
    run: Positional[Path],
    *,
    to: Path,
    split: str | None = None,
    source: str | None = None,
    data_dir: str | None = None,
    labels: tuple[str, ...] = (),
    unknown_classes: UnknownClasses = "raise",
    batch_size: int | None = None,
    slices_by: tuple[str, ...] = (),
    top: int = 24,
    neighbours: int = 5,
    show: tuple[int, ...] = (),
    probe_on: analysis.ProbeOn = "run",
    folds: int = 5,
    same: float = SAME,
    map_by: Method = "pca",
    cache_dir: Path | None = None,
) -> None:
    """Tells where a run is wrong on a split: losses, pairs, slices, labels, duplicates, neighbours.

    Args:
      run: Folder of the run.
      to: Folder that gets errors.json and the pictures.
      split: Split to look at; the default is the run's test split, or else its evaluation split.
      source: Other data, such as "folder:PATH"; their classes are matched by name.
      data_dir: Folder of prepared sets; the default is the run's for its own data.
      labels: Columns of a manifest that hold the labels, as for evaluate.
      unknown_classes: What to do with labels of classes that the run was not trained on: refuse
        them, or leave them out.
      batch_size: Images per batch; the default is the run's.
      slices_by: Columns that divide the split: tasks of the run, inputs beside the image, or other
        columns of labels, such as cell_type of elpv.
      top: Number of the largest losses.
      neighbours: Number of training images beside each image of the gallery of neighbours.
      show: Places of further images whose training neighbours are shown.
      probe_on: Whose features the probe takes that checks the training labels: those of the run,
        or of the weights that it started from.
      folds: Parts of the training split that this probe leaves out in turn.
      same: Correlation of details from which on two images are near-duplicates.
      map_by: How features are laid out in a plane; tsne needs scikit-learn.
      cache_dir: Folder in which features are cached.
    """
    found = analysis.errors(
        run, split=split, source=source, data_dir=data_dir, labels=labels,
        unknown_classes=unknown_classes, batch_size=batch_size, slices_by=slices_by, top=top,
        neighbours_shown=neighbours, show=show, probe_on=probe_on, folds=folds, same=same,
        map_by=map_by, cache_dir=cache_dir, to=to,
    )  # fmt: skip
    for line in _error_lines(found):
        print(line)
    print(f"{to} holds {', '.join(found['files'])}")


def robustness(
    run: Positional[Path],
    *,
    to: Path,
    split: str | None = None,
    source: str | None = None,
    data_dir: str | None = None,
    labels: tuple[str, ...] = (),
    batch_size: int | None = None,
    corruptions: tuple[str, ...] = NAMES,
    severities: tuple[int, ...] = SEVERITIES,
    most: int | None = None,
    baseline: Path | None = None,
    foreign: tuple[str, ...] = (),
    seed: int = 0,
    cache_dir: Path | None = None,
) -> None:
    """Measures a run on corrupted images, and whether it tells foreign images from its own kind.

    Args:
      run: Folder of the run.
      to: Folder that gets robustness.json and the pictures.
      split: Split to measure on; the default is the run's test split, or else its evaluation split.
      source: Other data, such as "folder:PATH"; their classes are matched by name.
      data_dir: Folder of prepared sets; the default is the run's for its own data.
      labels: Columns of a manifest that hold the labels, as for evaluate.
      batch_size: Images per batch; the default is the run's.
      corruptions: Names of the corruptions.
      severities: From 1 to 5.
      most: Number of examples that are measured, an even selection; the default is all.
      baseline: Folder of another run of the same tasks, to which the mean corruption error is
        relative.
      foreign: Other sets of images, such as "folder:PATH" or "digits:test"; their labels are not
        used.
      seed: Of the noise.
      cache_dir: Folder in which features are cached.
    """
    found = robust.robustness(
        run, split=split, source=source, data_dir=data_dir, labels=labels, batch_size=batch_size,
        corruptions=corruptions, severities=severities, most=most, baseline=baseline,
        foreign=foreign, seed=seed, cache_dir=cache_dir, to=to, say=streams.complain,
    )  # fmt: skip
    for line in _robustness_lines(found):
        print(line)
    print(f"{to} holds {', '.join(found['files'])}")


def _robustness_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['split']}: {found['count']} examples, checkpoint of step {found['step']}"
    for note in found["notes"]:
        yield f"  note: {note}"
    for name, task in found["tasks"].items():
        clean = task["clean"]
        yield f"{name}: {task['meaning']} {clean['error']:.4f}{_bounds(clean['interval'])} on clean"
        for corruption, of_one in task["corruptions"].items():
            worst = max(of_one, key=lambda each: each["gap"])
            errors = " ".join(f"{each['error']:.4f}" for each in of_one)
            gap = f"{worst['gap']:+.4f}{_bounds(worst['gap_interval'])}"
            yield f"  {corruption.replace('_', ' '):<15}  {errors}  largest gap {gap}"
        yield f"  mean of all {task['mean_error']:.4f}{_bounds(task['mean_error_interval'])}"
        yield f"  mean gap {task['mean_gap']:+.4f}{_bounds(task['mean_gap_interval'])}"
        for key, words in (("mce", "mean corruption error"), ("relative_mce", "relative mCE")):
            if "relative" in task:
                value = task["relative"][key]
                bounds = _bounds(task["relative"][f"{key}_interval"])
                yield f"  {words} beside the baseline {_number(value)}{bounds}"
    for spec, told in found["foreign"].items():
        yield f"foreign images of {spec}: {told['count']}"
        for score, values in told["scores"].items():
            auroc = f"AUROC {values['auroc']:.4f}{_bounds(values['auroc_interval'])}"
            rate = f"{values['fpr_at_95_tpr']:.4f}{_bounds(values['fpr_at_95_tpr_interval'])}"
            yield f"  {score.replace('_', ' '):<15}  {auroc}, FPR at 95% TPR {rate}"


def _error_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['split']}: {found['count']} examples, checkpoint of step {found['step']}"
    for note in found["notes"]:
        yield f"  note: {note}"
    for name, task in found["tasks"].items():
        if len(found["tasks"]) > 1:
            yield f"{name}: {task['count']} with a label"
        yield from _task_lines(task)
    if found["duplicates"] is not None:
        yield f"  near-duplicates in the training split: {len(found['duplicates'])}"
        for pair in found["duplicates"][:_SHOWN]:
            moved = f", {pair['moved']}" if pair["moved"] else ""
            other = f"{pair['name']} and {pair['other_name']}"
            yield f"    {other} (details correlate by {pair['correlation']:.3f}{moved})"


def _task_lines(task: Mapping[str, Any]) -> Iterator[str]:
    for metric, value in task["metrics"].items():
        bounds = task["intervals"].get(metric)
        yield f"  {metric.replace('_', ' '):<22}  {_number(value)}{_bounds(bounds)}"
    for pair in (task["confused_pairs"] or [])[:_SHOWN]:
        share = f"{pair['share']:.1%} of {pair['true']}"
        yield f"  {pair['count']:4d} {pair['true']} taken for {pair['predicted']} ({share})"
    for column, parts in task["slices"].items():
        yield f"  by {column}:"
        yield from (_slice_line(part) for part in parts)
    checked = {"label_issues": "this split", "train_label_issues": "the training split"}
    for key, which in checked.items():
        if task[key] is not None:
            issues = task[key]
            of = f"of {issues['checked']} labels of {which}"
            yield f"  suspected {of}: {issues['count']} ({issues['method']})"
            for said in issues["examples"][:_SHOWN]:
                guess = f"given {said['given']}, looks like {said['guessed']}"
                yield f"    {said['name']}: {guess} ({said['self_confidence']:.1%} for the given)"
    yield "  largest losses:"
    for said in task["top_losses"][:_SHOWN]:
        words = f"{said['label']}, predicted {said['predicted']}"
        yield f"    {said['loss']:8.3f}  {said['name']}: {words}"


def _slice_line(part: Mapping[str, Any]) -> str:
    metric, value = next(iter(part["metrics"].items()))
    said = f"{metric.replace('_', ' ')} {_number(value)}{_bounds(part['intervals'].get(metric))}"
    gap = ""
    if part["gap"] is not None:
        gap = f"; error {part['gap']:+.4f} beside the others{_bounds(part['gap_interval'])}"
    return f"    {part['name']}: {part['count']}, {said}{gap}"


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def _bounds(bounds: Any) -> str:
    return f" (95%: {bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""
