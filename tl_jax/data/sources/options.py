"""The options with which a source of any kind is opened."""

import dataclasses
import os
from pathlib import Path
from typing import Literal, get_args

from tl_jax import files
from tl_jax.data.images.values import check_range

OnCorrupt = Literal["raise", "skip"]


@dataclasses.dataclass(frozen=True)
class OpenOptions:
    """Options of `open_source`; each kind of source says which of them it uses.

    Attributes:
      data_dir: folder of prepared sets, on any file system that TFDS reads; for folders and
        manifests, the local folder that remembers which images were decoded before.
      seed: chooses what is held out of a folder or manifest that has no splits.
      validation_fraction: share of each class that is held out in that case.
      on_corrupt: what to do with images that cannot be decoded: "raise", or "skip" to leave them
        out and list them in the source's `skipped`.
      labels: the columns or features to learn, the main one first.
      image_column: column of a manifest that holds the images; None is found by its name.
      value_range: the values of black and white in images of more than 8 bits or of floats, as in
        `decode.decode`.
      verify: decode every image of a folder or manifest when it is opened. Otherwise corrupt images
        are found when they are read.
    """

    data_dir: str | Path | None = None
    seed: int = 0
    validation_fraction: float = 0.2
    on_corrupt: OnCorrupt = "raise"
    labels: tuple[str, ...] = ()
    image_column: str | None = None
    verify: bool = True
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value_range", check_range(self.value_range))
        if self.on_corrupt not in get_args(OnCorrupt):
            raise ValueError(f"got on_corrupt={self.on_corrupt!r}; expected 'raise' or 'skip'")

    @property
    def local_data_dir(self) -> Path | None:
        """`data_dir` as a folder of this machine.

        Raises:
          ValueError: if it is on another file system.
        """
        if self.data_dir is None:
            return None
        if "://" in os.fspath(self.data_dir):
            raise ValueError(
                f"got data_dir={self.data_dir!r}; expected a folder of this machine, in which "
                "'folder:' and 'manifest:' record the images they have checked"
            )
        return files.user_path(self.data_dir)
