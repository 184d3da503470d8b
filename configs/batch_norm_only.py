"""BatchNorm only: its scales, biases and statistics are trained, and the head.

Command:
    python -m tl_jax train configs/batch_norm_only.py --workdir runs/batch_norm_only

All kernels are frozen (arXiv:2003.00152 does this even with random kernels). Expect much of the
gain of full fine-tuning, with 44,578 of 3,373,570 parameters. docs/strategies.md compares it with
the other strategies.
"""

import dataclasses

from configs.base import HIGH_RATE, SOLAR_CELLS
from tl_jax.config import Config, TransferConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        optim=HIGH_RATE,
        transfer=TransferConfig(trained="head+batch_norm", batch_norm="update"),
    )
