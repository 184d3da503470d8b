"""Linear probe: the head alone is trained, on frozen features.

Command:
    python -m tl_jax train configs/linear_probe.py --workdir runs/linear_probe

2,562 of 3,373,570 parameters are trained, and BatchNorm is frozen. A step costs little more than
a forward pass. Expect the fastest of the recipes, and less accuracy than from the others where the
images are unlike ImageNet's. docs/strategies.md has it beside the other strategies.
"""

import dataclasses

from configs.base import SOLAR_CELLS
from tl_jax.config import Config, TransferConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        transfer=TransferConfig(trained="head"),
    )
