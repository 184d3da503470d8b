"""SSF (arXiv:2210.08823): a scale and a shift behind every frozen layer, and the head.

Command:
    python -m tl_jax train configs/ssf.py --workdir runs/ssf

BatchNorm keeps the pretrained statistics. Scales and shifts are merged into the original weights on
export. With the head, 44,578 parameters are trained, at a rate several times that of full
fine-tuning. docs/strategies.md compares it with the other strategies.
"""

import dataclasses

from configs.base import HIGH_RATE, SOLAR_CELLS
from tl_jax.config import Config, TransferConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        optim=HIGH_RATE,
        transfer=TransferConfig(trained="head+added", adaptation="ssf", batch_norm="affine_only"),
    )
