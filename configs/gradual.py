"""Gradual unfreezing (ULMFiT, arXiv:1801.06146): the head, then one stage more every epoch.

Command:
    python -m tl_jax train configs/gradual.py --workdir runs/gradual

Six phases, from the head alone to all layers; each compiles its own step, and the optimizer keeps
its state of parameters that were trained before. Expect a slow start and small changes of the
early stages. docs/strategies.md compares it with the other strategies.
"""

import dataclasses

from configs.base import SOLAR_CELLS
from tl_jax.config import Config, TrainConfig, TransferConfig
from tl_jax.run.phases import gradual


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        transfer=TransferConfig(phases=gradual(stages=5, every=1, epochs=8)),
        train=TrainConfig(),  # Each phase has its own number of epochs.
    )
