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
from typing import TYPE_CHECKING, Any

from tl_jax import messages
from tl_jax.version import __version__

if TYPE_CHECKING:  # For type checkers and editors; at run time `__getattr__` imports them.
    from tl_jax.analysis.errors import errors
    from tl_jax.analysis.robustness import robustness
    from tl_jax.config import (
        AugmentConfig,
        Config,
        DataConfig,
        GroupConfig,
        InputsConfig,
        ModelConfig,
        OptimConfig,
        ParallelConfig,
        PhaseConfig,
        TaskConfig,
        TrainConfig,
        TransferConfig,
    )
    from tl_jax.data.preprocess import Preprocess, preprocess
    from tl_jax.evaluation.evaluate import evaluate
    from tl_jax.evaluation.export import export_timm
    from tl_jax.evaluation.predict import Predictor, predict
    from tl_jax.evaluation.predictions import Prediction
    from tl_jax.evaluation.probe import probe
    from tl_jax.evaluation.soup import soup
    from tl_jax.evaluation.wise_ft import wise_ft
    from tl_jax.explanations.explain import Explainer, Explanation, explain
    from tl_jax.models.catalogue import catalogue
    from tl_jax.models.nnx_bridge import from_nnx, to_nnx
    from tl_jax.models.outputs import features
    from tl_jax.models.pretrained import load_pretrained
    from tl_jax.models.registry import architecture, create_model, list_models
    from tl_jax.models.variables import from_state_dict
    from tl_jax.probes.boundary import FromBoundary
    from tl_jax.reporting.report import report
    from tl_jax.run.describe import describe_plan
    from tl_jax.run.fit import fit
    from tl_jax.run.folder import load_run
    from tl_jax.run.lr_find import lr_find
    from tl_jax.run.phases import gradual, lp_ft
    from tl_jax.run.stops import StoppedError
    from tl_jax.selection.rank import rank
    from tl_jax.serving.demo import demo
    from tl_jax.transfer.hyper_rule import hyper_rule
    from tl_jax.transfer.soups import greedy_soup, interpolate, uniform_soup, wise_ft_curve
    from tl_jax.weights.index import PretrainedConfig, pretrained_config
    from tl_jax.weights.state_dict import to_state_dict

# The module of each public name. They are imported on first use, so that a machine that only runs
# models and steps needs neither the data libraries nor the writers of pictures and logs.
_MODULES = {
    "AugmentConfig": "tl_jax.config",
    "Config": "tl_jax.config",
    "DataConfig": "tl_jax.config",
    "GroupConfig": "tl_jax.config",
    "InputsConfig": "tl_jax.config",
    "ModelConfig": "tl_jax.config",
    "OptimConfig": "tl_jax.config",
    "ParallelConfig": "tl_jax.config",
    "PhaseConfig": "tl_jax.config",
    "TaskConfig": "tl_jax.config",
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
    "features": "tl_jax.models.outputs",
    "to_nnx": "tl_jax.models.nnx_bridge",
    "from_nnx": "tl_jax.models.nnx_bridge",
    "load_pretrained": "tl_jax.models.pretrained",
    "from_state_dict": "tl_jax.models.variables",
    "to_state_dict": "tl_jax.weights.state_dict",
    "describe_plan": "tl_jax.run.describe",
    "gradual": "tl_jax.run.phases",
    "lp_ft": "tl_jax.run.phases",
    "hyper_rule": "tl_jax.transfer.hyper_rule",
    "lr_find": "tl_jax.run.lr_find",
    "fit": "tl_jax.run.fit",
    "StoppedError": "tl_jax.run.stops",
    "load_run": "tl_jax.run.folder",
    "evaluate": "tl_jax.evaluation.evaluate",
    "predict": "tl_jax.evaluation.predict",
    "Predictor": "tl_jax.evaluation.predict",
    "Prediction": "tl_jax.evaluation.predictions",
    "probe": "tl_jax.evaluation.probe",
    "soup": "tl_jax.evaluation.soup",
    "wise_ft": "tl_jax.evaluation.wise_ft",
    "export_timm": "tl_jax.evaluation.export",
    "errors": "tl_jax.analysis.errors",
    "robustness": "tl_jax.analysis.robustness",
    "report": "tl_jax.reporting.report",
    "rank": "tl_jax.selection.rank",
    "explain": "tl_jax.explanations.explain",
    "Explainer": "tl_jax.explanations.explain",
    "Explanation": "tl_jax.explanations.explain",
    "demo": "tl_jax.serving.demo",
    "FromBoundary": "tl_jax.probes.boundary",
    "interpolate": "tl_jax.transfer.soups",
    "wise_ft_curve": "tl_jax.transfer.soups",
    "uniform_soup": "tl_jax.transfer.soups",
    "greedy_soup": "tl_jax.transfer.soups",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(
            f"module 'tl_jax' has no attribute {name!r}{messages.hint(name, _MODULES)}"
        )
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
