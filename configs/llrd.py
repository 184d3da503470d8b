"""Layer-wise rate decay: all layers, each stage at 0.65 of the rate of the next.

Command:
    python -m tl_jax train configs/llrd.py --workdir runs/llrd

The last stage has the rate 3e-4, the stem 5e-5. Expect about the accuracy of one rate for all; the
gain grows with the depth of the network and the similarity of the images to ImageNet's.
docs/strategies.md compares it with the other strategies.
"""

import dataclasses

from configs.base import SOLAR_CELLS
from tl_jax.config import Config


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS, optim=dataclasses.replace(SOLAR_CELLS.optim, layer_decay=0.65)
    )
