"""Draws a contact sheet: rows of small images, each row with a title, each image with a caption."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# In pixels: side of an image, space between them, height of a line of text, width of the titles.
_SIDE, _GAP, _LINE, _TITLE = 112, 8, 16, 150
_MIN_WIDTH = 480
_TEXT_COLOUR, _BACKGROUND, _FRAME_COLOUR = "#202020", "white", "#c8c8c8"


@dataclasses.dataclass(frozen=True)
class Tile:
    """An image uint8 RGB [H, W, 3] of any size, and the caption below it."""

    image: np.ndarray
    caption: str


@dataclasses.dataclass(frozen=True)
class Row:
    """Images that belong together, such as those of one class."""

    title: str
    tiles: Sequence[Tile]


def draw(rows: Sequence[Row], *, heading: str, footer: str) -> Image.Image:
    """Returns the sheet as a Pillow image in mode RGB.

    Images keep their aspect ratio. Those wider or higher than 112 pixels are shrunk, the others are
    shown at their own size. Text that is too long ends in an ellipsis.

    Args:
      rows: drawn from top to bottom.
      heading, footer: one line each, above and below the rows.
    """
    # Matplotlib's font has Greek, Cyrillic and Arabic letters. The basic layout also works where
    # Pillow is built without the library for complex scripts.
    font_file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    font = ImageFont.truetype(str(font_file), 11, layout_engine=ImageFont.Layout.BASIC)
    columns = max((len(row.tiles) for row in rows), default=1)
    width = max(_TITLE + columns * (_SIDE + _GAP) + _GAP, _MIN_WIDTH)
    row_height, margin = _SIDE + _LINE + _GAP, _LINE + 2 * _GAP
    height = 2 * margin + len(rows) * row_height
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    canvas = ImageDraw.Draw(sheet)

    def write(text: str, left: int, top: int, max_width: int) -> None:
        canvas.text((left, top), _shortened(text, max_width, font), _TEXT_COLOUR, font)

    write(heading, _GAP, _GAP, width - 2 * _GAP)
    write(footer, _GAP, height - _GAP - _LINE, width - 2 * _GAP)
    for number, row in enumerate(rows):
        top = margin + number * row_height
        write(row.title, _GAP, top + _SIDE // 2, _TITLE - 2 * _GAP)
        for column, tile in enumerate(row.tiles):
            left = _TITLE + column * (_SIDE + _GAP)
            small = Image.fromarray(tile.image)
            small.thumbnail((_SIDE, _SIDE))
            corner = (left + (_SIDE - small.width) // 2, top + (_SIDE - small.height) // 2)
            sheet.paste(small, corner)
            frame = (left - 1, top - 1, left + _SIDE, top + _SIDE)
            canvas.rectangle(frame, outline=_FRAME_COLOUR)
            write(tile.caption, left, top + _SIDE + 1, _SIDE)
    return sheet


def _shortened(text: str, max_width: int, font: ImageFont.FreeTypeFont) -> str:
    """Returns a line, cut if necessary to be at most `max_width` pixels wide."""
    line = " ".join(text.split())
    if font.getlength(line) <= max_width:
        return line
    while line and font.getlength(f"{line}…") > max_width:
        line = line[:-1]
    return f"{line}…"
