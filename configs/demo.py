"""Defects of solar cells (ELPV), EfficientNet-Lite0: one epoch of the head, eight of all layers.

Command:
    python -m tl_jax train configs/demo.py --workdir runs/solar

Expect a test accuracy near 0.86 and a balanced one near 0.78 (654 photographs, of which 450 are of
functional cells), after one minute on two CPU cores. `make demo` runs it beside the same budget
from random weights, which ends near 0.79 and 0.69.
"""

import dataclasses

from configs.base import SOLAR_CELLS
from tl_jax.config import Config, TrainConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(SOLAR_CELLS, train=TrainConfig(head_epochs=1, epochs=8))
