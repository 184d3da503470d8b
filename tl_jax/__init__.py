"""Transfer learning with pretrained convolutional networks in JAX.

A timm network as a pure Flax function with timm's numbers, and its fine-tuning on your images:

    import tl_jax

    model, variables = tl_jax.load_pretrained("tf_efficientnet_lite0")
    images = tl_jax.preprocess(["cat.png"], tl_jax.pretrained_config("tf_efficientnet_lite0"))
    logits = model.apply(variables, images)

    config = tl_jax.Config(data=tl_jax.DataConfig(source="folder:photos"))
    report = tl_jax.fit(config, "runs/photos")
"""

import importlib
from typing import Any

from tl_jax import messages

__version__ = "0.1.0"

# Where each public name lives. They are imported on first use, so that a machine that only runs
# models and steps needs neither the data libraries nor the writers of pictures and logs.
_HOME = {
    "AugmentConfig": "tl_jax.config",
    "Config": "tl_jax.config",
    "DataConfig": "tl_jax.config",
    "GroupConfig": "tl_jax.config",
    "ModelConfig": "tl_jax.config",
    "OptimConfig": "tl_jax.config",
    "PhaseConfig": "tl_jax.config",
    "TrainConfig": "tl_jax.config",
    "TransferConfig": "tl_jax.config",
    "Preprocess": "tl_jax.data.preprocess",
    "preprocess": "tl_jax.data.preprocess",
    "PretrainedConfig": "tl_jax.weights.index",
    "pretrained_config": "tl_jax.weights.index",
    "architecture": "tl_jax.models.registry",
    "create_model": "tl_jax.models.registry",
    "list_models": "tl_jax.models.registry",
    "catalogue": "tl_jax.models.catalogue",
    "features": "tl_jax.models.features",
    "load_pretrained": "tl_jax.models.pretrained",
    "from_state_dict": "tl_jax.weights.state_dict",
    "to_state_dict": "tl_jax.weights.state_dict",
    "describe_plan": "tl_jax.run.describe",
    "gradual": "tl_jax.run.phases",
    "lp_ft": "tl_jax.run.phases",
    "lr_find": "tl_jax.run.lr_find",
    "fit": "tl_jax.run.fit",
    "load_run": "tl_jax.run.folder",
    "evaluate": "tl_jax.evaluation.evaluate",
    "predict": "tl_jax.evaluation.predict",
    "probe": "tl_jax.evaluation.probe",
    "export_timm": "tl_jax.evaluation.export",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(
            f"module 'tl_jax' has no attribute {name!r}{messages.hint(name, _HOME)}"
        )
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
