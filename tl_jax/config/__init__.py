"""The configuration of a run: frozen dataclasses, their checks, reading and writing."""

from tl_jax.config.schema import (
    RANDOM_WEIGHTS,
    AugmentConfig,
    BatchNormMode,
    Config,
    DataConfig,
    GroupConfig,
    ModelConfig,
    OptimConfig,
    PhaseConfig,
    TrainConfig,
    TransferConfig,
    differences,
    from_json,
    to_json,
)

__all__ = [
    "RANDOM_WEIGHTS",
    "AugmentConfig",
    "BatchNormMode",
    "Config",
    "DataConfig",
    "GroupConfig",
    "ModelConfig",
    "OptimConfig",
    "PhaseConfig",
    "TrainConfig",
    "TransferConfig",
    "differences",
    "from_json",
    "to_json",
]
