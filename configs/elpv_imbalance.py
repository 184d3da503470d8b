"""Imbalance: defects of solar cells (ELPV), of which few have one, with adjusted logits.

Command:
    python -m tl_jax train configs/elpv_imbalance.py --workdir runs/elpv_imbalance

Expect a balanced accuracy near 0.80 at an accuracy of 0.84 (654 test photographs, of which 450 are
of functional cells), after two minutes on two CPU cores. docs/tasks.md compares what meets
imbalance.
"""

import dataclasses

from configs.base import SOLAR_CELLS
from tl_jax.config import Config, TaskConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        tasks=(TaskConfig("label", balance="logit_adjustment"),),
        train=dataclasses.replace(SOLAR_CELLS.train, best_metric="balanced_accuracy"),
    )
