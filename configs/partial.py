"""Partial fine-tuning: the head and the last two stages.

Command:
    python -m tl_jax train configs/partial.py --workdir runs/partial

3,318,066 of 3,373,570 parameters are trained: those of EfficientNet lie almost all in its last
stages. The backward pass ends before the earlier ones, which have most of the pixels. Expect nearly
the accuracy of training all. docs/strategies.md has it beside the other strategies.
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
