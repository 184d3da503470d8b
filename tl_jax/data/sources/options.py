"""The options with which a source of any kind is opened."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from tl_jax import files
from tl_jax.data.images.values import check_range
from tl_jax.data.inputs import TextOptions
from tl_jax.data.source import Inputs

OnCorrupt = Literal["raise", "skip"]


@dataclasses.dataclass(frozen=True)
class LabelKinds:
    """Which columns of labels are not classes, of which each image has one.

    Attributes:
      numbers: columns whose labels are numbers, to be regressed.
      ordered: columns whose classes are levels, each with its levels from low to high; without
        levels those that occur, which must be numbers, in their order.
      several: columns of 0 and 1, each a class, that are the labels of one multi-label task; the
        task is called "label".
    """

    numbers: tuple[str, ...] = ()
    ordered: tuple[tuple[str, tuple[str, ...]], ...] = ()
    several: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        numbers: tuple[str, ...] = (),
        ordered: Mapping[str, tuple[str, ...]] | None = None,
        several: tuple[str, ...] = (),
    ) -> "LabelKinds":
        """Returns the kinds, with the ordered columns as a mapping to their levels."""
        levels = tuple((name, tuple(each)) for name, each in (ordered or {}).items())
        return cls(tuple(numbers), levels, tuple(several))

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """The levels of each ordered column."""
        return dict(self.ordered)


@dataclasses.dataclass(frozen=True)
class InputColumns:
    """Which columns of a table are inputs beside the image, and which rows are one object.

    Attributes:
      group: column whose equal cells say which rows are views of one object; None: each row is an
        object of its own.
      views: largest number of views of an object; None: that of the table. Of an object with more,
        as many are taken, evenly spaced.
      numeric: columns of numbers.
      categorical: columns of names.
      text: columns of texts; several are joined, in this order.
      vector: columns of lists of numbers, or of numbers; several are joined, in this order.
      text_options: how texts become words.
    """

    group: str | None = None
    views: int | None = None
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    vector: tuple[str, ...] = ()
    text_options: TextOptions = dataclasses.field(default_factory=TextOptions)

    def __post_init__(self) -> None:
        if self.views is not None and self.views < 1:
            raise ValueError(f"got views={self.views}; expected 1 or more, or None")

    @property
    def named(self) -> tuple[str, ...]:
        """All columns that are named."""
        group = () if self.group is None else (self.group,)
        return (*group, *self.numeric, *self.categorical, *self.text, *self.vector)


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
      image_column: column of a manifest that holds the images, or several, which are views of one
        object; None is found by its name.
      value_range: the values of black and white in images of more than 8 bits or of floats, as in
        `decode.decode`.
      verify: decode every image of a folder or manifest when it is opened. Otherwise corrupt images
        are found when they are read.
      label_kinds: which columns of labels are numbers, levels, or classes together.
      columns: columns of a manifest that are inputs beside the image, and its groups of views.
      inputs: what the further inputs mean, as the training split fixed it; None: they are fixed by
        the split itself, or by the table's training split.
      example_weights: column, feature or array that holds the weights of the examples' losses;
        None: there are none.
    """

    data_dir: str | Path | None = None
    seed: int = 0
    validation_fraction: float = 0.2
    on_corrupt: OnCorrupt = "raise"
    labels: tuple[str, ...] = ()
    image_column: str | tuple[str, ...] | None = None
    verify: bool = True
    value_range: tuple[float, float] | None = None
    label_kinds: LabelKinds = LabelKinds()
    columns: InputColumns = InputColumns()
    inputs: Inputs | None = None
    example_weights: str | None = None

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
