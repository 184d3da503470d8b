"""The pictures of an error analysis: galleries of losses, labels, duplicates, neighbours; a map."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax.analysis import pictures
from tl_jax.analysis.measured import TaskRows
from tl_jax.analysis.neighbours import first_image
from tl_jax.analysis.pictures import Tile
from tl_jax.data.source import Source

_MOST = 24  # Images of a gallery.
_ROWS = 8  # Examples whose neighbours are drawn, and pairs of duplicates.


def draw(
    result: Mapping[str, Any],
    examples: Source,
    train: Source | None,
    tasks: Mapping[str, TaskRows],
    folder: Path,
) -> list[str]:
    """Draws what `errors` found, and returns the names of the files.

    Args:
      result: of `tl_jax.analysis.errors.errors`.
      examples: the split.
      train: the training split, if there is one beside it.
      tasks: what the run says of the split.
      folder: where to.
    """
    drawn: list[str] = []

    def path(name: str) -> Path:
        drawn.append(name)
        return folder / name

    split = result["split"]
    for name, rows in tasks.items():
        found, suffix = result["tasks"][name], pictures.file_suffix(name, list(tasks))
        if found["top_losses"]:
            title = f"{name}: largest losses on {split}"
            tiles = [_loss_tile(examples, said) for said in found["top_losses"][:_MOST]]
            pictures.gallery(tiles, path(f"top_losses{suffix}.png"), title=title)
        for key, source in _issues(found, examples, train):
            listed = found[key]["examples"][:_MOST]
            title = f"{name}: labels of {source.split} that may be wrong ({found[key]['count']})"
            tiles = [_issue_tile(source, said) for said in listed]
            pictures.gallery(tiles, path(f"{key}{suffix}.png"), title=title)
        _draw_map(result, rows, path(f"map{suffix}.png"))
    if train is not None and result["neighbours"]:
        _draw_neighbours(result["neighbours"], examples, train, path("neighbours.png"))
    if train is not None and result["duplicates"]:
        _draw_duplicates(result["duplicates"], examples, train, path("duplicates.png"))
    return drawn


def _issues(
    found: Mapping[str, Any], examples: Source, train: Source | None
) -> Iterator[tuple[str, Source]]:
    """Yields the lists of suspected labels that are not empty, and the split that each is of."""
    of_train = examples if train is None else train
    for key, source in (("label_issues", examples), ("train_label_issues", of_train)):
        if found[key] is not None and found[key]["examples"]:
            yield key, source


def _image(source: Source, index: int) -> np.ndarray:
    return first_image(source[index]["image"])


def _loss_tile(examples: Source, said: Mapping[str, Any]) -> Tile:
    is_right = said["label"] == said["predicted"]
    probability = f" {said['probability']:.0%}" if "probability" in said else ""
    lines = [said["label"], f"said {said['predicted']}{probability}", f"loss {said['loss']:.2f}"]
    return Tile(_image(examples, said["index"]), lines, is_right)


def _issue_tile(source: Source, said: Mapping[str, Any]) -> Tile:
    guess = f"{said['guessed']}?"
    lines = [f"given {said['given']} {said['self_confidence']:.0%}", guess]
    return Tile(_image(source, said["index"]), lines)


def _draw_neighbours(
    found: Sequence[Mapping[str, Any]], examples: Source, train: Source, path: Path
) -> None:
    tiles = []
    for said in found[:_ROWS]:
        is_right = said["label"] == said["predicted"]
        lines = [said["label"], f"said {said['predicted']}"]
        tiles.append(Tile(_image(examples, said["index"]), lines, is_right))
        tiles += [
            Tile(
                _image(train, other["index"]),
                [other["label"], f"{other['similarity']:.3f}"],
            )
            for other in said["neighbours"]
        ]
    pictures.gallery(
        tiles,
        path,
        title=f"{examples.split} (left) and the nearest images of {train.split}",
        columns=1 + len(found[0]["neighbours"]),
        footer="below the labels: cosine of the features",
    )


def _draw_duplicates(
    found: Sequence[Mapping[str, Any]], examples: Source, train: Source, path: Path
) -> None:
    tiles = []
    for pair in found[: 3 * _ROWS]:
        first, second = _image(examples, pair["index"]), _image(train, pair["other"])
        lines = [f"{examples.split} {pair['index']}", f"{pair['correlation']:.3f}"]
        tiles.append(Tile(first, lines))
        tiles.append(Tile(second, [f"{train.split} {pair['other']}", pair["moved"]]))
    title = f"near-duplicates of {examples.split} in {train.split} ({len(found)}), in pairs"
    pictures.gallery(tiles, path, title=title, footer="below the place: correlation of details")


def _draw_map(result: Mapping[str, Any], rows: TaskRows, path: Path) -> None:
    """Draws the map of features, coloured by the labels of a task."""
    task, found = rows.task, result["map"]
    places = np.asarray(found["indices"])
    labels = rows.rows["label"][places]
    errors = np.nan_to_num(rows.errors[places])
    colours, names, is_wrong = labels, task.class_names, errors > 0
    if task.multi_label:  # Of several classes each: how many it has.
        colours, names = (labels == 1).sum(1), ()
    elif task.kind == "regression":
        is_wrong = np.zeros(len(labels), bool)
    kind = {"pca": "principal components", "tsne": "t-SNE"}[found["method"]]
    title = f"{task.name}: features of {result['split']}, {kind}"
    points = np.asarray(found["points"])
    pictures.feature_map(points, colours, names, is_wrong, path, title=title)
