"""Gradual unfreezing (ULMFiT, arXiv:1801.06146): the head, then one stage more every epoch.

Command:
    python -m tl_jax train configs/gradual.py --workdir runs/gradual

Six phases, from the head alone to all layers; each rebuilds the optimizer and keeps the state of
what stays trained. Expect a slow start and a mild change of the early stages; each phase compiles a
step of its own. docs/strategies.md has it beside the other strategies.
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
        train=TrainConfig(),  # The phases have epochs of their own.
    )
