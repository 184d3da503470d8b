"""The data that a run is measured on: a split of its own, or other data in its tasks and inputs."""

import dataclasses
from collections.abc import Sequence

from tl_jax import files, messages
from tl_jax.config import Config, DataConfig, InputsConfig, TaskConfig
from tl_jax.data.match_tasks import match_tasks
from tl_jax.data.relabel import UnknownClasses
from tl_jax.data.source import Inputs, Source
from tl_jax.data.sources.open import own_splits, uses
from tl_jax.data.sources.options import OnCorrupt
from tl_jax.run import record
from tl_jax.run.data import CARVED, open_split
from tl_jax.run.folder import Run


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Which data, and how they are read; what is left out is the run's for its own data.

    Attributes:
      source, data_dir, on_corrupt, value_range, batch_size: as in the configuration.
      labels: columns of the labels. Of a run with `tasks` they are the tasks that the data have,
        by name, or the one column of the one task under another name.
      image_column: columns of images; several are the views of an object.
      group: column whose equal cells say which rows are views of one object.
    """

    source: str | None = None
    data_dir: str | None = None
    on_corrupt: OnCorrupt | None = None
    labels: tuple[str, ...] = ()
    image_column: tuple[str, ...] = ()
    group: str | None = None
    value_range: tuple[float, float] | None = None
    batch_size: int | None = None


def is_other(run: Run, options: DataOptions) -> bool:
    """Returns whether the options name other data than the run's own."""
    own = run.config.data.source
    return options.source is not None and not _is_same(options.source, own)


def config_of(run: Run, options: DataOptions) -> Config:
    """Returns the run's configuration with the data and options in the place of its own.

    Raises:
      ValueError: if an option is not for the tasks or inputs of the run, or the data cannot hold
        what it takes.
    """
    config, other = run.config, is_other(run, options)
    data = config.data
    if options.source is not None and other:
        _check_columns(config, options.source)
        data = _other_data(config, options.source, run.info.preprocess.value_range)
    tasks, labels = _tasks(config, options.labels, data.source, is_other=other)
    inputs, image_column = _images(config.inputs, options, run.info.inputs.views)
    data = dataclasses.replace(
        data,
        data_dir=options.data_dir or data.data_dir,
        on_corrupt=options.on_corrupt or data.on_corrupt,
        labels=labels,
        image_column=image_column or data.image_column,
        value_range=options.value_range or data.value_range,
        batch_size=options.batch_size or data.batch_size,
        cache="none",
        example_weights=None,
    )
    return dataclasses.replace(config, data=data, tasks=tasks, inputs=inputs)


def split_of(config: Config, *, is_other: bool) -> str:
    """Returns the split that is measured unless one is named."""
    data = config.data
    if is_other:
        return _split_of_other(data)
    return named_split(data.test_split or data.eval_split)


def named_split(split: str | None) -> str:
    """Returns a split that is named; raises ValueError if none is, as of a run without any."""
    if split is None:
        raise ValueError(
            "the run has no evaluation split (data.eval_split) to measure on; name a split that it "
            "was not trained on by split (--split)"
        )
    return split


def open_examples(
    run: Run, config: Config, split: str, *, is_other: bool, unknown: UnknownClasses = "raise"
) -> Source:
    """Opens a split, with its labels in the tasks of a run.

    Args:
      run: the run.
      config: of `config_of`.
      split: name of the split.
      is_other: whether these are other data than the run's own.
      unknown: what to do with labels of classes that the run does not know, as in `match_tasks`.

    Raises:
      ValueError, FileNotFoundError: if the data cannot be opened, or are not what the run takes.
    """
    source = _open(run, config, split) if is_other else _open_own(run, config, split)
    if source.inputs != run.info.inputs:
        raise ValueError(
            f"an example of {source.name} is {_described(source.inputs)}, and the run takes "
            f"{_described(run.info.inputs)}; give data with the same"
        )
    return match_tasks(source, run.info.example_facts.tasks, unknown=unknown)


def check_held_out(run: Run, split: str) -> None:
    """Raises ValueError for a split that this version would hold out otherwise than the run did."""
    data = run.config.data
    is_divided = data.carve is None or split in (data.train_split, CARVED)
    if is_divided and record.is_divided_otherwise(run.config, run.info):
        raise ValueError(
            f"the run was trained by an earlier version, which held out other images of "
            f"{data.source} as {split!r} than this one does, so that images that were trained on "
            "would be counted; evaluate it on other data (source, --source), or train again"
        )


def _open(run: Run, config: Config, split: str) -> Source:
    return open_split(config, split, inputs=run.info.inputs)


def _open_own(run: Run, config: Config, split: str) -> Source:
    """Opens a split of the run's own data, which must be where they were."""
    check_held_out(run, split)
    try:
        return _open(run, config, split)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; if the run's data are elsewhere now, name them and the split by source and "
            "split (--source, --split)"
        ) from error


def _is_same(source: str, own: str) -> bool:
    """Returns whether two specifications are of the same data."""
    (kind, _, address), (own_kind, _, own_address) = source.partition(":"), own.partition(":")
    if kind != own_kind or not (address and own_address):
        return source == own
    return files.user_path(address).resolve() == files.user_path(own_address).resolve()


def _other_data(config: Config, source: str, value_range: tuple[float, float] | None) -> DataConfig:
    """Returns how other data are read: as the configuration's defaults, with the run's range.

    A table must have the columns that the run takes beside an image, and so its image column too.
    """
    image_column = config.data.image_column if _takes_columns(config) else None
    return dataclasses.replace(
        config.data, source=source, data_dir=None, image_column=image_column, carve=None,
        shots=None, example_weights=None, on_corrupt="raise",
        value_range=value_range if uses(source, "value_range") else None,
    )  # fmt: skip


def _takes_columns(config: Config) -> bool:
    """Returns whether a run takes columns of a table, be they of images or of anything else."""
    return config.inputs.has_views or config.inputs.has_columns


def _check_columns(config: Config, source: str) -> None:
    """Raises ValueError if the run takes columns of a table, and the data are none."""
    inputs = config.inputs
    if uses(source, "columns") or not _takes_columns(config):
        return
    group = () if inputs.group is None else (inputs.group,)
    columns = (*inputs.views, *group, *inputs.numeric, *inputs.categorical, *inputs.text)
    raise ValueError(
        f"the run takes the columns {messages.some([*columns, *inputs.vector])} of a table beside "
        f"an image, and {source} is none; give a table with these, manifest:FILE"
    )


def _tasks(
    config: Config, labels: tuple[str, ...], source: str, *, is_other: bool
) -> tuple[tuple[TaskConfig, ...], tuple[str, ...]]:
    """Returns the tasks of the data, and `data.labels` if the run names no tasks."""
    if not config.tasks:
        own = config.data.labels
        keeps = not is_other or (len(own) > 1 and uses(source, "labels"))
        return (), labels or (own if keeps else ())
    tasks = config.tasks
    if labels and len(tasks) == 1:
        (one,) = tasks
        several = {"columns": labels} if one.columns else {"name": labels[0]}
        if len(labels) > 1 and not one.columns:
            raise ValueError(
                f"got the labels {messages.some(labels)} for a run that learned {one.name!r} "
                "alone; name the one column that holds it"
            )
        tasks = (dataclasses.replace(one, **several),)
    elif labels:
        names = [task.name for task in tasks]
        unknown = [label for label in labels if label not in names]
        if unknown:
            raise ValueError(
                f"the run did not learn {unknown[0]!r}{messages.hint(unknown[0], names)}; labels "
                f"are those of the tasks {messages.some(names)} that the data have"
            )
        tasks = tuple(task for task in tasks if task.name in labels)
    if is_other and not uses(source, "ordered"):  # Levels are matched by name afterwards.
        tasks = tuple(
            dataclasses.replace(task, kind="ordinal", levels=()) if task.levels else task
            for task in tasks
        )
    return tasks, ()


def _images(
    chosen: InputsConfig, options: DataOptions, views: int
) -> tuple[InputsConfig, str | None]:
    """Returns the inputs with the columns of images that the options name, and a single column."""
    columns, group = options.image_column, options.group
    if (group is not None or len(columns) > 1) and not chosen.has_views:
        what = "a group of rows" if group is not None else f"{len(columns)} image columns"
        raise ValueError(
            f"got {what} for a run that takes one image of each example; name one column of images"
        )
    if group is not None or (chosen.group is not None and len(columns) <= 1):
        if len(columns) > 1:
            raise ValueError(
                f"got {len(columns)} image columns and the group {group!r}, which are two ways of "
                "writing views; leave one out"
            )
        if group is not None:
            most = chosen.max_views or views
            chosen = dataclasses.replace(chosen, views=(), group=group, max_views=most)
        return chosen, columns[0] if columns else None
    if columns and chosen.has_views:
        return dataclasses.replace(chosen, views=columns, group=None, max_views=None), None
    return chosen, columns[0] if columns else None


def _split_of_other(data: DataConfig) -> str:
    """Returns the split of other data that is evaluated unless one is named."""
    names = own_splits(data.source, data_dir=data.data_dir)
    if not names:
        return "all"
    for name in (data.test_split, "test", data.eval_split, "validation"):
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise ValueError(
        f"{data.source} has the splits {messages.some(names)}; name the one to evaluate on by "
        "split (--split)"
    )


def _described(inputs: Inputs) -> str:
    """Describes in words what an example is."""
    images = f"up to {inputs.views} images" if inputs.views else "one image"
    return " and ".join([images, *inputs.keys])


def as_columns(image_column: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the columns of images as a tuple: none, one or several."""
    if image_column is None:
        return ()
    return (image_column,) if isinstance(image_column, str) else tuple(image_column)
