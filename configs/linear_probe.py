"""Linear probe: only the head is trained, on frozen features.

Command:
    python -m tl_jax train configs/linear_probe.py --workdir runs/linear_probe

2,562 of 3,373,570 parameters are trained, and BatchNorm is frozen. A step costs little more than a
forward pass. Expect the shortest training of all recipes, and a lower accuracy than the others if
the images differ from ImageNet's. docs/strategies.md compares it with the other strategies.
"""

import dataclasses

from configs.base import HIGH_RATE, SOLAR_CELLS
from tl_jax.config import Config, TransferConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        optim=HIGH_RATE,
        transfer=TransferConfig(trained="head"),
    )
