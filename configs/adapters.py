"""Residual adapters: a small bottleneck behind each frozen stage, and the head.

Command:
    python -m tl_jax train configs/adapters.py --workdir runs/adapters

Adapters start as the identity; with the head they have 61,890 parameters. timm does not have this
network, so `export` refuses it. Expect a better accuracy than with the head alone, for few
parameters. docs/strategies.md compares it with the other strategies.
"""

import dataclasses

from configs.base import HIGH_RATE, SOLAR_CELLS
from tl_jax.config import Config, TransferConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        optim=HIGH_RATE,
        transfer=TransferConfig(trained="head+added", adaptation="adapters"),
    )
