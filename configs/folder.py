"""Your own photographs: a folder of class folders, EfficientNet-Lite0.

Command:
    python -m tl_jax train configs/folder.py --data.source folder:PATH --workdir runs/mine

`PATH` holds `class/*.jpg` (a fifth of each class is then held out), or `train/class/*.jpg` and
`validation/class/*.jpg`. Ten epochs of all layers with the default options, which
docs/strategies.md compares with a usual script. Expect a validation accuracy with its 95% interval
after each epoch, and that of the best epoch in `report.json`.
"""

from tl_jax.config import Config, DataConfig, TrainConfig


def get_config() -> Config:
    """Returns the configuration."""
    return Config(data=DataConfig(source="folder:photos"), train=TrainConfig(epochs=10))
