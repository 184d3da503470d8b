"""The ELPV set of solar cells as a TFDS builder, prepared from its PyPI package.

2,624 gray photographs, 300 x 300 pixels, of functional and defective solar cells, taken by
electroluminescence from 44 modules. The data are under CC-BY-NC-SA-4.0: not for commercial use.
Cite Deitsch et al., "Automatic classification of defective photovoltaic module cells in
electroluminescence images", Solar Energy 185, 2019.
"""

import dataclasses
import importlib.util
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tl_jax.data.partition import partition
from tl_jax.data.source import cache_dir
from tl_jax.data.sources import tfds as tfds_source

SHARES = {"train": 0.60, "validation": 0.15, "test": 0.25}
_SEED = 0

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


class Elpv(tfds.core.GeneratorBasedBuilder):
    """ELPV; the splits are fixed and stratified by defect probability and cell type."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(
            name="defect",
            description="functional (defect probability < 0.5) against defective (>= 0.5)",
        )
    ]
    # Nothing is downloaded, so there are no checksums. TFDS's own look-up of the file beside
    # the module would import importlib_resources, which TFDS does not install.
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
                    "cell_type": tfds.features.ClassLabel(names=["mono", "poly"]),
                    "path": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # Nothing is downloaded.
        folder = package_data()
        splits = split_cells(read_cells(folder))
        return {name: self._generate_examples(folder, cells) for name, cells in splits.items()}

    def _generate_examples(self, folder: Path, cells: list[Cell]) -> Iterator:
        for cell in cells:
            yield (
                cell.path,
                {
                    "image": folder / cell.path,
                    "label": int(cell.probability >= 0.5),
                    "probability": cell.probability,
                    "cell_type": cell.cell_type,
                    "path": cell.path,
                },
            )


def package_data() -> Path:
    """Returns the data folder of the installed package `elpv-dataset`.

    Raises:
      ModuleNotFoundError: if the package is not installed.
    """
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            "the images of `elpv` come with the package elpv-dataset, which is not installed: "
            "`pip install elpv-dataset` (90 MB; data under CC-BY-NC-SA-4.0)"
        )
    return Path(found.origin).parent / "data"


def read_cells(folder: Path) -> list[Cell]:
    """Reads `labels.csv`: a path, a probability and a type in each row, between blanks."""
    rows = (line.split() for line in (folder / "labels.csv").read_text().splitlines())
    return [Cell(path, float(probability), kind) for path, probability, kind in rows]


def split_cells(cells: list[Cell]) -> dict[str, list[Cell]]:
    """Deals the cells out to the splits, within each pair of probability and cell type."""
    strata: dict[tuple[float, str], dict[str, Cell]] = defaultdict(dict)
    for cell in cells:
        strata[cell.probability, cell.cell_type][cell.path] = cell
    splits: dict[str, list[Cell]] = {name: [] for name in SHARES}
    for _, stratum in sorted(strata.items()):
        parts = partition(list(stratum), shares=list(SHARES.values()), seed=_SEED)
        for name, part in zip(SHARES, parts, strict=True):
            splits[name] += [stratum[path] for path in part]
    return splits


def prepare(data_dir: str | Path | None = None) -> Elpv:
    """Returns the builder, its array_record files prepared if they are not there yet.

    TFDS writes into a temporary folder and renames it at the end, so a preparation that was
    killed leaves nothing that could be mistaken for a whole one.

    Args:
      data_dir: folder of prepared sets, on any file system that TFDS writes; the default is
        `TFDS_DATA_DIR`, or the user's cache.
    """
    named = data_dir or os.environ.get("TFDS_DATA_DIR") or cache_dir() / "tfds"
    root = os.fspath(tfds.core.Path(named).expanduser())
    builder = Elpv(config="defect", data_dir=root, file_format="array_record")
    try:
        builder.download_and_prepare()
    except OSError:
        # Another process of this machine may have been first with the rename.
        if not builder.data_path.exists():
            raise
        return Elpv(config="defect", data_dir=root, file_format="array_record")
    return builder


def open_elpv(
    split: str, *, labels: Sequence[str] = (), data_dir: str | Path | None = None
) -> tfds_source.TfdsSource:
    """Opens a split of ELPV, prepared first where needed.

    Args:
      split: "train", "validation" or "test", or a slice of one in TFDS's syntax.
      labels: of "label" (whether the cell is defective) and "cell_type", those to learn, the main
        one first; the default is both in this order.
      data_dir: as in `prepare`.

    Raises:
      ModuleNotFoundError: if it must be prepared and the package is not installed.
      ValueError: if the split is unknown.
    """
    return tfds_source.from_builder(prepare(data_dir), split, name="elpv", labels=labels)
