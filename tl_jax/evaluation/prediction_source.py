"""Opens data for a network that predicts them: with its own columns and vocabulary, unlabelled."""

import dataclasses
from collections.abc import Sequence

from tl_jax import messages
from tl_jax.data.source import Inputs, Source, as_source
from tl_jax.data.sources.manifest_unlabelled import open_unlabelled
from tl_jax.data.sources.open import open_with_options, own_splits, uses
from tl_jax.data.sources.options import InputColumns, OpenOptions
from tl_jax.data.splits import WHOLE
from tl_jax.evaluation.prediction_network import Network
from tl_jax.evaluation.run_data import DataOptions, as_columns, config_of
from tl_jax.run.data import input_columns
from tl_jax.run.folder import Run


@dataclasses.dataclass(frozen=True)
class Part:
    """Which part of a source is predicted, and what its columns are called.

    Attributes:
      split: the split; None for all of it.
      image_column: column of a manifest that holds the images, or columns of views; None for that
        of the run.
      group: column of a manifest that joins the rows of one object; None for that of the run.
    """

    split: str | None = None
    image_column: str | Sequence[str] | None = None
    group: str | None = None


def open_for(network: Network, source: str | Source, part: Part) -> Source:
    """Opens a source for a network.

    A manifest needs no labels, and its images are looked at when they are read; other sources are
    opened as in training, without decoding all images first.

    Args:
      network: the network.
      source: specification, or the opened source.
      part: its split and columns.

    Raises:
      ValueError, FileNotFoundError: as `open_source`.
    """
    if not isinstance(source, str):
        if part != Part():
            raise ValueError(
                "got an opened source, which is one split; leave split and columns out"
            )
        return as_source(source)
    kind, _, address = source.partition(":")
    columns, images = _columns(network.run, source, part)
    value_range = network.preprocess.value_range
    if kind == "manifest" and address:
        return open_unlabelled(
            address,
            part.split or WHOLE,
            tasks=network.tasks,
            meaning=network.inputs,
            columns=columns,
            image_column=images or None,
            value_range=value_range,
        )
    options = OpenOptions(
        image_column=images[0] if len(images) == 1 else images or None,
        verify=False,
        value_range=value_range if uses(source, "value_range") else None,
        columns=columns if uses(source, "columns") else InputColumns(),
        inputs=network.inputs if uses(source, "inputs") else Inputs(),
    )
    return open_with_options(source, part.split or _only_split(source), options)


def _columns(run: Run | None, source: str, part: Part) -> tuple[InputColumns, tuple[str, ...]]:
    """Returns the columns of further inputs, and those of the images: none to find it by its name.

    They are called as in the run's own data, unless others are named.
    """
    named = as_columns(part.image_column)
    if run is None:
        return InputColumns(group=part.group), named
    options = DataOptions(source, image_column=named, group=part.group)
    config = config_of(run, options)
    return input_columns(config), config.inputs.views or as_columns(config.data.image_column)


def _only_split(source: str) -> str:
    """Returns the name of all of a source, if it has one."""
    names = own_splits(source)
    if not names:
        return WHOLE
    if len(names) == 1:
        return names[0]
    raise ValueError(
        f"{source} has the splits {messages.some(names)}; name the one to predict by split "
        "(--split)"
    )
