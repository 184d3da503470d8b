"""The configured augmentation, as functions of keys and batches."""

import functools

import jax

from tl_jax.config import AugmentConfig
from tl_jax.data.augment import augment, mixing
from tl_jax.data.preprocess import Preprocess
from tl_jax.training.step import Batch, Mix, Prepare


def prepare_of(options: AugmentConfig, preprocess: Preprocess) -> Prepare:
    """Returns what augments and normalises a batch: `prepare(key, batch) -> images`."""

    def prepare(key: jax.Array, batch: Batch) -> jax.Array:
        return augment.augment(
            key,
            batch["image"],
            batch["size"],
            options=options,
            size=preprocess.size,
            mean=preprocess.mean,
            std=preprocess.std,
            interpolation=preprocess.interpolation,
        )

    return prepare


def mix_of(options: AugmentConfig) -> Mix | None:
    """Returns what mixes a batch and its targets, or None if nothing does."""
    if not (options.mixup or options.cutmix):
        return None
    return functools.partial(
        mixing.mix,
        mixup=options.mixup,
        cutmix=options.cutmix,
        switch=options.mix_switch,
        probability=options.mix_probability,
    )
