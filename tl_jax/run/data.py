"""The data of a configuration: its splits, how they are read, and checks of their labels."""

import numpy as np

from tl_jax.config import RANDOM_WEIGHTS, Config, DataConfig
from tl_jax.data import subset
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source, check_trainable
from tl_jax.data.sources.open import open_source
from tl_jax.models.weights_reader import config_of
from tl_jax.weights.index import PretrainedConfig, pretrained_config

# Name of the split that `data.carve` holds out of the training split.
CARVED = "validation"


def open_split(config: Config, split: str) -> Source:
    """Opens one split of the configured data, or the configured part of it.

    Raises:
      ValueError: if an example does not have exactly one class; and as `open_source` does.
    """
    data, seed = config.data, config.train.seed
    carve = data.carve if split in (data.train_split, CARVED) else None
    source = open_source(
        data.source,
        split if carve is None else data.train_split,
        data_dir=data.data_dir,
        seed=seed,
        validation_fraction=data.validation_fraction,
        on_corrupt=data.on_corrupt,
        labels=data.labels,
        image_column=data.image_column,
        value_range=data.value_range,
    )
    if len(data.labels) > 1 and len(source.tasks) > 1:
        raise ValueError(
            f"got data.labels {', '.join(data.labels)}, but a run learns one column of labels; "
            "name that alone (columns of 0 and 1 with one 1 in each row are taken together)"
        )
    check_labels(source)
    if carve is not None:
        rest, held_out = subset.carve(source, carve, seed=seed, held_out=CARVED)
        source = held_out if split == CARVED else rest
    if data.shots is not None and split == data.train_split:
        source = subset.few_shot(source, data.shots, seed=seed)
    if split == data.train_split:
        check_trainable(source)
    return source


def open_splits(config: Config) -> dict[str, Source]:
    """Opens all splits of a run, that of training first; raises as `open_split` does."""
    train = open_split(config, config.data.train_split)
    held_out = dict.fromkeys([config.data.eval_split, config.data.test_split])
    return {train.split: train} | {split: open_split(config, split) for split in held_out if split}


def check_labels(source: Source) -> None:
    """Raises ValueError unless each example of a source is labelled with one class."""
    task, labels = source.tasks[0], source.labels()
    if task.multi_label and (np.sum(labels == 1, axis=1) == 1).all():
        raise ValueError(
            f"the labels {task.name!r} of {source.name} are one-hot, a value for each class, but a "
            "run needs one label for each image; write the class of each image in their place, "
            "such as labels.argmax(axis=1)"
        )
    if task.multi_label:
        raise ValueError(
            f"an image of {source.name} may have several of the labels {task.name!r}, but a run "
            "needs one label for each image; name another column with data.labels (--labels)"
        )
    num_missing = int((labels < 0).sum())
    if num_missing:
        raise ValueError(
            f"{num_missing} of {len(labels)} examples of split {source.split!r} of {source.name} "
            f"have no {task.name!r}; leave them out, or name another column with data.labels "
            "(--labels)"
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
