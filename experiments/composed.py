"""Composes sets of several labels, views, scales and inputs from real pictures.

    python -m experiments.composed multi_view [multi_label ...] [--seed 0] [--folder runs/composed]
        [--fashion FOLDER_OR_DEB] [--stamps FOLDER_OR_DEB]

Each set becomes a folder `NAME-SEED` with `manifest.csv`, the pictures it lists as PNG files, and
`sheet.png`, which shows some examples. The same seed writes the same files. No picture of
Fashion-MNIST or Tux Paint is in two splits, or twice in one. What the sets are is said in
`experiments.composed_sets`; the recipes of the same names in `configs/` train on those of seed 0.
"""

import argparse
import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from experiments import composed_sets
from experiments.composed_sets import NAMES, Packages, Row
from tl_jax import files

FOLDER = Path("runs/composed")
_MANIFEST = "manifest.csv"
_SHEET_EXAMPLES, _SHEET_SIDE, _SHEET_ROWS = 24, 96, 6


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the sets that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    add_packages(parser)
    arguments = parser.parse_args(argv)
    for name in arguments.names:
        print(write(name, arguments.seed, arguments.folder, packages_of(arguments)))


def add_packages(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where the pictures are."""
    usual = Packages()
    parser.add_argument("--fashion", type=Path, default=usual.fashion, help="folder or .deb")
    parser.add_argument("--stamps", type=Path, default=usual.stamps, help="folder or .deb")


def packages_of(arguments: argparse.Namespace) -> Packages:
    """Returns what the options of `add_packages` say."""
    return Packages(arguments.fashion, arguments.stamps)


def write(name: str, seed: int, folder: Path, packages: Packages) -> Path:
    """Writes a set, unless it is there, and returns its manifest.

    Args:
      name: of the set, in `composed_sets.NAMES`.
      seed: of all that is random.
      folder: gets the folder of the set.
      packages: where the pictures come from.
    """
    target = folder / f"{name}-{seed}"
    if (target / _MANIFEST).exists():
        return target / _MANIFEST
    shutil.rmtree(target, ignore_errors=True)  # Of a process that was killed.
    (target / "images").mkdir(parents=True)
    rows = list(composed_sets.rows(name, seed, packages))
    listed = [
        {"split": split, **_with_files(row, number, target)}
        for number, (split, row) in enumerate(rows)
    ]
    sheet([row for _, row in rows[:: -(-len(rows) // _SHEET_EXAMPLES)]]).save(target / "sheet.png")
    # The last file: with it the set is complete.
    text = io.StringIO()
    table = csv.DictWriter(text, list(listed[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(listed)
    files.write_text(target / _MANIFEST, text.getvalue())
    return target / _MANIFEST


def _with_files(row: Row, number: int, folder: Path) -> dict[str, str]:
    """Writes the images of an example; returns its cells, which name them."""
    cells = dict[str, str]()
    for column, value in row.items():
        cells[column] = "" if value is None else str(value)
        if isinstance(value, np.ndarray):
            cells[column] = f"images/{number:05d}-{column}.png"
            Image.fromarray(value).save(folder / cells[column])
    return cells


def sheet(rows: Sequence[Row]) -> Image.Image:
    """Returns a contact sheet: each example's images side by side, a gray square for a missing one.

    Args:
      rows: examples of one set.
    """
    images = [column for column in rows[0] if any(_is_image(row[column]) for row in rows)]
    side, columns = _SHEET_SIDE, -(-len(rows) // _SHEET_ROWS)
    width = side * len(images) + 8
    picture = Image.new("RGB", (width * columns, (side + 8) * _SHEET_ROWS), "navy")
    for place, row in enumerate(rows):
        left, top = width * (place // _SHEET_ROWS), (side + 8) * (place % _SHEET_ROWS)
        for number, column in enumerate(images):
            image = Image.new("L", (side, side), 96)
            if _is_image(row[column]):
                image = Image.fromarray(row[column]).resize((side, side), Image.Resampling.NEAREST)
            picture.paste(image.convert("RGB"), (left + side * number, top))
    return picture


def _is_image(value: object) -> bool:
    return isinstance(value, np.ndarray)


if __name__ == "__main__":
    main()
