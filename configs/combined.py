"""Combined: several labels and levels, by photographs, stages of the network and columns.

Commands:
    python -m experiments.composed combined --fashion PATH
    python -m tl_jax train configs/combined.py --workdir runs/combined

What a parcel holds and how many articles, by three photographs in which they hide each other, two
stages of the network, its weight and its box. Expect a mean average precision near 0.53 of the
contents, and the number right in 0.81 of 400 parcels, after half a minute on a CPU core; one
photograph alone ends near 0.40 and 0.62 (docs/tasks.md).
"""

import dataclasses

from configs.base import composed
from tl_jax.config import Config, InputsConfig, TaskConfig


def get_config() -> Config:
    """Returns the configuration."""
    config = composed("combined", image_size=48)
    return dataclasses.replace(
        config,
        tasks=(
            TaskConfig("articles", kind="multi_label"),
            TaskConfig("number", kind="ordinal", levels=("1", "2", "3")),
        ),
        inputs=InputsConfig(
            views=("photo1", "photo2", "photo3"),
            stages=("blocks.4", "blocks.6"),
            pooling="average_max",
            view_fusion="average",
            numeric=("weight",),
            categorical=("box",),
        ),
        train=dataclasses.replace(config.train, best_metric="articles.mean_average_precision"),
    )
