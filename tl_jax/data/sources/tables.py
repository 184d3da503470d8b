"""Reads a table of images and labels from CSV, JSONL or Parquet files, column by column."""

import bisect
import csv
import dataclasses
import io
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tl_jax import files, messages
from tl_jax.data import splits

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_SEPARATOR_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons"}
_REMEDIES = {
    ".json": "write its objects one a line, as .jsonl",
    ".txt": "call it .csv, with the names of the columns in the first line, commas between cells",
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "save it as CSV, in UTF-8"),
}
_MAX_CELL_CHARACTERS = 2**27
# What Hugging Face's library and others add to the name of one of several files of a split.
_SHARD = re.compile(r"-\d+-of-\d+$")
_NUMBERED = re.compile(r"\d+|part[-_]?\d.*")


class Cells(Protocol):
    """The cells of a column, None where one is empty."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __getitem__(self, row: int, /) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a file, or of the Parquet files in a folder.

    Attributes:
      path: the file, or the folder.
      columns: the cells of each column.
      unit: what messages call a row: "line" of a text file, "row" of Parquet.
      numbers: number of each row in the file, from 1, or what else it is called.
      class_names: names of the integers in a column, where the file itself gives them.
      text_columns: the columns that may hold text.
      notes: how the file was read, where that was not as its name says.
      files: the files in the folder; none of a single file.
    """

    path: Path
    columns: Mapping[str, Cells]
    unit: str
    numbers: Sequence[int | str]
    class_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    text_columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def folder(self) -> Path:
        """The folder that paths in the table are relative to."""
        return self.path if self.files else self.path.parent

    def place(self, row: int) -> str:
        """Returns what messages call a row; `row` counts from 0."""
        return f"{self.unit} {self.numbers[row]}"


def read(path: Path) -> Table:
    """Reads a table.

    CSV (or TSV) and JSONL are UTF-8 text. The first line of CSV has the names of the columns; its
    cells are strings, and empty ones are None. Semicolons or tabs separate them if the first line
    has these and no commas. JSONL has one object per line; keys that a line does
    not have are None. A column of Parquet is read when it is used.

    The Parquet files at any depth of a folder are one table, as Hugging Face's sets are stored.
    Their names ("train-00000-of-00002.parquet", "test/0000.parquet") are its column `split`, if
    they name splits and there is no such column.

    Args:
      path: the file or the folder.

    Raises:
      FileNotFoundError: if there is no such file, or no Parquet file in the folder.
      ValueError: if its name has another suffix, or it cannot be read; bad lines are listed.
      ModuleNotFoundError: if it is Parquet and pyarrow is not installed.
    """
    if path.is_dir():
        return _read_parquet(path, _parquet_files(path))
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected a table, {' '.join(SUFFIXES)}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        remedy = f": {_REMEDIES[suffix]}" if suffix in _REMEDIES else ""
        raise ValueError(
            f"got the table {path.name!r}; expected a name that ends in {', '.join(SUFFIXES)}"
            f"{remedy}"
        )
    if suffix == ".parquet":
        return _read_parquet(path, [path])
    text = _read_text(path)
    table, problems = _read_jsonl(path, text) if suffix == ".jsonl" else _read_csv(path, text)
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} lines of {path} cannot be read:", problems, "fix or remove them"
            )
        )
    if not len(table):
        raise ValueError(f"{path} holds no row; expected one per image")
    return table


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        # Spreadsheets write a byte order mark, which is not part of the first name.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"cannot read {path}: line {line} is not UTF-8 ({error.reason}); save it as UTF-8 text"
        ) from error


def _separator(path: Path, text: str) -> tuple[str, tuple[str, ...]]:
    """Returns what separates the cells, and a note if it is not what the name of the file says."""
    first, usual = text.lstrip().partition("\n")[0], _SEPARATORS[path.suffix.lower()]
    others = [each for each in _SEPARATOR_NAMES if each != usual and each in first]
    if usual in first or len(others) != 1:
        return usual, ()
    return others[0], (f"the cells of {path.name} are separated by {_SEPARATOR_NAMES[others[0]]}",)


def _read_csv(path: Path, text: str) -> tuple[Table, list[str]]:
    """Returns the table, and what is wrong with the lines that are not in it."""
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    rows, numbers, problems = [], [], []
    separator, notes = _separator(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if names and names[0].lower() in ("sep=", f"sep={separator}"):
            names = [name.strip() for name in next(reader, [])]  # Spreadsheets write such a line.
        if not any(names) or len(set(names)) < len(names):
            raise ValueError(
                f"the first line of {path} is {names}; expected the names of the columns, each once"
            )
        for row in reader:
            if len(row) == len(names):
                rows.append([cell or None for cell in row])
                numbers.append(reader.line_num)
            elif row:
                problems.append(
                    f"line {reader.line_num}: {len(row)} cells under {len(names)} column names"
                )
    except csv.Error as error:
        raise ValueError(
            f"cannot read {path}: line {reader.line_num}: {error}; save it as UTF-8 text, quotes "
            "in cells doubled"
        ) from error
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    return Table(path, columns, "line", numbers, text_columns=tuple(names), notes=notes), problems


def _read_jsonl(path: Path, text: str) -> tuple[Table, list[str]]:
    """Returns the table, and what is wrong with the lines that are not in it."""
    rows, numbers, problems = [], [], []
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        try:
            row = files.parse_json(line)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        if isinstance(row, dict):
            rows.append(row)
            numbers.append(number)
        else:
            problems.append(f"line {number}: a {type(row).__name__}, not an object in braces")
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Table(path, columns, "line", numbers, text_columns=names), problems


def _parquet_files(folder: Path) -> list[Path]:
    """Returns the Parquet files at any depth of a folder, sorted; none that are hidden."""
    found = [
        path
        for path in sorted(folder.rglob("*.parquet"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise FileNotFoundError(
            f"no file .parquet in {folder}; expected a table, {' '.join(SUFFIXES)}, or a folder of "
            "Parquet files (folders of images are opened as 'folder:')"
        )
    return found


def _read_parquet(path: Path, paths: Sequence[Path]) -> Table:
    """Reads the file `path`, or several files in the folder `path`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is read by pyarrow, which is not installed: `pip install pyarrow`"
        ) from error
    opened = []
    for each in paths:
        try:
            opened.append(pyarrow.parquet.ParquetFile(each))
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"cannot read {each}: {error}; write the file again") from error
    counts = [file.metadata.num_rows for file in opened]
    if not sum(counts):
        raise ValueError(f"{path} holds no row; expected one per image")
    first = opened[0].schema_arrow
    for each, file in zip(paths, opened, strict=True):
        same_classes = _class_names(file) == _class_names(opened[0])
        if set(file.schema_arrow.names) != set(first.names) or not same_classes:
            raise ValueError(
                f"{each} has other columns or classes than {paths[0]}; expected the files of one "
                f"table: leave others out of the folder {path}"
            )
    text = tuple(field.name for field in first if "string" in str(field.type))
    is_folder = path not in paths
    split = _splits_of(paths, counts) if is_folder and "split" not in first.names else {}
    names = [each.relative_to(path).as_posix() for each in paths] if is_folder else []
    return Table(
        path,
        _ParquetColumns(path, opened, split),
        "row",
        _Places(names, counts) if is_folder else range(1, sum(counts) + 1),
        class_names=_class_names(opened[0]),
        text_columns=(*text, *split),
        files=tuple(paths) if is_folder else (),
    )


def _splits_of(paths: Sequence[Path], counts: Sequence[int]) -> dict[str, list[str]]:
    """Returns the column of the splits that files are named by; none if they name no split."""
    names = [_SHARD.sub("", path.stem) for path in paths]
    names = [
        path.parent.name if _NUMBERED.fullmatch(name) else name
        for path, name in zip(paths, names, strict=True)
    ]
    if not any(splits.is_split_name(name) for name in names):
        return {}
    cells = [[name] * count for name, count in zip(names, counts, strict=True)]
    return {"split": list(itertools.chain.from_iterable(cells))}


class _Places(Sequence[str]):
    """What the rows of several files are called: the number in its file, and the file."""

    def __init__(self, names: Sequence[str], counts: Sequence[int]) -> None:
        self._names, self._ends = list(names), list(itertools.accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, row: Any, /) -> Any:
        number = bisect.bisect_right(self._ends, row)
        start = self._ends[number - 1] if number else 0
        return f"{row - start + 1} of {self._names[number]}"


def _class_names(file: "pyarrow.parquet.ParquetFile") -> dict[str, tuple[str, ...]]:
    """Returns the names of classes that Hugging Face's library writes beside the schema."""
    try:
        metadata = files.parse_json((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        features = metadata["info"]["features"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # Other metadata: the cells are taken as they are.
    found = {}
    for key, feature in features:
        # A list of classes is written as {"feature": ...}, or as a list of one feature.
        inner = feature[0] if isinstance(feature, list) and feature else feature
        inner = inner.get("feature", inner) if isinstance(inner, dict) else {}
        names = inner.get("names") if isinstance(inner, dict) else None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            found[key] = tuple(names)
    return found


class _ParquetColumns(Mapping[str, Cells]):
    """The columns of Parquet files, each read when it is used, and others that are given."""

    def __init__(
        self,
        path: Path,
        files: "Sequence[pyarrow.parquet.ParquetFile]",
        others: Mapping[str, list[str]],
    ) -> None:
        self._path, self._files, self._others = path, files, others
        self._schema = files[0].schema_arrow

    def __iter__(self) -> Iterator[str]:
        return iter([*self._schema.names, *self._others])

    def __len__(self) -> int:
        return len(self._schema.names) + len(self._others)

    def __getitem__(self, name: str) -> Cells:
        if name in self._others:
            return self._others[name]
        if name not in self._schema.names:
            raise KeyError(name)
        if "binary" not in str(self._schema.field(name).type):
            return [cell for each in self._read(name) for cell in each.to_pylist()]
        self._check_memory(name)
        import pyarrow

        chunks = [chunk for each in self._read(name) for chunk in each.chunks]
        return _BinaryCells(pyarrow.chunked_array(chunks))

    def _read(self, name: str) -> "Iterator[pyarrow.ChunkedArray]":
        return (file.read(columns=[name]).column(name) for file in self._files)

    def _check_memory(self, name: str) -> None:
        """Raises ValueError if a column of bytes is larger than the machine's memory."""
        need = 0
        for metadata in (file.metadata for file in self._files):
            for group in range(metadata.num_row_groups):
                for index in range(metadata.num_columns):
                    column = metadata.row_group(group).column(index)
                    if column.path_in_schema.split(".")[0] == name:
                        need += column.total_uncompressed_size
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if need > have:
            raise ValueError(
                f"column {name!r} of {self._path} holds {need / 2**30:.1f} GiB, kept in memory, "
                f"and this machine has {have / 2**30:.1f} GiB; write the images to files and their "
                "paths to the table, or split the table"
            )


class _BinaryCells:
    """A column of bytes, or of structs with bytes; each cell is copied when it is read."""

    def __init__(self, column: "pyarrow.ChunkedArray") -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __iter__(self) -> Iterator[Any]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: int, /) -> Any:
        return self._column[int(row)].as_py()
