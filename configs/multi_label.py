"""Several labels: which articles of clothing are in a picture, with max pooling over its places.

Commands:
    python -m experiments.composed multi_label --fashion PATH
    python -m tl_jax train configs/multi_label.py --workdir runs/multi_label

Which of ten kinds of clothing a picture shows, one to four of them. Expect a mean average precision
near 0.64 on 400 test pictures, after half a minute on a CPU core; the average of the last stage
alone ends near 0.60 (docs/tasks.md).
"""

import dataclasses

from configs.base import composed
from tl_jax.config import Config, InputsConfig, TaskConfig


def get_config() -> Config:
    """Returns the configuration."""
    config = composed("multi_label", image_size=64)
    return dataclasses.replace(
        config,
        tasks=(TaskConfig("articles", kind="multi_label"),),
        inputs=InputsConfig(stages=("blocks.4", "blocks.6"), pooling="max"),
        train=dataclasses.replace(config.train, best_metric="mean_average_precision"),
    )
