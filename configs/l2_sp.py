"""L2-SP (arXiv:1802.01483): all layers, pulled toward the pretrained weights.

Command:
    python -m tl_jax train configs/l2_sp.py --workdir runs/l2_sp

The pull replaces weight decay everywhere except in the head. Expect the accuracy of full
fine-tuning, and less overfitting on very little data. docs/strategies.md compares it with the other
strategies.
"""

import dataclasses

from configs.base import SOLAR_CELLS
from tl_jax.config import Config


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS, optim=dataclasses.replace(SOLAR_CELLS.optim, l2_sp=0.01)
    )
