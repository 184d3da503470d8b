"""The command that checks and packs a set of images: `prepare`."""

import shlex
from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def prepare(
    source: Positional[str],
    out: Positional[Path],
    *,
    splits: tuple[str, ...] = (),
    max_side: int | None = None,
    encoding: Literal["as-is", "jpeg", "png"] = "as-is",
    seed: int = 0,
    validation_fraction: float = 0.2,
    labels: tuple[str, ...] = (),
    image_column: str | None = None,
    data_dir: str | None = None,
    value_range: tuple[float, float] | None = None,
    workers: int | None = None,
) -> None:
    """Decodes every image once, lists those that cannot be decoded, and packs the others.

    Args:
      source: Data, such as "folder:PATH" or "manifest:FILE".
      out: Folder to write: records, report.md, contact_sheet.png, quarantine.jsonl.
      splits: Splits to prepare; the default is all.
      max_side: Larger images are reduced to this many pixels on the longer side.
      encoding: Keep the files' own bytes, or encode all as JPEG or PNG.
      seed: Chooses what is held out of a set without splits, and the contact sheet's images.
      validation_fraction: Share of each class that is held out of a set without splits.
      labels: Columns of a manifest that hold the labels, the main one first.
      image_column: Column of a manifest that holds the images.
      data_dir: Folder of prepared sets, for "tfds:" and "elpv".
      value_range: Values of black and white in images of more than 8 bits or of floats, such as
        0 4095; the set remembers it.
      workers: Threads that decode; the default is one for each core.
    """
    # Imported here: these import TFDS's writer and matplotlib, which no other command needs.
    from tl_jax.data.prepare.pack import prepare_source
    from tl_jax.data.prepare.report import summary

    prepared = prepare_source(
        source, out, splits=splits or None, max_side=max_side, encoding=encoding, seed=seed,
        validation_fraction=validation_fraction, labels=labels, image_column=image_column,
        data_dir=data_dir, value_range=value_range, workers=workers,
    )  # fmt: skip
    print(summary(prepared.report))
    address = shlex.quote(f"prepared:{prepared.folder}")
    print(f"open it as {address}, which also has report.md, contact_sheet.png and quarantine.jsonl")
