"""Several views: an article of clothing by three close-ups, some of them missing.

Commands:
    python -m experiments.composed multi_view --fashion PATH
    python -m tl_jax train configs/multi_view.py --workdir runs/multi_view

The average of what the views say; some are missing. Expect a test accuracy near 0.58 (400 articles)
after half a minute on a CPU core; one close-up alone ends near 0.44 (docs/tasks.md compares other
fusions).
"""

import dataclasses

from configs.base import composed
from tl_jax.config import Config, InputsConfig, TaskConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        composed("multi_view", image_size=48),
        tasks=(TaskConfig("article"),),
        inputs=InputsConfig(views=("view1", "view2", "view3")),
    )
