"""Several scales: a large and a small article of clothing, by two sizes of the image.

Commands:
    python -m experiments.composed multi_scale --fashion PATH
    python -m tl_jax train configs/multi_scale.py --workdir runs/multi_scale

Two tasks, an article each. Expect a test accuracy near 0.42 for the small one and 0.71 for the
large one (400 pictures), after a minute on a CPU core; its own size alone ends near
0.30 and 0.63 (docs/tasks.md has twice that size alone, too).
"""

import dataclasses

from configs.base import composed
from tl_jax.config import Config, InputsConfig, TaskConfig


def get_config() -> Config:
    """Returns the configuration."""
    config = composed("multi_scale", image_size=64)
    return dataclasses.replace(
        config,
        tasks=(TaskConfig("small"), TaskConfig("large")),
        inputs=InputsConfig(scales=(1.0, 2.0), scale_fusion="concatenate", pooling="max"),
        train=dataclasses.replace(config.train, best_metric="small.accuracy"),
    )
