"""BatchNorm only: its scales and biases, its statistics, and the head.

Command:
    python -m tl_jax train configs/batch_norm_only.py --workdir runs/batch_norm_only

All kernels are frozen (arXiv:2003.00152 trains so even from random ones). Expect much of what full
fine-tuning gains, for 44,578 of 3,373,570 parameters. docs/strategies.md has it beside the other
strategies.
"""

import dataclasses

from configs.base import HIGH_RATE, SOLAR_CELLS
from tl_jax.config import Config, TransferConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        optim=HIGH_RATE,
        transfer=TransferConfig(trained="head+batch_norm"),
    )
