"""The report on a set of images: counts, sizes, duplicates, imbalance, and warnings."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax import messages
from tl_jax.data.images.values import Range, range_warnings
from tl_jax.data.prepare import duplicates
from tl_jax.data.prepare.inspection import CorruptImage, ImageInfo, class_names
from tl_jax.data.source import Task

Report = Mapping[str, Any]
"""A report, as JSON."""

_WARNINGS_IN_SUMMARY = 20


def make_report(
    images: Sequence[ImageInfo],
    corrupt: Sequence[CorruptImage],
    tasks: Sequence[Task],
    *,
    source: str,
    value_range: Range | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Returns the report on a set.

    Args:
      images: the good images of all splits.
      corrupt: the others.
      tasks: what the images are labelled with, the main task first.
      source: the specification that the set was opened by.
      value_range: the values of black and white that the user gave.
      notes: what was decided when the source was opened, as sentences.
    """
    splits = {}
    names = [image.split for image in images] + [image.split for image in corrupt]
    for split in dict.fromkeys(names):
        members = [image for image in images if image.split == split]
        splits[split] = {
            "images": len(members),
            "corrupt": sum(image.split == split for image in corrupt),
            "tasks": {task.name: _task_report(members, task) for task in tasks},
        }
    groups = [
        {
            "files": [
                {
                    "split": image.split,
                    "file": image.name,
                    "classes": class_names(image.labels[tasks[0].name], tasks[0]),
                }
                for image in group.members
            ],
            "identical_bytes": group.identical_bytes,
            "across_splits": group.across_splits,
            "labels_differ": group.labels_differ,
        }
        for group in duplicates.find(images)
    ]
    report: dict[str, Any] = {
        "source": source,
        "images": len(images),
        "corrupt": len(corrupt),
        "splits": splits,
        "height": _spread(image.height for image in images),
        "width": _spread(image.width for image in images),
        "formats": dict(Counter(image.format for image in images).most_common()),
        "modes": dict(Counter(image.mode for image in images).most_common()),
        "value_range": value_range,
        "notes": list(notes),
        "duplicates": groups,
    }
    of_values = range_warnings([image.extremes for image in images], value_range)
    return {**report, "warnings": [*of_values, *_warnings(report)]}


def _task_report(images: Sequence[ImageInfo], task: Task) -> dict[str, Any]:
    labels = [image.labels[task.name] for image in images]
    counts = Counter(name for label in labels for name in class_names(label, task))
    by_class = {name: counts[name] for name in task.class_names}
    smallest, largest = min(by_class.values()), max(by_class.values())
    return {
        "classes": by_class,
        "missing": sum(min(label) < 0 for label in labels),
        "largest_over_smallest": largest / smallest if smallest else None,
        "effective_classes": effective_classes(list(by_class.values())),
    }


def effective_classes(counts: Sequence[int]) -> float:
    """Returns how many classes of equal size would have the same entropy of the labels.

    It is exp(-sum p log p) of the classes' shares p (Hill's number of order 1, Ecology 54, 1973):
    the number of classes if they are balanced, and 1 if all images are of one class.

    Examples:
      >>> round(effective_classes([10, 10, 10]), 6), round(effective_classes([10, 1]), 2)
      (3.0, 1.36)
    """
    total = sum(counts)
    shares = [count / total for count in counts if count]
    return math.exp(-sum(share * math.log(share) for share in shares)) if shares else 0.0


def _spread(values: Iterable[int]) -> dict[str, float]:
    ordered = sorted(values)
    if not ordered:
        return {}
    return {"min": ordered[0], "median": float(np.median(ordered)), "max": ordered[-1]}


def _warnings(report: Report) -> list[str]:
    warnings = []
    if report["corrupt"]:
        warnings.append(f"{report['corrupt']} images cannot be decoded and were left out")
    for group in report["duplicates"]:
        if group["across_splits"]:
            warnings.append(f"leakage: one image is in several splits: {_files(group)}")
    for group in report["duplicates"]:
        if group["labels_differ"]:
            warnings.append(f"one image has different labels: {_files(group, classes=True)}")
    for split, members in report["splits"].items():
        for task, counted in members["tasks"].items():
            empty = [name for name, count in counted["classes"].items() if not count]
            if len(counted["classes"]) == 1 and not counted["missing"]:
                warnings.append(
                    f"all images of split {split!r} are of one class ({task}), "
                    f"{next(iter(counted['classes']))!r}: no classifier can be trained on them"
                )
            if empty:
                warnings.append(f"no image of {messages.some(empty)} ({task}) in split {split!r}")
    return warnings


def _files(group: Mapping[str, Any], *, classes: bool = False) -> str:
    """Returns the files of a group, each with its split and, if `classes`, its classes."""
    return ", ".join(
        f"{file['file']} ({file['split']}{': ' + '/'.join(file['classes']) if classes else ''})"
        for file in group["files"]
    )


def summary(report: Report) -> str:
    """Returns a report as a few lines of text, the first warnings at the end."""
    lines = [f"{report['images']} images of {report['source']}, {report['corrupt']} corrupt"]
    for split, members in report["splits"].items():
        lines.append(f"  {split}: {members['images']} images, {members['corrupt']} corrupt")
        for task, counted in members["tasks"].items():
            sizes, ratio = counted["classes"].values(), counted["largest_over_smallest"]
            lines.append(
                f"    {task}: {len(sizes)} classes of {min(sizes)} to {max(sizes)} images, largest "
                f"over smallest {'infinite' if ratio is None else f'{ratio:.1f}'}, effective "
                f"number of classes {counted['effective_classes']:.1f}, "
                f"{counted['missing']} labels missing"
            )
    for name, text in _properties(report):
        lines.append(f"  {name}: {text}")
    lines += [f"  note: {line}" for line in report["notes"]]
    groups, warnings = report["duplicates"], report["warnings"]
    across = sum(group["across_splits"] for group in groups)
    lines.append(f"  duplicates: {len(groups)} groups, {across} of them across splits")
    lines += [f"warning: {line}" for line in warnings[:_WARNINGS_IN_SUMMARY]]
    if len(warnings) > _WARNINGS_IN_SUMMARY:
        lines.append(f"and {len(warnings) - _WARNINGS_IN_SUMMARY} more warnings, in the report")
    return "\n".join(lines)


def markdown(report: Report, corrupt: Sequence[CorruptImage]) -> str:
    """Returns a report as a Markdown page, with every class, duplicate and corrupt file."""
    lines = [f"# {report['source']}", ""]
    lines += [f"{report['images']} images, {report['corrupt']} corrupt."]
    lines += ["", "## Warnings", "", *([f"- {line}" for line in report["warnings"]] or ["None."])]
    if report["notes"]:
        lines += ["", "## Notes", "", *(f"- {line}" for line in report["notes"])]
    lines += ["", "## Images", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {text} |" for name, text in _properties(report)]
    for task in next(iter(report["splits"].values()))["tasks"]:
        lines += ["", f"## Classes of `{task}`", "", *_class_table(report["splits"], task)]
    lines += ["", "## Duplicates", ""]
    lines += [f"- {_files(group, classes=True)}" for group in report["duplicates"]] or ["None."]
    lines += ["", "## Corrupt files", ""]
    lines += [f"- {image.name} ({image.split}): {image.reason}" for image in corrupt] or ["None."]
    return "\n".join([*lines, ""])


def _properties(report: Report) -> list[tuple[str, str]]:
    """Returns the sizes, formats and modes of the images as text."""
    rows = []
    for side in ("height", "width"):
        spread = report[side]
        if spread:
            text = f"{spread['min']} to {spread['max']} pixels, median {spread['median']:g}"
            rows.append((side, text))
    for key in ("formats", "modes"):
        rows.append((key, ", ".join(f"{name} {count}" for name, count in report[key].items())))
    return rows


def _class_table(splits: Mapping[str, Any], task: str) -> list[str]:
    """Returns the lines of a table of a task's classes, with a column per split."""
    columns = [members["tasks"][task] for members in splits.values()]
    rows = [["class", *splits], ["---"] * (1 + len(splits))]
    for name in columns[0]["classes"]:
        counts = (str(column["classes"][name]) for column in columns)
        rows.append([name.replace("|", r"\|"), *counts])
    rows.append(["missing", *(str(column["missing"]) for column in columns)])
    rows.append(["effective classes", *(f"{each['effective_classes']:.2f}" for each in columns)])
    return [f"| {' | '.join(row)} |" for row in rows]
