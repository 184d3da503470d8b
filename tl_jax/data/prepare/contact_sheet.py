"""Draws a contact sheet: rows of small images, each row with a title, each image with its name."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIDE, _GAP, _LINE, _TITLE = 112, 8, 16, 150
_INK, _PAPER, _FRAME = "#202020", "white", "#c8c8c8"


@dataclasses.dataclass(frozen=True)
class Tile:
    """An image uint8 RGB [H, W, 3] of any size, and what is written below it."""

    image: np.ndarray
    caption: str


@dataclasses.dataclass(frozen=True)
class Row:
    """Images that belong together, such as those of one class."""

    title: str
    tiles: Sequence[Tile]


def draw(rows: Sequence[Row], *, heading: str, footer: str) -> Image.Image:
    """Returns the sheet as a Pillow image in mode RGB.

    Images keep their shape, are made smaller where they are wider or higher than 112 pixels, and
    are shown at their own size otherwise. What is too long is cut, with an ellipsis.

    Args:
      rows: drawn from top to bottom.
      heading, footer: one line each, above and below the rows.
    """
    font = _font()
    columns = max((len(row.tiles) for row in rows), default=1)
    width = max(_TITLE + columns * (_SIDE + _GAP) + _GAP, 480)
    height_of_row = _SIDE + _LINE + _GAP
    height = 2 * (_LINE + 2 * _GAP) + len(rows) * height_of_row
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for line, top in ((heading, _GAP), (footer, height - _GAP - _LINE)):
        pen.text((_GAP, top), _fit(line, width - 2 * _GAP, font), _INK, font)
    for number, row in enumerate(rows):
        _draw_row(sheet, pen, row, _LINE + 2 * _GAP + number * height_of_row, font)
    return sheet


def _draw_row(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, row: Row, top: int, font: ImageFont.FreeTypeFont
) -> None:
    pen.text((_GAP, top + _SIDE // 2), _fit(row.title, _TITLE - 2 * _GAP, font), _INK, font)
    for column, tile in enumerate(row.tiles):
        left = _TITLE + column * (_SIDE + _GAP)
        small = Image.fromarray(tile.image)
        small.thumbnail((_SIDE, _SIDE))
        place = (left + (_SIDE - small.width) // 2, top + (_SIDE - small.height) // 2)
        sheet.paste(small, place)
        pen.rectangle((left - 1, top - 1, left + _SIDE, top + _SIDE), outline=_FRAME)
        pen.text((left, top + _SIDE + 1), _fit(tile.caption, _SIDE, font), _INK, font)


def _fit(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Cuts a line so that it is at most `width` pixels wide."""
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"


def _font() -> ImageFont.FreeTypeFont:
    """Returns the font that comes with Matplotlib: it has Greek, Cyrillic and Arabic letters."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    # Laid out plainly: Pillow may be built without the library for complex scripts.
    return ImageFont.truetype(str(path), 11, layout_engine=ImageFont.Layout.BASIC)
