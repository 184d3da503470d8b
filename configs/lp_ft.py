"""LP-FT (arXiv:2202.10054): a linear probe, then all layers at a low rate.

Command:
    python -m tl_jax train configs/lp_ft.py --workdir runs/lp_ft

Two epochs of the head, then four of all layers: a head that is already good distorts the features
less. Expect the accuracy of full fine-tuning on similar data, and a better one under distribution
shift. docs/strategies.md compares it with the other strategies.
"""

import dataclasses

from configs.base import SOLAR_CELLS
from tl_jax.config import Config, TrainConfig, TransferConfig
from tl_jax.run.phases import lp_ft


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        transfer=TransferConfig(phases=lp_ft(head_epochs=2, epochs=4, head_rate=5e-3, rate=3e-4)),
        train=TrainConfig(),  # Each phase has its own number of epochs.
    )
