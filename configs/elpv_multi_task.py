"""Two tasks: how defective a solar cell is, in four levels, and of which type it is (ELPV).

Command:
    python -m tl_jax train configs/elpv_multi_task.py --workdir runs/elpv_multi_task

Expect a quadratic kappa near 0.68 of the levels and an accuracy near 0.98 of the types on 654 test
photographs, after two minutes on two CPU cores. All layers are trained, and both tasks share them.
"""

import dataclasses

from configs.base import SOLAR_CELLS
from tl_jax.config import Config, TaskConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        SOLAR_CELLS,
        tasks=(
            TaskConfig("probability", kind="ordinal", levels=("0", "1/3", "2/3", "1")),
            TaskConfig("cell_type", weight=0.5),
        ),
        train=dataclasses.replace(SOLAR_CELLS.train, best_metric="probability.quadratic_kappa"),
    )
