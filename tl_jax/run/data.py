"""The data of a configuration: its splits, how they are read, and checks of their labels."""

from collections.abc import Mapping

from tl_jax.config import RANDOM_WEIGHTS, Config, DataConfig
from tl_jax.data import label_checks, subset
from tl_jax.data.inputs import TextOptions
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Inputs, Source, Task, check_trainable
from tl_jax.data.sources.open import open_source, uses
from tl_jax.data.sources.options import InputColumns
from tl_jax.models.weights_reader import config_of
from tl_jax.run import tasks as run_tasks
from tl_jax.weights.index import PretrainedConfig, pretrained_config

# Name of the split that `data.carve` holds out of the training split.
CARVED = "validation"


def open_split(config: Config, split: str, *, inputs: Inputs | None = None) -> Source:
    """Opens one split of the configured data, or the configured part of it.

    Args:
      config: the experiment.
      split: name of the split.
      inputs: what the inputs beside the images mean, as the training split fixed it; None for that
        split itself.

    Raises:
      ValueError: if the labels are not those of the configured tasks, or a run without `tasks` has
        an example without exactly one class; and as `open_source` does.
    """
    data, seed = config.data, config.train.seed
    carve = data.carve if split in (data.train_split, CARVED) else None
    kinds = run_tasks.label_options(config, takes=lambda option: uses(data.source, option))
    source = open_source(
        data.source,
        split if carve is None else data.train_split,
        data_dir=data.data_dir,
        seed=seed,
        validation_fraction=data.validation_fraction,
        on_corrupt=data.on_corrupt,
        labels=kinds.labels,
        image_column=config.inputs.views or data.image_column,
        value_range=data.value_range,
        numbers=kinds.numbers,
        ordered=kinds.ordered,
        several=kinds.several,
        columns=input_columns(config),
        inputs=inputs,
        # What is evaluated is measured without weights.
        example_weights=data.example_weights if split == data.train_split else None,
    )
    source = run_tasks.as_configured(config, source)
    if run_tasks.is_plain(config):
        run_tasks.check_single_label(source)
    if carve is not None:
        rest, held_out = subset.carve(source, carve, seed=seed, held_out=CARVED)
        source = held_out if split == CARVED else rest
    if data.shots is not None and split == data.train_split:
        source = subset.few_shot(source, data.shots, seed=seed)
    if split == data.train_split:
        check_trainable(source)
    return source


def open_splits(config: Config) -> dict[str, Source]:
    """Opens all splits of a run, that of training first; raises as `open_split` does.

    Categories, words and views are those of the training split in all of them.
    """
    train = open_split(config, config.data.train_split)
    held_out = dict.fromkeys([config.data.eval_split, config.data.test_split])
    return {train.split: train} | {
        split: open_split(config, split, inputs=train.inputs) for split in held_out if split
    }


def check_labels(source: Source) -> None:
    """Raises ValueError unless each example of a source is labelled with one class."""
    task = source.tasks[0]
    run_tasks.check_single_label(source)
    if task.kind not in ("multi_class", "ordinal"):
        several = "may have several of" if task.multi_label else "has a number as"
        raise ValueError(
            f"an image of {source.name} {several} the labels {task.name!r}, but one class for each "
            "image is needed; name another column with data.labels (--labels)"
        )


def check_splits(config: Config, splits: Mapping[str, Source]) -> tuple[str, ...]:
    """Checks the labels and inputs of the splits together (`label_checks.check_splits`).

    Args:
      config: the experiment.
      splits: of `open_splits`.

    Returns:
      What is odd, a sentence each.

    Raises:
      ValueError: if tasks, inputs or labels of the splits do not go together.
    """
    learned = {
        name: run_tasks.only(source, learned_tasks(config, source))
        for name, source in splits.items()
    }
    train = next(iter(splits))
    notes = label_checks.check_splits(learned, train)
    if not splits[train].has_weights:
        return notes
    weights = splits[train].example_weights()
    said = (
        f"the loss is weighted by {config.data.example_weights!r}: {weights.min():g} to "
        f"{weights.max():g}, mean {weights.mean():.4g}"
    )
    return (*notes, said)


def learned_tasks(config: Config, source: Source) -> tuple[Task, ...]:
    """Returns the tasks of a source of `open_split` that a run learns."""
    return source.tasks[:1] if run_tasks.is_plain(config) else source.tasks


def input_columns(config: Config) -> InputColumns:
    """Returns which columns of a table the inputs are."""
    inputs = config.inputs
    return InputColumns(
        group=inputs.group,
        views=inputs.max_views,
        numeric=inputs.numeric,
        categorical=inputs.categorical,
        text=inputs.text,
        vector=inputs.vector,
        text_options=TextOptions(inputs.max_words, inputs.vocabulary, inputs.min_count)
        if inputs.text
        else TextOptions(),
    )


def load_options(data: DataConfig) -> LoadOptions:
    """Returns how the images of a run are read."""
    return LoadOptions(
        batch_size=data.batch_size,
        workers=data.workers,
        worker_type=data.worker_type,
        cache=data.cache,
        fast_jpeg=data.fast_jpeg,
        stretch_on=data.stretch_on,
    )


def preprocess_of(config: Config, trained_with: PretrainedConfig | None = None) -> Preprocess:
    """Returns the evaluation transform: that of the weights, at the configured image size.

    Args:
      config: the experiment.
      trained_with: what its weights were trained with, if they have been read; None to look.

    Raises:
      WeightsError, ValueError: if the weights cannot be found, or are for other images than RGB.
    """
    options = config.model
    if trained_with is None and options.weights != RANDOM_WEIGHTS:
        trained_with = config_of(options.name, options.weights)
    trained_with = trained_with or pretrained_config(options.name)
    if trained_with.input_size[0] != 3:
        raise ValueError(
            f"the weights {options.weights} are for images of {trained_with.input_size[0]} "
            "channels; training reads images as RGB, of 3; take weights of 3 channels"
        )
    return Preprocess.of(trained_with, input_size=config.data.image_size)
