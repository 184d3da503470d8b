"""Cosine head, from the means of each class's features; the head first, then all.

Command:
    python -m tl_jax train configs/cosine_head.py --data.source folder:PATH --workdir runs/cosine

The angle between features and a vector for each class decides, which helps with few images a class
(arXiv:1804.09458). `PATH` holds `class/*.jpg`. Expect a good accuracy after the first epoch. The
head is none of timm's, so `export` refuses it.
"""

import dataclasses

from configs.base import PHOTOS
from tl_jax.config import Config, ModelConfig, TrainConfig, TransferConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        PHOTOS,
        model=ModelConfig(name="tf_efficientnet_lite0", head="cosine"),
        transfer=TransferConfig(head_init="class_means"),
        train=TrainConfig(head_epochs=1, epochs=5),
    )
