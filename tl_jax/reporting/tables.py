"""The tables of a page: cells of text, with what they are about in the first row and column."""

import dataclasses
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      text: what it says.
      detail: what stands smaller behind it, such as an interval.
    """

    text: str
    detail: str = ""


NOTHING = Cell("-")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      caption: what it is of.
      columns: heads of the columns, the first that of the names of the rows.
      rows: of each row the name, then a cell for each other column.
      is_numeric: whether cells are aligned as numbers.
      is_code: whether names of rows and cells are values of options.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    is_numeric: bool = False
    is_code: bool = False


Row = Sequence[str | Cell]


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Row],
    *,
    is_numeric: bool = False,
    is_code: bool = False,
) -> Table:
    """Returns a table of texts and cells.

    >>> table("Runs", ["", "a"], [["epochs", "3"]]).rows
    ((Cell(text='epochs', detail=''), Cell(text='3', detail='')),)
    """
    cells = tuple(
        tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows
    )
    return Table(caption, tuple(columns), cells, is_numeric, is_code)


def number(value: float | None, bounds: Sequence[float] | None = None) -> Cell:
    """Returns the cell of a number, with its interval.

    >>> number(0.91234, [0.89, 0.93])
    Cell(text='0.912', detail='0.890 to 0.930')
    >>> number(None)
    Cell(text='not defined', detail='')
    """
    if value is None:
        return Cell("not defined")
    detail = f"{figure(bounds[0])} to {figure(bounds[1])}" if bounds else ""
    return Cell(figure(value), detail)


def figure(value: float, *, sign: bool = False) -> str:
    """Returns a number with three decimals, or with four digits if it is large or tiny.

    >>> figure(0.5), figure(-0.0001), figure(1234.5), figure(0.25, sign=True)
    ('0.500', '-0.0001', '1234', '+0.250')
    """
    if value and not 0.001 <= abs(value) < 1000:
        return f"{value:+.4g}" if sign else f"{value:.4g}"
    return f"{value:+.3f}" if sign else f"{value:.3f}"
