"""Writes predictions to a file as they come, by its suffix: .csv, .jsonl or .json."""

import contextlib
import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from tl_jax import files, messages
from tl_jax.data.source import Task
from tl_jax.evaluation.predictions import LabelsPrediction, Prediction, ValuePrediction

SUFFIXES = (".csv", ".jsonl", ".json")

Write = Callable[[Prediction], None]


def check(path: Path) -> None:
    """Raises ValueError unless predictions can be written to a file of this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"cannot write predictions to {path.name!r}; expected a name that ends in "
            f"{', '.join(SUFFIXES)}{messages.hint(path.suffix.lower(), SUFFIXES)}"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a file")


@contextlib.contextmanager
def writing(path: Path, tasks: Sequence[Task]) -> Iterator[Write]:
    """Yields a function that adds a prediction to a file, which is there at the end of the block.

    If the block raises, a file that was there before is as it was. A row of CSV has the columns
    `path` (of several views with "|" between them), for each task TASK (classes of a multi-label
    task with "|" between them, as a manifest has them) and TASK.CLASS with the probability of each
    class or level, and `error`. JSON is a list of the objects of `Prediction.as_json`, and JSONL
    has one of these in each line.

    Args:
      path: the file.
      tasks: what is predicted.

    Raises:
      ValueError: as `check`, or if two columns of CSV would have the same name.

    Examples:
      >>> from tl_jax.evaluation.predictions import ValuePrediction
      >>> with writing(Path("said.csv"), [Task("age", ())]) as write:
      ...     write(Prediction(("a.png",), {"age": ValuePrediction(3.5)}))
      >>> print(Path("said.csv").read_text())
      path,age,error
      a.png,3.5,
      <BLANKLINE>
    """
    check(path)
    suffix = path.suffix.lower()
    # Python's csv ends its lines itself.
    with files.replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        if suffix == ".csv":
            yield _csv_writer(file, tasks)
        elif suffix == ".jsonl":
            yield lambda prediction: _write_line(file, prediction)
        else:
            with _json_list(file) as write:
                yield write


def _csv_writer(file: TextIO, tasks: Sequence[Task]) -> Write:
    columns = ["path"]
    for task in tasks:
        columns += [task.name, *(f"{task.name}.{name}" for name in task.class_names)]
    columns.append("error")
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise ValueError(f"two columns would be called {twice!r}; write .jsonl in place of .csv")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)

    def write(prediction: Prediction) -> None:
        cells: list[Any] = ["|".join(prediction.paths)]
        for task in tasks:
            cells += _cells(prediction, task)
        writer.writerow([*cells, prediction.error or ""])

    return write


def _cells(prediction: Prediction, task: Task) -> list[Any]:
    """Returns what is predicted for a task, and the probabilities; empty cells after an error."""
    said = prediction.tasks.get(task.name)
    if said is None:
        return [""] * (1 + len(task.class_names))
    if isinstance(said, ValuePrediction):
        return [said.predicted]
    predicted: Any = said.predicted
    if isinstance(said, LabelsPrediction):
        predicted = "|".join(said.predicted) or "|"  # An empty cell is a missing label.
    return [predicted, *said.probabilities.values()]


def _write_line(file: TextIO, prediction: Prediction) -> None:
    file.write(files.json_text(prediction.as_json()) + "\n")


@contextlib.contextmanager
def _json_list(file: TextIO) -> Iterator[Write]:
    """Yields a function that writes the next object of a list, one in each line."""
    separator = "[\n"

    def write(prediction: Prediction) -> None:
        nonlocal separator
        file.write(separator + files.json_text(prediction.as_json()))
        separator = ",\n"

    yield write
    file.write("\n]\n" if separator == ",\n" else "[]\n")
