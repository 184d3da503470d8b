"""A picture of a run's augmentation: training images beside random draws of it."""

from contextlib import closing
from pathlib import Path

import jax
import numpy as np

from tl_jax import process
from tl_jax.config import Config
from tl_jax.data.augment import grid
from tl_jax.data.augment.augment import make_augment_fn
from tl_jax.data.loading.host_batches import host_train_batches
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.order import Stream, make_order
from tl_jax.run import data


def show_augmented(config: Config, file: str | Path, *, images: int = 6, versions: int = 8) -> None:
    """Draws the first training images, each beside random draws of the configured augmentation.

    Mixing (mixup, CutMix) is left out, because it combines two images.

    Args:
      config: the experiment.
      file: PNG to be written.
      images: number of rows, of one image each.
      versions: number of draws beside each image.

    Raises:
      ValueError: if there is no row or no column, if an example is several images, or as
        `tl_jax.run.data.open_split`.
    """
    process.prepare()
    if min(images, versions) < 1:
        raise ValueError(f"got images={images} and versions={versions}; expected 1 or more of each")
    train = data.open_split(config, config.data.train_split)
    if train.inputs.views:
        raise ValueError(
            f"an example of {train.name} is {train.inputs.views} views, of which no grid is drawn; "
            "leave inputs.views and inputs.group out to see them as single images"
        )
    preprocess = data.preprocess_of(config)
    order = make_order(config.data.sampling, train, seed=config.train.seed)
    rows = min(images, len(order))
    options = LoadOptions(rows, workers=0, fast_jpeg=config.data.fast_jpeg)
    with closing(
        host_train_batches(train, options, canvas=preprocess.canvas, order=order)
    ) as batches:
        batch = next(batches)
    augment_fn = jax.jit(make_augment_fn(config.augment, preprocess))
    keys = jax.random.split(jax.random.key(config.train.seed), versions)
    inputs = [augment_fn(key, batch) for key in keys]
    drawn = np.stack([x["image"] if isinstance(x, dict) else x for x in inputs], axis=1)
    originals = [train[int(index)]["image"] for index in Stream(order)[range(rows)]]
    grid.draw_grid(originals, drawn, file, mean=preprocess.mean, std=preprocess.std)
