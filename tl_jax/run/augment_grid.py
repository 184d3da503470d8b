"""A picture of what the training step gets: images of a run beside draws of its augmentation."""

from pathlib import Path

import jax
import numpy as np

from tl_jax.config import Config
from tl_jax.data.augment import grid
from tl_jax.data.loading import host_batches
from tl_jax.data.loading import order as sampling
from tl_jax.run import data
from tl_jax.training import augmenting


def show_augmented(config: Config, file: str | Path, *, images: int = 6, versions: int = 8) -> None:
    """Draws the first images of training, each with draws of the configured augmentation.

    Mixing, which takes two images, is left out.

    Args:
      config: the experiment.
      file: PNG to be written.
      images: rows, of one image each.
      versions: draws beside each image.

    Raises:
      ValueError: if there is to be no row or no column, or as `experiment.open_split`.
    """
    if min(images, versions) < 1:
        raise ValueError(f"got images={images} and versions={versions}; expected 1 or more of each")
    train = data.open_split(config, config.data.train_split)
    preprocess = data.preprocess_of(config)
    order = sampling.of_source(config.data.sampling, train, seed=config.train.seed)
    rows = min(images, len(order))
    with host_batches.train_batches(
        train,
        batch_size=rows,
        canvas=preprocess.canvas,
        order=order,
        workers=0,
        fast_jpeg=config.data.fast_jpeg,
    ) as batches:
        batch = next(batches)
    prepare = jax.jit(augmenting.prepare_of(config.augment, preprocess))
    keys = jax.random.split(jax.random.key(config.train.seed), versions)
    drawn = np.stack([prepare(key, batch) for key in keys], axis=1)
    originals = [train[int(index)]["image"] for index in sampling.Stream(order)[range(rows)]]
    grid.draw_grid(originals, drawn, file, mean=preprocess.mean, std=preprocess.std)
