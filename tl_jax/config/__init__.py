"""The configuration of a run: frozen dataclasses, their checks, reading and writing."""

from tl_jax.config.augment import AugmentConfig
from tl_jax.config.data import DataConfig
from tl_jax.config.experiment import Config
from tl_jax.config.inputs import InputsConfig
from tl_jax.config.json_format import differences, from_json, to_json
from tl_jax.config.model import RANDOM_WEIGHTS, ModelConfig
from tl_jax.config.optim import OptimConfig
from tl_jax.config.parallel import ParallelConfig
from tl_jax.config.tasks import TaskConfig
from tl_jax.config.train import TrainConfig
from tl_jax.config.transfer import BatchNormMode, GroupConfig, PhaseConfig, TransferConfig

__all__ = [
    "RANDOM_WEIGHTS",
    "AugmentConfig",
    "BatchNormMode",
    "Config",
    "DataConfig",
    "GroupConfig",
    "InputsConfig",
    "ModelConfig",
    "OptimConfig",
    "ParallelConfig",
    "PhaseConfig",
    "TaskConfig",
    "TrainConfig",
    "TransferConfig",
    "differences",
    "from_json",
    "to_json",
]
