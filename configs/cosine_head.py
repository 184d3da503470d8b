"""Cosine head that starts from the mean features of each class; first the head, then all layers.

Command:
    python -m tl_jax train configs/cosine_head.py --data.source folder:PATH --workdir runs/cosine

The class is the one whose vector has the smallest angle to the features, which helps with few
images per class (arXiv:1804.09458). `PATH` holds `class/*.jpg`. Expect a good accuracy after the
first epoch. timm has no such head, so `export` refuses it.
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
