"""Reads a table of images and labels from a CSV, JSONL or Parquet file, column by column."""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tl_jax import messages

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


class Cells(Protocol):
    """The cells of a column, None where one is empty."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __getitem__(self, row: int, /) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a file.

    Attributes:
      path: the file.
      columns: the cells of each column.
      unit: what messages call a row: "line" of a text file, "row" of Parquet.
      numbers: number of each row in the file, from 1.
      class_names: names of the integers in a column, where the file itself gives them.
      text_columns: the columns that may hold text.
      notes: how the file was read, where that was not as its name says.
    """

    path: Path
    columns: Mapping[str, Cells]
    unit: str
    numbers: list[int] | range
    class_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    text_columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, row: int) -> str:
        """Returns what messages call a row; `row` counts from 0."""
        return f"{self.unit} {self.numbers[row]}"


def read(path: Path) -> Table:
    """Reads a table.

    CSV (or TSV) and JSONL are UTF-8 text. The first line of CSV has the names of the columns; its
    cells are strings, and empty ones are None. Semicolons or tabs separate them if the first line
    has these and no commas. JSONL has one object per line; keys that a line does
    not have are None. A column of Parquet is read when it is used.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if its name has another suffix, or it cannot be read; bad lines are listed.
      ModuleNotFoundError: if it is Parquet and pyarrow is not installed.
    """
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
        return _read_parquet(path)
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
            row = json.loads(line)
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


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is read by pyarrow, which is not installed: `pip install pyarrow`"
        ) from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"cannot read {path}: {error}; write the file again") from error
    count = file.metadata.num_rows
    if not count:
        raise ValueError(f"{path} holds no row; expected one per image")
    text = tuple(field.name for field in file.schema_arrow if "string" in str(field.type))
    return Table(
        path,
        _ParquetColumns(path, file),
        "row",
        range(1, count + 1),
        class_names=_class_names(file),
        text_columns=text,
    )


def _class_names(file: "pyarrow.parquet.ParquetFile") -> dict[str, tuple[str, ...]]:
    """Returns the names of classes that Hugging Face's library writes beside the schema."""
    try:
        metadata = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        features = metadata["info"]["features"]
        plain = {key: each.get("feature", each) for key, each in features.items()}
        return {key: tuple(each["names"]) for key, each in plain.items() if "names" in each}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # Other metadata: the cells are taken as they are.


class _ParquetColumns(Mapping[str, Cells]):
    """The columns of a Parquet file, each read when it is used."""

    def __init__(self, path: Path, file: "pyarrow.parquet.ParquetFile") -> None:
        self._path, self._file = path, file

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.schema_arrow.names)

    def __len__(self) -> int:
        return len(self._file.schema_arrow.names)

    def __getitem__(self, name: str) -> Cells:
        if name not in self._file.schema_arrow.names:
            raise KeyError(name)
        if "binary" not in str(self._file.schema_arrow.field(name).type):
            return self._file.read(columns=[name]).column(name).to_pylist()
        self._check_memory(name)
        return _BinaryCells(self._file.read(columns=[name]).column(name))

    def _check_memory(self, name: str) -> None:
        """Raises ValueError if a column of bytes is larger than the machine's memory."""
        metadata = self._file.metadata
        need = 0
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
