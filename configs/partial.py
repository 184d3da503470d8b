"""Partial fine-tuning: the head and the last two stages.

Command:
    python -m tl_jax train configs/partial.py --workdir runs/partial

3,318,066 of 3,373,570 parameters are trained, because EfficientNet has most of them in its last
stages. The backward pass ends before the earlier stages, which have the largest feature maps.
Expect nearly the accuracy of training all. docs/strategies.md compares it with the others.
"""

import dataclasses

from configs.base import SOLAR_CELLS
from tl_jax.config import Config, TransferConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        transfer=TransferConfig(trained="head+last:2"),
    )
