"""The ELPV set of solar cells as a TFDS builder that reads its PyPI package.

2,624 gray photographs, 300 x 300 pixels, of functional and defective solar cells, taken by
electroluminescence from 44 modules. The data are under CC-BY-NC-SA-4.0: not for commercial use.
Cite Deitsch et al., "Automatic classification of defective photovoltaic module cells in
electroluminescence images", Solar Energy 185, 2019.
"""

import dataclasses
import importlib.util
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tl_jax import files
from tl_jax.data import splits
from tl_jax.data.sources import tfds as tfds_source
from tl_jax.data.sources.options import OpenOptions

OPTIONS = frozenset({"labels", "numbers", "ordered", "example_weights"})
LEVELS = ("0", "1/3", "2/3", "1")
"""The experts' probabilities of a defect, for `ordered={"probability": elpv.LEVELS}`."""
SHARES = {"train": 0.60, "validation": 0.15, "test": 0.25}
_SEED = 0

Examples = Iterator[tuple[str, dict[str, Any]]]

_CITATION = """@article{Deitsch2019,
  author = {Deitsch, Sergiu and Christlein, Vincent and Berger, Stephan and Buerhop-Lutz, Claudia
            and Maier, Andreas and Gallwitz, Florian and Riess, Christian},
  title = {Automatic classification of defective photovoltaic module cells in
           electroluminescence images},
  journal = {Solar Energy},
  volume = {185},
  pages = {455--468},
  year = {2019},
  doi = {10.1016/j.solener.2019.02.067},
}"""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row of the package's `labels.csv`.

    Attributes:
      path: relative path of the image, the example's key.
      probability: experts' probability of a defect: 0, 1/3, 2/3 or 1.
      cell_type: "mono" or "poly", for mono- and polycrystalline silicon.
    """

    path: str
    probability: float
    cell_type: str

    @property
    def certainty(self) -> float:
        """How sure the experts were, to weight the loss by: 1, or 2/3 of 1/3 and 2/3."""
        return max(self.probability, 1 - self.probability)


class Elpv(tfds.core.GeneratorBasedBuilder):
    """ELPV; the splits are fixed and stratified by defect probability and cell type."""

    VERSION = tfds.core.Version("1.1.0")  # Sets of 1.0.0 have no `certainty`.
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(
            name="defect",
            description="functional (defect probability < 0.5) against defective (>= 0.5)",
        )
    ]
    # Nothing is downloaded, so there are no checksums. Otherwise TFDS looks for a file of them with
    # importlib_resources, which it does not install.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Photographs of functional and defective solar cells.",
            homepage="https://github.com/zae-bayern/elpv-dataset",
            license="CC-BY-NC-SA-4.0",
            citation=_CITATION,
            supervised_keys=("image", "label"),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(300, 300, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=["functional", "defective"]),
                    "probability": tfds.features.Scalar(np.float32),
                    "certainty": tfds.features.Scalar(np.float32),
                    "cell_type": tfds.features.ClassLabel(names=["mono", "poly"]),
                    "path": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        del dl_manager  # Nothing is downloaded.
        folder = package_data()
        cells_by_split = split_cells(read_cells(folder))
        return {
            split: self._generate_examples(folder, cells) for split, cells in cells_by_split.items()
        }

    def _generate_examples(self, folder: Path, cells: list[Cell]) -> Examples:
        for cell in cells:
            yield (
                cell.path,
                {
                    "image": folder / cell.path,
                    "label": int(cell.probability >= 0.5),
                    "probability": cell.probability,
                    "certainty": cell.certainty,
                    "cell_type": cell.cell_type,
                    "path": cell.path,
                },
            )


def package_data() -> Path:
    """Returns the data folder of the installed package `elpv-dataset`.

    Raises:
      ModuleNotFoundError: if the package is not installed.
    """
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "the images of `elpv` come with the package elpv-dataset, which is not installed: "
            "`pip install elpv-dataset` (90 MB; data under CC-BY-NC-SA-4.0)"
        )
    return Path(package.origin).parent / "data"


def read_cells(folder: Path) -> list[Cell]:
    """Reads `labels.csv`: a path, a probability and a type in each row, separated by blanks."""
    rows = (line.split() for line in (folder / "labels.csv").read_text().splitlines())
    return [Cell(path, float(probability), kind) for path, probability, kind in rows]


def split_cells(
    cells: Sequence[Cell], shares: Mapping[str, float] = SHARES, seed: int = _SEED
) -> dict[str, list[Cell]]:
    """Divides cells into splits, within each pair of probability and cell type.

    Args:
      cells: all of them.
      shares: share of each split, by its name; the default is that of the set's own splits.
      seed: chooses the division.
    """
    by_path = {cell.path: cell for cell in cells}
    strata: dict[tuple[float, str], list[str]] = defaultdict(list)
    for cell in cells:
        strata[cell.probability, cell.cell_type].append(cell.path)
    parts = splits.partition_strata(
        (paths for _, paths in sorted(strata.items())), shares=shares, seed=seed
    )
    return {split: [by_path[path] for path in paths] for split, paths in parts.items()}


def build(data_dir: str | Path | None = None) -> Elpv:
    """Returns the builder, and writes its array_record files if they do not exist yet.

    TFDS writes into a temporary folder and renames it at the end, so a killed process leaves
    nothing that could be mistaken for a complete set.

    Args:
      data_dir: folder of prepared sets, on any file system that TFDS writes; the default is
        `TFDS_DATA_DIR`, or the user's cache.
    """
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or files.cache_dir() / "tfds"
    root = tfds_source.expanded(folder)
    builder = Elpv(config="defect", data_dir=root, file_format="array_record")
    if not builder.data_path.exists():
        print(f"the images of elpv are written to {root}, once", file=sys.stderr)
    try:
        tfds_source.write(builder)
    except OSError:
        # Another process of this machine may have renamed its folder first.
        if not builder.data_path.exists():
            raise
        return Elpv(config="defect", data_dir=root, file_format="array_record")
    return builder


def open(address: str, split: str, options: OpenOptions) -> tfds_source.TfdsSource:
    """Opens a split of ELPV, written to array_record files first where needed.

    Args:
      address: "", as there is one set.
      split: "train", "validation" or "test", or a slice of one in TFDS's syntax.
      options: `labels` are those of "label" (whether the cell is defective) and "cell_type" to
        learn, the main one first, by default both in this order; "probability" too, as levels
        (`ordered={"probability": LEVELS}`) or as a number; `example_weights` may be "certainty", 1
        where the experts were sure and 2/3 where they were not; `data_dir` as in `build`.

    Raises:
      ModuleNotFoundError: if the files must be written and the package is not installed.
      ValueError: if the split is unknown.
    """
    del address
    builder = build(options.data_dir)
    return tfds_source.from_builder(
        builder,
        split,
        name="elpv",
        labels=options.labels,
        kinds=options.label_kinds,
        weights=options.example_weights,
    )


def split_names(address: str, options: OpenOptions) -> tuple[str, ...]:
    """Returns the names of the three splits."""
    del address
    return tuple(build(options.data_dir).info.splits)
