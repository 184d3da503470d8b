"""LoRA (arXiv:2106.09685): low-rank kernels beside frozen ones, and the head.

Command:
    python -m tl_jax train configs/lora.py --workdir runs/lora

With the head, 259,290 parameters are trained: kernels of rank 8 are added to convolutions, and
merged into the original kernels on export. A step still costs the backward pass of all layers, but
the optimizer's state is small. docs/strategies.md compares it with the other strategies.
"""

import dataclasses

from configs.base import HIGH_RATE, SOLAR_CELLS
from tl_jax.config import Config, TransferConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        optim=HIGH_RATE,
        transfer=TransferConfig(trained="head+added", adaptation="lora", lora_rank=8),
    )
