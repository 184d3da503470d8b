"""BitFit (arXiv:2106.10199): biases and the head are trained, kernels are frozen.

Command:
    python -m tl_jax train configs/bitfit.py --workdir runs/bitfit

In this network all biases except the head's belong to BatchNorm layers, which keep their
statistics. With the head, 23,570 parameters are trained. Expect a better accuracy than with the
head alone. docs/strategies.md compares it with the other strategies.
"""

import dataclasses

from configs.base import HIGH_RATE, SOLAR_CELLS
from tl_jax.config import Config, TransferConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        optim=HIGH_RATE,
        transfer=TransferConfig(trained="head+biases", batch_norm="affine_only"),
    )
