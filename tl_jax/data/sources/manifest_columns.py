"""Finds the columns of a manifest: images, labels, and splits under their usual names."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tl_jax import messages
from tl_jax.data import splits
from tl_jax.data.sources import listing, tables

IMAGE_COLUMNS = (
    *("image", "path", "file", "file_name", "filename", "filepath", "file_path"),
    *("image_path", "image_file", "image_name", "img", "img_path", "img_name", "image_id"),
    *("image_filename", "images", "filenames", "fname"),
)
_LABEL_COLUMN = "label"
# Other usual names, of which one is read if it is the only one there.
_LABEL_COLUMNS = (
    *("labels", "class", "classes", "class_name", "classname", "class_label", "class_id"),
    *("label_name", "label_id", "target", "category", "category_name", "category_id", "y"),
)

# Where these options are, in a run and in the commands.
_LABELS_OPTION = " (data.labels of a run, --labels of other commands)"
_IMAGE_OPTION = " (data.image_column of a run, --image-column of other commands)"
_SPLIT_COLUMN = "split"
# Other usual names, of which a column is read only if its values are those of splits.
_SPLIT_COLUMNS = (
    *("subset", "partition", "set", "usage", "phase", "mode", "stage", "part"),
    *("fold", "folds", "kfold", "k_fold", "cv_fold"),
    *("dataset", "data_split", "dataset_split", "split_name", "splits", "data_set"),
)
_MAX_SPLITS = 20


def image_columns(table: tables.Table, names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the columns of the images: the named ones, or the first of the usual names.

    Raises:
      ValueError: if there is none, or one is named twice.
    """
    if names is None:
        return (_usual_image_column(table),)
    named = (names,) if isinstance(names, str) else tuple(names)
    columns = tuple(existing(table, name) for name in named)
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(
            f"got the image columns {list(named)} for {table.path}; expected one or more, each once"
        )
    return columns


def _usual_image_column(table: tables.Table) -> str:
    for usual in IMAGE_COLUMNS:
        if (column := _find(table, usual)) is not None:
            return column
    columns = list(table.columns)
    if any(listing.is_image(column) for column in columns):
        raise ValueError(
            f"the first line of {table.path} is {messages.some(columns)}; expected the names of "
            "the columns: write image,label above it"
        )
    raise ValueError(
        f"{table.path} has the columns {messages.some(columns)}; expected the images in one called "
        f"{', '.join(IMAGE_COLUMNS)}, or its name as image_column{_IMAGE_OPTION}"
    )


def label_columns(
    table: tables.Table, names: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the columns of the labels, and a note if none was named and it is not `label`.

    Raises:
      ValueError: if there is no such column, or nobody says which of several it is.
    """
    if names:
        return tuple(existing(table, each) for each in names), ()
    if (column := _find(table, _LABEL_COLUMN)) is not None:
        return (column,), ()
    usual = [each for name in _LABEL_COLUMNS if (each := _find(table, name)) is not None]
    if len(usual) == 1:
        return (usual[0],), (f"the labels are those of the column {usual[0]!r}",)
    if usual:
        raise ValueError(
            f"no column {_LABEL_COLUMN!r} in {table.path}, and {messages.some(usual)} may each "
            f"hold the labels; name one as labels{_LABELS_OPTION}"
        )
    raise ValueError(
        f"no column {_LABEL_COLUMN!r} in {table.path}; it has "
        f"{messages.some(list(table.columns))}; name the column of the labels, or those of all "
        f"classes if they hold 0 and 1, as labels{_LABELS_OPTION}"
    )


def existing(table: tables.Table, name: str) -> str:
    """Returns the column of a name, or the only one that has it in other case.

    Raises:
      ValueError: if there is none.
    """
    column = _find(table, name)
    if column is None:
        raise ValueError(
            f"no column {name!r} in {table.path}; it has {messages.some(list(table.columns))}"
            f"{messages.hint(name, table.columns)}"
        )
    return column


def _find(table: tables.Table, name: str) -> str | None:
    if name in table.columns:
        return name
    same = [each for each in table.columns if each.strip().casefold() == name.casefold()]
    return same[0] if len(same) == 1 else None


def split_column(table: tables.Table, used: Iterable[str]) -> tuple[str | None, tuple[str, ...]]:
    """Returns the column that has the splits, or None, and notes on what was decided.

    It is the column `split`; without it, one whose values are plainly those of splits.

    Args:
      table: the table.
      used: the columns of images and labels, which have no splits.

    Raises:
      ValueError: if there are several, or columns of truth values ("is_train") in their place.
    """
    others = [name for name in table.columns if name not in set(used)]
    named = [name for name in others if name.strip().casefold() == _SPLIT_COLUMN]
    if named:
        return _only(table, named), ()
    notes, found = [], []
    for name in others:
        values = _few_values(table, name)
        if _are_splits(values):
            found.append(name)
        elif name.strip().casefold() in _SPLIT_COLUMNS:
            shown = messages.some(values) if values else "many values"
            notes.append(f"the column {name!r} is not read as splits: it holds {shown}")
    if found:
        column = _only(table, found)
        return column, (f"the splits are those of the column {column!r}",)
    _refuse_truth_values(table, others)
    return None, tuple(notes)


def _only(table: tables.Table, columns: Sequence[str]) -> str:
    if len(columns) > 1:
        raise ValueError(
            f"the columns {messages.some(columns)} of {table.path} all have splits; expected one: "
            f"call it {_SPLIT_COLUMN!r}, or remove the others"
        )
    return columns[0]


def _few_values(table: tables.Table, column: str) -> list[str]:
    """Returns the different texts in a column, or nothing if there are many or it has no text."""
    if column not in table.text_columns:
        return []
    values: dict[str, None] = {}
    for value in table.columns[column]:
        if value is not None and not isinstance(value, str):
            return []
        if value and value.strip():
            values[value.strip()] = None
        if len(values) > _MAX_SPLITS:
            return []
    return list(values)


def _are_splits(values: Sequence[str]) -> bool:
    roles = [splits.has_role(value) for value in values]
    return bool(roles) and None not in roles and "train" in roles and len(set(roles)) > 1


def _refuse_truth_values(table: tables.Table, columns: Iterable[str]) -> None:
    """Refuses a column such as "is_valid" or "train" where no column names the splits."""
    for name in columns:
        is_asked = name.strip().casefold().startswith(("is", "in")) and splits.has_role(name)
        is_flag = is_asked or splits.is_split_name(name)
        if is_flag and {str(value).strip().lower() for value in table.columns[name]} <= _TRUTH:
            raise ValueError(
                f"the column {name!r} of {table.path} seems to say which rows are of a split; "
                "expected a column 'split' with train, validation or test in each row: write one, "
                "or remove this column"
            )


_TRUTH = frozenset({"true", "false", "0", "1", "0.0", "1.0", "yes", "no", "t", "f", "none", ""})


def rows_by_split(table: tables.Table, column: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the rows of each split that a column names, and how the column spells the splits.

    Raises:
      ValueError: if a cell is empty.
    """
    names = [str(value).strip() if value else "" for value in table.columns[column]]
    empty = [table.place(row) for row, name in enumerate(names) if not name]
    if empty:
        raise ValueError(
            messages.report(
                f"{len(empty)} rows of {table.path} have no split:",
                empty,
                f"fill the column {column!r} (train, validation, test ...), or remove the whole "
                "column",
            )
        )
    spellings: dict[str, dict[str, None]] = {}
    for name in dict.fromkeys(names):
        spellings.setdefault(splits.canonical_name(name), {})[name] = None
    canonical = np.asarray([splits.canonical_name(name) for name in names])
    rows: Mapping[str, np.ndarray] = {
        name: np.flatnonzero(canonical == name) for name in splits.in_order(spellings)
    }
    return dict(rows), {name: ", ".join(each) for name, each in spellings.items()}
