"""The report of a set of images: counts, sizes, duplicates, imbalance, and what to beware of."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax import messages
from tl_jax.data.prepare import duplicates
from tl_jax.data.prepare.inspection import Corrupt, Facts, class_names
from tl_jax.data.source import Task

_LISTED = 20


def set_report(
    images: Sequence[Facts], corrupt: Sequence[Corrupt], tasks: Sequence[Task], *, source: str
) -> dict[str, Any]:
    """Returns the report of a set, ready for JSON.

    Args:
      images: the good images of all splits.
      corrupt: the others.
      tasks: what the images are labelled with, the main task first.
      source: what the set was opened by.
    """
    groups = duplicates.find(images)
    splits = list(dict.fromkeys(one.split for one in (*images, *corrupt)))
    by_split = {split: [one for one in images if one.split == split] for split in splits}
    found = {
        "source": source,
        "images": len(images),
        "corrupt": len(corrupt),
        "splits": {
            split: {
                "images": len(members),
                "corrupt": sum(one.split == split for one in corrupt),
                "tasks": {task.name: _task_report(members, task) for task in tasks},
            }
            for split, members in by_split.items()
        },
        "height": _spread(one.height for one in images),
        "width": _spread(one.width for one in images),
        "formats": _counts(one.format for one in images),
        "modes": _counts(one.mode for one in images),
        "duplicates": [_group_report(group, tasks[0]) for group in groups],
    }
    return {**found, "warnings": _warnings(found)}


def _task_report(images: Sequence[Facts], task: Task) -> dict[str, Any]:
    labels = [one.labels[task.name] for one in images]
    counts = Counter(name for label in labels for name in class_names(label, task))
    by_class = {name: counts[name] for name in task.class_names}
    least = min(by_class.values())
    missing = [np.asarray(label).min() < 0 for label in labels]
    return {
        "classes": by_class,
        "missing": sum(map(int, missing)),
        "largest_over_smallest": max(by_class.values()) / least if least else None,
        "effective_classes": effective_classes(list(by_class.values())),
    }


def effective_classes(counts: Sequence[int]) -> float:
    """Returns how many classes of equal size would have the same entropy of the labels.

    exp(-sum p log p), with p the classes' shares (Hill's number of order 1, Ecology 54, 1973): the
    number of classes if they are balanced, and 1 if all images are of one.
    """
    total = sum(counts)
    shares = [count / total for count in counts if count]
    return math.exp(-sum(share * math.log(share) for share in shares)) if shares else 0.0


def _spread(values: Iterable[int]) -> dict[str, float]:
    ordered = np.sort(np.fromiter(values, np.int64))
    if not len(ordered):
        return {}
    low, high = int(ordered[0]), int(ordered[-1])
    return {"min": low, "median": float(np.median(ordered)), "max": high}


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _group_report(group: duplicates.Group, task: Task) -> dict[str, Any]:
    return {
        "files": [
            {
                "split": one.split,
                "file": one.name,
                "classes": class_names(one.labels[task.name], task),
            }
            for one in group.members
        ],
        "identical_bytes": group.identical_bytes,
        "across_splits": group.across_splits,
        "labels_differ": group.labels_differ,
    }


def _warnings(found: Mapping[str, Any]) -> list[str]:
    groups = found["duplicates"]
    lines = []
    if found["corrupt"]:
        lines.append(f"{found['corrupt']} images cannot be decoded and were left out")
    for group in groups:
        if group["across_splits"]:
            lines.append(f"leakage: one image lies in several splits: {_files(group)}")
    for group in groups:
        if group["labels_differ"]:
            lines.append(f"one image has different labels: {_files(group, classes=True)}")
    for split, members in found["splits"].items():
        for task, counted in members["tasks"].items():
            empty = [name for name, count in counted["classes"].items() if not count]
            if empty:
                lines.append(f"no image of {messages.some(empty)} ({task}) in split {split!r}")
    return lines


def _files(group: Mapping[str, Any], *, classes: bool = False) -> str:
    """Names the files of a group, each with its split, and on request with its classes."""
    return ", ".join(
        f"{one['file']} ({one['split']}{': ' + '/'.join(one['classes']) if classes else ''})"
        for one in group["files"]
    )


def summary(found: Mapping[str, Any]) -> str:
    """Returns a report as a few lines of text, the first warnings at the end."""
    lines = [f"{found['images']} images of {found['source']}, {found['corrupt']} corrupt"]
    for split, members in found["splits"].items():
        lines.append(f"  {split}: {members['images']} images, {members['corrupt']} corrupt")
        lines += [f"    {_task_line(*item)}" for item in members["tasks"].items()]
    for side in ("height", "width"):
        if found[side]:
            lines.append(f"  {side}: {_spread_text(found[side])}")
    for key in ("formats", "modes"):
        lines.append(f"  {key}: {_listed(found[key])}")
    groups = found["duplicates"]
    across = sum(group["across_splits"] for group in groups)
    lines.append(f"  duplicates: {len(groups)} groups, {across} of them across splits")
    warnings = found["warnings"]
    lines += [f"warning: {line}" for line in warnings[:_LISTED]]
    if len(warnings) > _LISTED:
        lines.append(f"and {len(warnings) - _LISTED} more warnings, in the report")
    return "\n".join(lines)


def _task_line(name: str, counted: Mapping[str, Any]) -> str:
    classes = counted["classes"]
    ratio = counted["largest_over_smallest"]
    return (
        f"{name}: {len(classes)} classes of {min(classes.values())} to {max(classes.values())} "
        f"images, largest over smallest {'infinite' if ratio is None else f'{ratio:.1f}'}, "
        f"effective number of classes {counted['effective_classes']:.1f}, "
        f"{counted['missing']} labels missing"
    )


def _spread_text(spread: Mapping[str, float]) -> str:
    return f"{spread['min']} to {spread['max']} pixels, median {spread['median']:g}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def markdown(found: Mapping[str, Any], corrupt: Sequence[Corrupt]) -> str:
    """Returns a report as a Markdown page, with every class, duplicate and corrupt file."""
    lines = [f"# {found['source']}", "", f"{found['images']} images, {found['corrupt']} corrupt."]
    lines += ["", "## Warnings", "", *([f"- {line}" for line in found["warnings"]] or ["None."])]
    lines += ["", "## Images", "", "| | |", "| --- | --- |"]
    lines += [f"| {side} | {_spread_text(found[side])} |" for side in ("height", "width")]
    lines += [f"| {key} | {_listed(found[key])} |" for key in ("formats", "modes")]
    for task in next(iter(found["splits"].values()))["tasks"]:
        lines += ["", f"## Classes of `{task}`", "", *_class_table(found["splits"], task)]
    lines += ["", "## Duplicates", ""]
    lines += [f"- {_files(group, classes=True)}" for group in found["duplicates"]] or ["None."]
    lines += ["", "## Corrupt files", ""]
    lines += [f"- {one.name} ({one.split}): {one.reason}" for one in corrupt] or ["None."]
    return "\n".join([*lines, ""])


def _class_table(splits: Mapping[str, Any], task: str) -> list[str]:
    tables = [members["tasks"][task] for members in splits.values()]
    rows = [
        [name.replace("|", r"\|"), *(str(table["classes"][name]) for table in tables)]
        for name in tables[0]["classes"]
    ]
    rows.append(["missing", *(str(table["missing"]) for table in tables)])
    rows.append(["effective classes", *(f"{table['effective_classes']:.2f}" for table in tables)])
    header = ["class", *splits]
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
