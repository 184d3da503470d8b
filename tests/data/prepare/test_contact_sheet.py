"""The contact sheet: every image where it belongs, at its shape, and lines that fit."""

import numpy as np
import pytest

from tl_jax.data.prepare import contact_sheet
from tl_jax.data.prepare.contact_sheet import Row, Tile

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def tile(colour, height=50, width=80, caption="a.png"):
    return Tile(np.full((height, width, 3), COLOURS[colour], np.uint8), caption)


def draw(*rows, heading="heading", footer="footer"):
    return np.asarray(contact_sheet.draw(rows, heading=heading, footer=footer))


def extent(sheet, colour):
    """Returns the top, left, bottom and right of a colour."""
    places = np.argwhere((sheet == COLOURS[colour]).all(-1))
    return (*places.min(0).tolist(), *(places.max(0) + 1).tolist())


def test_images_lie_in_rows_and_columns():
    sheet = draw(Row("one", [tile("red"), tile("green")]), Row("two", [tile("blue")]))
    red, green, blue = (extent(sheet, colour) for colour in COLOURS)
    assert red[0] == green[0] < red[2] == green[2] < blue[0]
    assert red[1] == blue[1] < red[3] == blue[3] < green[1]


@pytest.mark.parametrize(
    ("size", "shown"), [((50, 80), (50, 80)), ((112, 224), (56, 112)), ((1120, 560), (112, 56))]
)
def test_images_keep_their_shape_and_are_only_made_smaller(size, shown):
    top, left, bottom, right = extent(draw(Row("one", [tile("red", *size)])), "red")
    assert (bottom - top, right - left) == shown


def test_titles_captions_heading_and_footer_are_written():
    def ink(**lines):
        row = Row(lines.get("title", ""), [tile("red", caption=lines.get("caption", ""))])
        sheet = draw(row, heading=lines.get("heading", ""), footer=lines.get("footer", ""))
        return np.argwhere((sheet < 60).all(-1))

    assert len(ink()) == 0
    heading, title, caption, footer = (
        ink(**{key: "Größe и 1"}) for key in ("heading", "title", "caption", "footer")
    )
    assert heading.max(0)[0] < title.min(0)[0] < caption.min(0)[0] < footer.min(0)[0]
    assert title.max(0)[1] < caption.min(0)[1]


def test_long_lines_are_cut_and_stay_in_their_place():
    rows = [Row("t" * 200, [tile("red", caption="c" * 200), tile("green", caption="")])]
    inked = (draw(*rows, heading="", footer="") < 60).all(-1)
    red, green = (extent(draw(*rows), colour) for colour in ("red", "green"))
    assert inked[:, red[3] + 20 : green[1]].sum() == 0
    assert inked[:, 140:150].sum() == 0
    assert inked.sum() > 300


def test_a_sheet_without_rows_can_be_drawn():
    assert draw().ndim == 3
