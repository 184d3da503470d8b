"""The data of a configuration: its splits, how they are read, and checks of their labels."""

from tl_jax.config import Config, DataConfig
from tl_jax.data import subset
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source
from tl_jax.data.sources.open import open_source
from tl_jax.weights.index import pretrained_config

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
    )
    check_labels(source)
    if carve is not None:
        rest, held_out = subset.carve(source, carve, seed=seed, held_out=CARVED)
        source = held_out if split == CARVED else rest
    if data.shots is not None and split == data.train_split:
        source = subset.few_shot(source, data.shots, seed=seed)
    return source


def check_labels(source: Source) -> None:
    """Raises ValueError unless each example of a source is labelled with one class."""
    task = source.tasks[0]
    if task.multi_label:
        raise ValueError(
            f"an image of {source.name} may have several of the labels {task.name!r}, but a run "
            "needs one label for each image; name another column with data.labels"
        )
    labels = source.labels()
    num_missing = int((labels < 0).sum())
    if num_missing:
        raise ValueError(
            f"{num_missing} of {len(labels)} examples of split {source.split!r} of {source.name} "
            f"have no {task.name!r}; leave them out, or name another column with data.labels"
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


def preprocess_of(config: Config) -> Preprocess:
    """Returns the evaluation transform: that of the weights, at the configured image size."""
    weights = pretrained_config(config.model.name)
    return Preprocess.of(weights, input_size=config.data.image_size)
